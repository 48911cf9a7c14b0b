"""What a video file says of itself, read as plain bytes before any demuxer or decoder sees the file.

The container is told from its magic bytes and the demuxer is then forced, so that formats which name other files or
URLs (playlists, concat lists, SDP, image patterns) are never even probed.
"""

import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from schemas.camera import MAX_SIDE
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason

Source = str | bytes  # the path of a file, or what it holds

_ReadAt = Callable[[int, int], bytes]  # (length, offset) -> at most so many bytes

_MOV_BOXES = frozenset(b"ftyp moov mdat free skip wide pnot styp sidx moof mfra uuid udta meta emsg prft".split())
_MOV_PARENTS = frozenset(b"moov trak edts mdia minf stbl".split())
_MAX_MOOV = 256 << 20
_MAX_BOXES = 1_000_000
_MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
_ACCEPTED = "mp4/mov, matroska/webm, avi, mpeg-ts, mpeg-ps, flv, ogg, asf/wmv, ivf, y4m"


@dataclass(frozen=True)
class Header:
    """demuxer: FFmpeg's name. rotation: degrees clockwise to show the picture upright, None where only a frame can tell.

    edited_s: how long an mp4's edit list shows the video; 0 where there is none.
    """

    demuxer: str
    rotation: int | None = 0
    edited_s: float = 0.0


@dataclass
class _Track:
    """One `trak` of an mp4 file."""

    handler: bytes = b""
    width: int = 0
    height: int = 0
    samples: int = 0
    duration_s: float = 0.0
    rotation: int = 0
    edited_s: float = 0.0


def read_header(source: Source, limits: MediaLimits) -> Header:
    """Raises CandidateError: E_OPEN (not a video container), E_NO_VIDEO (an audio format), E_TRUNCATED (ends before its
    own header says), E_TOO_BIG (an mp4 or avi header past the caps). Raises OSError when storage fails.
    """
    with _opened(source) as (read_at, size):
        head = read_at(4096, 0)
        if size == 0:
            raise CandidateError(Reason.E_OPEN, "the file is empty (0 bytes)")
        demuxer = _demuxer(head)
        if demuxer == "mov":
            return _check_mov(read_at, size, limits)
        if demuxer == "avi":
            _check_riff(read_at, head, size, limits)
        if demuxer == "matroska":
            _check_matroska(read_at, head, size)
            return Header("matroska", None)
        return Header(demuxer)


@contextmanager
def _opened(source: Source) -> Iterator[tuple[_ReadAt, int]]:
    """(how to read, size in bytes)."""
    if isinstance(source, bytes):
        yield (lambda length, offset: source[offset : offset + length]), len(source)
        return
    with open(source, "rb") as file:
        fd = file.fileno()
        yield (lambda length, offset: os.pread(fd, length, offset)), os.fstat(fd).st_size


def _demuxer(head: bytes) -> str:
    starts = {
        b"\x1a\x45\xdf\xa3": "matroska",
        b"\x00\x00\x01\xba": "mpeg",
        b"FLV": "flv",
        b"OggS": "ogg",
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
        b"DKIF": "ivf",
        b"YUV4MPEG2 ": "yuv4mpegpipe",
    }
    for magic, name in starts.items():
        if head.startswith(magic):
            return name
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if any(_repeats_sync(head, first, step) for first, step in ((0, 188), (4, 192), (0, 204))):
        return "mpegts"
    if (head[:4] == b"RIFF" and head[8:12] == b"WAVE") or head[:3] == b"ID3" or head[:4] == b"fLaC":
        raise CandidateError(Reason.E_NO_VIDEO, "this is an audio file; a video is needed")
    raise CandidateError(Reason.E_OPEN, f"not a video: it starts with {head[:12]!r}; accepted containers: {_ACCEPTED}")


def _repeats_sync(head: bytes, first: int, step: int) -> bool:
    """Whether MPEG-TS sync bytes stand at the start of the first packets (at least two, or the whole short file)."""
    packets = head[first::step][:8]
    return len(packets) >= 2 and packets == b"\x47" * len(packets)


def _check_mov(read_at: _ReadAt, size: int, limits: MediaLimits) -> Header:
    """Walk the top-level boxes and the tracks. The answer is about the first video track."""
    tracks: list[_Track] | None = None
    for kind, start, length in _top_boxes(read_at, size):
        if start + length > size:
            name = kind.decode("latin-1")
            raise CandidateError(Reason.E_TRUNCATED, f"the file has {size} bytes, but its '{name}' box ends at byte {start + length}")
        if kind == b"moov":
            if length > _MAX_MOOV:
                raise CandidateError(Reason.E_TOO_BIG, f"its header (moov) has {length} bytes; at most {_MAX_MOOV} are read")
            tracks = _tracks(read_at(length, start))
    if tracks is None:
        raise CandidateError(Reason.E_TRUNCATED, "the file ends before its header (moov); the recording or the copy was cut off")
    check_caps(limits, streams=len(tracks))
    for track in (videos := [track for track in tracks if track.handler == b"vide"]):
        check_caps(limits, width=track.width, height=track.height, frames=track.samples, duration_s=track.duration_s)
    return Header("mov", videos[0].rotation, videos[0].edited_s) if videos else Header("mov")


def check_caps(limits: MediaLimits, *, width: int = 0, height: int = 0, frames: int = 0, duration_s: float = 0.0, streams: int = 0) -> None:
    """Raise CandidateError(E_TOO_BIG) where what a header promises, or what was counted, passes a cap; 0 is unknown."""
    for what, value, cap, name in (
        ("pixels", width * height, limits.max_pixels, "max_pixels"),
        ("frames", frames, limits.max_frames, "max_frames"),
        ("seconds", duration_s, limits.max_duration_s, "max_duration_s"),
        ("streams", streams, limits.max_streams, "max_streams"),
    ):
        if not value <= cap:  # a whole number may be larger than any float
            said = f"{min(value, 10**300):g} {what}" + (f" ({width}x{height})" if what == "pixels" else "")
            raise CandidateError(Reason.E_TOO_BIG, f"{said}; at most {cap:g} are allowed (media.{name} in the recipe)")
    if max(width, height) > MAX_SIDE:  # as a camera may have
        raise CandidateError(Reason.E_TOO_BIG, f"{width}x{height} pixels; a side has at most {MAX_SIDE}")


def _top_boxes(read_at: _ReadAt, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, payload start, payload length) of the boxes of the file; stops at what is no known box."""
    position = 0
    for _ in range(_MAX_BOXES):
        head = read_at(16, position)
        if len(head) < 8 or head[4:8] not in _MOV_BOXES:
            return
        length, header = struct.unpack(">I", head[:4])[0], 8
        if length == 1 and len(head) == 16:
            length, header = struct.unpack(">Q", head[8:])[0], 16
        if length == 0:
            length = size - position
        if length < header:
            return
        yield head[4:8], position + header, length - header
        position += length


def _tracks(moov: bytes) -> list[_Track]:
    tracks: list[_Track] = []
    movie_scale = 0
    for kind, body in _boxes(memoryview(moov), 0):
        try:
            if kind == b"trak":
                tracks.append(_Track())
            elif kind == b"mvhd":
                movie_scale = struct.unpack_from(">I", body, 20 if body[0] == 1 else 12)[0]
            elif kind == b"elst" and tracks and movie_scale:
                tracks[-1].edited_s = _edited_ticks(body) / movie_scale
            elif tracks:
                _read_box(tracks[-1], kind, body)
        except (struct.error, IndexError):
            continue  # a box too short for its type; the demuxer will say what it thinks of it
    return tracks


def _boxes(data: memoryview, depth: int) -> Iterator[tuple[bytes, memoryview]]:
    """Every box below `data` in file order; parents before their children."""
    position = 0
    while position + 8 <= len(data) and depth < 8:
        length, kind = struct.unpack_from(">I4s", data, position)
        length = length if length >= 8 else len(data) - position
        body = data[position + 8 : position + length]
        yield kind, body
        if kind in _MOV_PARENTS:
            yield from _boxes(body, depth + 1)
        position += length


def _read_box(track: _Track, kind: bytes, body: memoryview) -> None:
    wide = len(body) > 0 and body[0] == 1  # version 1 has 64-bit times
    if kind == b"hdlr" and not track.handler:
        track.handler = bytes(body[8:12])
    elif kind == b"tkhd":
        a, b = struct.unpack_from(">ii", body, 52 if wide else 40)
        track.rotation = round(math.degrees(math.atan2(b, a)) / 90) % 4 * 90
    elif kind == b"mdhd":
        scale, duration = struct.unpack_from(">IQ" if wide else ">II", body, 20 if wide else 12)
        unknown = duration == (2**64 - 1 if wide else 2**32 - 1)
        track.duration_s = duration / scale if scale and not unknown else 0.0
    elif kind == b"stsd" and len(body) >= 8 + 28:
        track.width, track.height = struct.unpack_from(">HH", body, 8 + 32)
    elif kind == b"stsz":
        track.samples = struct.unpack_from(">I", body, 8)[0]


def _edited_ticks(body: memoryview) -> int:
    """Ticks of the movie's scale during which an edit list shows media; empty edits (media time -1) only wait."""
    entry, count = struct.Struct(">Qqi" if body[0] == 1 else ">Iii"), struct.unpack_from(">I", body, 4)[0]
    entries = [entry.unpack_from(body, 8 + i * entry.size) for i in range(min(count, len(body) // entry.size))]
    return sum(duration for duration, media_time, _ in entries if media_time >= 0)


def _check_riff(read_at: _ReadAt, head: bytes, size: int, limits: MediaLimits) -> None:
    if head[24:28] == b"avih" and len(head) >= 72:
        frame_us, frames, streams, width, height = (struct.unpack_from("<I", head, 32 + at)[0] for at in (0, 16, 24, 32, 36))
        check_caps(limits, width=width, height=height, frames=frames, duration_s=frames * frame_us / 1e6, streams=streams)
    position = 0
    while (chunk := read_at(8, position))[:4] == b"RIFF" and len(chunk) == 8:
        length = struct.unpack("<I", chunk[4:])[0]
        if position + 8 + length > size:
            raise CandidateError(Reason.E_TRUNCATED, f"the file has {size} bytes, but its RIFF header says {position + 8 + length}")
        position += 8 + length + length % 2
        if length == 0:
            return


def _check_matroska(read_at: _ReadAt, head: bytes, size: int) -> None:
    ebml = _vint(head, 4)
    if ebml is None:
        return
    start = 4 + ebml[1] + ebml[0]
    segment = read_at(12, start)
    body = _vint(segment, 4) if segment[:4] == _MATROSKA_SEGMENT else None
    if body is None:
        raise CandidateError(Reason.E_TRUNCATED, f"the file has {size} bytes and ends before its first segment")
    value, width = body
    if value != (1 << 7 * width) - 1 and start + 4 + width + value > size:  # all ones: size unknown, a live recording
        raise CandidateError(Reason.E_TRUNCATED, f"the file has {size} bytes, but its segment ends at byte {start + 4 + width + value}")


def _vint(data: bytes, at: int) -> tuple[int, int] | None:
    """EBML's variable-length integer: (value, bytes it takes)."""
    if at >= len(data) or data[at] == 0:
        return None
    width = 9 - data[at].bit_length()
    if at + width > len(data):
        return None
    return int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1), width
