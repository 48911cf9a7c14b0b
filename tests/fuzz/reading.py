"""How the targets come at a file or a folder of input."""

from pathlib import Path, PurePosixPath
from typing import Any

from schemas.candidate import MediaRef
from schemas.recipe import MediaLimits
from stages.ingest.files import media_file, read_json, read_text
from stages.media import Media
from stages.storage import Tree

LIMITS = MediaLimits(timeout_s=20.0, memory_mb=1024, max_pixels=1 << 20, max_frames=5000, max_duration_s=100.0, max_streams=4)


def json_of(folder: Path, name: str) -> Any:
    return read_json(Tree(folder), media_file(Tree(folder), PurePosixPath(name)))


def text_of(folder: Path, name: str) -> str:
    return read_text(Tree(folder), media_file(Tree(folder), PurePosixPath(name)))


class Reader:
    """One sandbox for many folders: starting one takes half a second."""

    _media: Media | None = None

    @classmethod
    def of(cls, folder: Path) -> Media:
        if cls._media is None:
            cls._media = Media(folder, LIMITS)
        cls._media.tree = Tree(folder)
        return cls._media


def media_ref(folder: Path, name: str, item: int = 0) -> MediaRef:
    kind = "torch_chunk" if name.endswith(".torch") else "video"
    return MediaRef(kind, (media_file(Tree(folder), PurePosixPath(name)),), item)  # type: ignore[arg-type]
