"""Encoded windows: the same bytes each time, every frame and its time, even sizes, a fixed closed GOP."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from schemas.candidate import MediaFile, MediaRef
from schemas.recipe import Encode, MediaLimits
from stages.media import Media
from stages.media.writer import encoded_size
from tests.media import torture


def decode(data: bytes) -> list[tuple[Fraction, int, bool]]:
    """(time, burned-in number, is keyframe) of every frame, by plain PyAV."""
    with av.open(io.BytesIO(data)) as container:
        return [
            (frame.pts * frame.time_base, torture.number_of(frame.to_ndarray(format="rgb24")), bool(frame.key_frame))
            for frame in container.decode(video=0)
        ]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_every_frame_keeps_its_time(
    codec: str, torture_set: dict[str, torture.Footage], open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]
) -> None:
    truth = torture_set["variable_rate.mp4"]
    media, ref = open_media(truth.path.parent), video_ref(truth.path.name)
    wanted = list(range(7, 80, 3))
    data = media.encode(ref, media.index(ref), wanted, Encode(codec=codec, gop=5))  # type: ignore[arg-type]
    found = decode(data)
    assert [number for _, number, _ in found] == [truth.numbers[i] for i in wanted]
    assert [time for time, _, _ in found] == [truth.times[i] - truth.times[7] for i in wanted]
    assert [i for i, (_, _, key) in enumerate(found) if key] == list(range(0, len(wanted), 5))
    with av.open(io.BytesIO(data)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets]  # decode order is presentation order


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_same_bytes_from_two_processes_and_nothing_about_the_encoder(codec: str, plain: Path, video_ref: Callable[[str], MediaRef]) -> None:
    made = []
    for _ in range(2):
        with Media(plain.parent, MediaLimits()) as media:
            index = media.index(video_ref(plain.name))
            made.append(media.encode(video_ref(plain.name), index, range(30), Encode(codec=codec, width=96)))  # type: ignore[arg-type]
    assert made[0] == made[1]
    assert not any(word in made[0] for word in (b"Lavc", b"Lavf", b"x264", b"x265"))
    assert made[0].index(b"moov") < made[0].index(b"mdat")  # index in front


def test_a_rate_replaces_the_times(plain: Path, open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]) -> None:
    media, ref = open_media(plain.parent), video_ref(plain.name)
    data = media.encode(ref, media.index(ref), [0, 7, 9, 30], Encode(), rate=Fraction(24))
    assert [(time, number) for time, number, _ in decode(data)] == [(Fraction(i, 24), number) for i, number in enumerate((0, 7, 9, 30))]
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].duration * container.streams.video[0].time_base == Fraction(4, 24)


def test_one_frame_is_a_video_too(plain: Path, open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]) -> None:
    media, ref = open_media(plain.parent), video_ref(plain.name)
    assert [number for _, number, _ in decode(media.encode(ref, media.index(ref), [42], Encode()))] == [42]


@pytest.mark.parametrize("wanted", [[], [3, 3], [4, 2]])
def test_wanted_must_ascend(wanted: list[int], plain: Path, open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]) -> None:
    media, ref = open_media(plain.parent), video_ref(plain.name)
    with pytest.raises(ValueError, match="ascending"):
        media.encode(ref, media.index(ref), wanted, Encode())


@pytest.mark.parametrize(
    ("asked", "size"),
    [((None, None), (192, 112)), ((101, None), (100, 58)), ((None, 57), (98, 56)), ((63, 33), (62, 32))],
)
def test_sizes_are_even(
    asked: tuple[int | None, int | None],
    size: tuple[int, int],
    plain: Path,
    open_media: Callable[..., Media],
    video_ref: Callable[[str], MediaRef],
) -> None:
    media, ref = open_media(plain.parent), video_ref(plain.name)
    index = media.index(ref)
    encode = Encode(width=asked[0], height=asked[1])
    assert encoded_size(index, encode) == size
    with av.open(io.BytesIO(media.encode(ref, index, [0, 1], encode))) as container:
        context = container.streams.video[0].codec_context
        assert (context.width, context.height, context.pix_fmt) == (*size, "yuv420p")


def test_a_picture_sequence_of_odd_size(tmp_path: Path) -> None:
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), cv2.cvtColor(torture.burn(i, 193, 113), cv2.COLOR_RGB2BGR))
    ref = MediaRef("images", tuple(MediaFile(f"{i}.png", 0, 0) for i in range(6)), pts_ns=tuple(i * 33_333_333 for i in range(6)))
    with Media(tmp_path, MediaLimits()) as media:
        index = media.index(ref)
        found = decode(media.encode(ref, index, None, Encode()))
    assert encoded_size(index, Encode()) == (192, 112)
    assert [number for _, number, _ in found] == list(range(6))
    assert [float(time) for time, _, _ in found] == pytest.approx([i * 0.033333333 for i in range(6)], abs=1e-6)


def test_colours_survive(plain: Path, open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef], tmp_path: Path) -> None:
    media, ref = open_media(plain.parent), video_ref(plain.name)
    index = media.index(ref)
    [before] = media.frames(ref, index, [9])
    (tmp_path / "again.mp4").write_bytes(media.encode(ref, index, [9], Encode(crf=4)))
    with Media(tmp_path, MediaLimits()) as again:
        [after] = again.frames(video_ref("again.mp4"), again.index(video_ref("again.mp4")), [0])
    assert np.abs(before.astype(int) - after).mean() < 2


@pytest.mark.parametrize("format", ["jpg", "png"])
def test_single_pictures(format: str, plain: Path, open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]) -> None:
    media, ref = open_media(plain.parent), video_ref(plain.name)
    index = media.index(ref)
    data = media.image(ref, index, 33, format, 95)  # type: ignore[arg-type]
    assert data == media.image(ref, index, 33, format, 95)  # type: ignore[arg-type]
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    [frame] = media.frames(ref, index, [33])
    assert torture.number_of(picture) == 33
    assert np.abs(picture.astype(int) - frame).mean() < (1e-9 if format == "png" else 3)
