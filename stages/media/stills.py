"""Sequences of still pictures: files, or the JPEG bytes inside a RealEstate10K chunk.

Sizes come from the file headers, before anything is decoded. Pictures are taken as stored: an EXIF orientation is not applied,
because the cameras of such datasets belong to the stored picture.
"""

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.frames import FrameIndex
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media.header import check_caps

HEAD_BYTES = 256 << 10  # JPEG keeps its size behind metadata, which may hold a thumbnail
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xDA)})


def picture_header(head: bytes, name: str) -> tuple[str, int, int]:
    """(format, width, height) of an encoded picture from its first bytes; format is "jpeg", "png", "bmp" or "webp".

    Raises CandidateError: E_OPEN for another format or a picture without pixels, E_TRUNCATED where the header itself is cut off.
    """
    kind, width, height = _picture_header(head, name)
    if width < 1 or height < 1:
        raise CandidateError(Reason.E_OPEN, f"{name} is a {kind} of {width}x{height} pixels; it must be at least 1x1")
    return kind, width, height


def _picture_header(head: bytes, name: str) -> tuple[str, int, int]:
    try:
        if head[:3] == b"\xff\xd8\xff":
            return "jpeg", *_jpeg_size(head)
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            return "png", *struct.unpack_from(">II", head, 16)
        if head[:2] == b"BM":
            width, height = struct.unpack_from("<ii", head, 18)
            return "bmp", abs(width), abs(height)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return "webp", *_webp_size(head)
    except (struct.error, IndexError):
        raise CandidateError(Reason.E_TRUNCATED, f"{name} ends within its header") from None
    raise CandidateError(Reason.E_OPEN, f"{name} is no picture: it starts with {head[:8]!r}; accepted: jpeg, png, bmp, webp")


def _jpeg_size(head: bytes) -> tuple[int, int]:
    position = 2
    while True:
        if head[position] != 0xFF:
            raise struct.error
        marker = head[position + 1]
        if marker == 0xFF or marker in _JPEG_BARE:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", head, position + 5)
            return width, height
        position += 2 + struct.unpack_from(">H", head, position + 2)[0]


def _webp_size(head: bytes) -> tuple[int, int]:
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = struct.unpack_from("<I", head, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


def sequence_index(heads: Iterable[tuple[bytes, str]], pts_ns: Sequence[int], limits: MediaLimits) -> FrameIndex:
    """The index of a sequence from the first bytes and the name of every picture and its time in nanoseconds.

    Raises CandidateError: E_NO_VIDEO for no pictures, E_PTS where times are missing or do not increase, E_TOO_BIG past a cap,
    E_OPEN where a picture differs in size from the first.
    """
    pictures, codec, width, height = 0, "", 0, 0
    for head, name in heads:
        kind, *size = picture_header(head, name)
        check_caps(limits, width=size[0], height=size[1], frames=pictures + 1)
        if pictures == 0:
            codec, (width, height) = kind, size
        elif size != [width, height]:
            raise CandidateError(Reason.E_OPEN, f"{name} is {size[0]}x{size[1]}, the first {width}x{height}; all must have one size")
        pictures += 1
    if pictures == 0:
        raise CandidateError(Reason.E_NO_VIDEO, "the sequence holds no picture")
    pts = np.asarray(pts_ns, np.int64)
    if len(pts) != pictures:
        raise CandidateError(Reason.E_PTS, f"{pictures} pictures have {len(pts)} times; one for each is needed")
    stalled = np.flatnonzero(np.diff(pts) <= 0)
    if len(stalled):
        first, second = pts[stalled[0]], pts[stalled[0] + 1]
        raise CandidateError(Reason.E_PTS, f"times must increase; picture {stalled[0] + 1} is at {second} ns after {first} ns")
    span = int(pts[-1] - pts[0])
    check_caps(limits, duration_s=span / 1e9)
    fps = Fraction((len(pts) - 1) * 1_000_000_000, span).limit_denominator(1001) if span else Fraction(0)
    return FrameIndex(pts, pts, Fraction(1, 1_000_000_000), width, height, fps, codec)


def decode_picture(data: bytes, name: str, limits: MediaLimits) -> NDArray[np.uint8]:
    """[H,W,3] RGB of an encoded picture. Raises CandidateError: E_TOO_BIG, E_TRUNCATED, E_OPEN."""
    _, width, height = picture_header(data[:HEAD_BYTES], name)
    check_caps(limits, width=width, height=height)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or _cut_off(data):
        raise CandidateError(Reason.E_TRUNCATED, f"{name} cannot be decoded to its end")
    return pixels.astype(np.uint8, copy=False)


def _cut_off(data: bytes) -> bool:
    """Whether a JPEG has no end marker after its last scan; OpenCV fills the missing part with gray and says nothing."""
    return data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def encode_picture(pixels: NDArray[np.uint8], format: str, quality: int) -> bytes:
    """[H,W,3] RGB as "jpg" (quality 1..100) or "png". The same bytes for the same pixels."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    done, data = cv2.imencode(f".{format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"OpenCV cannot write {list(pixels.shape)} as {format}")
    return data.tobytes()


def resize(pixels: NDArray[np.uint8], size: tuple[int, int] | None, gray: bool) -> NDArray[np.uint8]:
    """A decoded picture at (width, height), as RGB or as its BT.601 luma; area when shrinking, bicubic when enlarging."""
    if size is not None and size != (pixels.shape[1], pixels.shape[0]):
        shrinks = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8) if gray else pixels
