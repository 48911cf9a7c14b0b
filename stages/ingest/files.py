"""Listing and reading a dataset's files: natural order, safe paths, small text and JSON side-cars, unique ids."""

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from schemas.candidate import Candidate, MediaFile
from schemas.typed import from_json
from schemas.verdict import CandidateError, Reason
from stages.storage import ROOT, Tree
from stages.storage.paths import printable

VIDEO_EXTENSIONS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg")

MAX_SIDECAR_BYTES = 64 * 2**20  # the largest published camera file (81 frames x 10 cameras) has 80 kB
MAX_CAPTION_BYTES = 64 * 2**10
MAX_TABLE_BYTES = 512 * 2**20  # of a CSV of captions: ours, some millions of rows

_DIGITS = re.compile(r"([0-9]+)")


def natural_key(name: str) -> str:
    """Sort key that reads numbers as numbers: "scene2" before "scene10". Total: names that tie are ordered as text.

    One string, since all keys of a sort are held at once: of a million names, as tuples, they would be a gigabyte.
    """
    parts = _DIGITS.split(name)
    # A text ends in "\0\0", below whatever else a longer one goes on with. A number is told by how many digits it has, then by these:
    # int() refuses thousands of them. A last "\0", below any such count, ends the parts.
    parts[::2] = [part.replace("\0", "\0\1") + "\0\0" for part in parts[::2]]
    parts[1::2] = [chr(min(1 + len(number := part.lstrip("0")), sys.maxunicode)) + number for part in parts[1::2]]
    return f"{''.join(parts)}\0{name}"


def require_folder(tree: Tree) -> None:
    """Raise FileNotFoundError unless the input is a folder, or is seen as one; ValueError for an archive that cannot be looked into."""
    try:
        tree.require(ROOT)
    except CandidateError as problem:
        raise ValueError(f"the input {tree} cannot be looked into: {problem.message}") from None
    if not tree.is_dir(ROOT):
        raise FileNotFoundError(f"the input {tree} is not a folder; give the folder that holds the dataset")


def folders(tree: Tree, folder: PurePosixPath) -> list[PurePosixPath]:
    """The folders directly below, in natural order; none where `folder` does not exist. Hidden ones are left out."""
    return _ordered(folder, (entry.name for entry in tree.entries(folder) if entry.is_folder))


def files(tree: Tree, folder: PurePosixPath, extensions: Iterable[str]) -> list[PurePosixPath]:
    """What lies directly below under one of the extensions (lower case, with dot), in natural order, links included."""
    wanted = tuple(extensions)
    names = (entry.name for entry in tree.entries(folder) if not entry.is_folder)
    return _ordered(folder, (name for name in names if name.lower().endswith(wanted)))


def _ordered(folder: PurePosixPath, names: Iterable[str]) -> list[PurePosixPath]:
    return [folder / name for name in sorted((name for name in names if not name.startswith(".")), key=natural_key)]


def media_file(tree: Tree, path: PurePosixPath) -> MediaFile:
    """The identity of one plain file. Raises CandidateError as `Tree.identify`."""
    return tree.identify([path])[0]


def read_bytes(tree: Tree, file: MediaFile, most: int, what: str) -> bytes:
    """A side-car. Raises CandidateError: E_CAMERA where it is bigger than `most`, else as `Tree.read`."""
    if file.size > most:
        raise CandidateError(Reason.E_CAMERA, f"{file.path} has {file.size} bytes; {what} has at most {most}")
    return tree.read(file, most)


def read_text(tree: Tree, file: MediaFile, max_bytes: int = MAX_SIDECAR_BYTES) -> str:
    """A camera side-car's text. Raises CandidateError: E_CAMERA where it is not UTF-8 or too big, E_IO, E_OPEN."""
    try:
        return read_bytes(tree, file, max_bytes, "a camera file").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CandidateError(Reason.E_CAMERA, f"{file.path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(tree: Tree, file: MediaFile) -> Any:
    """A JSON side-car; names and strings in its objects are `printable`, as they end up in ids, notes and messages.

    Raises CandidateError(E_CAMERA) where it is broken or names a key twice, else as `read_text`.
    """
    text = read_text(tree, file)
    try:
        return from_json(text, _object)
    except ValueError as error:
        raise CandidateError(Reason.E_CAMERA, f"{file.path} is not valid JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    pairs = [(printable(name), printable(value) if isinstance(value, str) else value) for name, value in pairs]
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return made


@dataclass(frozen=True)
class CsvRow:
    line: int
    file_name: str
    text: str | None


def read_listing(tree: Tree, path: PurePosixPath, most: int, what: str) -> str:
    """The text of a file that speaks for the whole input; bytes that are no UTF-8 become U+FFFD. Raises ValueError."""
    try:
        file = media_file(tree, path)
        if file.size > most:
            raise ValueError(f"{tree}: {path} has {file.size} bytes; {what} has at most {most}")
        return tree.read(file, most).decode("utf-8-sig", "replace")
    except CandidateError as problem:
        raise ValueError(f"{tree}: {problem.message}") from problem


def read_caption_csv(tree: Tree, path: PurePosixPath) -> list[CsvRow]:
    """The rows of a CSV with the columns `file_name,text`, in file order; an empty text is None.

    Raises ValueError where the columns are missing: then every caption would be lost, which no row could say.
    """
    csv.field_size_limit(MAX_CAPTION_BYTES * 16)
    reader = csv.DictReader(io.StringIO(read_listing(tree, path, MAX_TABLE_BYTES, "a table of captions"), newline=""))
    try:
        columns = reader.fieldnames or []
        if "file_name" not in columns or "text" not in columns:
            raise ValueError(f"{path}: expected the columns file_name,text in the first line, got {','.join(columns) or 'nothing'}")
        return [CsvRow(reader.line_num, (row["file_name"] or "").strip(), (row["text"] or "").strip() or None) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num} is not CSV: {error}") from None


def unique(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """The candidates, each with an id of its own: one whose id is taken gets "#2" (3, ...) and the error E_DUPLICATE.

    Ids, attributes and messages are `printable` after this, whatever the dataset calls its clips.
    """
    taken: set[str] = set()
    for candidate in candidates:
        original = printable(candidate.candidate_id)
        name, number = original, 1
        while name in taken:
            number += 1
            name = f"{original}#{number}"
        taken.add(name)
        error = candidate.error and (candidate.error[0], printable(candidate.error[1]))
        if number > 1:
            error = (Reason.E_DUPLICATE, f"the id {original!r} is taken by an earlier candidate of this source; ids must be unique")
        attrs = {key: printable(value) if isinstance(value, str) else value for key, value in candidate.attrs.items()}
        yield replace(candidate, candidate_id=name, attrs=attrs, error=error)
