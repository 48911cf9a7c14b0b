"""What the decoding child is told of where media lie."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.camera import Lens
from schemas.candidate import MediaKind


@dataclass(frozen=True)
class Located:
    """What the decoding child is told of a MediaRef: of its files, those that a call needs."""

    kind: MediaKind
    paths: Mapping[int, str]  # absolute, by position in MediaRef.files, ascending
    item: int = 0  # a chunk's scene
    pts_ns: tuple[int, ...] = ()  # of a sequence; () where its index is known already
    name: str = ""  # the first file, as the user knows it
    lens: Lens | None = None  # what its pictures are undistorted from

    def single(self) -> str:
        """The one file of a video or a chunk."""
        if len(self.paths) != 1:
            raise ValueError(f"this kind of media is one file, got {len(self.paths)}")
        return next(iter(self.paths.values()))
