"""A blind comparison of two sets of samples by eye: pairs without a name, a vote for each, and the answer with its interval."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.auditing.folder import OutputFolder
from pipeline.location import Location
from pipeline.report.assets import BRAND, THEME, asset, embedded, policy
from pipeline.report.data import load_rows
from pipeline.report.footage import Footage
from pipeline.report.thumbnails import Thumbnail, make_sheet
from pipeline.selection import kept_ids
from pipeline.store import names, read_bytes

MOST_BYTES = 3_400_000  # of JPEG data; base64 makes a third more of it
_STYLES, _SCRIPTS = ("page.css", "ab.css"), ("theme.js", "ab.js")


class CompareError(ValueError):
    """Two sets that cannot be compared. The message says why, and what to give."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two sets. digests: source -> sample id -> content digest of what it keeps (None where nothing is packed)."""

    name: str
    output: OutputFolder
    digests: Mapping[str, Mapping[str, str | None]]


@dataclass(frozen=True, slots=True)
class Pair:
    """One sample of A and one of B, of one source. same: the same sample, with other content."""

    source: str
    a: str
    b: str
    same: bool = False


def side(output: OutputFolder, selection: str | None) -> Side:
    """What the folder keeps, or what its selection NAME keeps (`audit what-if --write NAME`). Raises CompareError."""
    table = output.table("samples", ["sample_id", "source", "status", "is_sample", "content_sha256"], ds.field("is_sample"))
    name = output.path.resolve().name
    if selection is not None:
        chosen, name = _selected(output.path / "selections" / f"{selection}.parquet"), f"{name}: {selection}"
        keep = [sample_id in chosen for sample_id in table["sample_id"].to_pylist()]
    else:
        keep = [status == "kept" for status in table["status"].to_pylist()]
    found: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
    for row in table.filter(pa.array(keep, pa.bool_())).to_pylist():
        found[row["source"]][row["sample_id"]] = row["content_sha256"]
    if not found:
        raise CompareError(f"{name} keeps no sample")
    return Side(name, output, found)


def _selected(path: Location) -> set[str]:
    there = [each.removesuffix(".parquet") for each in names(path.parent, ".parquet")]
    if path.stem not in there:
        said = f"there are {', '.join(there)}" if there else "there is none: python -m pipeline.audit what-if DIR --set ... --write NAME"
        raise CompareError(f"{path}: no such selection; {said}")
    try:
        return set(kept_ids(read_bytes(path)).to_pylist())
    except (OSError, KeyError, pa.ArrowException) as error:
        raise CompareError(f"{path}: cannot be read ({error}); write the selection again") from None


def make_pairs(a: Side, b: Side, count: int, seed: int) -> list[Pair]:
    """At most `count` pairs, drawn by the seed: the same sample where both keep it and its content differs; else of one source, a
    sample that only A keeps beside one that only B keeps. Where one side keeps nothing alone, what both keep stands in for it.

    Raises CompareError where there is no pair.
    """
    if a.output.path.resolve() == b.output.path.resolve() and a.digests == b.digests:
        raise CompareError(f"{a.name} and {b.name} keep the same samples; there is nothing to compare")
    rng = np.random.default_rng(seed)
    same = [
        Pair(source, each, each, True)
        for source in sorted(a.digests)
        for each in sorted(a.digests[source].keys() & b.digests.get(source, {}).keys())
        if a.digests[source][each] != b.digests[source][each]
    ]
    found = [same[i] for i in rng.permutation(len(same))] or list(_across(a, b, rng))
    if not found:
        raise CompareError(f"no source has samples of both {a.name} and {b.name} that differ; there is nothing to compare")
    return [found[i] for i in rng.permutation(len(found))[:count]]


def _across(a: Side, b: Side, rng: np.random.Generator) -> Iterator[Pair]:
    alone = any(set(a.digests[name]) - set(b.digests.get(name, ())) for name in a.digests)
    other = any(set(b.digests[name]) - set(a.digests.get(name, ())) for name in b.digests)
    for source in sorted(set(a.digests) & set(b.digests)):
        ours, theirs = set(a.digests[source]), set(b.digests[source])
        left, right = sorted(ours - theirs if alone else ours & theirs), sorted(theirs - ours if other else ours & theirs)
        if not alone and not other:
            return
        for i, j in zip(rng.permutation(len(left)), rng.permutation(len(right)), strict=False):
            yield Pair(source, left[i], right[j])


def compare_page(a: Side, b: Side, count: int, seed: int) -> tuple[str, str]:
    """The page, and a line that says what is in it. The same folders, footage and seed give the same text. Raises CompareError."""
    pairs = make_pairs(a, b, count, seed)
    pictures = {"a": _sheets(a, [(pair.source, pair.a) for pair in pairs]), "b": _sheets(b, [(pair.source, pair.b) for pair in pairs])}
    # As often left as right, so that a judge who leans to one side favours neither set.
    swaps = np.random.default_rng([seed, 1]).permutation(len(pairs)) % 2 == 1
    stored: list[str] = []
    shown: list[dict[str, Any]] = []
    size = missing = full = 0
    for pair, swapped in zip(pairs, swaps, strict=True):
        drawn = [pictures["a"][pair.a], pictures["b"][pair.b]]
        if any(each.jpeg is None for each in drawn):
            missing += 1
            continue
        size += sum(len(each.jpeg or b"") for each in drawn)
        if size > MOST_BYTES:
            full += 1
            continue
        shown.append({"source": pair.source, "a": pair.a, "b": pair.b, "left": "b" if swapped else "a", "pictures": len(stored)})
        stored += [each.data_uri() for each in (reversed(drawn) if swapped else drawn)]
    if not shown:
        raise CompareError("none of the pairs has pictures on both sides; is the footage, or are the shards, still there?")
    told = f"{len(shown)} pairs, {'the same samples with other content' if pairs[0].same else 'different samples of one source each'}"
    told += f"; {missing} left out, as they have no picture" if missing else ""
    told += f"; {full} left out, to keep the file small" if full else ""
    return _page(a, b, seed, shown, stored, told), told


def _sheets(of: Side, wanted: Sequence[tuple[str, str]]) -> dict[str, Thumbnail]:
    found: dict[str, Thumbnail] = {}
    for source in dict.fromkeys(source for source, _ in wanted):
        own = [sample_id for name, sample_id in wanted if name == source]
        rows = load_rows(of.output, own)
        with Footage(of.output, source) as footage:
            found |= {sample_id: make_sheet(footage, rows[sample_id]) for sample_id in own}
    return found


def _page(a: Side, b: Side, seed: int, shown: list[dict[str, Any]], stored: list[str], told: str) -> str:
    style, script = ("".join(map(asset, names)) for names in (_STYLES, _SCRIPTS))
    names = {"a": a.name, "b": b.name} if a.name != b.name else {"a": str(a.output.path), "b": str(b.output.path)}
    data = {"names": names, "seed": seed, "pairs": shown, "told": told}
    data["id"] = sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
    return Template(asset("ab.html")).substitute(
        policy=escape(policy(style, script)),
        brand=BRAND,
        theme=THEME,
        style=style,
        script=script,
        data=embedded(json.dumps(data)),
        pictures=embedded(json.dumps(stored)),
    )
