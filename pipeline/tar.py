"""USTAR archives whose bytes depend on their members and on nothing else."""

import tarfile
from collections.abc import Iterable
from hashlib import sha256
from typing import BinaryIO

BLOCK = 512
MAX_MEMBER = 8 * 1024**3 - 1  # what eleven octal digits of a USTAR header can say


def header(name: str, size: int) -> bytes:
    """One 512-byte header: mode 0444, owner 0, time 0. Raises ValueError for what USTAR cannot hold."""
    if size > MAX_MEMBER:
        raise ValueError(f"{name} has {size} bytes; a shard member may have at most {MAX_MEMBER}")
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = size, 0o444, "data", "data"
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def padded(size: int) -> int:
    """Bytes that a member of `size` bytes takes in the archive, its header included."""
    return BLOCK + -(-size // BLOCK) * BLOCK


class TarWriter:
    """Writes members to a file in the order given and hashes the archive on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = sha256()
        self.size = 0

    def add(self, name: str, size: int, chunks: Iterable[bytes | memoryview]) -> tuple[int, str]:
        """Append a member. Returns the offset of its first data byte and the hex sha256 of its data.

        Raises ValueError if the chunks do not add up to `size`: the archive must then be thrown away.
        """
        self._write(header(name, size))
        offset, member, written = self.size, sha256(), 0
        for chunk in chunks:
            member.update(chunk)
            self._write(chunk)
            written += len(chunk)
        if written != size:
            raise ValueError(f"{name}: {size} bytes were announced, {written} came")
        self._write(b"\0" * (-size % BLOCK))
        return offset, member.hexdigest()

    def finish(self) -> str:
        """Write the end of the archive. Returns the hex sha256 of all of it."""
        self._write(b"\0" * (2 * BLOCK))
        return self._digest.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)
