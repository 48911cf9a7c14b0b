"""Videos that index-seeking readers get wrong, each frame's number burned in as a bar code.

`make_torture(folder)` writes them all; `footage(folder)` also says which frame numbers a player shows and when.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, BITS = 192, 112, 12
TICK = Fraction(1, 90_000)
STEP = 3000  # ticks from frame to frame at 30 fps


@dataclass(frozen=True)
class Footage:
    """numbers: the burned-in numbers that are shown, in order. times: seconds since the first shown frame."""

    path: Path
    numbers: list[int]
    times: list[Fraction]


def burn(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """[H,W,3] RGB: moving texture below, the number as white and black bars above, and its complement in the middle."""
    rng = np.random.default_rng(number // 5)  # the texture jumps every fifth frame, so that prediction has work to do
    picture = np.repeat(np.repeat(rng.integers(60, 190, (height // 8, width // 8, 3), np.uint8), 8, 0), 8, 1)
    picture = np.roll(picture, 3 * number, axis=1)
    bits = np.array([number >> i & 1 for i in range(BITS)], np.uint8) * 255
    bars = np.repeat(bits, width // BITS)[None, :, None]
    third = height // 3
    picture[:third], picture[third : 2 * third] = bars, 255 - bars
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number burned into [H,W,3] or [H,W], of any size; -1 where code and complement disagree (a damaged picture)."""
    luma = picture.astype(float).mean(-1) if picture.ndim == 3 else picture.astype(float)
    height, width = luma.shape
    columns = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    code, complement = (luma[int(height * at)][columns] > 127 for at in (1 / 6, 1 / 2))
    if (code == complement).any():
        return -1
    return int(sum(1 << i for i in range(BITS) if code[i]))


def write(
    path: Path,
    numbers: Sequence[int],
    pts: Sequence[int],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    tick: Fraction = TICK,
) -> Path:
    """Encode burned-in frames at the given pts."""
    settings = {"preset": "veryfast", "crf": "20", "sc_threshold": "0"} if codec.startswith("libx26") else {}
    settings |= options or {}
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=30, options=settings)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        stream.time_base = stream.codec_context.time_base = tick
        stream.codec_context.thread_count = 1
        if codec not in ("libx264", "libx265"):
            stream.codec_context.bit_rate = 4_000_000
        for number, time in zip(numbers, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(burn(number), format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = time, tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def copy_packets(source: Path, target: Path, keep: Callable[[list[av.Packet]], list[av.Packet]], shift: int = 0, **container: str) -> Path:
    """Copy the packets that `keep` chooses, undecoded, `shift` ticks of the source earlier."""
    with av.open(str(source)) as inp, av.open(str(target), "w", options=container) as out:
        stream = inp.streams.video[0]
        copied = out.add_stream_from_template(stream)
        for packet in keep([packet for packet in inp.demux(stream) if packet.size]):
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = copied
            out.mux(packet)
    return target


def _even(count: int) -> list[int]:
    return [i * STEP for i in range(count)]


def _shown(path: Path, numbers: Sequence[int], pts: Sequence[int], tick: Fraction = TICK) -> Footage:
    return Footage(path, list(numbers), [(pts[i] - pts[0]) * tick for i in range(len(pts))])


def _plain(path: Path, count: int, **settings: object) -> Footage:
    return _shown(write(path, range(count), _even(count), **settings), range(count), _even(count))  # type: ignore[arg-type]


def _in_steps(path: Path, count: int, tick: Fraction, **settings: object) -> Footage:
    """One frame a tick, for codecs and containers that want the frame interval as their time base."""
    return _shown(write(path, range(count), range(count), tick=tick, **settings), range(count), range(count), tick)  # type: ignore[arg-type]


def _irregular(path: Path, count: int) -> Footage:
    steps = np.random.default_rng(3).choice([1500, 3000, 3003, 4500, 9000, 27000], count - 1)
    pts = [0, *np.cumsum(steps).tolist()]
    return _shown(write(path, range(count), pts, options={"bf": "2", "g": "25"}), range(count), pts)


def _edit_list(path: Path, count: int, first: int, last: int) -> Footage:
    """An mp4 whose edit list shows frames first..last only; the first is no keyframe."""
    write(path, range(count), _even(count), options={"bf": "2", "g": "40"})
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 8  # version, flags, entry count before it
    entries = struct.unpack_from(">I", data, at)[0]
    assert entries == 1, entries
    duration, media_time = struct.unpack_from(">Ii", data, at + 4)
    movie_scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    struct.pack_into(">Ii", data, at + 4, (last - first + 1) * STEP * movie_scale // 90_000, media_time + first * STEP)
    assert duration * 90_000 // movie_scale == count * STEP
    path.write_bytes(data)
    return _shown(path, range(first, last + 1), _even(last - first + 1))


def _copy_trim(path: Path, folder: Path) -> Footage:
    """`ffmpeg -ss ... -c copy`: packets from the keyframe before the cut, hidden by negative times."""
    source = write(folder / "copy_trim_source.mp4", range(120), _even(120), options={"bf": "2", "g": "50"})

    def from_second_keyframe(packets: list[av.Packet]) -> list[av.Packet]:
        start = [i for i, packet in enumerate(packets) if packet.is_keyframe][1]
        return packets[start:]

    copy_packets(source, path, from_second_keyframe, shift=63 * STEP)
    source.unlink()
    return _shown(path, range(63, 120), _even(57))


def _off_keyframe(path: Path, folder: Path, **settings: object) -> Footage:
    """Cut anywhere: nothing before the first keyframe can be decoded."""
    source = write(folder / "off_keyframe_source.ts", range(120), _even(120), **settings)  # type: ignore[arg-type]
    copy_packets(source, path, lambda packets: packets[17:])
    source.unlink()
    return _shown(path, range(30, 120), _even(90))


def _hidden_frame(path: Path, folder: Path, hidden: int) -> Footage:
    """VP8 with a reference picture that is never shown, though its packet has a time of its own."""
    tick = Fraction(1, 25)
    source = write(folder / "hidden_source.webm", range(60), range(60), codec="libvpx", options={"g": "30", "cpu-used": "8"}, tick=tick)
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        body = [bytes(packet) for packet in container.demux(video=0) if packet.size][hidden]
    data[data.index(body)] &= ~0x10  # show_frame
    path.write_bytes(data)
    source.unlink()
    shown = [i for i in range(60) if i != hidden]
    return _shown(path, shown, shown, tick)


def _every_sample_sync(path: Path) -> Footage:
    """A muxer that forgot the table of sync samples: every sample then counts as a keyframe, wrongly."""
    made = _in_steps(path, 90, Fraction(1, 30), codec="mpeg4", options={"g": "30", "bf": "0"})
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"free"))
    return made


def _recipes(folder: Path) -> Iterator[tuple[str, Callable[[Path], Footage]]]:
    x264 = "x264-params"
    yield "short_gop.mp4", lambda path: _plain(path, 90, options={"bf": "0", "g": "12"})
    yield "b_frames.mp4", lambda path: _plain(path, 90, options={"bf": "3", "g": "30", x264: "b-pyramid=normal:b-adapt=0"})
    yield "long_gop.mp4", lambda path: _plain(path, 300, options={"bf": "3", "g": "250", "keyint_min": "250"})
    yield "open_gop.mp4", lambda path: _plain(path, 90, options={"bf": "3", "g": "15", x264: "open-gop=1:b-adapt=0"})
    yield "open_gop.ts", lambda path: _plain(path, 90, options={"bf": "3", "g": "15", x264: "open-gop=1:b-adapt=0"})
    yield (
        "open_gop_hevc.mp4",
        lambda path: _plain(
            path, 60, codec="libx265", options={"x265-params": "open-gop=1:keyint=15:min-keyint=15:bframes=3:log-level=none:pools=none"}
        ),
    )
    yield "variable_rate.mp4", lambda path: _irregular(path, 90)
    yield (
        "variable_rate.mkv",
        lambda path: _shown(
            write(path, range(90), pts := [i * 33 + i * i % 17 for i in range(90)], options={"g": "20"}, tick=Fraction(1, 1000)),
            range(90),
            pts,
            Fraction(1, 1000),
        ),
    )
    yield "edit_list.mp4", lambda path: _edit_list(path, 120, first=53, last=101)
    yield "copy_trim.mp4", lambda path: _copy_trim(path, folder)
    yield "off_keyframe.ts", lambda path: _off_keyframe(path, folder, options={"bf": "2", "g": "30", x264: "open-gop=0"})
    yield "off_keyframe_open_gop.ts", lambda path: _off_keyframe(path, folder, options={"bf": "2", "g": "30", x264: "open-gop=1:b-adapt=0"})
    yield "off_keyframe.mp4", lambda path: _off_keyframe(path, folder, options={"bf": "2", "g": "30", x264: "open-gop=0"})
    yield "transport.ts", lambda path: _plain(path, 120, options={"bf": "2", "g": "24"})
    yield "mpeg2.ts", lambda path: _in_steps(path, 90, Fraction(1, 30), codec="mpeg2video", options={"g": "15", "bf": "2"})
    yield "intra_refresh.mp4", lambda path: _plain(path, 90, options={"bf": "0", "g": "30", x264: "intra-refresh=1"})
    yield "intra_refresh.ts", lambda path: _plain(path, 90, options={"bf": "0", "g": "30", x264: "intra-refresh=1"})
    yield (
        "fragmented.mp4",
        lambda path: _plain(path, 90, options={"bf": "2", "g": "20"}, container={"movflags": "frag_keyframe+empty_moov"}),
    )
    yield "every_sample_sync.mp4", _every_sample_sync
    yield "hidden_frames.webm", lambda path: _hidden_frame(path, folder, hidden=20)
    alt_ref = {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "30", "cpu-used": "8"}
    yield "alt_ref.webm", lambda path: _in_steps(path, 60, Fraction(1, 25), codec="libvpx-vp9", options=alt_ref)
    yield "motion_jpeg.avi", lambda path: _in_steps(path, 60, Fraction(1, 30), codec="mjpeg", pixel_format="yuvj420p")


def footage(folder: Path) -> dict[str, Footage]:
    """Write the whole set; the names are the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: make(folder / name) for name, make in _recipes(folder)}


def make_torture(folder: Path) -> dict[str, Path]:
    """Write the whole set and say where each is."""
    return {name: each.path for name, each in footage(folder).items()}
