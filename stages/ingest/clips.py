"""Plain clips without cameras: a folder, a glob below it, or a CSV with the columns `file_name,text`.

Captions: the CSV's text, else the side-car `clip.txt` beside `clip.mp4`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import ClassVar

from schemas.candidate import Candidate, MediaRef, View
from schemas.frames import Scene, SceneView
from schemas.verdict import CandidateError, Reason
from stages.ingest.base import Ingest
from stages.ingest.files import (
    MAX_CAPTION_BYTES,
    VIDEO_EXTENSIONS,
    CsvRow,
    media_file,
    natural_key,
    read_caption_csv,
    require_folder,
    unique,
)
from stages.media import Media
from stages.storage import Tree

CAPTIONS = "metadata.csv"

_FOLDERS = 64  # whose texts are remembered: clips come folder by folder


@dataclass(frozen=True)
class ClipsOptions:
    """csv: only its rows, in its order; a row whose file is missing is NO_FOOTAGE. Without it: every file below the input
    that matches `glob` and has one of the extensions, plus the rows of `metadata.csv` where there is one.
    """

    csv: str | None = None
    glob: str = "**/*"
    extensions: tuple[str, ...] = VIDEO_EXTENSIONS

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.glob).parts
        if not parts or ".." in parts or parts[0] == "/":
            raise ValueError(f"glob is {self.glob!r}; it must be relative to the input and stay below it, e.g. '**/*'")
        odd = [extension for extension in self.extensions if not extension.startswith(".") or extension != extension.lower()]
        if odd or not self.extensions:
            raise ValueError(f"extensions are {list(self.extensions)}; give lower-case ones with their dot, e.g. ['.mp4']")


class Clips(Ingest):
    format: ClassVar[str] = "clips"
    provides: ClassVar[frozenset[str]] = frozenset({"video"})
    Options: ClassVar[type] = ClipsOptions

    def discover(self, tree: Tree) -> Iterator[Candidate]:
        require_folder(tree)
        table = PurePosixPath(self.options.csv or CAPTIONS)
        if self.options.csv is not None and not tree.is_file(table):
            raise FileNotFoundError(f"the option csv names {self.options.csv!r}, which is not in {tree}")
        rows = read_caption_csv(tree, table) if tree.is_file(table) else []
        only_rows = self.options.csv is not None
        listed: Sequence[str | CsvRow] = rows if only_rows else self._folder(tree, rows)
        if not listed:
            raise ValueError(f"{tree} holds no clip: looked for {self.options.glob!r} with one of {', '.join(self.options.extensions)}")
        texts: dict[str, str | None] = {}
        for row in rows if not only_rows else ():
            texts.setdefault(_posix(row.file_name), row.text)
        yield from unique(_made(tree, listed, texts))

    def _folder(self, tree: Tree, rows: list[CsvRow]) -> list[str | CsvRow]:
        """The paths of the files, and the rows that are candidates of their own, in natural order. Names alone: a candidate is made when
        it is asked for, so that a million of them need no memory."""
        found: list[str | CsvRow] = [*self._paths(tree)]
        present, seen = set(found) if rows else set(), set()
        # A row for a file that is not there is a candidate too; so is the second row of a file.
        for row in rows:
            name = _posix(row.file_name)
            if name not in present or name in seen:
                found.append(row)
            seen.add(name)
        found.sort(key=lambda each: natural_key(each if isinstance(each, str) else _name(each)))
        return found

    def _paths(self, tree: Tree) -> Iterator[str]:
        wanted = tuple(self.options.extensions)
        return (str(path) for path in tree.glob(self.options.glob) if path.name.lower().endswith(wanted))

    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        views = tuple(SceneView(view.view_id, view.media, media.index(view.media)) for view in candidate.views)
        return Scene(candidate, views)


def _made(tree: Tree, listed: Sequence[str | CsvRow], texts: Mapping[str, str | None]) -> Iterator[Candidate]:
    beside = lru_cache(_FOLDERS)(partial(_texts_in, tree))
    for each in listed:
        if isinstance(each, str):
            path = PurePosixPath(each)
            yield _clip(tree, path, texts, beside(path.parent))
        else:
            yield _listed(tree, each)


def _listed(tree: Tree, row: CsvRow) -> Candidate:
    if not row.file_name:
        error = (Reason.NO_FOOTAGE, f"line {row.line} of the CSV names no file")
        return Candidate("clips", _name(row), "video", (), caption=row.text, error=error)
    return _clip(tree, PurePosixPath(row.file_name), {_name(row): row.text})


def _name(row: CsvRow) -> str:
    """The id of the row's candidate."""
    return str(PurePosixPath(row.file_name)) if row.file_name else f"line{row.line}"


def _texts_in(tree: Tree, folder: PurePosixPath) -> frozenset[str]:
    """Of a folder whose clips have no texts, nothing is asked but this: a request each is dear, and so is a look on a disk."""
    return frozenset(entry.name for entry in tree.entries(folder) if entry.name.endswith(".txt"))


def _clip(tree: Tree, path: PurePosixPath, texts: Mapping[str, str | None], beside: Collection[str] | None = None) -> Candidate:
    """beside: the texts in its folder, where they are known."""
    name = str(path)
    caption = texts.get(name)
    try:
        file = media_file(tree, path)
        if not caption and (beside is None or f"{path.stem}.txt" in beside):
            caption = _side_car(tree, path)
    except CandidateError as problem:
        return Candidate("clips", name, "video", (), caption=caption, error=(problem.reason, problem.message))
    return Candidate("clips", name, "video", (View(path.stem, MediaRef("video", (file,))),), caption=caption)


def _side_car(tree: Tree, path: PurePosixPath) -> str | None:
    """The text beside the clip; None where there is none or it is empty. Bytes that are not UTF-8 become U+FFFD."""
    try:
        file = media_file(tree, path.with_suffix(".txt"))
    except CandidateError as problem:
        if problem.reason is Reason.NO_FOOTAGE:
            return None
        raise
    if file.size > MAX_CAPTION_BYTES:
        raise CandidateError(Reason.E_OPEN, f"the caption {file.path} has {file.size} bytes; at most {MAX_CAPTION_BYTES} are read")
    return tree.read(file, MAX_CAPTION_BYTES).decode("utf-8-sig", "replace").strip() or None


def _posix(name: str) -> str:
    return PurePosixPath(name).as_posix()
