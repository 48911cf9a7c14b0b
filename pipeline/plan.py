"""The append-only plan: which candidates form which unit.

Units are fixed by the order of the input, never by timing. New inputs form new units at the end; old units keep their
names and their candidates, so nothing that was done is done again.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pipeline.binding import Source
from pipeline.store import write_bytes
from pipeline.unit import Unit
from schemas.candidate import Candidate


class PlanError(ValueError):
    """The command does not fit what the output folder already holds. A usage error: nothing was touched."""


@dataclass(frozen=True)
class Planned:
    """A unit's name and its candidates, as written in the plan."""

    unit: str
    source: str
    candidates: tuple[str, ...]


def discover(
    source: Source, root: Path, limit: int | None, captions: Mapping[str, str], progress: Callable[[int], None] = lambda n: None
) -> list[Candidate]:
    """The source's candidates in their fixed order, under the recipe's name for it, with the caller's captions.

    Raises FileNotFoundError or ValueError when the folder as a whole is not this layout.
    """
    found = []
    for candidate in islice(source.ingest.discover(root), limit):
        candidate = replace(candidate, source=source.name)
        text = captions.get(candidate.key)
        found.append(candidate if text is None else replace(candidate, caption=text))
        progress(len(found))
    return found


def read_plan(output: Path) -> list[Planned]:
    """Every planned unit, in order."""
    planned = []
    for path in sorted((output / "plan").glob("batch-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            planned.append(Planned(entry["unit"], entry["source"], tuple(entry["candidates"])))
    return planned


def extend_plan(planned: list[Planned], found: Mapping[str, list[Candidate]], size: int) -> list[Planned]:
    """New units for the candidates that no unit holds yet, numbered on from the last. Units never mix sources."""
    held = {(each.source, candidate) for each in planned for candidate in each.candidates}
    number, new = len(planned), []
    for source, candidates in found.items():
        fresh = [candidate.candidate_id for candidate in candidates if (source, candidate.candidate_id) not in held]
        for start in range(0, len(fresh), size):
            new.append(Planned(f"u{number:06d}", source, tuple(fresh[start : start + size])))
            number += 1
    return new


def append_plan(output: Path, new: list[Planned]) -> None:
    """One file a run, written whole, so that a killed run has planned all of its units or none."""
    if not new:
        return
    batch = len(list((output / "plan").glob("batch-*.jsonl")))
    lines = "".join(
        json.dumps({"unit": each.unit, "source": each.source, "candidates": each.candidates}, ensure_ascii=False) + "\n" for each in new
    )
    write_bytes(output / "plan" / f"batch-{batch:06d}.jsonl", lines.encode("utf-8", "surrogateescape"))


def check_sources(planned: list[Planned], found: Mapping[str, list[Candidate]], limit: int | None) -> None:
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
    found: Mapping[str, list[Candidate]],
    sources: Mapping[str, Source],
    roots: Mapping[str, Path],
    output: Path,
    captions: Mapping[str, str],
    earlier: Mapping[str, "set[str]"],
) -> tuple[list[Unit], int]:
    """The plan's units with what is now known of their candidates, and how many candidates are no longer there."""
    by_id = {(name, candidate.candidate_id): candidate for name, candidates in found.items() for candidate in candidates}
    units, gone = [], 0
    for each in planned:
        present = tuple(by_id[each.source, name] for name in each.candidates if (each.source, name) in by_id)
        gone += len(each.candidates) - len(present)
        units.append(
            Unit(
                name=each.unit,
                source=sources[each.source],
                root=roots[each.source],
                output=output,
                candidates=present,
                captions=_captions_of(present, captions),
                earlier=tuple(sorted(earlier.get(each.unit, ()))),
            )
        )
    return units, gone


def _captions_of(candidates: Iterable[Candidate], captions: Mapping[str, str]) -> dict[str, str]:
    """Captions of the children of these candidates: keys that begin with a candidate's key and the joiner."""
    if not captions:
        return {}
    heads = tuple(f"{candidate.key}_-" for candidate in candidates)
    return {key: text for key, text in sorted(captions.items()) if key.startswith(heads)}


def read_captions(path: Path) -> dict[str, str]:
    """Texts by sample id: JSON {id: text}, JSON lines {"sample_id","text"}, or CSV with these two columns.

    Raises ValueError that names the line.
    """
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        document = json.loads(text)
        if not isinstance(document, dict) or not all(isinstance(each, str) for each in document.values()):
            raise ValueError(f"{path}: expected one JSON object of sample id to text")
        return document
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(text.splitlines()))
    else:
        raise ValueError(f"{path}: captions are .json, .jsonl or .csv, got {path.suffix!r}")
    captions = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row.get("sample_id") or not isinstance(row.get("text"), str):
            raise ValueError(f"{path}: entry {number} needs 'sample_id' and 'text', got {row!r}")
        captions[row["sample_id"]] = row["text"]
    return captions
