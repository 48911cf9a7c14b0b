"""`undistort: true`: what is read and packed is what a pinhole would have seen, and its cameras say so."""

import json
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.auditing.folder import OutputFolder
from pipeline.report.footage import Footage
from pipeline.studio.layouts.dl3dv import OPENGL
from pipeline.studio.video import write_mp4
from schemas.camera import Lens, look_at
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from stages.storage import Tree
from tests.e2e.output import cameras, decoded, intact, picture, run, write_recipe
from tests.ingest.dl3dv_scenes import HASHES
from tests.media.lenses import BARREL, FISHEYE, PINCUSHION, Filmed, matrix, shifts

EYES = [(-0.6, -4.0, 1.6), (0.0, -4.1, 1.7)]


@pytest.fixture(scope="module")
def films() -> dict[str, list[Filmed]]:
    """Two pictures of a plaza through each lens, and as a pinhole sees it."""
    found = {}
    for name, lens in {"pincushion": PINCUSHION, "fisheye": FISHEYE}.items():
        found[name] = [Filmed(lens, 0.0, look_at(eye, (0.0, 0.0, 1.0))) for eye in EYES]
    return found


def dl3dv(folder: Path, films: list[Filmed], lens: Lens, images: str = "images_4", **changes: object) -> Path:
    """A scene whose transforms.json speaks of pictures as many times as large as the folder says."""
    times = {"images": 1, "images_4": 4, "images_8": 8}[images]
    (folder / images).mkdir(parents=True)
    listed = []
    for k, (film, eye) in enumerate(zip(films, EYES, strict=True), 1):
        cv2.imwrite(str(folder / images / f"frame_{k:05d}.jpg"), film.lens[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
        pose = look_at(eye, (0.0, 0.0, 1.0)) @ OPENGL
        listed.append({"file_path": f"images/frame_{k:05d}.png", "transform_matrix": pose.tolist()})
    K, size = matrix(lens) * times, {"w": lens.width * times, "h": lens.height * times}
    named = zip(("k1", "k2", "p1", "p2") if lens.model == "opencv" else ("k1", "k2", "k3", "k4"), lens.distortion, strict=True)
    model = {"opencv": "OPENCV", "fisheye": "OPENCV_FISHEYE"}[lens.model]
    intrinsics = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    document = {**size, **intrinsics, **dict(named), "camera_model": model, "frames": listed} | changes
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


def near(found: np.ndarray, expected: np.ndarray) -> None:
    """The same picture in the same place: half of the tiles within 0.15 px, none beyond what phase correlation can tell."""
    off = shifts(found, expected)
    assert len(off) > 5 and np.median(off) < 0.15 and max(off) < 0.6, off


@pytest.mark.parametrize(("lens", "images"), [(PINCUSHION, "images_4"), (PINCUSHION, "images_8"), (FISHEYE, "images")])
def test_dl3dv_reads_what_a_pinhole_would_have_seen(lens, images, films, tmp_path, ingest, load) -> None:
    filmed = films["fisheye" if lens.model == "fisheye" else "pincushion"]
    dl3dv(tmp_path / HASHES[0], filmed, lens, images)
    reader = ingest("dl3dv", undistort=True)
    (candidate,) = reader.discover(Tree(tmp_path))
    scene = load(reader, tmp_path, candidate)
    (view,) = scene.views
    assert view.cameras.distortion == () and view.cameras.model == "opencv"
    np.testing.assert_allclose(view.cameras.K, np.tile(matrix(lens), (2, 1, 1)))
    with Media(tmp_path, MediaLimits()) as media:
        pictures = media.frames(view.media, view.index, range(2))
    for found, film in zip(pictures, filmed, strict=True):
        near(found, film.pinhole)
    assert np.median(shifts(filmed[0].lens, filmed[0].pinhole)) > 1, "what was distorted does not pass"
    assert "undistorted with the same K and size" in scene.notes["distortion"]
    assert f"{lens.model} {lens.distortion[0]:g}" in scene.notes["distortion"]
    lost, black = (float(part.split()[-1].rstrip("%")) for part in scene.notes["distortion"].split(":")[1].replace("of", "").split("%")[:2])
    assert (lost > 5, black > 5) == (lens.model == "fisheye", lens.model == "opencv")


def test_without_the_option_coefficients_are_carried_and_a_fisheye_is_refused(films, tmp_path, ingest, load) -> None:
    dl3dv(tmp_path / HASHES[0], films["pincushion"], PINCUSHION)
    dl3dv(tmp_path / HASHES[1], films["fisheye"], FISHEYE)
    reader = ingest("dl3dv")
    carried, fisheye = reader.discover(Tree(tmp_path))
    (view,) = load(reader, tmp_path, carried).views
    assert view.media.lens is None and view.cameras.distortion == PINCUSHION.distortion
    with pytest.raises(CandidateError, match=r"fisheye.*set the option undistort to true") as caught:
        load(reader, tmp_path, fisheye)
    assert caught.value.reason is Reason.E_CAMERA


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k1": 9.0}, "% of the picture black, at most 50% is taken.*the size that K speaks of"),
        ({"k1": -2.0, "k2": 0.0}, "% of the picture black"),
        ({"k1": float("nan")}, "k1, k2, p1, p2, k3 is .*nan"),
        ({"camera_model": "OPENCV_FISHEYE", "p1": 0.1}, "p1, p2, k4 is"),
        ({"camera_model": "OPENCV_FISHEYE", "k4": 1e300}, "p1, p2, k4 is"),
    ],
)
def test_coefficients_of_no_lens_are_refused(changes, said, films, tmp_path, ingest, load) -> None:
    dl3dv(tmp_path / HASHES[0], films["pincushion"], PINCUSHION, **changes)
    reader = ingest("dl3dv", undistort=True)
    (candidate,) = reader.discover(Tree(tmp_path))
    with pytest.raises(CandidateError, match=said) as caught:
        load(reader, tmp_path, candidate)
    assert caught.value.reason is Reason.E_CAMERA


def rig(folder: Path, film: Filmed, cameras_json: dict) -> Path:
    """Two cameras of a rig that see the same."""
    for name in cameras_json["cameras"]:
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        write_mp4(folder / "videos" / f"{name}.mp4", [film.lens] * 6, Fraction(25))
    (folder / "cameras.json").write_text(json.dumps(cameras_json))
    return folder


def camera(lens: Lens, **changes: object) -> dict:
    document = {"width": lens.width, "height": lens.height, "K": matrix(lens).tolist(), "distortion": lens.distortion, "model": lens.model}
    return document | {"c2w": look_at(EYES[0], (0.0, 0.0, 1.0)).tolist()} | changes


def document(**cameras: dict) -> dict:
    return {"version": 1, "units": "metres", "cameras": cameras}


def test_curate_packs_undistorted_pixels_never_the_source_s_bytes(films, tmp_path) -> None:
    """Pictures of a DL3DV scene and videos of a rig, through the command; `video: copy` and jpg of jpg are re-encoded."""
    dl3dv(tmp_path / "dl3dv" / HASHES[0], films["pincushion"], PINCUSHION)
    rig(tmp_path / "rig" / "a", films["fisheye"][0], document(one=camera(FISHEYE), two=camera(FISHEYE)))
    sources = {
        "dl3dv": {"options": {"undistort": True}, "stages": [{"view_groups": {"views": 2, "groups": 1, "min_overlap": 0.05}}]},
        "rig": {"options": {"undistort": True}, "stages": [{"header": {}}], "payload": {"video": "copy"}},
    }
    recipe, inputs = write_recipe(tmp_path / "mine.yaml", sources), {"dl3dv": tmp_path / "dl3dv", "rig": tmp_path / "rig"}
    output = run(recipe, inputs, tmp_path / "out", "--executor=inline", "--no-report")
    assert output.code == 0 and intact(output.path)
    group, pair = output.of("dl3dv", status="kept", is_source=False)[0], output.of("rig", status="kept")[0]
    sample = output.samples[group["sample_id"]]
    for number, (frame,) in enumerate(group["frame_index"]):
        near(picture(sample[f"view{number:02d}.jpg"]), films["pincushion"][frame].pinhole)
        assert sample[f"view{number:02d}.jpg"] != (tmp_path / f"dl3dv/{HASHES[0]}/images_4/frame_{frame + 1:05d}.jpg").read_bytes()
    assert not cameras(sample)["distortion"].any()
    sample = output.samples[pair["sample_id"]]
    near(decoded(sample["view00.mp4"])[0][3], films["fisheye"][0].pinhole)
    assert not cameras(sample)["distortion"].any() and cameras(sample)["K"][0, 0] == pytest.approx(matrix(FISHEYE))
    assert {"distortion.one", "distortion.two"} <= set(dict(pair["notes"]))
    write_recipe(recipe, {name: {**source, "options": {"undistort": name == "dl3dv"}} for name, source in sources.items()})
    again = run(recipe, inputs, tmp_path / "out", "--executor=inline", "--no-report")
    assert again.verdicts("rig") == {"a": "error E_CAMERA"} and again.of("dl3dv", status="kept")[0] == output.of("dl3dv", status="kept")[0]


def test_the_report_draws_what_the_stages_saw(films, tmp_path) -> None:
    """A rejected scene is drawn from the input: undistorted, as it was judged."""
    rig(tmp_path / "rig" / "a", films["fisheye"][0], document(cam=camera(FISHEYE)))
    sources = {"rig": {"options": {"undistort": True}, "stages": [{"header": {"min_views": 2}}]}}
    output = run(
        write_recipe(tmp_path / "mine.yaml", sources), {"rig": tmp_path / "rig"}, tmp_path / "out", "--executor=inline", "--no-report"
    )
    (row,) = output.of("rig", status="rejected")
    with Footage(OutputFolder(output.path), "rig") as footage:
        (view,) = footage.views(row, 1)
        (found,) = view.media.frames(view.ref, view.media.index(view.ref), [2])
    near(found, films["fisheye"][0].pinhole)


def test_a_rig_refuses_what_one_lens_cannot_describe(films, tmp_path, ingest, load) -> None:
    zoom, skew = [matrix(BARREL)] * 5 + [matrix(BARREL) * [[1.1], [1.1], [1]]], matrix(BARREL)
    skew[0, 1] = 0.5
    bad = {
        "zoom": (camera(BARREL, K=[K.tolist() for K in zoom], c2w=[camera(BARREL)["c2w"]] * 6), "K changes at pose 5 .*undistort it first"),
        "skew": (camera(BARREL, K=skew.tolist()), "a skew of 0.5"),
        "nan": (camera(BARREL, distortion=[float("nan"), 0, 0, 0]), "the coefficients are nan 0 0 0; expected finite"),
        "three": (camera(FISHEYE, distortion=[0, 0, 0, 0, 0]), "distortion is .* expected the 4 numbers"),
        "model": (camera(FISHEYE, model="equirectangular"), "model is 'equirectangular'; expected opencv or fisheye"),
    }
    reader = ingest("rig", undistort=True)
    for name, (entry, _) in bad.items():
        rig(tmp_path / name, films["fisheye"][0], document(cam=entry))
    for candidate in reader.discover(Tree(tmp_path)):
        with pytest.raises(CandidateError, match=bad[candidate.candidate_id][1]) as caught:
            load(reader, tmp_path, candidate)
        assert caught.value.reason is Reason.E_CAMERA


def test_colmap_s_fisheye_is_the_same_lens(films, tmp_path, ingest, load) -> None:
    film = films["fisheye"][0]
    rig(tmp_path / "a", film, document(cam=camera(FISHEYE)))
    rig(tmp_path / "b", film, document(cam=camera(FISHEYE)))
    (tmp_path / "b/cameras.json").unlink()
    numbers = " ".join(map(str, (FISHEYE.fx, FISHEYE.fy, FISHEYE.cx, FISHEYE.cy, *FISHEYE.distortion)))
    (tmp_path / "b/cameras.txt").write_text(f"1 OPENCV_FISHEYE {FISHEYE.width} {FISHEYE.height} {numbers}\n")
    (tmp_path / "b/images.txt").write_text("1 1 0 0 0 0 0 0 1 cam.jpg\n\n")
    reader = ingest("rig", undistort=True)
    lenses = [load(reader, tmp_path, candidate).views[0].media.lens for candidate in reader.discover(Tree(tmp_path))]
    assert lenses == [FISHEYE, FISHEYE]
