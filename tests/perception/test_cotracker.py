"""CoTracker3 from files of the official layout with random weights, against upstream's own predictors called directly."""

import shutil
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.typed import RecipeError, build
from schemas.verdict import CandidateError, Reason
from stages.filter_motion import MotionConfig, MotionFilter
from stages.perception.cotracker import CoTracker
from stages.perception.weights import WeightsError, digest_of, find

torch = pytest.importorskip("torch", reason="needs the extra perception")

Mode = Literal["offline", "online"]
# sha256 of the sorted lines "NAME SHAPE" of the official checkpoints, as their public key lists have them.
_LAYOUTS = {
    "offline": "1b3c475ed930c77934b14f08d7b75aa20e7673e050d04631fe0430e3b64d5f8e",
    "online": "59c73f475f92ba0f1130159b86861a57b1324f86abe61eaa782f53a74f998b31",
}
_POINTS = np.array([[10.5, 20.5], [80.0, 60.0], [100.25, 33.0], [0.5, 0.5], [159.5, 119.5]], np.float32)


@pytest.fixture(scope="module")
def code(fetched: Callable[[str], Path]) -> Path:
    """The folder of upstream's package."""
    return fetched("cotracker-code")


@pytest.fixture(scope="module")
def upstream(code: Path) -> Any:
    """Upstream's module of predictors, as any script with the folder on its path would import it."""
    sys.path.insert(0, str(code.parent))
    try:
        import cotracker.predictor
    finally:
        sys.path.remove(str(code.parent))
    return cotracker.predictor


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def predictor_of(upstream: Any, mode: Mode) -> Any:
    """The true architecture with random weights that move points by pixels, and hide about half of them."""
    torch.manual_seed(1)
    kind = upstream.CoTrackerOnlinePredictor if mode == "online" else upstream.CoTrackerPredictor
    predictor = kind(checkpoint=None, window_len=16 if mode == "online" else 60)
    former = predictor.model.updateformer
    with torch.no_grad():
        predictor.model.corr_mlp.fc2.weight.mul_(10)  # as they are initialised, networks hardly look at the picture
        former.flow_head.weight.mul_(10)
        former.input_transform.weight[:, :2] = 0
        former.vis_conf_head.weight.mul_(25)
        former.vis_conf_head.bias.copy_(torch.tensor([1.2, 2.5] if mode == "online" else [0.53, 0.0]))
    return predictor


@pytest.fixture(scope="module")
def files(upstream: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each mode, under its official name."""
    folder = tmp_path_factory.mktemp("cotracker3")
    found = {}
    for mode in ("offline", "online"):
        found[mode] = folder / f"scaled_{mode}.pth"
        torch.save(predictor_of(upstream, mode).model.state_dict(), found[mode])
    return found


def load(files: dict[str, Path], mode: Mode, code: Path, **more: Any) -> CoTracker:
    """Through the registry, as a recipe does."""
    weights = find(f"cotracker3-{mode}", str(files[mode]), accept_noncommercial=True)
    return CoTracker(weights.path, mode, code=code, device="cpu", **more)


def quick(predictor: Any, iters: int = 2) -> None:
    """The same networks on a picture of a sixteenth, with fewer of the updates: the rules around them cost less to look at."""
    predictor.interp_shape = (96, 128)
    plain = predictor.model.forward
    predictor.model.forward = lambda **named: plain(**{**named, "iters": iters})


def clip(count: int, size: tuple[int, int] = (160, 120), seed: int = 0) -> list[NDArray[np.uint8]]:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8)
    return [cv2.resize(np.roll(noise, t, 1), size) for t in range(count)]


def asked(frames: list[NDArray[np.uint8]], points: NDArray[np.float32]) -> tuple[Any, Any]:
    """A video and queries as upstream takes them: its pixel centres are integers."""
    video = torch.tensor(np.stack(frames)).permute(0, 3, 1, 2)[None].float()
    return video, torch.cat([torch.zeros(len(points), 1), torch.tensor(points) - 0.5], 1)[None]


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_names_and_shapes_are_those_of_the_official_checkpoint(files: dict[str, Path], mode: Mode) -> None:
    state = torch.load(files[mode], weights_only=True)
    lines = sorted(f"{name} {','.join(map(str, tensor.shape))}" for name, tensor in state.items())
    assert len(lines) == 188
    assert sum(tensor.numel() for name, tensor in state.items() if name != "time_emb") == 25_385_700
    assert tuple(state["time_emb"].shape) == (1, {"offline": 60, "online": 16}[mode], 1110)
    assert sha256("\n".join(lines).encode()).hexdigest() == _LAYOUTS[mode]


def test_offline_gives_upstreams_tracks(files: dict[str, Path], upstream: Any, code: Path) -> None:
    frames = clip(3)
    found = load(files, "offline", code).track(iter(frames), _POINTS)
    video, queries = asked(frames, _POINTS)
    xy, visible = predictor_of(upstream, "offline")(video, queries=queries)
    assert np.abs(found.xy - (xy[0].numpy() + 0.5)).max() < 0.01
    np.testing.assert_array_equal(found.visible, visible[0].numpy())
    assert found.xy.dtype == np.float32 and found.visible.dtype == np.bool_
    assert 0 < found.visible[1:].mean() < 1 and np.abs(found.xy[1:] - _POINTS).max() > 1  # a comparison of something
    np.testing.assert_allclose(found.xy[0], _POINTS, atol=1e-3)


def test_online_runs_at_its_true_size(files: dict[str, Path], code: Path) -> None:
    found = load(files, "online", code).track(iter(clip(2)), _POINTS[:2])
    assert found.xy.shape == (2, 2, 2) and found.visible.shape == (2, 2)
    assert np.isfinite(found.xy).all() and np.abs(found.xy - _POINTS[:2]).max() > 0.5


def test_online_gives_upstreams_tracks_and_forgets_the_video_before(files: dict[str, Path], upstream: Any, code: Path) -> None:
    tracker = load(files, "online", code)
    quick(tracker._predictor)
    short, long = clip(3, (96, 72), seed=5), clip(19)  # the long one: windows from frames 0 and 8, the last of 11 frames
    alone = tracker.track(iter(short), _POINTS[:2])
    found = tracker.track(iter(long), _POINTS)
    again = tracker.track(iter(short), _POINTS[:2])
    assert alone.xy.tobytes() == again.xy.tobytes() and alone.visible.tobytes() == again.visible.tobytes()

    other = predictor_of(upstream, "online")
    quick(other)
    video, queries = asked(long, _POINTS)
    other(video, is_first_step=True, queries=queries)
    for start in (0, 8):
        xy, visible = other(video[:, start : start + 16])
    assert found.xy.shape == (19, 5, 2)
    assert np.abs(found.xy - (xy[0].numpy() + 0.5)).max() < 0.01
    np.testing.assert_array_equal(found.visible, visible[0].numpy())
    assert 0 < found.visible.mean() < 1 and np.abs(found.xy - _POINTS).max() > 1


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_network_that_moves_nothing_leaves_points_where_they_were(files: dict[str, Path], code: Path, mode: Mode, tmp_path: Path) -> None:
    state = torch.load(files[mode], weights_only=True)
    for name in ("updateformer.flow_head.weight", "updateformer.flow_head.bias"):
        state[name].zero_()
    torch.save({"model": state}, tmp_path / "still.pth")  # the nested form, which upstream's builder takes too
    tracker = CoTracker(tmp_path / "still.pth", mode, code=code, device="cpu")
    quick(tracker._predictor, iters=1)
    points = np.array([[0.5, 0.5], [100.5, 76.5], [33.25, 60.75]], np.float32)
    found = tracker.track(iter(clip(2, (101, 77))), points)
    np.testing.assert_allclose(found.xy, np.broadcast_to(points, (2, 3, 2)), atol=1e-4)


def test_the_centres_of_corner_pixels_are_the_corners_of_the_networks_picture(files: dict[str, Path], code: Path) -> None:
    tracker = load(files, "online", code)
    quick(tracker._predictor, iters=1)
    tracker._predictor.interp_shape = (64, 96)
    corners = np.array([[0.5, 0.5], [100.5, 0.5], [0.5, 76.5], [100.5, 76.5], [50.5, 38.5]], np.float32)
    tracker.track(iter(clip(1, (101, 77))), corners)
    np.testing.assert_allclose(tracker._predictor.queries[0, :, 1:], [[0, 0], [95, 0], [0, 63], [95, 63], [47.5, 31.5]], atol=1e-4)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_short_clips_and_no_points(files: dict[str, Path], code: Path, mode: Mode) -> None:
    tracker = load(files, mode, code)
    quick(tracker._predictor, iters=1)
    frame = clip(1)[0]
    frame.flags.writeable = False  # as a stage is shown it
    single = tracker.track(iter([frame]), _POINTS)
    assert single.xy.shape == (1, 5, 2) and single.visible.shape == (1, 5)
    nothing = tracker.track(iter(clip(4)), np.zeros((0, 2), np.float32))
    assert nothing.xy.shape == (4, 0, 2) and nothing.visible.shape == (4, 0)
    unseen = tracker.track(iter([]), _POINTS)
    assert unseen.xy.shape == (0, 5, 2) and unseen.visible.shape == (0, 5)


def test_online_encodes_each_frame_once_and_holds_a_window_of_them(files: dict[str, Path], code: Path) -> None:
    tracker = load(files, "online", code)
    quick(tracker._predictor, iters=1)
    encoded = []
    plain = tracker._encoder._plain
    tracker._encoder._plain = lambda pictures: encoded.append(len(pictures)) or plain(pictures)
    given = []  # at each frame that is asked for, how many have been encoded before

    def frames() -> Iterator[NDArray[np.uint8]]:
        for frame in clip(27):
            given.append(sum(encoded))
            yield frame

    tracker.track(frames(), _POINTS[:1])
    assert sum(encoded) == 27 and max(encoded) <= 4
    assert all(later >= before for before, later in pairwise(given))
    assert max(position - done for position, done in enumerate(given)) < 16


def test_offline_refuses_what_memory_would_not_hold(files: dict[str, Path], code: Path) -> None:
    tracker = load(files, "offline", code, max_frames=5)
    with pytest.raises(CandidateError, match=r"more than 5 frames for 5 points.*online mode") as raised:
        tracker.track(iter(clip(6)), _POINTS)
    assert raised.value.reason is Reason.E_TOO_BIG
    with pytest.raises(CandidateError, match="more than 2 frames for 512 points"):
        tracker.track(iter(clip(3)), np.zeros((512, 2), np.float32))


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_bf16_stays_near(files: dict[str, Path], code: Path, mode: Mode) -> None:
    frames, found = clip(3), []
    for precision in ("fp32", "bf16"):
        tracker = load(files, mode, code, precision=precision)
        quick(tracker._predictor)
        found.append(tracker.track(iter(frames), _POINTS).xy)
    difference = np.abs(found[1] - found[0])[1:]
    moved = np.abs(found[0] - _POINTS)[1:]
    assert difference.max() > 0 and np.median(difference) < 0.05 * np.median(moved)


def test_a_checkpoint_that_does_not_fit_says_what_is_wrong(files: dict[str, Path], code: Path, tmp_path: Path) -> None:
    state = torch.load(files["offline"], weights_only=True)
    del state["fnet.conv1.bias"]
    state["fnet.conv9.bias"] = torch.zeros(3)
    state["corr_mlp.fc1.bias"] = torch.zeros(383)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError) as raised:
        CoTracker(tmp_path / "other.pth", "offline", code=code, device="cpu")
    message = str(raised.value)
    for part in ("1 missing: fnet.conv1.bias", "1 unexpected: fnet.conv9.bias", "corr_mlp.fc1.bias [383] instead of [384]"):
        assert part in message
    with pytest.raises(WeightsError, match=r"time_emb \[1, 60, 1110\] instead of \[1, 16, 1110\]"):
        CoTracker(files["offline"], "online", code=code, device="cpu")


@pytest.mark.parametrize("name", ["cotracker3-offline", "cotracker3-online", "cotracker-code"])
def test_noncommercial_files_need_to_be_accepted(files: dict[str, Path], name: str) -> None:
    with pytest.raises(WeightsError, match="--accept-noncommercial"):
        find(name, str(files["offline"]))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported cotracker yet."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "cotracker"]:
        monkeypatch.delitem(sys.modules, name)


def test_the_code_is_imported_from_its_folder_alone(fresh: None, files: dict[str, Path], code: Path) -> None:
    path, random_state = list(sys.path), torch.random.get_rng_state()
    CoTracker(files["online"], "online", code=code, device="cpu")
    assert sys.path == path
    assert Path(sys.modules["cotracker.predictor"].__file__ or "").is_relative_to(code)
    assert not [name for name in sys.modules if name.startswith("napari")]
    assert torch.equal(torch.random.get_rng_state(), random_state)


def copied(code: Path, to: Path, said: str) -> Path:
    """Another version of upstream's package, in the folder `to`."""
    package = Path(shutil.copytree(code, to / "cotracker", ignore=shutil.ignore_patterns("__pycache__")))
    (package / "version.py").write_text(f'__version__ = "{said}"\n')
    return package


def code_of(tracker: CoTracker) -> Path:
    return Path(type(tracker._predictor).__init__.__code__.co_filename).parent


def test_each_model_has_the_code_that_was_asked_for(fresh: None, files: dict[str, Path], code: Path, tmp_path: Path) -> None:
    """Two sources of a recipe may name two; and what is installed does not come in between."""
    other = copied(code, tmp_path, "other")
    models = [CoTracker(files["online"], "online", code=each, device="cpu") for each in (code, other, tmp_path)]
    assert [code_of(each) for each in models] == [code, other, other]
    for model in models:
        quick(model._predictor, iters=1)
    tracks = [model.track(iter(clip(2)), _POINTS).xy.tobytes() for model in models]
    assert tracks[0] == tracks[1] == tracks[2]


def test_ones_own_code_wins_over_the_caches_and_that_over_an_installed_package(
    fresh: None, code: Path, tmp_path: Path, weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(path: Path | None = None) -> Path:
        return find("cotracker-code", None if path is None else str(path), accept_noncommercial=True).path

    own, installed = copied(code, tmp_path / "co-tracker", "own"), copied(code, tmp_path / "site", "installed")
    with pytest.raises(WeightsError, match="weights fetch cotracker-code --accept-noncommercial; or install the package cotracker"):
        found()
    monkeypatch.syspath_prepend(str(installed.parent))
    assert found() == installed
    assert find("cotracker-code", accept_noncommercial=True).sha256 == digest_of(installed) != digest_of(code)
    shutil.copytree(code, weights_folder / "napari-cotrack-0.1.7" / "cotracker")
    assert found() == weights_folder / "napari-cotrack-0.1.7" / "cotracker"
    assert found(own) == found(own.parent) == own, "the package, or the checkout that it lies in"


def test_the_code_is_known_before_the_run_and_travels_with_the_results(
    files: dict[str, Path], code: Path, tmp_path: Path, weights_folder: Path
) -> None:
    asked = {"tracker": "cotracker3-online", "cotracker": str(files["online"]), "frames": 2, "device": "cpu"}
    stage = MotionFilter(build(MotionConfig, asked, "x"), accept_noncommercial=True)
    assert [name for name, _ in stage.weights()] == ["cotracker3-online", "cotracker-code"]
    with pytest.raises(WeightsError, match="cotracker-code is not on this machine"):
        stage.prepare()
    own = copied(code, tmp_path, "own")
    stage = MotionFilter(build(MotionConfig, {**asked, "cotracker_code": str(own)}, "x"), accept_noncommercial=True)
    stage.prepare()
    tracker = stage.models()[1]
    assert isinstance(tracker, CoTracker) and code_of(tracker) == own
    again = MotionFilter(stage.config, accept_noncommercial=True)
    assert again.models()[1] is tracker, "loaded once in a process"


def test_code_that_cannot_be_used_is_named(fresh: None, files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no package cotracker"):
        CoTracker(files["online"], "online", device="cpu", code=tmp_path)
    (tmp_path / "cotracker").mkdir()
    (tmp_path / "cotracker" / "__init__.py").touch()
    (tmp_path / "cotracker" / "predictor.py").write_text("import a_package_that_is_not_there")
    with pytest.raises(RecipeError, match="cannot be imported: No module named 'a_package_that_is_not_there'"):
        CoTracker(files["online"], "online", device="cpu", code=tmp_path)
    assert "cotracker" not in sys.modules


def test_settings_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no mode 'onlin' of CoTracker; did you mean 'online'"):
        CoTracker(tmp_path / "x.pth", "onlin", code=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="no device 'gpu'"):
        CoTracker(tmp_path / "x.pth", "online", code=tmp_path, device="gpu")
