"""python -m benchmarks.learning: does view attention learn where the camera is? Novel-view mode on studio scenes, tiny base.

The real commands from end to end: render, curate, encode; train the tiny base on single views; freeze it and train the added
modules, once for each seed; generate the second view of held-out clips from the first, and compare it with the true rendering
beside (a) the added modules off and (b) the cameras of another clip. Set to two cores and 20 minutes, all of it counted.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LEAST_GAIN_DB = 1.0
MOST_MINUTES = 20.0
MOST_DEGREES = 60  # the curriculum's first phase: views that overlap

RECIPE = """\
name: learning
description: Studio scenes of 64 x 64 pixels, as they are
seed: 0
units: {size: 50}
shards: {target_mb: 64}
sources:
  syncamvideo:
    stages:
      - header: {min_views: 2}
      - sync: {}
      - view_angles: {angle: parallax}
    payload: {video: copy}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", metavar="DIR", required=True, help="everything goes here; run again to go on")
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="trainings of the added modules (default: 3)")
    parser.add_argument("--scenes", metavar="N", type=int, default=300, help="scenes to train on (default: 300)")
    parser.add_argument("--held", metavar="N", type=int, default=64, help="held-out clips (default: 64)")
    parser.add_argument("--base-steps", metavar="N", type=int, default=400, help="(default: 400)")
    parser.add_argument("--steps", metavar="N", type=int, default=700, help="of the added modules (default: 700)")
    options = parser.parse_args(arguments)
    root = Path(options.output)
    root.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    seconds = {
        "render": _footage(root, options.scenes, options.held),
        "curate, encode": _shards(root),
        "train base": _base(root, options.base_steps),
        "train modules": _modules(root, options.seeds, options.steps),
        "evaluate": _evaluate(root, options.seeds),
    }
    return _report(root, options.seeds, seconds, (time.monotonic() - began) / 60)


def _footage(root: Path, scenes: int, held: int) -> float:
    began = time.monotonic()
    half = scenes // 2
    orders = [("train/one", half, 8, 1), ("train/two", scenes - half, 8, 3), ("held", held, 4, 2)]  # name, scenes, cameras, seed
    running = [
        _start("pipeline.studio", "syncamvideo-v1", f"--output={root / 'footage' / name}", f"--scenes={n}", f"--cameras={cameras}",
               "--frames=2", "--size=64x64", f"--seed={seed}")
        for name, n, cameras, seed in orders
        if not (root / "footage" / name).exists()
    ]  # fmt: skip
    for process in running:
        _finish(process)
    return time.monotonic() - began


def _shards(root: Path) -> float:
    (root / "recipe.yaml").write_text(RECIPE)
    began = time.monotonic()
    for name in ("train", "held"):
        _run("pipeline.curate", str(root / "recipe.yaml"), f"--input=syncamvideo={root / 'footage' / name}", f"--output={root / name}",
             "--executor=process", "--workers=2", "--no-report", "--quiet")  # fmt: skip
    _run("pipeline.encode_latents", f"--data={root / 'train'}", "--base=tiny", f"--output={root / 'latents'}", "--size=64x64", "--frames=2",
         "--quiet")  # fmt: skip
    return time.monotonic() - began


def _training(root: Path, method: str, output: str, steps: int, *options: str) -> tuple[str, ...]:
    return ("pipeline.train", method, f"--data={root / 'latents'}", "--payload=latents", f"--output={root / output}", "--resume=latest",
            "--frames=2", "--views=4", "--mix=multiview_video=1", f"--steps={steps}", "--lr-schedule=cosine", f"--warmup={steps // 20}",
            "--workers=0", "--validate-every=0", "--checkpoint-every=200", "--keep=1", "--log-every=50", *options)  # fmt: skip


def _base(root: Path, steps: int) -> float:
    return _run(*_training(root, "text_to_video", "base", steps, "--base=tiny", "--batch=8", "--lr=1e-3"))


def _modules(root: Path, seeds: int, steps: int) -> float:
    """All seeds at once, a core each: small matrices gain little from a second thread."""
    began = time.monotonic()
    base = root / "base" / "weights"
    common = (f"--base={base}", "--batch=16", "--lr=1e-2", "--novel-view=1", f"--curriculum=0:0-{MOST_DEGREES}")
    running = [
        _start(*_training(root, "syncammaster", f"modules-{seed}", steps, *common, f"--seed={seed}"), threads=1) for seed in range(seeds)
    ]
    for process in running:
        _finish(process)
    return time.monotonic() - began


def _evaluate(root: Path, seeds: int) -> float:
    weights = [f"--weights={root / f'modules-{seed}' / 'weights'}" for seed in range(seeds)]
    return _run("pipeline.evaluate", "syncammaster", *weights, f"--data={root / 'held'}", f"--output={root / 'evaluation'}", "--steps=10",
                "--video-guidance=1", "--text-guidance=1", f"--angles=0-{MOST_DEGREES}", "--batch=16")  # fmt: skip


def _start(*command: str, threads: int | None = None) -> subprocess.Popen[bytes]:
    print("python -m", *command, flush=True)
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen([sys.executable, "-m", *command], env=environment)


def _finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")


def _run(*command: str) -> float:
    began = time.monotonic()
    _finish(_start(*command))
    return time.monotonic() - began


def _report(root: Path, seeds: int, seconds: dict[str, float], minutes: float) -> int:
    """The table in Markdown; 1 where a limit is missed."""
    lines = json.loads((root / "evaluation" / "summary.json").read_text("utf-8"))["lines"]
    print(f"\n{lines[0]['clips']} held-out clips, {seeds} seeds, {minutes:.1f} minutes (at most {MOST_MINUTES:g}): "
          + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))  # fmt: skip
    print("\n| condition | PSNR dB | SSIM | gain of full, dB | 95 % interval | at least | |\n|---|---|---|---|---|---|---|")
    met = minutes <= MOST_MINUTES
    for line in lines:
        gain = line["psnr_gain"]
        if gain is None:
            print(f"| {line['condition']} | {line['psnr']:.2f} | {line['ssim']:.3f} | | | | |")
            continue
        good = gain["mean"] >= LEAST_GAIN_DB and gain["low"] > 0
        met = met and good
        scores = f"{line['psnr']:.2f} | {line['ssim']:.3f} | {gain['mean']:.2f} | {gain['low']:.2f} to {gain['high']:.2f}"
        print(f"| {line['condition']} | {scores} | {LEAST_GAIN_DB:.2f} | {'met' if good else 'MISSED'} |")
    print(f"\nlook at {root / 'evaluation' / 'sheet.png'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
