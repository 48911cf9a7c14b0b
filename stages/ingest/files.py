"""Listing and reading a dataset's files: natural order, safe paths, small text and JSON side-cars, unique ids."""

import csv
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.candidate import Candidate, MediaFile
from schemas.verdict import CandidateError, Reason
from stages.media.paths import resolve

VIDEO_EXTENSIONS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg")

MAX_SIDECAR_BYTES = 64 * 2**20  # the largest published camera file (81 frames x 10 cameras) has 80 kB
MAX_CAPTION_BYTES = 64 * 2**10

_DIGITS = re.compile(r"([0-9]+)")
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of pairs that stand for no byte of a file name


def natural_key(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Sort key that reads numbers as numbers: "scene2" before "scene10". Total: names that tie are ordered as text."""
    parts = _DIGITS.split(name)
    return tuple((int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)), name


def require_folder(root: Path) -> None:
    """Raise FileNotFoundError unless root is a folder."""
    if not root.is_dir():
        raise FileNotFoundError(f"the input {root} is not a folder; give the folder that holds the dataset")


def folders(folder: Path) -> list[Path]:
    """The folders directly below, in natural order; none where `folder` does not exist. Hidden ones are left out."""
    return [path for path in _entries(folder) if path.is_dir()]


def files(folder: Path, extensions: Iterable[str]) -> list[Path]:
    """What lies directly below under one of the extensions (lower case, with dot), in natural order, links included."""
    wanted = tuple(extensions)
    return [path for path in _entries(folder) if path.name.lower().endswith(wanted) and not path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    return [folder / name for name in sorted(names, key=natural_key)]


def media_file(root: Path, path: Path) -> MediaFile:
    """The identity of a plain file below root; `path` is relative to root, or absolute and spelled with root in front.

    Raises CandidateError: E_UNSAFE_PATH where the name or a link leads out of root, what it names is no plain file, or the
    name is not UTF-8; NO_FOOTAGE where nothing is there; E_IO, E_OPEN where the file system refuses.
    """
    name = relative_name(root, path) if path.is_absolute() and path.is_relative_to(root) else path.as_posix()
    if printable(name) != name:
        raise CandidateError(Reason.E_UNSAFE_PATH, f"the file name {printable(name)!r} is not UTF-8; rename it")
    inside = not os.path.isabs(name) and ".." not in Path(name).parts and "\0" not in name
    if inside and not os.path.exists(root / name):
        what = "is a link to nothing" if os.path.islink(root / name) else "is not in the input folder"
        raise CandidateError(Reason.NO_FOOTAGE, f"{name!r} {what}")
    found = resolve(root, name).stat()
    return MediaFile(name, found.st_size, found.st_mtime_ns)


def media_files(root: Path, paths: Iterable[Path]) -> list[MediaFile]:
    """`media_file` of many, each spelled with root in front. A plain file in a folder that lies below root needs no look at
    its whole path: the folder is followed once (a scene has hundreds of pictures, a dataset ten thousand scenes).
    """
    base = os.path.realpath(root)
    inside: dict[Path, str | None] = {}  # folder -> its name below root, None where it leads elsewhere
    found = []
    for path in paths:
        folder = path.parent
        if folder not in inside:
            below = os.path.commonpath([base, os.path.realpath(folder)]) == base and ".." not in folder.parts
            inside[folder] = relative_name(root, folder) if below and printable(str(folder)) == str(folder) else None
        prefix = inside[folder]
        try:
            status = os.lstat(path) if prefix is not None and path.name.isascii() else None
        except OSError:
            status = None  # media_file says what is wrong with it
        if status is None or not stat.S_ISREG(status.st_mode):
            found.append(media_file(root, path))
        else:
            found.append(MediaFile(path.name if prefix == "." else f"{prefix}/{path.name}", status.st_size, status.st_mtime_ns))
    return found


def printable(name: str) -> str:
    """`name` with what is no text spelled out, so that tables can hold it: bytes of file names that are not UTF-8 as \\xff,
    lone surrogates (JSON's and pickle's escapes can write them) as \\ud800."""
    if name.isascii():
        return name
    spelled = _NO_BYTE.sub(lambda match: f"\\u{ord(match[0]):04x}", name)
    return spelled.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def relative_name(root: Path, path: Path) -> str:
    """The POSIX name of `path` below root."""
    return path.relative_to(root).as_posix()


def read_text(root: Path, file: MediaFile, max_bytes: int = MAX_SIDECAR_BYTES) -> str:
    """A camera side-car's text. Raises CandidateError: E_CAMERA where it is not UTF-8 or too big, E_IO, E_OPEN."""
    if file.size > max_bytes:
        raise CandidateError(Reason.E_CAMERA, f"{file.path} has {file.size} bytes; a camera file has at most {max_bytes}")
    try:
        return (root / file.path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise CandidateError(Reason.E_OPEN, f"{file.path} has vanished since the folder was listed; run again") from None
    except OSError as error:
        raise CandidateError(Reason.E_IO, f"{file.path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CandidateError(Reason.E_CAMERA, f"{file.path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(root: Path, file: MediaFile) -> Any:
    """A JSON side-car; names and strings in its objects are `printable`, as they end up in ids, notes and messages.

    Raises CandidateError(E_CAMERA) where it is broken or names a key twice, else as `read_text`.
    """
    text = read_text(root, file)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
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


def read_caption_csv(path: Path) -> list[CsvRow]:
    """The rows of a CSV with the columns `file_name,text`, in file order; an empty text is None.

    Raises ValueError where the columns are missing: then every caption would be lost, which no row could say.
    """
    csv.field_size_limit(MAX_CAPTION_BYTES * 16)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or []
        if "file_name" not in columns or "text" not in columns:
            raise ValueError(f"{path}: expected the columns file_name,text in the first line, got {','.join(columns) or 'nothing'}")
        try:
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
