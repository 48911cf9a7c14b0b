"""What lies in a folder of an input."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["folder", "file"]


@dataclass(frozen=True, slots=True)
class Entry:
    """is_folder: links followed; also of an archive, which is seen as one."""

    name: str
    is_folder: bool
    is_link: bool = False
