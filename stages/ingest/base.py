"""What an ingest is: discovery lists and stats, loading reads headers and cameras. Neither decodes pixels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from schemas.candidate import Candidate
from schemas.frames import Scene
from stages.media import Media
from stages.storage import Tree


class Ingest(ABC):
    """One dataset's layout.

    discover() runs once on the driver and must stay cheap: list folders, stat files, read small index files. It yields
    candidates in a fixed order (sorted by the source's own naming, numbers as numbers) and never raises for one bad
    candidate: it yields it with `error` set. It raises FileNotFoundError or ValueError only if the folder as a whole is
    not this layout, saying what was looked for.

    load() runs on a worker, may call the media sandbox for frame indices, and raises CandidateError for anything wrong
    with the one candidate.
    """

    format: ClassVar[str]  # in recipes
    version: ClassVar[int] = 1  # raise it when what `load` gives changes: it is part of every step key
    provides: ClassVar[frozenset[str]]  # of: "video", "cameras", "synchronized", "masks"
    Options: ClassVar[type]  # frozen dataclass, built strictly from the recipe's `options`

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def discover(self, tree: Tree) -> Iterator[Candidate]:
        """Every candidate of the input, `Candidate.source` left as this format's name (the plan puts the recipe's)."""

    def notice(self, tree: Tree) -> str | None:
        """One line that a user should read before the run, about what the options leave out or let in. None by default."""
        return None

    @abstractmethod
    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        """Headers, frame indices and cameras of one candidate."""
