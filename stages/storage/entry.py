"""What lies in a folder of an input, and what says that it is the same."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["folder", "file"]


@dataclass(frozen=True, slots=True)
class Entry:
    """is_folder: links followed; also of an archive, which is seen as one."""

    name: str
    is_folder: bool
    is_link: bool = False


class Stamp(NamedTuple):
    """What says whether a file is still the one that was seen. mtime_ns is 0 where there is an ETag."""

    size: int
    mtime_ns: int
    etag: str
