"""The append-only plan: which candidates form which unit.

Units are fixed by the order of the input, never by timing. New inputs form new units at the end; old units keep their
names and their candidates, so nothing that was done is done again.
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pipeline.binding import Source
from pipeline.found import Chosen, Found
from pipeline.location import Location
from pipeline.store import names, read_bytes, write_bytes
from pipeline.unit import Unit
from schemas.candidate import CHILD, Candidate, sample_key
from schemas.typed import from_json
from schemas.verdict import Reason
from stages.storage import Tree


class PlanError(ValueError):
    """The command does not fit what the output folder already holds. A usage error: nothing was touched."""


@dataclass(frozen=True)
class Planned:
    """A unit's name and its candidates, as written in the plan."""

    unit: str
    source: str
    candidates: tuple[str, ...]


def discover(
    source: Source,
    tree: Tree,
    limit: int | None,
    held: Collection[str],
    captions: Mapping[str, str],
    progress: Callable[[int], None] = lambda n: None,
) -> Found:
    """The source's candidates in their fixed order, under the recipe's name for it, with the caller's captions.

    limit: no more than so many; those that the plan already holds (`held`, ids) come first, so that footage which is
    new and sorts before them drops none. Raises FileNotFoundError or ValueError when the folder as a whole is not this
    layout, ValueError for an ingest that gives two candidates the same id, and OSError where storage fails for a
    candidate: a plan made without it would drop what is finished of it.
    """
    found = Found()
    for candidate in islice(_found(source, tree, found.places), None if held else limit):
        if candidate.error is not None and candidate.error[0] is Reason.E_IO:
            raise OSError(f"{tree}: {candidate.error[1]}; nothing was changed, run the same command again")
        candidate = replace(candidate, source=source.name)
        text = captions.get(candidate.key) if captions else None
        if candidate.candidate_id in found.places:
            raise ValueError(f"{type(source.ingest).__name__} gave two candidates the id {candidate.candidate_id!r}; ids must be unique")
        found.add(candidate if text is None else replace(candidate, caption=text))
        progress(len(found))
    if limit is None or not held:
        return found
    room = max(limit - sum(name in found.places for name in held), 0)
    fresh = set(islice((name for name in found.places if name not in held), room))
    within = Found()
    for name, candidate in zip(found.places, found, strict=True):
        if name in held or name in fresh:
            within.add(candidate)
    return within


def _found(source: Source, tree: Tree, taken: Collection[str]) -> Iterator[Candidate]:
    """What the ingest finds, then what of the input no candidate could be made of: broken archives, members with unsafe names.

    taken: ids of what was given so far.
    """
    try:
        yield from source.ingest.discover(tree)
    except ValueError as error:
        if taken or not tree.unplaced():
            raise ValueError("; ".join([str(error), *(message for _, (_, message) in tree.links())])) from error
    for name, problem in [*tree.unplaced(), *tree.links()]:
        while name in taken:
            name += "#"
        yield Candidate(source.name, name, "video", (), error=problem)


def read_plan(output: Location) -> list[Planned]:
    """Every planned unit, in order. Raises PlanError for what is no plan."""
    planned: list[Planned] = []
    for name in _batches(output):
        data = read_bytes(output / "plan" / name)
        try:
            planned += [_planned(line) for line in data.decode("ascii").split("\n")[:-1]]
        except (ValueError, LookupError, TypeError) as error:
            what = f"{output / 'plan' / name}: is no plan ({str(error)[:200] or type(error).__name__})"
            raise PlanError(f"{what}; put back what a run wrote there, or choose another --output") from None
    return planned


def _planned(line: str) -> Planned:
    entry = from_json(line)
    planned = Planned(entry["unit"], entry["source"], tuple(entry["candidates"]))
    if not all(isinstance(name, str) for name in (planned.unit, planned.source, *planned.candidates)):
        raise TypeError("the names of units, sources and candidates are texts")
    return planned


def extend_plan(planned: list[Planned], found: Mapping[str, Found], size: int) -> list[Planned]:
    """New units for the candidates that no unit holds yet, numbered on from the last. Units never mix sources."""
    number, new = len(planned), []
    for source, candidates in found.items():
        held = {name for each in planned if each.source == source for name in each.candidates}
        fresh = [name for name in candidates.places if name not in held]
        for start in range(0, len(fresh), size):
            new.append(Planned(f"u{number:06d}", source, tuple(fresh[start : start + size])))
            number += 1
    return new


def append_plan(output: Location, new: list[Planned]) -> None:
    """One file a run, written whole, so that a killed run has planned all of its units or none."""
    if not new:
        return
    batch = len(_batches(output))
    lines = "".join(json.dumps({"unit": each.unit, "source": each.source, "candidates": each.candidates}) + "\n" for each in new)
    write_bytes(output / "plan" / f"batch-{batch:06d}.jsonl", lines.encode("ascii"))


def _batches(output: Location) -> list[str]:
    return [name for name in names(output / "plan", ".jsonl") if name.startswith("batch-")]


def check_sources(planned: list[Planned], found: Mapping[str, Found], limit: int | None) -> None:
    """Refuse a command that would silently drop what the output folder holds."""
    for source in dict.fromkeys(each.source for each in planned):
        if source not in found:
            raise PlanError(
                f"the output folder holds results of the source {source!r}, which this command leaves out; "
                f"add --input {source}=PATH, or choose another --output"
            )
        held = sum(len(each.candidates) for each in planned if each.source == source)
        if limit is not None and held > limit:
            raise PlanError(
                f"the output folder holds {held} candidates of {source!r}, --limit {limit} would drop {held - limit} of them; "
                f"use --limit {held} or more, or choose another --output"
            )


def make_units(
    planned: list[Planned],
    found: Mapping[str, Found],
    sources: Mapping[str, Source],
    roots: Mapping[str, Tree],
    output: Location,
    captions: Mapping[str, str],
    earlier: Mapping[str, Mapping[str, bool]],
) -> tuple[list[Unit], int]:
    """The plan's units with what is now known of their candidates, and how many candidates are no longer there."""
    children = child_captions(captions)
    units, gone = [], 0
    for each in planned:
        present: Chosen = found[each.source].chosen(each.candidates)
        gone += len(each.candidates) - len(present)
        parts = earlier.get(each.unit, {})
        units.append(
            Unit(
                name=each.unit,
                source=sources[each.source],
                root=roots[each.source],
                output=output,
                candidates=present,
                captions=_of_children(present, children) if children else {},
                earlier=tuple(sorted(parts)),
                marked=tuple(sorted(key for key, marked in parts.items() if marked)),
            )
        )
    return units, gone


def _of_children(candidates: Iterable[Candidate], children: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return dict(sorted(each for candidate in candidates for each in children.get(candidate.key, {}).items()))


def child_captions(captions: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Captions by the key of the candidate that they would be children of: a child's key is its parent's and a suffix."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for key, text in captions.items():
        found[key.rpartition(CHILD)[0]][key] = text
    return found


def unused_captions(captions: Mapping[str, str], found: Mapping[str, Found]) -> int:
    """How many captions name neither a candidate nor what could be a child of one."""
    if not captions:
        return 0
    keys = {sample_key(source, name) for source, candidates in found.items() for name in candidates.places}
    return sum(key not in keys and key.rpartition(CHILD)[0] not in keys for key in captions)


def read_captions(path: Path) -> dict[str, str]:
    """Texts by sample id: JSON {id: text}, JSON lines {"sample_id","text"}, or CSV with these two columns.

    Raises ValueError that names the line.
    """
    try:
        found = _captions_in(path, path.read_text(encoding="utf-8-sig"))
    except (ValueError, csv.Error) as error:
        said = str(error)
        raise ValueError(said if said.startswith(str(path)) else f"{path}: {said}") from None
    # JSON's escapes can write halves of characters, which no file can hold.
    return {key: text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for key, text in found.items()}


def _captions_in(path: Path, text: str) -> dict[str, str]:
    if path.suffix == ".json":
        document = from_json(text)
        if not isinstance(document, dict) or not all(isinstance(each, str) for each in document.values()):
            raise ValueError(f"{path}: expected one JSON object of sample id to text")
        return document
    if path.suffix == ".jsonl":
        rows = [from_json(line) for line in text.split("\n") if line.strip()]
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    else:
        raise ValueError(f"{path}: captions are .json, .jsonl or .csv, got {path.suffix!r}")
    captions = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row.get("sample_id") or not isinstance(row.get("text"), str):
            raise ValueError(f"{path}: entry {number} needs 'sample_id' and 'text', got {row!r}")
        captions[row["sample_id"]] = row["text"]
    return captions
