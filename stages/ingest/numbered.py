"""Views that are stored as numbered pictures: one file a frame, which a stated rate puts in time."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from schemas.candidate import MediaFile, MediaRef
from schemas.verdict import CandidateError, Reason
from stages.storage import Tree

MAX_NUMBER = 10_000_000  # five days at 24 fps; keeps nanoseconds within 64 bits


def numbered(tree: Tree, paths: Iterable[PurePosixPath], prefix: str = "") -> dict[int, MediaFile]:
    """The files by the number that their names end in, ascending: `{prefix}00012.png` is 12.

    Raises CandidateError: E_PTS for another name and for a number that comes twice; else as `media_file`.
    """
    found: dict[int, PurePosixPath] = {}
    for path in paths:
        match = re.fullmatch(re.escape(prefix) + "([0-9]{1,8})", path.stem)
        if match is None or int(match[1]) > MAX_NUMBER:
            wanted = f"{prefix}NNNNN, with a frame number of at most {MAX_NUMBER}"
            raise CandidateError(Reason.E_PTS, f"{path} says no frame number; pictures are called {wanted}")
        number = int(match[1])
        if number in found:
            raise CandidateError(Reason.E_PTS, f"{path} is frame {number}, and so is {found[number].name}")
        found[number] = path
    numbers = sorted(found)
    return dict(zip(numbers, tree.identify(found[number] for number in numbers), strict=True))


def sequence(frames: Mapping[int, MediaFile], fps: float) -> MediaRef:
    """The pictures as a view: frame k is at k / fps seconds, so that a number that is left out leaves a gap in time."""
    return MediaRef("images", tuple(frames.values()), pts_ns=tuple(round(number * 1e9 / fps) for number in frames))
