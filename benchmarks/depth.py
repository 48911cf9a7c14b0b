"""python -m benchmarks.depth: what the depth stage costs beside its model, in time and in memory. On the CPU, in one thread.

The network is Depth Anything V2 metric small at its true size (24.8 million parameters, 518 pixels high), the smallest that is
published, with random weights: what it costs does not depend on them. Accuracy is not measured here: that needs the trained ones.

rate      Frames a second of the whole stage on a 720p clip with a map of every frame, decode included, beside
          1/(1/model + 1/decode). Few frames: one takes seconds.
memory    Peak of the process after 120 and after 240 frames of a clip at 1080p, a map of every 24th, each in a process of its own.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.measured import in_turns, memory_mib
from benchmarks.shots import scene_of, studio_shot
from benchmarks.table import print_table
from pipeline.studio.video import write_mp4
from schemas.recipe import MediaLimits
from schemas.typed import build
from stages.estimate_depth import EstimateDepth, EstimateDepthConfig
from stages.media import Media
from stages.perception.depth import DepthModel
from stages.stage import Item

LIMIT_RATE = 0.85
LIMIT_GROWTH_MIB = 64
MODEL = "depth-anything-v2-metric-indoor"
MAP_EVERY = 24  # frames of the clips for memory


def write_checkpoint(folder: Path) -> None:
    """As its publisher's, but with the weights that a fresh network has."""
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.manual_seed(0)
    backbone = Dinov2Config(
        image_size=518, patch_size=14, hidden_size=384, num_hidden_layers=12, num_attention_heads=6,
        out_indices=[3, 6, 9, 12], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=384, patch_size=14, neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64, depth_estimation_type="metric", max_depth=20,
    )  # fmt: skip
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "DPTImageProcessor", "do_normalize": True, "do_pad": False, "do_rescale": True, "do_resize": True,
        "ensure_multiple_of": 14, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "keep_aspect_ratio": True,
        "resample": 3, "rescale_factor": 1 / 255, "size": {"height": 518, "width": 518}, "size_divisor": None,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def stage_of(weights: str, stride: int) -> EstimateDepth:
    settings = {"model": MODEL, "weights": weights, "device": "cpu", "stride": stride}
    return EstimateDepth(build(EstimateDepthConfig, settings, "depth"))


def write_clip(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Half a second of the studio, to and fro."""
    pictures = list(studio_shot(1, 12, size))
    write_mp4(path, (pictures[abs(11 - i % 22)] for i in range(frames)), Fraction(24))


def rates(folder: Path, weights: str, frames: int, repeats: int) -> tuple[float, float, float, float]:
    """Frames a second of the stage, of the model alone and of the decode alone, and the stage's rate as a share of
    1/(1/model + 1/decode). Medians of rounds in which the three take turns, so that a busy machine disturbs them alike."""
    write_clip(folder / "rate.mp4", frames, (1280, 720))
    with Media(folder, MediaLimits()) as media:
        scene = scene_of(media, "rate.mp4")
        view, wanted = scene.views[0], np.arange(frames)
        stage, model = stage_of(weights, 1), DepthModel(Path(weights), device="cpu")
        pictures = media.frames(view.media, view.index, wanted)
        stage.prepare()
        work: tuple[Callable[[], object], ...] = (
            lambda: stage.score(Item("clip", "video", scene), media),
            lambda: [model.depth([each]) for each in pictures],
            lambda: list(media.stream(view.media, view.index, wanted)),
        )
        work[1]()  # the first pass of a network is slower
        (whole, alone, decode), share = in_turns(work, repeats)
    return frames / whole, frames / alone, frames / decode, share


def peak_mib(folder: str, weights: str, frames: int) -> float:
    """Of a process that looks at that many frames of a clip at 1080p, its decoder apart."""
    import torch

    torch.set_num_threads(1)
    with Media(Path(folder), MediaLimits()) as media:
        scene = scene_of(media, f"memory{frames}.mp4")
        stage_of(weights, MAP_EVERY).score(Item("clip", "video", scene), media)
    return memory_mib()[1]


def memory(folder: Path, weights: str) -> tuple[float, float]:
    """Peaks in MiB after 120 and after 240 frames."""
    found = []
    for frames in (120, 240):
        write_clip(folder / f"memory{frames}.mp4", frames, (1920, 1080))
        with get_context("spawn").Pool(1) as alone:
            found.append(alone.apply(peak_mib, (str(folder), weights, frames)))
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("rate", "memory"), help="one of the two")
    parser.add_argument("--frames", type=int, default=2, help="of the clip for the rate (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of the rate's rounds (default: %(default)s)")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    wanted = {"rate", "memory"} if arguments.only is None else {arguments.only}
    rows: list[tuple[str, str, str, str, float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder, weights = Path(name), str(Path(name) / "model")
        write_checkpoint(Path(weights))
        if "rate" in wanted:
            stage, model, decode, share = rates(folder, weights, arguments.frames, arguments.repeats)
            what = f"stage, 720p, {arguments.frames} frames: model {model:.3f}, decode {decode:.1f} frames/s"
            both = f"{1 / (1 / model + 1 / decode):.3f} frames/s"
            rows.append((what, f"{stage:.3f} frames/s", "1/(1/model + 1/decode)", both, share, LIMIT_RATE))
        if "memory" in wanted:
            short, long = memory(folder, weights)
            what, growth = f"peak, 120 and 240 frames of 1080p, every {MAP_EVERY}th", max(long - short, 0.01)
            limit = f"{LIMIT_GROWTH_MIB} MiB more"
            rows.append((what, f"{short:.0f} and {long:.0f} MiB", "limit", limit, LIMIT_GROWTH_MIB / growth, 1))
    print_table(rows)


if __name__ == "__main__":
    main()
