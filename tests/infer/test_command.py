"""python -m pipeline.infer on the tiny base: from one text, from a video, over shards made by pipeline.curate; and bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.bases.registry import load_base
from pipeline.curate import main as curate
from pipeline.generated import grid, mp4
from pipeline.infer import main
from pipeline.loader.frames import decode
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.methods.syncammaster.weights import save
from pipeline.studio import write_layout
from pipeline.viewpoints import preset, read_cameras, viewpoints

FRAMES, SIZE = 3, (32, 48)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Added modules that do something, as training would leave them."""
    folder = tmp_path_factory.mktemp("run") / "weights"
    folder.mkdir()
    model = SynCamModel(load_base("tiny"), ViewConfig())
    generator = torch.Generator().manual_seed(0)
    tensors = {name: p.detach() + 0.05 * torch.randn(p.shape, generator=generator) for name, p in model.trained().items()}
    save(folder, tensors, model.config, "tiny", {"size": list(SIZE), "frames": FRAMES, "views": 2, "frame_stride": 2})
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two scenes of three cameras and one clip, curated."""
    folder = tmp_path_factory.mktemp("data")
    write_layout("syncamvideo-v1", folder / "syncamvideo", scenes=2, cameras=3, frames=6, size=(96, 64))
    write_layout("clips", folder / "clips", scenes=1, frames=40, size=(128, 72))
    inputs = [f"--input={name}={folder / name}" for name in ("syncamvideo", "clips")]
    assert curate(["smoke", *inputs, f"--output={folder / 'out'}", "--error-budget=1", "--executor=inline", "--quiet"]) == 0
    return folder / "out"


def video(path: Path, size: tuple[int, int] = SIZE, frames: int = 8) -> Path:
    """Stripes that wander: smooth, so that encoding once more changes little, and different in every frame and at every place."""
    t, y, x = np.ogrid[:frames, : size[0], : size[1]]
    wave = 128 + 90 * np.sin(x / 9 + y / 23 + t)
    path.write_bytes(mp4(np.repeat(wave[..., None], 3, axis=-1).astype(np.uint8), 15))
    return path


def infer(output: Path, *arguments: object) -> int:
    common = ["syncammaster", f"--output={output}", "--steps=2", "--device=cpu", "--quiet"]
    return main([*common, *map(str, arguments)])


def one(weights: Path, output: Path, *arguments: object) -> int:
    given = " ".join(map(str, arguments))
    default = [f"--prompt={'a dog'}"] if "--prompt" not in given else []
    default += ["--cameras=azimuth"] if "--cameras" not in given else []
    return infer(output, f"--weights={weights}", *default, *arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def request(folder: Path) -> dict:
    return json.loads((folder / "settings.json").read_text())["request"]


def pictures(folder: Path, name: str, size: tuple[int, int] = SIZE, frames: int = FRAMES) -> np.ndarray:
    return decode((folder / name).read_bytes(), range(frames), size)


def test_a_text_becomes_views_grid_cameras_and_settings(weights, tmp_path):
    assert one(weights, tmp_path / "a", "--views=3", "--seed=5") == 0
    assert sorted(contents(tmp_path / "a")) == ["cameras.json", "grid.mp4", "settings.json", "view00.mp4", "view01.mp4", "view02.mp4"]
    views = [pictures(tmp_path / "a", f"view{k:02d}.mp4").astype(int) for k in range(3)]
    shown = pictures(tmp_path / "a", "grid.mp4", (SIZE[0], 3 * SIZE[1])).astype(int)
    for k, view in enumerate(views):
        assert np.abs(shown[:, :, k * SIZE[1] : (k + 1) * SIZE[1]] - view).mean() < 4  # two encodings of one picture
    assert np.abs(views[0] - views[1]).mean() > 10
    cameras = read_cameras(tmp_path / "a/cameras.json", frames=FRAMES, size=(SIZE[1], SIZE[0]))
    assert (cameras.c2w == preset("azimuth", views=3, frames=FRAMES, size=(SIZE[1], SIZE[0])).c2w).all()
    settings = json.loads((tmp_path / "a/settings.json").read_text())
    assert settings["request"] | {
        "prompt": "a dog", "negative_prompt": "", "cameras": "azimuth", "views": 3, "frames": FRAMES, "size": list(SIZE), "steps": 2,
        "seed": 5, "guidance": {"scale": 5.0, "dynamic": False}, "base": "tiny", "modules": "on", "precision": "no", "video": None,
    } == settings["request"]  # fmt: skip
    assert len(settings["request"]["weights_sha256"]) == 64
    assert {"code", "torch", "diffusers"} <= set(settings["made_with"]["versions"])


def test_the_same_command_gives_the_same_bytes_and_another_seed_does_not(weights, tmp_path):
    assert [one(weights, tmp_path / name, f"--seed={seed}") for name, seed in (("a", 0), ("b", 0), ("c", 1))] == [0, 0, 0]
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a["view01.mp4"] != c["view01.mp4"]


def test_views_default_to_the_weights_and_files_bring_their_own(weights, tmp_path):
    assert one(weights, tmp_path / "two") == 0
    assert request(tmp_path / "two")["views"] == 2
    file = tmp_path / "two/cameras.json"
    assert one(weights, tmp_path / "again", f"--cameras={file}#view01,view00") == 0
    assert request(tmp_path / "again")["camera_names"] == ["view01", "view00"]
    assert one(weights, tmp_path / "one", f"--cameras={file}#view01") == 0
    assert request(tmp_path / "one")["views"] == 1


def test_a_finished_output_is_not_made_again_and_an_unfinished_one_is(weights, tmp_path):
    assert one(weights, tmp_path / "a") == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert one(weights, tmp_path / "a") == 0
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()} == before
    whole = contents(tmp_path / "a")
    (tmp_path / "a/settings.json").unlink()  # as a kill leaves it
    (tmp_path / "a/view01.mp4").write_bytes(b"half")
    (tmp_path / "a/.tmp-123-view00.mp4").write_bytes(b"half")
    assert one(weights, tmp_path / "a") == 0
    assert contents(tmp_path / "a") == whole


def test_other_settings_do_not_overwrite(weights, tmp_path, capsys):
    assert one(weights, tmp_path / "a") == 0
    assert one(weights, tmp_path / "a", "--seed=3") == 2
    assert "seed 0, now 3" in capsys.readouterr().err


def test_an_input_video_is_view_0(weights, tmp_path):
    file = video(tmp_path / "in.mp4")
    assert one(weights, tmp_path / "a", f"--video={file}", "--video-start=1") == 0  # every second frame, as in training
    shown, given = pictures(tmp_path / "a", "view00.mp4").astype(int), decode(file.read_bytes(), [1, 3, 5], SIZE).astype(int)
    assert np.abs(shown - given).mean() < 3  # encoded once more, nothing else
    assert request(tmp_path / "a")["guidance"] == {"video": 1.8, "text": 7.5}
    assert request(tmp_path / "a")["video"]["stride"] == 2
    assert one(weights, tmp_path / "b", f"--video={file}", "--video-start=1", "--video-stride=2", "--video-guidance=3") == 0
    assert contents(tmp_path / "a")["view00.mp4"] == contents(tmp_path / "b")["view00.mp4"]
    assert contents(tmp_path / "a")["view01.mp4"] != contents(tmp_path / "b")["view01.mp4"]


def test_an_input_video_of_another_shape_covers_and_is_cut(weights, tmp_path):
    file = video(tmp_path / "in.mp4", (64, 64))
    assert one(weights, tmp_path / "a", f"--video={file}") == 0
    expected = decode(file.read_bytes(), [0, 2, 4], (48, 48))[:, 8:40]  # 64 x 64 to 48 x 48, then 8 rows go above and below
    assert np.abs(pictures(tmp_path / "a", "view00.mp4").astype(int) - expected).mean() < 3


def test_modules_off_is_the_base_alone(weights, tmp_path):
    """With the modules off a view does not know of the others: the first of three is the only one of one."""
    assert one(weights, tmp_path / "three", "--modules-off", "--views=3") == 0
    assert (
        infer(
            tmp_path / "one", "--modules-off", "--base=tiny", "--prompt=a dog", "--cameras=arc", "--views=1", "--size=32x48", "--frames=3"
        )
        == 0
    )
    assert np.abs(pictures(tmp_path / "three", "view00.mp4").astype(int) - pictures(tmp_path / "one", "view00.mp4")).mean() < 1
    assert one(weights, tmp_path / "on", "--views=3") == 0
    assert contents(tmp_path / "on")["view00.mp4"] != contents(tmp_path / "three")["view00.mp4"]


def test_a_dry_run_says_what_would_be_and_writes_nothing(weights, tmp_path, capsys):
    assert one(weights, tmp_path / "a", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "2 views of 3 frames, 32x48 (latents 192x3x4x6 a view)" in said and "0 of them finished" in said
    assert not (tmp_path / "a").exists()


def test_over_shards(weights, data, tmp_path, capsys):
    assert infer(tmp_path / "all", f"--weights={weights}", f"--data={data}", "--limit=1") == 0
    [first] = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert "1 of 3 samples are left out: 1 have fewer than 2 views" in capsys.readouterr().err
    alone = contents(tmp_path / "all" / first)
    assert infer(tmp_path / "all", f"--weights={weights}", f"--data={data}") == 0
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert len(names) == 2 and contents(tmp_path / "all" / first) == alone
    prompts = [request(tmp_path / "all" / name)["prompt"] for name in names]
    assert all(prompts) and request(tmp_path / "all" / names[0])["seed"] != request(tmp_path / "all" / names[1])["seed"]


def test_over_shards_cameras_and_first_view_are_the_samples(weights, data, tmp_path):
    from pipeline.loader.catalog import Catalog

    catalog = Catalog.open(data)
    sample = next(i for i in range(len(catalog)) if catalog.n_views[i] == 3)
    name = catalog.sample_id(sample)
    (data / "selections").mkdir(exist_ok=True)
    (data / "selections" / "held_out.txt").write_text(name + "\n")
    chosen = [f"--weights={weights}", f"--data={data}", "--selection=held_out", "--video-from-data"]
    assert infer(tmp_path / "all", *chosen) == 0
    member = catalog.members(sample)["view00.mp4"]
    with (data / "shards" / member.shard).open("rb") as shard:
        shard.seek(member.offset)
        source = decode(shard.read(member.size), range(0, 2 * FRAMES, 2), SIZE).astype(int)
    assert np.abs(pictures(tmp_path / "all" / name, "view00.mp4") - source).mean() < 6
    [camera_file] = (data.parent / "syncamvideo/train/cameras").glob(f"*{name[-6:]}/*.json")  # scene1 or scene2
    given = viewpoints(str(camera_file), views=None, default_views=2, frames=FRAMES, size=(SIZE[1], SIZE[0]))
    made = read_cameras(tmp_path / "all" / name / "cameras.json", frames=FRAMES, size=(SIZE[1], SIZE[0]))
    at = [[n.removesuffix("_18mm") for n in given.names].index(view.removesuffix("_18mm")) for view in made.names]
    assert made.c2w == pytest.approx(given.c2w[at], abs=1e-5) and made.metric
    assert infer(tmp_path / "preset", *chosen, "--cameras=arc", "--views=3") == 0
    assert request(tmp_path / "preset" / name)["camera_names"] == ["view00", "view01", "view02"]


def test_a_damaged_sample_costs_one_sample(weights, data, tmp_path, capsys):
    from pipeline.loader.catalog import Catalog

    broken = Path(shutil.copytree(data, tmp_path / "data"))
    catalog = Catalog.open(broken)
    sample = next(i for i in range(len(catalog)) if catalog.n_views[i] == 3)
    member = catalog.members(sample)["view00.mp4"]
    with (broken / "shards" / member.shard).open("r+b") as shard:
        shard.seek(member.offset)
        shard.write(b"\0" * member.size)
    assert infer(tmp_path / "all", f"--weights={weights}", f"--data={broken}") == 1
    said = capsys.readouterr().err
    assert f"failed: {catalog.sample_id(sample)}" in said and "1 failed" in said
    assert len([path for path in (tmp_path / "all").iterdir() if (path / "settings.json").exists()]) == 1


BAD = [
    (["--weights=nowhere"], "weights nowhere: the folder does not exist"),
    (["--weights={weights}/.."], "is the folder of a training run; give --weights"),
    (["--base=wan2.1-1.3b"], "trained on tiny"),
    (["--base=tinny"], "'tinny': not one of"),
    (["--cameras=azimut"], "did you mean 'azimuth'"),
    (["--cameras={file}#cam1,cam02"], "no camera 'cam1'; did you mean 'cam01'"),
    (["--cameras={file}", "--views=2"], "3 cameras (cam01, cam02, cam03), but --views is 2"),
    (["--cameras={moving}"], "has 5 poses, but 3 frames are to be generated; give --frames 5"),
    (["--video={text}"], "text.txt"),
    (["--video={video}", "--frames=9"], "has 8 frames; 9 frames, every 2. from 0 on, reach to frame 16"),
    (["--video={video}", "--views=1"], "at least one more view"),
    (["--video=nowhere.mp4"], "nowhere.mp4"),
    (["--size=30x40"], "multiples of 16"),
    (["--guidance=2", "--video={video}"], "not --guidance"),
    (["--video-guidance=2"], "--video-guidance needs --video"),
    (["--limit=2"], "--limit needs --data"),
    (["--device=cudda"], "is no device"),
    (["--fps=0"], "--fps is 0"),
    (["--fps=inf"], "--fps is inf"),
    (["--guidance=nan"], "--guidance is nan"),
    (["--weights={weights}/weights.safetensors"], "is one file of a folder that is needed whole; give --weights"),
    (["--output={data}"], "holds something else (manifest, parts, plan"),
    (["--data={data}", "--output={data}"], "is the folder that is read"),
    (["--data={data}", "--video={video}"], "give --video-from-data"),
    (["--data={data}", "--selection=none"], "no such selection"),
    (["--data={data}", "--views=4"], "none of the 3 samples can be used: 3 have fewer than 4 views"),
    (["--data={data}", "--frames=4"], "none of the 3 samples can be used: 1 have fewer than 2 views, 2 fewer than 7 frames"),
    (["--data=nowhere"], "nowhere"),
]


def test_weights_that_never_saw_an_input_video_are_warned_of(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    novel = tmp_path / "novel"
    shutil.copytree(weights, novel)
    config = json.loads((novel / "config.json").read_text())
    config["extra"]["objective"] = {"novel_view": 0.9}
    (novel / "config.json").write_text(json.dumps(config))
    clip = f"--video={video(tmp_path / 'clip.mp4')}"
    for folder, arguments, warned in ((weights, [clip], True), (weights, [], False), (novel, [clip], False)):
        assert one(folder, tmp_path / "out", "--dry-run", *arguments) == 0
        assert ("not trained in novel-view mode" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(("arguments", "expected"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_ends_with_2_and_says_what_to_change(weights, data, tmp_path, capsys, arguments, expected):
    rig = {"version": 1, "units": "metres", "cameras": {}}
    for name, poses in (("cams", 1), ("moving", 5)):
        cameras = {}
        for k, view in enumerate(preset("azimuth:move=30", views=3, frames=5, size=(48, 32)).c2w[:, :poses], 1):
            cameras[f"cam{k:02d}"] = {"width": 48, "height": 32, "fx": 40.0, "fy": 40.0, "cx": 24.0, "cy": 16.0, "c2w": view.tolist()}
        (tmp_path / f"{name}.json").write_text(json.dumps(rig | {"cameras": cameras}))
    (tmp_path / "text.txt").write_text("not a video")
    places = {
        "weights": weights, "data": data, "file": tmp_path / "cams.json", "moving": tmp_path / "moving.json",
        "text": tmp_path / "text.txt", "video": video(tmp_path / "in.mp4"),
    }  # fmt: skip
    given = [each.format(**places) for each in arguments]
    if not any(each.startswith("--weights") for each in given):
        given.append(f"--weights={weights}")
    if not any(each.startswith("--data") for each in given):
        given += ["--prompt=a dog"] + ([] if any(each.startswith("--cameras") for each in given) else ["--cameras=azimuth"])
    assert infer(tmp_path / "out", *given) == 2
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1 and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named(weights, tmp_path, capsys):
    assert infer(tmp_path / "a", f"--weights={weights}") == 2
    assert "--prompt and --cameras must be given, or --data" in capsys.readouterr().err
    assert infer(tmp_path / "a", "--prompt=x", "--cameras=arc") == 2
    assert "--weights DIR must be given" in capsys.readouterr().err
    for arguments in ([], ["syncamaster"], ["--weights=x"], ["syncammaster"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "did you mean 'syncammaster'" in capsys.readouterr().err


def test_a_full_disk_is_said_and_leaves_no_finished_sample(weights, tmp_path, capsys, monkeypatch):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        assert one(weights, tmp_path / "a") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "no space left" in capsys.readouterr().err
    assert not (tmp_path / "a/settings.json").exists()


def test_grid_is_near_square_and_keeps_the_order():
    views = np.arange(5, dtype=np.uint8)[:, None, None, None, None] + np.zeros((5, 2, 4, 6, 3), np.uint8) + 10
    made = grid(views)
    assert made.shape == (2, 8, 18, 3)
    assert [int(made[0, r * 4, c * 6, 0]) for r in range(2) for c in range(3)] == [10, 11, 12, 13, 14, 0]
    assert grid(views[:2]).shape == (2, 4, 12, 3)
