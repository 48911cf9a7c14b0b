"""Streams: the same frames however they are cut into calls, no call longer than its limit, nothing left open, nothing asked for twice."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.candidate import MediaRef
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from stages.media.paths import Located
from tests.media import torture
from tests.media.test_stills import encoded, sequence

VideoRef = Callable[[str], MediaRef]
SIZES = (None, (96, 56))


@pytest.fixture
def media(plain: Path) -> Iterator[Media]:
    with Media(plain.parent, MediaLimits()) as opened:
        yield opened


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of every chunk that is asked for, and how many frames came: None for a refusal, [] for none yet."""
    from stages.media.sandbox import Sandbox

    whole, calls = Sandbox.call, []

    def noted(self: Sandbox, function: str, *arguments: Any, **more: Any) -> Any:
        answer = whole(self, function, *arguments, **more)
        if function.endswith(":chunk"):
            calls.append((*arguments, answer and len(answer[0])))
        return answer

    monkeypatch.setattr(Sandbox, "call", noted)
    return calls


def streamed(media: Media, ref: MediaRef, wanted: list[int]) -> list[list[np.ndarray]]:
    return list(media.stream(ref, media.index(ref), wanted, SIZES))


@pytest.mark.parametrize("wanted", [list(range(0, 90, 2)), [3, 40, 77]], ids=["sequential", "seeking"])
def test_frames_do_not_depend_on_when_a_chunk_ends(
    wanted: list[int], media: Media, plain: Path, video_ref: VideoRef, asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = streamed(media, video_ref(plain.name), wanted)
    assert [call[-1] for call in asked] == [len(wanted)]
    asked.clear()
    monkeypatch.setattr("stages.media._CHUNK_SHARE", 0.0)  # no time at all: a frame a call, wanted or not
    cut = streamed(media, video_ref(plain.name), wanted)
    assert [call[-1] for call in asked if call[-1]] == [1] * len(wanted)
    assert len(asked) > len(wanted), "there were frames on the way"
    assert [call[3] is not None for call in asked] == [True] + [False] * (len(asked) - 1), "one pass served them all"
    assert [torture.number_of(large) for large, _ in cut] == wanted
    for one, other in zip(whole, cut, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_only_a_single_frame_can_take_too_long(plain: Path, video_ref: VideoRef) -> None:
    """Under a limit of two seconds: twelve frames of a third of a second, sixty quick ones before the first that is wanted, and
    one of ten seconds."""
    ref = video_ref(plain.name)
    with Media(plain.parent, MediaLimits(timeout_s=2.0)) as media:
        index = media.index(ref)
        media.run("tests.media.calls:slow_down", 0.33)
        assert [torture.number_of(large) for [large] in media.stream(ref, index, range(12))] == list(range(12))
        media.close()
        media.run("tests.media.calls:slow_down", 0.06)
        assert [torture.number_of(large) for [large] in media.stream(ref, index, range(60, 71))] == list(range(60, 71))
        media.run("tests.media.calls:slow_down", 10.0)
        with pytest.raises(CandidateError) as caught:
            next(media.stream(ref, index, range(12)))
    assert caught.value.reason == Reason.E_TIMEOUT


def held_open(pid: int, path: Path) -> int:
    """How many files a process has open at that path."""
    return [os.readlink(handle) for handle in Path(f"/proc/{pid}/fd").iterdir()].count(str(path.resolve()))


@pytest.mark.parametrize("then", ["another view", "another call"])
def test_a_stream_that_is_left_holds_no_file_beyond_the_next_call(
    then: str, media: Media, plain: Path, torture_set: dict[str, torture.Footage], video_ref: VideoRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.media._CHUNK_FRAMES", 2)
    pid, ref = media.run("os:getpid"), video_ref(plain.name)
    stream = media.stream(ref, media.index(ref), range(90))
    next(stream)
    assert held_open(pid, plain) == 1
    stream.close()
    if then == "another view":
        other = next(footage.path for footage in torture_set.values() if footage.path != plain)
        next(media.stream(video_ref(other.name), media.index(video_ref(other.name)), [0, 1, 2]))
        assert held_open(pid, other) == 1
    else:
        media.run("builtins:len", [])
    assert media.run("os:getpid") == pid and held_open(pid, plain) == 0


def test_a_stream_that_came_to_its_end_holds_no_file(media: Media, plain: Path, video_ref: VideoRef) -> None:
    pid, ref = media.run("os:getpid"), video_ref(plain.name)
    assert len(list(media.stream(ref, media.index(ref), [0, 1, 2]))) == 3
    assert held_open(pid, plain) == 0


def test_what_comes_between_costs_a_pass_and_no_frame(
    media: Media, plain: Path, video_ref: VideoRef, asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two streams in turns, other calls, and a child that dies: every frame comes once, and is the right one."""
    monkeypatch.setattr("stages.media._CHUNK_FRAMES", 3)
    ref = video_ref(plain.name)
    index = media.index(ref)
    one, other = media.stream(ref, index, range(0, 30)), media.stream(ref, index, range(30, 60))
    seen = []
    for i, ([a], [b]) in enumerate(zip(one, other, strict=True)):
        seen.append((torture.number_of(a), torture.number_of(b)))
        if i == 10:
            assert torture.number_of(media.frames(ref, index, [80])[0]) == 80
        if i == 20:
            with pytest.raises(CandidateError):
                media.run("os:abort")
    assert seen == [(i, 30 + i) for i in range(30)]
    assert any(call[-1] is None for call in asked), "a pass that another call ended was asked to go on, and said no"


def test_pictures_are_looked_for_once_and_only_those_that_are_needed(
    tmp_path: Path, asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = sequence(tmp_path, *(encoded(i) for i in range(24)))
    looked_for: list[str] = []
    with Media(tmp_path, MediaLimits()) as media:
        index = media.index(ref)
        whole = Media.local
        monkeypatch.setattr(Media, "local", lambda self, files: looked_for.extend(file.path for file in files) or whole(self, files))
        monkeypatch.setattr("stages.media._CHUNK_FRAMES", 2)
        wanted = list(range(4, 24))
        assert [torture.number_of(large) for [large] in media.stream(ref, index, wanted)] == wanted
        assert looked_for == [f"{i:03d}" for i in wanted], "each once, though ten calls were made"
        sent = [set(part.paths) for call in asked for part in call[3] or () if isinstance(part, Located)]
        assert sent == [set(wanted)] and len(asked) == 10
        looked_for.clear()
        assert [torture.number_of(picture) for picture in media.frames(ref, index, [7, 2, 7])] == [7, 2, 7]
        assert media.image(ref, index, 5) == encoded(5)
        assert looked_for == ["002", "007", "005"]


def test_a_picture_that_leads_out_of_the_folder_is_refused_when_it_is_wanted(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    ref = sequence(root, *(encoded(i) for i in range(4)))
    with Media(root, MediaLimits()) as media:
        index = media.index(ref)
        (tmp_path / "secret").write_bytes(encoded(9))
        (root / "002").unlink()
        (root / "002").symlink_to(tmp_path / "secret")
        assert torture.number_of(media.frames(ref, index, [1])[0]) == 1
        for read in (
            lambda: media.frames(ref, index, [2]),
            lambda: media.image(ref, index, 2),
            lambda: list(media.stream(ref, index, [1, 2])),
        ):
            with pytest.raises(CandidateError) as caught:
                read()
            assert caught.value.reason == Reason.E_UNSAFE_PATH
