"""PNG files whose pixels are indices into a palette, as masks of objects are published; OpenCV writes none."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_indexed_png(path: Path, indices: NDArray[np.uint8]) -> None:
    """[H,W] uint8, with the palette of PASCAL VOC, which DAVIS uses too."""
    height, width = indices.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), indices], axis=1)  # filter 0 before each row
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", voc_palette().tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    ]
    framed = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


def voc_palette() -> NDArray[np.uint8]:
    """[256,3]: the bits of an index go to red, green and blue in turn, from their highest bit on."""
    index = np.arange(256)[:, None]
    bits = [((index >> (3 * k + np.arange(3))) & 1) << (7 - k) for k in range(3)]
    return np.sum(bits, axis=0).astype(np.uint8)
