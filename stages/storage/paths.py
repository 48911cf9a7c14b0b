"""Paths below the input's root, and nothing else."""

import errno
import os
import re
import stat
from pathlib import Path, PurePosixPath

from schemas.verdict import CandidateError, Reason

# The file is there and will not become readable by trying again.
_PERMANENT = frozenset({errno.EACCES, errno.EPERM})
# Nothing is there that could be looked at; every other answer is storage that fails, which says nothing about what is there.
_ABSENT = _PERMANENT | {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of pairs that stand for no byte of a file name


def printable(name: str) -> str:
    """`name` with what is no text spelled out, so that tables can hold it: bytes of file names that are not UTF-8 as \\xff,
    lone surrogates (JSON's and pickle's escapes can write them) as \\ud800."""
    if name.isascii():
        return name
    spelled = _NO_BYTE.sub(lambda match: f"\\u{ord(match[0]):04x}", name)
    return spelled.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def resolve(root: Path, relative: str) -> Path:
    """The absolute path of the plain file `relative` below `root`, links followed.

    Raises CandidateError: E_UNSAFE_PATH for an absolute name, a "..", a NUL byte, a link that leads out of the root, or
    anything that is no plain file (folder, pipe, device, socket); E_OPEN where permission is missing; E_IO where the
    file is gone or storage fails. Nothing is opened.
    """
    pure = PurePosixPath(relative)
    if not relative or "\0" in relative or pure.is_absolute() or ".." in pure.parts:
        raise CandidateError(Reason.E_UNSAFE_PATH, f"{relative!r} is refused: paths are relative to the input folder, without '..'")
    try:
        base = os.path.realpath(root)
        path = os.path.realpath(os.path.join(base, relative), strict=True)
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CandidateError(Reason.E_UNSAFE_PATH, f"{relative!r} is refused: its links form a loop") from None
        raise storage_error(error, relative) from None
    if os.path.commonpath([base, path]) != base:
        raise CandidateError(Reason.E_UNSAFE_PATH, f"{relative!r} is refused: a link leads out of the input folder; copy the file into it")
    if not stat.S_ISREG(mode):
        raise CandidateError(Reason.E_UNSAFE_PATH, f"{relative!r} is refused: it is no plain file but {_kind(mode)}")
    return Path(path)


def storage_error(error: OSError, name: str) -> CandidateError:
    """E_OPEN where permission is missing (permanent), else E_IO: a file that discovery saw must be there (provisional)."""
    said = error.strerror or type(error).__name__
    if error.errno in _PERMANENT:
        return CandidateError(Reason.E_OPEN, f"{name!r} cannot be read: {said}; give this user permission to read it")
    return CandidateError(Reason.E_IO, f"storage failed for {name!r}: {said}")


def check_absent(error: OSError, name: str) -> None:
    """Return where the error says that nothing readable is there. Raises OSError where storage failed: then nothing is known."""
    if error.errno not in _ABSENT:
        raise OSError(error.errno, f"{error.strerror}; storage failed, run the same command again", name) from error


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
