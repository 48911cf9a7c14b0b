"""Depth beside the views: from known files against the studio's cameras, from a model, and refused where there is neither."""

import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from pipeline.binding import bind
from pipeline.curate import main as curate
from pipeline.payload import members_from_plain, members_to_plain
from pipeline.studio import write_layout
from pipeline.studio.trajectories import dolly
from pipeline.studio.truth import tracks
from pipeline.studio.video import write_mp4
from pipeline.studio.worlds import plaza
from schemas.camera import CameraTrack, Lens, intrinsics
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import Scene, SceneView
from schemas.recipe import parse_recipe
from schemas.typed import RecipeError, build
from schemas.verdict import CandidateError, Reason
from stages.estimate_depth import EstimateDepth, EstimateDepthConfig, KnownDepth, KnownDepthConfig
from stages.media import Media
from stages.perception.depth import DepthMaps, back_project, scaled
from stages.stage import Child, Findings, Item
from stages.watch import watch
from tests.e2e.output import write_recipe
from tests.perception.test_depth import DPT_PROCESSOR, depth_anything, write_folder
from tests.perception.test_depth_files import write_kubric
from tests.studio.conftest import cast_rays, pixel_centres

MakeScene = Callable[..., Scene]
FRAMES, SIZE = 12, (96, 72)


def stage(**settings: Any) -> EstimateDepth:
    return EstimateDepth(build(EstimateDepthConfig, settings, "x"))


def known(**settings: Any) -> KnownDepth:
    return KnownDepth(build(KnownDepthConfig, {"height": 128, **settings}, "x"))


def members(found: Findings) -> dict[str, Any]:
    return dict(found.members["depth"])


def whole(scene: Scene) -> Item:
    return Item("key", "video", scene)


def studio_clip(media: Media, name: str) -> tuple[Any, CameraTrack, Scene]:
    """A square, a camera that drives towards its centre, and the clip that it took."""
    from pipeline.studio.render import paint

    world = plaza(4)
    K = intrinsics(90, 90, SIZE[0] / 2, SIZE[1] / 2, FRAMES)
    camera = CameraTrack(dolly(np.random.default_rng(2), FRAMES), K, *SIZE, "metres")
    path = Path(media.tree.location) / f"{name}.mp4"
    write_mp4(path, (paint(world, t / 24, camera.c2w[t], K[t], SIZE) for t in range(FRAMES)), Fraction(24))
    about = path.stat()
    ref = MediaRef("video", (MediaFile(f"{name}.mp4", about.st_size, about.st_mtime_ns),))
    views = (SceneView("cam", ref, media.index(ref), camera, np.arange(FRAMES)),)
    return world, camera, Scene(Candidate("clips", f"{name}.mp4", "video", (View("cam", ref),)), views)


def test_the_studio_s_depth_back_projects_to_what_its_cameras_see(media: Media, tmp_path: Path) -> None:
    """Truth as the studio's --truth writes it, through the member, against an independent ray caster and the studio's own tracks."""
    from pipeline.studio.render import render

    world, camera, scene = studio_clip(media, "studio")
    depth = [render(world, t / 24, camera.c2w[t], camera.K[t], SIZE).depth for t in range(FRAMES)]
    np.savez_compressed(tmp_path / "studio.npz", depth=np.stack(depth)[None], views=np.array(["cam"]), K=camera.K[None])
    found = members(known(files=str(tmp_path), stride=4).score(whole(scene), media))
    assert found["frames_00"].tolist() == [0, 4, 8] and found["size_00"].tolist() == list(SIZE)
    assert found["depth_00"].dtype == np.float16 and found["depth_00"].shape == (3, 72, 96)
    followed = tracks(world, [camera], [t / 24 for t in range(FRAMES)], count=400)
    for i, t in enumerate(found["frames_00"]):
        c2w, K = camera.c2w[t], camera.K[t]
        cloud = back_project(found["depth_00"][i].astype(np.float32), found["K_00"][i], c2w)
        centres = pixel_centres(*SIZE)
        z, _ = cast_rays(world, t / 24, c2w, K, centres)
        hit = back_project(z.reshape(72, 96), K, c2w)
        seen = np.isfinite(z).reshape(72, 96)
        distance = np.linalg.norm(hit[seen] - c2w[:3, 3], axis=1)
        # float16 rounds by 2**-11 at most; a ray along an edge may take either side of it.
        assert seen.mean() > 0.5 and np.quantile(np.linalg.norm(cloud[seen] - hit[seen], axis=1) / distance, 0.99) < 2**-11 + 1e-5
        assert np.isinf(found["depth_00"][i][~seen]).mean() > 0.99 or seen.all()
        # Points that stick to surfaces: within the quad of the four pixels around them, most lie nearer than its diagonal.
        visible = followed.visible[0, t]
        column, row = (followed.pixels[0, t][visible] - 0.5).astype(int).clip(0, (94, 70)).T
        near, far = cloud[row, column], cloud[row + 1, column + 1]
        miss = np.linalg.norm((near + far) / 2 - followed.points[t][visible], axis=1)
        assert visible.sum() > 50 and np.mean(miss < np.linalg.norm(far - near, axis=1)) > 0.9


def test_maps_belong_to_the_frames_of_the_sample(media: Media, tmp_path: Path) -> None:
    """A child's frames are counted from its own first one; the file's from the source's."""
    _, _, scene = studio_clip(media, "counted")
    np.savez(tmp_path / "counted.npz", depth=np.arange(FRAMES)[:, None, None] + np.ones((FRAMES, 72, 96)))
    frames = np.array([3, 5, 7, 9, 11])
    child = Child("s0000", "window", (0,), (frames,), None, ("cam",))
    found = members(known(files=str(tmp_path), stride=2).score(Item("key", "window", scene, child), media))
    assert found["frames_00"].tolist() == [0, 2, 4]
    assert found["depth_00"][:, 0, 0].tolist() == [4, 8, 12] and "K_00" not in found


def test_files_are_found_by_path_or_by_id_and_else_named(media: Media, make_scene: MakeScene, tmp_path: Path) -> None:
    scene = make_scene(frames=3, candidate_id="some-id")
    with pytest.raises(CandidateError, match=r"has neither cam0.npz nor some-id.npz") as error:
        known(files=str(tmp_path)).score(whole(scene), media)
    assert error.value.reason == Reason.E_OPEN
    for number, name in enumerate(("some-id", "cam0")):
        np.savez(tmp_path / f"{name}.npz", depth=np.full((3, 9, 16), number + 1.0))
        assert members(known(files=str(tmp_path)).score(whole(scene), media))["depth_00"].max() == number + 1


def test_maps_of_another_picture_are_refused(media: Media, make_scene: MakeScene, tmp_path: Path) -> None:
    np.savez(tmp_path / "cam0.npz", depth=np.ones((3, 10, 10)))
    with pytest.raises(CandidateError, match="are 10x10, its frames 640x360"):
        known(files=str(tmp_path)).score(whole(make_scene(frames=3)), media)


def test_maps_of_pictures_that_are_undistorted_are_refused(media: Media, make_scene: MakeScene, tmp_path: Path) -> None:
    np.savez(tmp_path / "cam0.npz", depth=np.ones((3, 9, 16)))
    scene = make_scene(frames=3)
    (view,) = scene.views
    lens = Lens("opencv", 500.0, 500.0, 320.0, 180.0, (0.1, 0.0, 0.0, 0.0), 640, 360)
    with pytest.raises(CandidateError, match="is undistorted, its depth files are not"):
        known(files=str(tmp_path)).score(whole(replace(scene, views=(replace(view, media=replace(view.media, lens=lens)),))), media)


def test_kubric_4d_is_read_from_its_own_folder(media: Media, make_scene: MakeScene, tmp_path: Path) -> None:
    folder = write_kubric(tmp_path, wall=5.0)
    scene = make_scene(frames=3, size=(576, 384))
    files = tuple(MediaFile(f"{folder.relative_to(tmp_path)}/rgba_{t:05d}.png", 1, 1) for t in range(3))
    view = replace(scene.views[0], media=MediaRef("images", files, pts_ns=(0, 1, 2)))
    found = members(known(files=str(tmp_path), layout="kubric4d", stride=1).score(whole(replace(scene, views=(view,))), media))
    assert found["depth_00"].shape == (3, 128, 192)
    np.testing.assert_allclose(found["depth_00"][:, ::50, ::50], np.broadcast_to(np.array([5, 6, 7])[:, None, None], (3, 3, 4)), rtol=1e-3)
    np.testing.assert_allclose(found["K_00"][0], [[192, 0, 96], [0, 192, 64], [0, 0, 1]])


def test_scaling_takes_pixels_and_keeps_the_geometry() -> None:
    """Of a map whose depth is its column, every stored pixel is an original one, and the one at its place."""
    columns = np.tile(np.arange(1, 97, dtype=np.float32), (1, 72, 1))
    small = scaled(DepthMaps(columns, intrinsics(90, 90, 48, 36)), 18)
    assert small.metres.shape == (1, 18, 24) and small.K is not None
    assert set(small.metres.ravel()) <= set(columns.ravel())
    x = (np.arange(24) + 0.5) * 4  # of the stored pixels' centres, in the source
    assert np.abs(small.metres[0, 0] - (x + 0.5)).max() <= 1
    np.testing.assert_allclose(small.K[0], [[22.5, 0, 12], [0, 22.5, 9], [0, 0, 1]])
    assert scaled(small, 18) is small


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("weights") / "outdoor"
    return write_folder(folder, transformers.DepthAnythingForDepthEstimation, depth_anything(80, small=True), DPT_PROCESSOR)


def test_a_model_looks_at_the_frames_of_the_stride_beside_other_watchers(media: Media, weights: Path) -> None:
    _, _, scene = studio_clip(media, "modelled")
    settings = {"model": "depth-anything-v2-metric-outdoor", "weights": str(weights), "device": "cpu", "stride": 6, "height": 36}
    [found] = watch([stage(**settings)], whole(scene), media)
    assert isinstance(found, Findings)
    maps = members(found)
    assert maps["frames_00"].tolist() == [0, 6] and maps["depth_00"].shape == (2, 36, 48) and "K_00" not in maps
    assert (maps["depth_00"] > 0).all() and (maps["depth_00"] <= 80).all()


def recipe(kind: str = "EstimateDepth", **settings: Any) -> Any:
    source = {"license": "CC0-1.0", "stages": [{f"stages.estimate_depth:{kind}": settings}]}
    return parse_recipe({"name": "depth", "sources": {"clips": source}})


def test_without_weights_or_files_the_recipe_is_refused_with_what_to_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARALLAX_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(RecipeError, match=r"python -m pipeline.weights fetch zoedepth"):
        bind(recipe())
    with pytest.raises(RecipeError, match="accept-noncommercial"):
        bind(recipe(model="depth-pro"))
    with pytest.raises(RecipeError, match="did you mean"):
        bind(recipe(model="zoedept"))
    for nowhere in (None, str(tmp_path / "none")):
        with pytest.raises(RecipeError, match="which is no folder; give the one that holds the depth files"):
            bind(recipe("KnownDepth", files=nowhere))
    (tmp_path / "dangling.npz").symlink_to("nothing")
    assert bind(recipe("KnownDepth", files=str(tmp_path)))["clips"].stages[0].weights() == ()


@pytest.mark.parametrize(
    "make, reason, message",
    [
        (lambda path: path.symlink_to("gone.npz"), Reason.E_OPEN, "is a link to nothing"),
        (lambda path: path.symlink_to("cam0.npz"), Reason.E_OPEN, "is a link to nothing"),
        (lambda path: path.symlink_to("/etc/passwd"), Reason.E_UNSAFE_PATH, "leads out of the input folder"),
        (lambda path: path.mkdir(), Reason.E_UNSAFE_PATH, "no plain file but a folder"),
        (lambda path: os.mkfifo(path), Reason.E_UNSAFE_PATH, "no plain file but a named pipe"),
        (lambda path: path.write_bytes(b""), Reason.E_OPEN, "is no depth file"),
    ],
)
def test_what_cannot_be_read_is_the_candidate_s_error(
    media: Media, make_scene: MakeScene, tmp_path: Path, make: Callable[[Path], object], reason: Reason, message: str
) -> None:
    scene, made = make_scene(frames=3), known(files=str(tmp_path))
    before = made.inputs(scene.candidate)
    make(tmp_path / "cam0.npz")
    assert made.inputs(scene.candidate) != before
    with pytest.raises(CandidateError, match=message) as error:
        made.score(whole(scene), media)
    assert error.value.reason == reason


def test_more_than_a_manifest_should_hold_is_refused_unseen(media: Media, make_scene: MakeScene, tmp_path: Path) -> None:
    scene = make_scene(frames=20_000)
    for refused in (lambda: known(files=str(tmp_path), stride=1).score(whole(scene), media), lambda: stage(stride=1).wants(whole(scene))):
        with pytest.raises(CandidateError, match="raise stride, lower height, or cut the source into windows") as error:
            refused()
        assert error.value.reason == Reason.E_TOO_BIG


def test_a_window_s_depth_takes_what_is_said(make_scene: MakeScene) -> None:
    """The docstring's figures, of 49 frames of a 16:9 picture."""
    config = KnownDepthConfig()
    count = len(range(0, 49, config.stride))
    arrays = {"depth_00": np.ones((count, config.height, round(config.height * 16 / 9)), np.float16)}
    assert count == 13 and len(members_from_plain(members_to_plain({"depth": arrays}))[0].data) == pytest.approx(190e3, rel=0.01)
    assert len(members_to_plain({"depth": arrays})["depth"]) == pytest.approx(253e3, rel=0.01)


def curated(folder: Path, *stages: str) -> tuple[int, Path]:
    """curate's exit status and its output, of the clips in `folder / "in"` and the depth in `folder / "depth"`."""
    settings = [{each: {"files": str(folder / "depth")}} for each in stages]
    recipe = write_recipe(folder / "recipe.yaml", {"clips": {"stages": settings, "payload": {"video": "copy"}}})
    told = [f"--input=clips={folder / 'in'}", f"--output={folder / 'out'}", "--executor=inline", "--quiet", "--no-report"]
    return curate([str(recipe), *told, "--error-budget=1"]), folder / "out" / "manifest"


def two_clips(folder: Path) -> list[str]:
    """Their names; and a folder for depth."""
    write_layout("clips", folder / "all", scenes=2, frames=12, size=(128, 96))
    names = sorted(path.stem for path in (folder / "all").glob("*.mp4"))[:2]
    for each in ("in", "depth"):
        (folder / each).mkdir()
    for name in names:
        (folder / "all" / f"{name}.mp4").rename(folder / "in" / f"{name}.mp4")
    return names


def test_only_the_candidate_whose_files_changed_is_computed_anew(tmp_path: Path) -> None:
    """Two clips in one unit, through curate: depth comes for one, then for the other, whose file first is broken."""
    names, depth = two_clips(tmp_path), tmp_path / "depth"

    def run() -> tuple[list[str], dict[str, Any]]:
        status, manifest = curated(tmp_path, "stages.estimate_depth:KnownDepth")
        assert status == 0
        rows = sorted(ds.dataset(manifest / "samples").to_table().to_pylist(), key=lambda row: row["candidate_id"])
        [unit] = ds.dataset(manifest / "units").to_table().to_pylist()
        return [(row["reasons"] or ["kept"])[0] for row in rows], unit

    np.savez(depth / f"{names[0]}.npz", depth=np.ones((12, 48, 64)))
    (depth / f"{names[1]}.npz").symlink_to("gone.npz")
    assert run()[0] == ["kept", "E_OPEN"]
    (depth / f"{names[1]}.npz").unlink()
    np.savez(depth / f"{names[1]}.npz", depth=np.full((12, 48, 64), 2.0))
    found, unit = run()
    assert found == ["kept", "kept"] and unit["steps_computed"] == 1
    np.savez(depth / "of-nobody.npz", depth=np.ones((12, 48, 64)))
    assert run()[1]["unit_key"] == unit["unit_key"], "the unit is not even run"


class Again(KnownDepth):
    """Another source of depth in the same recipe, which does not say what it packs."""

    name = "again"
    packs = None


def test_two_stages_cannot_pack_one_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the second would win in silence."""
    for name in two_clips(tmp_path):
        np.savez(tmp_path / "depth" / f"{name}.npz", depth=np.ones((12, 48, 64)))
    status, _ = curated(tmp_path, "stages.estimate_depth:KnownDepth", "tests.stages.test_estimate_depth:Again")
    assert status != 0 and "'again' packs depth.npz, which a stage before it packs too" in capsys.readouterr().err


def test_a_stored_result_does_not_hide_that_two_stages_pack_one_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in two_clips(tmp_path):
        np.savez(tmp_path / "depth" / f"{name}.npz", depth=np.ones((12, 48, 64)))
    assert curated(tmp_path, "tests.stages.test_estimate_depth:Again")[0] == 0
    status, _ = curated(tmp_path, "stages.estimate_depth:KnownDepth", "tests.stages.test_estimate_depth:Again")
    assert status != 0 and "'again' packs depth.npz, which a stage before it packs too" in capsys.readouterr().err


def test_stages_that_say_so_are_refused_before_the_run() -> None:
    both = [{"known_depth": {"files": "."}}, {"depth": {"weights": "."}}]
    recipe = parse_recipe({"name": "both", "sources": {"clips": {"stages": both}}})
    with pytest.raises(RecipeError, match=r"'known_depth' and 'depth' both pack depth\.npz"):
        bind(recipe)


def test_where_to_look_and_how_fast_is_no_part_of_the_key(tmp_path: Path) -> None:
    assert set(known(files=str(tmp_path)).compute_settings()) == {"layout", "stride", "height"}
    assert set(stage(device="cuda:7").compute_settings()) == {"model", "stride", "height", "precision", "batch"}, (
        "a batch changes the last bits"
    )
