"""From rendered footage to generated views through the commands alone: studio, curate, train, infer, evaluate, encode_latents."""

import functools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")

import torch
from safetensors.torch import load_file

from pipeline.curate import main as curate
from pipeline.encode_latents import main as encode
from pipeline.evaluate import main as evaluate
from pipeline.infer import main as infer
from pipeline.loader.catalog import Catalog
from pipeline.loader.order import Order
from pipeline.loader.settings import LoaderSettings
from pipeline.studio.__main__ import main as studio
from pipeline.train import main as train
from pipeline.viewpoints import read_cameras, viewpoints
from tests.e2e.output import decoded, tree, write_recipe
from tests.e2e.small_bases import save_small_base

FRAMES, SIZE, STEPS = 5, (64, 64), 8
KINDS = {"multiview_video", "multiview_images", "singleview_video"}
SOURCES = {
    "syncamvideo": {"stages": [{"header": {"min_views": 2}}, {"sync": {}}, {"view_angles": {"angle": "parallax"}}]},
    "realestate10k": {"stages": [{"view_groups": {"views": 4, "groups": 2, "min_overlap": 0.3}}], "payload": {"image": "png"}},
    "clips": {"stages": [{"header": {"min_frames": FRAMES}}]},
}
FOOTAGE = {
    "syncamvideo": ["syncamvideo-v1", "--scenes=6", "--cameras=4", f"--frames={FRAMES}"],
    "realestate10k": ["realestate10k", "--scenes=2", "--frames=12"],
    "clips": ["clips", "--scenes=2", f"--frames={FRAMES}"],
}


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate remembers the precision for the whole process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    for name, arguments in FOOTAGE.items():
        assert studio([*arguments, "--size=64x64", f"--output={folder / name}"]) == 0
    recipe = write_recipe(folder / "small.yaml", SOURCES, shards={"target_mb": 0.05})
    inputs = [f"--input={name}={folder / name}" for name in SOURCES]
    made = [f"--output={folder / 'out'}", "--executor=inline", "--no-report", "--quiet", "--error-budget=0.9"]
    assert curate([str(recipe), *inputs, *made]) == 0
    return folder / "out"


@functools.cache
def whole_mix_seed(shards: Path) -> int:
    """The first seed whose few steps draw every kind: the draw depends on the samples' ids, which are others in every rendering."""
    catalog = Catalog.open(shards)
    for seed in range(1000):
        order = Order(catalog, LoaderSettings(seed=seed))
        if {order.kind_at(step) for step in range(STEPS)} == KINDS:
            return seed
    raise AssertionError("no seed draws every kind")


def on(shards: Path, *arguments: object) -> list[str]:
    """What every training run here is told; what comes later wins."""
    fitting = [f"--data={shards}", f"--frames={FRAMES}", "--size=64x64", "--batch=2", f"--steps={STEPS}", "--precision=no", "--device=cpu"]
    fitting += ["--workers=0", "--validate-every=0", "--log-every=1", "--quiet"]
    return [*fitting, *map(str, arguments)]


@pytest.fixture(scope="module")
def base(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, trained on single views by the command."""
    output = tmp_path_factory.mktemp("base")
    assert train(["text_to_video", *on(shards, "--base=tiny", f"--output={output}", "--steps=3")]) == 0
    return output / "weights"


def syncammaster(shards: Path, base: Path, output: Path, *arguments: object) -> int:
    """The paper's mix, angles that grow, and novel-view mode."""
    told = ["--curriculum=0:0-60,3:30-90,6:60-120", "--novel-view=0.9", "--checkpoint-every=4", f"--seed={whole_mix_seed(shards)}"]
    return train(["syncammaster", *on(shards, f"--base={base}", f"--output={output}", *told, *arguments)])


@pytest.fixture(scope="module")
def trained(shards: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, validation included."""
    output = tmp_path_factory.mktemp("trained")
    assert syncammaster(shards, base, output, f"--validate-every={STEPS}") == 0
    return output


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in log_of(run) if "loss" in entry]


def tensors_of(run: Path, step: int = STEPS) -> list[bytes]:
    return [(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors").read_bytes() for name in ("weights", "optimizer")]


def generated(output: Path, *arguments: object) -> int:
    return infer(["syncammaster", f"--output={output}", "--steps=2", "--device=cpu", "--quiet", *map(str, arguments)])


def check_sample(folder: Path, views: int, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> dict:
    """Every file is there and decodes to what was asked; the settings' request."""
    names = [f"view{k:02d}.mp4" for k in range(views)]
    assert sorted(path.name for path in folder.iterdir()) == ["cameras.json", "grid.mp4", "settings.json", *names]
    for name in names:
        assert decoded(folder / name)[0].shape == (frames, *size, 3)
    columns = views if views <= 3 else 2
    assert decoded(folder / "grid.mp4")[0].shape == (frames, size[0] * -(-views // columns), size[1] * columns, 3)
    asked = json.loads((folder / "settings.json").read_text("utf-8"))["request"]
    assert (asked["views"], asked["frames"], tuple(asked["size"])) == (views, frames, size)
    return asked


def answer(folder: Path) -> tuple[dict[str, str], dict]:
    """All bytes, of the settings what was asked: beside it they tell the version of the code, which an edit changes."""
    files = tree(folder)
    del files["settings.json"]
    return files, json.loads((folder / "settings.json").read_text("utf-8"))["request"]


def test_the_whole_mix_trains_on_a_base_that_stays_as_it_is(shards, base, trained):
    entries = log_of(trained)
    assert {entry["kind"] for entry in entries if "kind" in entry} == KINDS
    assert [entry["step"] for entry in entries if "loss" in entry] == list(range(1, STEPS + 1)) and np.isfinite(losses(trained)).all()
    assert np.isfinite(entries[-1]["validation"]["novel_view_psnr"])
    for path in (trained / "validation" / f"step-{STEPS:08d}").iterdir():
        assert decoded(path)[0].shape == (FRAMES, 64, 128, 3)
    begun = tensors_of(trained, 4)[0]
    saved = load_file(trained / "weights" / "weights.safetensors")
    assert begun != (trained / "weights" / "weights.safetensors").read_bytes()
    parts = {name.split(".")[2] for name in saved}
    assert {"cam_encoder", "projector"} < parts and not parts & {"attn1", "attn2", "ffn"}  # nothing of the base's own blocks
    assert all(saved[name].abs().max() > 0 for name in saved if "projector" in name or "cam_encoder" in name)  # they began at zero
    assert json.loads((trained / "weights" / "config.json").read_text())["base"] == str(base)


def test_stopped_and_resumed_with_other_workers_the_weights_are_the_same_bytes(shards, base, trained, tmp_path):
    assert syncammaster(shards, base, tmp_path, "--steps=3") == 0
    assert syncammaster(shards, base, tmp_path, "--resume=latest", "--steps=6", "--workers=1") == 0
    assert syncammaster(shards, base, tmp_path, "--resume=latest", "--workers=2") == 0
    assert tensors_of(tmp_path) == tensors_of(trained)
    assert losses(tmp_path) == losses(trained)


def test_from_a_text_and_a_preset(trained, tmp_path):
    told = [f"--weights={trained / 'weights'}", "--prompt=Ein Hund läuft 🐕", "--cameras=azimuth:step=15", "--views=4"]
    assert [generated(tmp_path / name, *told) for name in "ab"] == [0, 0]
    asked = check_sample(tmp_path / "a", 4)
    assert asked["prompt"] == "Ein Hund läuft 🐕" and asked["modules"] == "on" and asked["steps"] == 2
    wanted = viewpoints("azimuth:step=15", views=4, default_views=2, frames=FRAMES, size=(64, 64))
    made = read_cameras(tmp_path / "a" / "cameras.json", frames=FRAMES, size=(64, 64))
    assert np.array_equal(made.c2w, wanted.c2w) and np.array_equal(made.K, wanted.K)
    assert answer(tmp_path / "a") == answer(tmp_path / "b")


def test_from_a_camera_file_and_a_video(trained, shards, tmp_path):
    """The cameras of one answer are the question of the next; footage is its first view."""
    weights = f"--weights={trained / 'weights'}"
    assert generated(tmp_path / "first", weights, "--prompt=x", "--cameras=arc", "--views=3", "--size=48x80", "--frames=3") == 0
    check_sample(tmp_path / "first", 3, 3, (48, 80))
    assert generated(tmp_path / "second", weights, "--prompt=x", "--cameras=arc:move=9", "--views=3") == 0
    file, video = tmp_path / "second" / "cameras.json", next((shards.parent / "syncamvideo").rglob("*.mp4"))
    assert generated(tmp_path / "third", weights, "--prompt=x", f"--cameras={file}", f"--video={video}") == 0
    assert check_sample(tmp_path / "third", 3)["guidance"] == {"video": 1.8, "text": 7.5}
    assert (tmp_path / "third" / "cameras.json").read_bytes() == file.read_bytes()
    shown, given = (decoded(path)[0].astype(int) for path in (tmp_path / "third" / "view00.mp4", video))
    assert np.abs(shown - given).mean() < 4  # encoded once more


def test_over_shards_and_measured(trained, shards, tmp_path):
    (shards / "selections").mkdir(exist_ok=True)
    catalog = Catalog.open(shards)
    scenes = [catalog.sample_id(i) for i in range(len(catalog)) if catalog.kind(i) == "multiview_video"]
    (shards / "selections" / "held_out.txt").write_text("\n".join(scenes[:2]) + "\n")
    chosen = [f"--weights={trained / 'weights'}", f"--data={shards}", "--selection=held_out"]
    assert generated(tmp_path / "all", *chosen, "--video-from-data", "--views=3") == 0
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == sorted(scenes[:2])
    for name in scenes[:2]:
        asked = check_sample(tmp_path / "all" / name, 3)
        assert asked["sample_id"] == name and asked["camera_names"] == catalog.view_ids(scenes.index(name) + len(catalog) - len(scenes))[:3]
    assert evaluate(["syncammaster", *chosen, f"--output={tmp_path / 'numbers'}", "--steps=2", "--quiet"]) == 0
    summary = json.loads((tmp_path / "numbers" / "summary.json").read_text())
    assert len(summary["lines"]) == 3 and summary["left_out"] == []


@pytest.fixture(scope="module", params=["cogvideox", "wan"])
def family(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_base(request.param, tmp_path_factory.mktemp(request.param) / request.param)


def test_both_families_train_resume_and_generate(shards, family, tmp_path):
    for name, step in (("whole", 4), ("parts", 2), ("parts", 4)):
        told = [f"--steps={step}", "--resume=latest", "--checkpoint-every=2", "--gradient-checkpointing"]
        assert syncammaster(shards, family, tmp_path / name, *told) == 0
    assert tensors_of(tmp_path / "parts", 4) == tensors_of(tmp_path / "whole", 4)
    told = [f"--weights={tmp_path / 'whole' / 'weights'}", "--prompt=a dog"]
    assert [generated(tmp_path / each, *told, "--cameras=azimuth", "--views=3", "--frames=9") for each in "ab"] == [0, 0]
    check_sample(tmp_path / "a", 3, 9)
    assert answer(tmp_path / "a") == answer(tmp_path / "b")
    video = tmp_path / "a" / "view00.mp4"
    assert generated(tmp_path / "c", *told, f"--cameras={tmp_path / 'a' / 'cameras.json'}#view00,view02", f"--video={video}") == 0
    assert check_sample(tmp_path / "c", 2)["camera_names"] == ["view00", "view02"]


def test_from_latents_the_loss_is_that_of_the_frames(shards, family, tmp_path, capsys):
    """One scene and one pair of views, so that both read the same: the order of frames and of latents differs otherwise."""
    catalog = Catalog.open(shards)
    scene = next(i for i in range(len(catalog)) if catalog.kind(i) == "multiview_video")
    angles = catalog.angle(scene)[0]
    nearest = np.sort(angles[1:])[:2].mean()
    (shards / "selections").mkdir(exist_ok=True)
    (shards / "selections" / "one.txt").write_text(catalog.sample_id(scene) + "\n")
    told = [f"--data={shards}", f"--base={family}", "--size=64x64", f"--frames={FRAMES}", f"--output={tmp_path / 'latents'}"]
    assert encode([*told, "--quiet"]) == 0
    shutil.copytree(shards / "selections", tmp_path / "latents" / "selections")
    one = ["--seed=0", "--selection=one", "--mix=multiview_video=1", f"--curriculum=0:0-{nearest:.3f}", "--first-view=first", "--steps=3"]
    assert syncammaster(shards, family, tmp_path / "a", *one) == 0
    assert syncammaster(tmp_path / "latents", family, tmp_path / "b", *one, "--payload=latents") == 0
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=5e-3)
    assert losses(tmp_path / "b") != losses(tmp_path / "a")  # it did read the rounded ones
    assert syncammaster(tmp_path / "latents", family, tmp_path / "c", "--payload=latents", "--curriculum=none") == 0
    assert {entry["kind"] for entry in log_of(tmp_path / "c")} <= KINDS
    other = save_small_base("wan" if family.name == "cogvideox" else "cogvideox", tmp_path / "elsewhere" / family.name)
    assert syncammaster(tmp_path / "latents", other, tmp_path / "d", "--payload=latents") == 2
    assert "was encoded with another base" in capsys.readouterr().err and not (tmp_path / "d").exists()


def said_once(capsys, *words: str) -> None:
    """One message, no traceback."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    for word in words:
        assert word in last, said


def goes_on(shards: Path, base: Path, run: Path, trained: Path) -> None:
    """What the failure left is the checkpoint of step 4, and training from it ends as one that never failed."""
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"]
    assert syncammaster(shards, base, run, "--resume=latest") == 0
    assert tensors_of(run) == tensors_of(trained)


@pytest.fixture
def half(trained: Path, tmp_path: Path) -> Path:
    """A run that has a checkpoint at step 4 of 8."""
    run = Path(shutil.copytree(trained, tmp_path / "half"))
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:08d}")
    return run


def test_a_full_disk_at_checkpoint_time(shards, base, trained, half, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert syncammaster(shards, base, half, "--resume=latest") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said_once(capsys, "no space for the checkpoint of step 8", "--keep", "step-00000004; go on with the same command and --resume latest")
    goes_on(shards, base, half, trained)


def test_out_of_memory(shards, base, trained, half, capsys, monkeypatch):
    from pipeline.methods.syncammaster.model import SynCamModel

    def hungry(*inputs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with monkeypatch.context() as patched:
        patched.setattr(SynCamModel, "forward", hungry)
        assert syncammaster(shards, base, half, "--resume=latest") == 1
        said_once(capsys, "out of memory in step 5: try --micro-batch 1 (now 2), --gradient-checkpointing", "step-00000004")
        told = [f"--weights={trained / 'weights'}", "--prompt=x", "--cameras=azimuth"]
        assert generated(half / "made", *told) == 1
        said_once(capsys, "out of memory: try --sequential-guidance, fewer --frames (now 5)")
    goes_on(shards, base, half, trained)


def test_a_truncated_shard_costs_its_samples(shards, base, tmp_path, capsys):
    broken = Path(shutil.copytree(shards, tmp_path / "broken"))
    catalog = Catalog.open(broken)
    scene = next(i for i in range(len(catalog)) if catalog.kind(i) == "multiview_video")
    member = catalog.members(scene)["view00.mp4"]
    os.truncate(broken / "shards" / member.shard, member.offset + 100)
    lost = {
        catalog.sample_id(i)
        for i in range(len(catalog))
        if any(m.shard == member.shard and m.offset + m.size > member.offset + 100 for m in catalog.members(i).values())
    }
    assert syncammaster(broken, base, tmp_path / "run", "--mix=multiview_video=1", "--curriculum=none", "--views=4") == 0
    named = {line.partition(":")[0] for entry in log_of(tmp_path / "run") for line in entry.get("skipped_samples", [])}
    assert catalog.sample_id(scene) in named and named <= lost
    assert log_of(tmp_path / "run")[-1]["skipped"] >= len(named)


def test_weights_of_a_base_of_another_width(shards, base, trained, tmp_path, capsys):
    wide, narrow = (save_small_base("wan", tmp_path / name / "model", heads) for name, heads in (("wide", 4), ("narrow", 2)))
    assert syncammaster(shards, narrow, tmp_path / "run", "--steps=1") == 0
    weights = tmp_path / "run" / "weights"
    assert generated(tmp_path / "made", f"--weights={weights}", f"--base={wide}", "--prompt=x", "--cameras=azimuth") == 2
    said_once(capsys, "dim 32", "dim 64", f"give --base {narrow}")
    told = [f"--weights={weights}", f"--base={wide}", f"--data={shards}", f"--output={tmp_path / 'numbers'}", "--quiet"]
    assert evaluate(["syncammaster", *told]) == 2
    said_once(capsys, "dim 32", "dim 64")
    assert syncammaster(shards, wide, tmp_path / "run", "--resume=latest", "--steps=2") == 2
    said_once(capsys, "base was", "start a new run in another --output")
    assert not (tmp_path / "made").exists() and not (tmp_path / "numbers").exists()


def test_fewer_views_and_kinds_than_asked_and_an_output_of_something_else(shards, base, tmp_path, capsys):
    before = tree(shards)
    assert syncammaster(shards, base, tmp_path / "run", "--views=5") == 2
    said_once(capsys, "none of its 6 samples has 5 views; use --views 4 or less")
    assert syncammaster(shards, base, shards) == 2
    said_once(capsys, "is not empty")
    assert not (tmp_path / "run").exists()
    assert tree(shards) == before


def train_alone(arguments: list[str], said: Path) -> None:
    """In a process group of its own, as a shell or a batch system starts it."""
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    with said.open("w") as sys.stderr:
        sys.exit(train(arguments))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_ends_with_a_checkpoint(shards, base, tmp_path, number):
    """As a terminal's Ctrl-C and a batch system's end of time come: the loader's workers get it too."""
    told = on(shards, f"--base={base}", f"--output={tmp_path / 'run'}", "--curriculum=none", "--steps=100000", "--workers=2")
    run = multiprocessing.get_context("fork").Process(target=train_alone, args=(["syncammaster", *told], tmp_path / "said.txt"))
    run.start()
    log, patience = tmp_path / "run" / "log.jsonl", time.monotonic() + 120
    while not (log.is_file() and log.read_text()) and time.monotonic() < patience:
        time.sleep(0.05)
    os.killpg(run.pid, number)
    run.join(60)
    if run.exitcode is None:
        os.killpg(run.pid, signal.SIGKILL)
    said = (tmp_path / "said.txt").read_text()
    assert run.exitcode == 1 and "Traceback" not in said
    assert "train: stopped after step" in said and "--resume latest" in said
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
