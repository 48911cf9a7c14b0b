"""Undistorted reads: known points land where the pinhole puts them, in every way in which frames are read."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.studio.video import write_mp4
from schemas.camera import Array, Lens
from schemas.candidate import MediaFile, MediaRef
from schemas.recipe import Encode, MediaLimits
from stages.media import Media
from stages.media.lens import positions, reach, shares, undistort
from tests.e2e.output import decoded, picture
from tests.media.lenses import BARREL, FISHEYE, LENSES, PINCUSHION, SIZE, bent, centres, dots, found_dots, matrix

FRAMES = 12


def points(lens: Lens) -> tuple[Array, Array]:
    """[N,2] where the pinhole shows points in space, and where the lens does; both well inside the picture."""
    columns, rows = np.meshgrid(np.linspace(24, SIZE[0] - 24, 9), np.linspace(22, SIZE[1] - 22, 6))
    straight = np.stack([columns.ravel(), rows.ravel()], axis=1)
    directions = (np.c_[straight, np.ones(len(straight))] @ np.linalg.inv(matrix(lens)).T) * np.linspace(2, 9, len(straight))[:, None]
    seen = bent(directions, lens)
    inside = ((seen > 12) & (seen < np.array(SIZE) - 12)).all(axis=1)
    assert inside.sum() > 20
    return straight[inside], seen[inside]


@pytest.fixture(scope="module", params=["images", "video"])
def filmed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Lens], tuple[Path, MediaRef]]:
    """Footage of the points through a lens: pictures, or a video of FRAMES equal frames."""
    folder = tmp_path_factory.mktemp(request.param)

    def make(lens: Lens) -> tuple[Path, MediaRef]:
        drawn = dots(points(lens)[1], SIZE)
        if request.param == "video":
            write_mp4(folder / "film.mp4", [drawn] * FRAMES, Fraction(25))
            return folder, MediaRef("video", (MediaFile("film.mp4", 0, 0),), lens=lens)
        names = [f"{i}.png" for i in range(FRAMES)]
        for name in names:
            cv2.imwrite(str(folder / name), drawn)
        return folder, MediaRef(
            "images", tuple(MediaFile(name, 0, 0) for name in names), 0, tuple(i * 40_000_000 for i in range(FRAMES)), lens
        )

    return make


def off(picture: np.ndarray, expected: Array) -> float:
    """By how many pixels of the source a dot lies off, at the worst."""
    factor = picture.shape[1] / SIZE[0]
    whole = cv2.resize(picture, SIZE, interpolation=cv2.INTER_CUBIC) if factor != 1 else picture
    return float(np.abs(found_dots(whole, expected) - expected).max())


@pytest.mark.parametrize("name", LENSES)
def test_points_in_space_land_where_the_pinhole_puts_them_however_frames_are_read(name: str, filmed: Callable) -> None:
    lens = LENSES[name]
    straight, seen = points(lens)
    assert np.abs(straight - seen).max() > 4, "the lens bends"
    folder, ref = filmed(lens)
    with Media(folder, MediaLimits()) as media:
        index = media.index(ref)
        pictures = {
            "frames": media.frames(ref, index, [3])[0],
            "one of many": list(media.stream(ref, index, range(FRAMES)))[5][0],
            "image": picture(media.image(ref, index, 2, "png")),
            "encoded": decoded(media.encode(ref, index, [4, 5], Encode(crf=4)))[0][1],
            "gray": media.map_frames(ref, index, [1], "tests.media.calls:pixels", gray=True)[0],
        }
        small = next(media.stream(ref, index, [7], sizes=[(SIZE[0] // 2, SIZE[1] // 2), None]))
        bare = media.frames(replace(ref, lens=None), index, [3])[0]
    for way, seen_so in pictures.items():
        assert off(seen_so, straight) < 0.1, way
    assert off(small[1], straight) < 0.1 and off(small[0], straight) < 0.3, "undistorted whole, then scaled"
    assert pictures["gray"].ndim == 2 and small[0].shape == (SIZE[1] // 2, SIZE[0] // 2, 3)
    assert off(bare, seen) < 0.1, "without the lens the same file is as it was"


def test_a_picture_with_a_lens_is_never_a_copy_of_source_bytes(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.jpg"), dots(points(BARREL)[1], SIZE))
    ref = MediaRef("images", (MediaFile("0.jpg", 0, 0),), 0, (0,), BARREL)
    with Media(tmp_path, MediaLimits()) as media:
        index = media.index(ref)
        assert media.image(replace(ref, lens=None), index, 0) == (tmp_path / "0.jpg").read_bytes() != media.image(ref, index, 0)
        with pytest.raises(Exception, match="the lens is of 100x180, the picture has 320x180"):
            media.frames(replace(ref, lens=replace(BARREL, width=100)), index, [0])


@given(
    st.sampled_from(["opencv", "fisheye"]),
    st.lists(st.floats(-0.3, 0.3), min_size=4, max_size=4),
    st.floats(60, 400),
    st.tuples(st.floats(120, 200), st.floats(70, 110)),
)
@settings(max_examples=25, deadline=None)
def test_every_pixel_is_taken_from_where_opencv_projects_its_direction(model, coefficients, focal, centre) -> None:
    """And none from where the polynomial shows a part of the picture again: going outwards, a place is never come back to."""
    lens = Lens(model, focal, 1.05 * focal, *centre, (*coefficients[:2], coefficients[2] / 50, coefficients[3] / 50), *SIZE)
    x, y = positions(lens)
    found = np.stack([x.ravel(), y.ravel()], axis=1)[::7] + 0.5
    pixels = centres(*SIZE)[::7]
    directions = np.c_[pixels, np.ones(len(pixels))] @ np.linalg.inv(matrix(lens)).T
    expected, tangent = bent(directions, lens), np.hypot(*directions[:, :2].T)
    shown, there = (((each > -1) & (each < np.array(SIZE) + 1)).all(axis=1) for each in (found, expected))
    assert (shown == (there & (tangent <= reach(lens)))).mean() > 0.999
    assert np.abs(found - expected)[shown & there].max(initial=0) < 2e-2
    row = lens.height // 2
    if lens.model == "fisheye":  # no tangential terms: outwards along a line is outwards in the picture
        assert (np.diff(x[row][x[row] > -900]) > -1e-3).all()


def test_shares_say_what_is_lost_and_what_is_black() -> None:
    """Counted pixel by pixel, in pictures of white."""
    turning = Lens("opencv", 160.0, 160.0, 160.0, 90.0, (-0.35, 0.0, 0.0, 0.0), *SIZE)
    for lens, farthest in ((BARREL, np.inf), (PINCUSHION, np.inf), (FISHEYE, np.inf), (turning, (3 * 0.35) ** -0.5)):
        lost, black = shares(lens)
        white = np.full((lens.height, lens.width), 255, np.uint8)
        assert black == pytest.approx((undistort(white, lens) < 128).mean(), abs=0.01)
        everywhere = np.zeros(white.shape, bool)  # which pixels of the source any direction within the pinhole's picture comes from
        finer = np.stack(np.meshgrid(np.arange(0, lens.width, 0.4), np.arange(0, lens.height, 0.4)), axis=-1).reshape(-1, 2)
        directions = np.c_[finer, np.ones(len(finer))] @ np.linalg.inv(matrix(lens)).T
        directions = directions[np.hypot(*directions[:, :2].T) < farthest]  # beyond, r - 0.35 r^3 would show the picture again
        columns, rows = np.floor(bent(directions, lens)).astype(int).T
        inside = (columns >= 0) & (columns < lens.width) & (rows >= 0) & (rows < lens.height)
        everywhere[rows[inside], columns[inside]] = True
        assert lost == pytest.approx(1 - everywhere.mean(), abs=0.01)
    assert shares(PINCUSHION)[0] == 0 < shares(PINCUSHION)[1] and shares(BARREL)[1] == 0 < shares(BARREL)[0]
