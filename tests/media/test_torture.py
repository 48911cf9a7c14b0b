"""Every reading policy on every nasty container: the right frames, at the right times, and no others."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.candidate import MediaRef
from stages.media import Media
from tests.media import torture

NAMES = [name for name, _ in torture._recipes(Path())]


@pytest.mark.parametrize("name", NAMES)
def test_index_lists_what_a_player_shows_and_when(
    name: str, torture_set: dict[str, torture.Footage], open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]
) -> None:
    truth = torture_set[name]
    index = open_media(truth.path.parent).index(video_ref(name))
    assert [(int(pts) - int(index.pts[0])) * index.time_base for pts in index.pts] == truth.times
    assert (index.width, index.height) == (torture.WIDTH, torture.HEIGHT)
    assert set(index.keyframes) <= set(index.pts)


def _wanted(count: int) -> Iterator[list[int]]:
    draw = random.Random(count)
    for _ in range(4):
        yield [draw.randrange(count)]  # single
        yield sorted(draw.sample(range(count), max(2, count // 20)))  # sparse: by seeking
        yield sorted(draw.sample(range(count), count // 3))  # dense: sequential
        yield [draw.randrange(count) for _ in range(5)]  # any order, with repeats
    yield [0]
    yield [count - 1]
    yield list(range(count))


@pytest.mark.parametrize("name", NAMES)
def test_no_wrong_frame(
    name: str, torture_set: dict[str, torture.Footage], open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]
) -> None:
    truth, ref = torture_set[name], video_ref(name)
    media = open_media(truth.path.parent)
    index = media.index(ref)
    for wanted in _wanted(len(index)):
        got = [torture.number_of(frame) for frame in media.frames(ref, index, wanted)]
        assert got == [truth.numbers[i] for i in wanted]
    assert media.map_frames(ref, index, None, "tests.media.calls:numbers", gray=True) == truth.numbers


def test_the_set_holds_what_it_claims(torture_set: dict[str, torture.Footage]) -> None:
    """Guards the oracle: without these properties the set would be easy."""
    import av

    def packets(name: str) -> list[av.Packet]:
        with av.open(str(torture_set[name].path)) as container:
            return [packet for packet in container.demux(video=0) if packet.size]

    assert any(packet.is_discard for packet in packets("copy_trim.mp4"))
    assert any(packet.is_discard for packet in packets("edit_list.mp4"))
    assert not packets("off_keyframe.ts")[0].is_keyframe
    assert all(packet.is_keyframe for packet in packets("every_sample_sync.mp4"))
    assert len(packets("hidden_frames.webm")) > len(torture_set["hidden_frames.webm"].numbers)
    leading = [packet for packet in packets("open_gop.mp4") if packet.pts is not None]
    keys = [i for i, packet in enumerate(leading) if packet.is_keyframe]
    assert any(leading[i + 1].pts < leading[i].pts for i in keys[1:])  # type: ignore[operator]
