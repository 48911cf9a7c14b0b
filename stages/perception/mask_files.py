"""Masks of objects that are known: PNG files whose pixels are the numbers of objects, 0 for the background (DAVIS).

The files are as little trusted as footage: `known_masks` is made for `Media.run`, and what a header promises is compared with the caps
before anything is decoded. OpenCV turns indices into colours, so FFmpeg decodes them.
"""

from collections.abc import Sequence
from pathlib import Path

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media.header import check_caps
from stages.media.stills import picture_header
from stages.storage.paths import storage_error

Ids = NDArray[np.uint8]

# Between a mask and its frames: of DAVIS's own at 480p, some are 853 pixels wide where the frames have 854.
MOST_SIZE_DIFFERENCE = 2.0
_START, _END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def known_masks(paths: Sequence[str], size: tuple[int, int], height: int, limits: MediaLimits) -> Ids:
    """[n,h,w] object numbers, scaled to at most `height` by taking the nearest pixel. Made for `Media.run`.

    size: (width, height) of the frames. Raises CandidateError: E_OPEN for what is no such file or shows another picture, E_TRUNCATED,
    E_TOO_BIG, E_IO.
    """
    rows = min(height, size[1])
    columns = max(1, round(size[0] * rows / size[1]))
    found = np.zeros((len(paths), rows, columns), np.uint8)
    for i, path in enumerate(paths):
        ids = read_mask(Path(path), limits)
        _check_size(ids, path, size)
        y, x = (((np.arange(n) + 0.5) * have / n).astype(np.int64) for n, have in zip((rows, columns), ids.shape, strict=True))
        found[i] = ids[y[:, None], x]
    return found


def read_mask(path: Path, limits: MediaLimits) -> Ids:
    """[H,W] of an indexed or gray PNG of up to 8 bits. Raises CandidateError: E_OPEN, E_TRUNCATED, E_TOO_BIG, E_IO."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
            if not head.startswith(_START):
                raise CandidateError(Reason.E_OPEN, f"{path} is no PNG: it starts with {head[:8]!r}; a mask is an indexed or gray one")
            _, width, height = picture_header(head, str(path))
            check_caps(limits, width=width, height=height)
            most = 4 * width * height + (1 << 20)  # more than bytes that cannot be compressed take
            data = head + file.read(most)
    except OSError as error:
        raise storage_error(error, str(path)) from None
    if len(data) > most or not data.endswith(_END):
        what = f"has more than {most} bytes" if len(data) > most else "does not end as a PNG does"
        raise CandidateError(Reason.E_OPEN if len(data) > most else Reason.E_TRUNCATED, f"{path} {what}")
    return _decode(data, path, width, height)


def _decode(data: bytes, path: Path, width: int, height: int) -> Ids:
    decoder = av.CodecContext.create("png", "r")
    decoder.options = {"err_detect": "crccheck+explode"}
    try:
        pictures = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]  # type: ignore[attr-defined]
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, MemoryError):
            raise
        raise CandidateError(Reason.E_TRUNCATED, f"{path} cannot be decoded: {str(error)[:200]}") from None
    if len(pictures) != 1 or (pictures[0].width, pictures[0].height) != (width, height):
        raise CandidateError(Reason.E_TRUNCATED, f"{path} cannot be decoded to its end")
    form = pictures[0].format.name
    if form == "pal8":
        return np.asarray(pictures[0].to_ndarray()[0], np.uint8)
    if form == "gray":
        return np.asarray(pictures[0].to_ndarray(), np.uint8)
    raise CandidateError(Reason.E_OPEN, f"{path} has pixels of the form {form}; a mask is an indexed or gray PNG of 8 bits")


def _check_size(ids: Ids, path: str, size: tuple[int, int]) -> None:
    height, width = ids.shape
    scale = max(width / size[0], height / size[1])
    if max(abs(size[0] * scale - width), abs(size[1] * scale - height)) > MOST_SIZE_DIFFERENCE:
        raise CandidateError(Reason.E_OPEN, f"{path} is {width}x{height}, its frames {size[0]}x{size[1]}; they must show one picture")
