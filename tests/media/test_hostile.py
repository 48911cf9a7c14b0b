"""Hostile and broken files: each its own code, at once, and good files with nasty names decode."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from schemas.candidate import MediaRef
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from tests.media import hostile, torture


@pytest.fixture(scope="module")
def hostile_set(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Reason | None]]:
    return hostile.make_hostile(tmp_path_factory.mktemp("hostile") / "in")


def test_every_file_ends_in_its_own_code(
    hostile_set: dict[str, tuple[Path, Reason | None]], open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]
) -> None:
    found: dict[str, Reason | None] = {}
    folder = next(iter(hostile_set.values()))[0].parent
    before = sorted(os.listdir(folder.parent)) + sorted(os.listdir(folder))
    for name in hostile_set:
        media, ref = open_media(folder), video_ref(name)
        try:
            index = media.index(ref)
            assert media.map_frames(ref, index, None, "tests.media.calls:numbers") == list(range(24))
            found[name] = None
        except CandidateError as error:
            found[name] = error.reason
    assert found == {name: reason for name, (_, reason) in hostile_set.items()}
    assert sorted(os.listdir(folder.parent)) + sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("name", ["../outside.mp4", "/etc/hostname", "a/../../b.mp4", "nul\0.mp4", "", "folder", "inner/link_out.mp4"])
def test_paths_that_leave_the_root_or_are_no_file(name: str, tmp_path: Path, video_ref: Callable[[str], MediaRef]) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "inner").mkdir()
    hostile.video(tmp_path / "outside.mp4", frames=2)
    (root / "inner" / "link_out.mp4").symlink_to(tmp_path / "outside.mp4")
    with Media(root, MediaLimits()) as media, pytest.raises(CandidateError) as caught:
        media.index(video_ref(name))
    assert caught.value.reason == Reason.E_UNSAFE_PATH


def test_links_inside_the_root_are_followed(tmp_path: Path, video_ref: Callable[[str], MediaRef]) -> None:
    hostile.video(tmp_path / "real.mp4", frames=3)
    (tmp_path / "link.mp4").symlink_to("real.mp4")
    with Media(tmp_path, MediaLimits()) as media:
        assert len(media.index(video_ref("link.mp4"))) == 3


def test_a_file_that_went_away_is_the_fault_of_storage(tmp_path: Path, video_ref: Callable[[str], MediaRef]) -> None:
    with Media(tmp_path, MediaLimits()) as media, pytest.raises(CandidateError) as caught:
        media.index(video_ref("gone.mp4"))
    assert caught.value.reason == Reason.E_IO


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_pixels": 192 * 112 - 1}, "media.max_pixels"),
        ({"max_frames": 89}, "media.max_frames"),
        ({"max_duration_s": 2.9}, "media.max_duration_s"),
    ],
)
@pytest.mark.parametrize("name", ["b_frames.mp4", "mpeg2.ts", "variable_rate.mkv"])
def test_caps(
    name: str,
    limits: dict[str, float],
    says: str,
    torture_set: dict[str, torture.Footage],
    open_media: Callable[..., Media],
    video_ref: Callable[[str], MediaRef],
) -> None:
    folder = torture_set[name].path.parent
    assert len(open_media(folder).index(video_ref(name))) == 90
    with pytest.raises(CandidateError) as caught:
        open_media(folder, **limits).index(video_ref(name))
    assert caught.value.reason == Reason.E_TOO_BIG
    assert says in caught.value.message


@pytest.mark.parametrize(("name", "codec"), [("damaged.ts", "mpeg2video"), ("damaged.mp4", "mpeg4")])
def test_damage_is_reported_and_stale_frames_are_not(name: str, codec: str, tmp_path: Path, video_ref: Callable[[str], MediaRef]) -> None:
    """The index holds, since the container is whole; frames outside the damaged GOP can still be read, if asked for alone."""
    tick = Fraction(1, 30)
    path = torture.write(tmp_path / name, range(60), range(60), codec=codec, options={"g": "15"}, tick=tick)
    data = bytearray(path.read_bytes())
    middle = int(len(data) * 0.6)
    data[middle : middle + 150] = np.random.default_rng(1).bytes(150)
    if codec == "mpeg2video":  # keep the transport's own packets whole: the damage is in the pictures
        for at in range(middle // 188 * 188, middle + 338, 188):
            data[at : at + 4] = path.read_bytes()[at : at + 4]
    path.write_bytes(data)
    ref = video_ref(name)
    with Media(tmp_path, MediaLimits()) as media:
        index = media.index(ref)
        assert len(index) == 60
        read = {}
        for i in range(60):
            try:
                [read[i]] = media.map_frames(ref, index, [i], "tests.media.calls:numbers")
            except CandidateError as error:
                assert error.reason == Reason.E_TRUNCATED
        with pytest.raises(CandidateError) as caught:
            media.frames(ref, index, range(60))
    assert caught.value.reason == Reason.E_TRUNCATED
    lost = sorted(set(range(60)) - set(read))
    assert lost == list(range(lost[0], (lost[0] // 15 + 1) * 15))  # what is predicted from a damaged frame is lost with it
    assert read == {i: i for i in read}
