"""Two runs beside each other: what differs between their rows, and what made them that could be why."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.auditing.folder import OutputFolder
from pipeline.parts import part_path, read_meta
from pipeline.selection import recipe_differences
from pipeline.store import size_of
from schemas.scores import SCORES
from schemas.verdict import ERRORS, SKIPS
from stages.stage import Limit

_PLAIN = ["split", "license", "kind", "n_children", "has_text", "width", "height", "n_frames", "fps", "attempts"]
_PLAIN += ["error_message", "stage", "stopped_at"]
_NESTED = ["media", "view_ids", "frame_index", "pts_ns", "angle_bins", "pairs", "notes"]
_MADE_BY = ("parallax_version", "code_version", "lock_sha256", "state", "seed", "inputs", "limit", "selection")

Mask = NDArray[np.bool_]


def diff(first: OutputFolder, second: OutputFolder, tolerance: float = 0.0) -> dict[str, Any]:
    """Every difference, JSON-ready; `differs` says whether there is one.

    tolerance: scores that differ by no more than this share of the larger are the same.
    {"run": lines, "made_of": {source: lines}, "only_first", "only_second": ids, "verdicts": [{sample_id, source, before, after, why}],
    "scores": {name: {rows, largest, sample_id}}, "columns": {name: rows}, "step_keys": {stage: rows}, "weights": lines,
    "content": ids, "shards": {"only_first", "only_second", "changed"}}.
    """
    one, two = (_rows(output) for output in (first, second))
    place = pc.index_in(one["sample_id"], two["sample_id"].combine_chunks()).combine_chunks()
    both = pc.is_valid(place).to_numpy(zero_copy_only=False)
    only_second = two["sample_id"].filter(pc.invert(pc.is_in(two["sample_id"], one["sample_id"].combine_chunks())))
    only_first = one["sample_id"].filter(pa.array(~both))
    one, two = one.filter(pa.array(both)), two.take(place.drop_null())
    scores = {name: mask for name in SCORES if (mask := _apart(one, two, name, tolerance)).any()}
    return {
        "run": list(_run_differences(first.run, second.run)),
        "made_of": _made_of(first, second),
        "only_first": only_first.to_pylist(),
        "only_second": only_second.to_pylist(),
        "verdicts": list(_verdicts((first, second), one, two, tolerance)),
        "scores": {name: _largest(one, two, name, mask) for name, mask in scores.items()},
        "columns": _columns(one, two),
        "step_keys": _step_keys(one, two),
        "weights": _weights(one, two),
        "content": one["sample_id"].filter(pa.array(_unequal(one["content_sha256"], two["content_sha256"]))).to_pylist(),
        "shards": _shards(first, second),
    }


def differs(found: Mapping[str, Any]) -> bool:
    """Whether rows or shards do. What only says how they were made (run, made_of) is no difference by itself."""
    rows = ("only_first", "only_second", "verdicts", "scores", "columns", "step_keys", "weights", "content")
    return any(found[name] for name in rows) or any(found["shards"].values())


def _rows(output: OutputFolder) -> pa.Table:
    columns = ["sample_id", "source", "status", "reasons", "scores", "step_keys", "weights", "content_sha256", *_PLAIN, *_NESTED]
    return output.table("samples", columns).combine_chunks()


def _run_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in _MADE_BY:
        yield from recipe_differences(old.get(name), new.get(name), name)
    yield from (line for line in recipe_differences(old.get("recipe", {}), new.get("recipe", {}), "recipe"))


def _unequal(one: pa.ChunkedArray, two: pa.ChunkedArray) -> Mask:
    """Two nulls are equal."""
    same = pc.fill_null(pc.equal(one, two), False)
    nulls = pc.and_(pc.is_null(one), pc.is_null(two))
    return np.asarray(pc.invert(pc.or_(same, nulls)).to_numpy(zero_copy_only=False), bool)


def _columns(one: pa.Table, two: pa.Table) -> dict[str, int]:
    """How many rows differ, by column."""
    found = {name: int(_unequal(one[name], two[name]).sum()) for name in _PLAIN}
    for name in _NESTED:
        if not one[name].equals(two[name]):
            found[name] = sum(a != b for a, b in zip(one[name].to_pylist(), two[name].to_pylist(), strict=True))
    return {name: count for name, count in found.items() if count}


def _score(table: pa.Table, name: str) -> tuple[NDArray[np.float64], Mask]:
    """Values, NaN where there is none; and where there is one."""
    column = pc.struct_field(table["scores"], name)
    return pc.fill_null(column, np.nan).to_numpy(zero_copy_only=False), np.asarray(pc.is_valid(column).to_numpy(zero_copy_only=False), bool)


def _apart(one: pa.Table, two: pa.Table, name: str, tolerance: float) -> Mask:
    (a, has_a), (b, has_b) = _score(one, name), _score(two, name)
    both_nan = np.isnan(a) & np.isnan(b)
    near = (a == b) | both_nan | (np.abs(a - b) <= tolerance * np.maximum(np.abs(a), np.abs(b)))
    return (has_a != has_b) | ~near


def _largest(one: pa.Table, two: pa.Table, name: str, mask: Mask) -> dict[str, Any]:
    (a, _), (b, _) = _score(one, name), _score(two, name)
    apart = np.where(mask, np.abs(a - b), -1.0)
    apart[mask & np.isnan(apart)] = np.inf
    row = int(np.argmax(apart))
    return {"rows": int(mask.sum()), "sample_id": one["sample_id"][row].as_py(), "first": _plain(a[row]), "second": _plain(b[row])}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _verdicts(outputs: tuple[OutputFolder, OutputFolder], one: pa.Table, two: pa.Table, tolerance: float) -> Iterator[dict[str, Any]]:
    """Rows whose status or reasons differ, each with the scores and limits behind the reasons that only one of the runs gives."""
    joined = [pc.binary_join(table["reasons"].combine_chunks(), "\t") for table in (one, two)]
    changed = _unequal(one["status"], two["status"]) | _unequal(*joined)
    pick = pa.array(np.flatnonzero(changed))
    columns = ["sample_id", "source", "status", "reasons", "scores"]
    for old, new in zip(*(table.select(columns).take(pick).to_pylist() for table in (one, two)), strict=True):
        reasons = [
            reason
            for reason in dict.fromkeys([*old["reasons"], *new["reasons"]])
            if (reason in old["reasons"]) != (reason in new["reasons"])
        ]
        yield {
            "sample_id": old["sample_id"],
            "source": old["source"],
            "before": {"status": old["status"], "reasons": old["reasons"]},
            "after": {"status": new["status"], "reasons": new["reasons"]},
            "why": [line for reason in reasons for line in _why(reason, old, new, outputs, tolerance)],
        }


def _why(
    reason: str, old: Mapping[str, Any], new: Mapping[str, Any], outputs: tuple[OutputFolder, OutputFolder], tolerance: float
) -> Iterator[str]:
    where = "first" if reason in old["reasons"] else "second"
    if reason in ERRORS or reason in SKIPS:
        yield f"{reason}: only in the {where}"
        return
    limits = [{each.key: each for each in output.limits(old["source"]) if each.reason == reason} for output in outputs]
    lines = [_moved(key, limits[0].get(key), limits[1].get(key), old["scores"], new["scores"], tolerance) for key in limits[0] | limits[1]]
    found = [f"{reason}: {line}" for line in lines if line is not None]
    yield from found or [f"{reason}: only in the {where}; no limit on a score of the row says so (its sampler, the ranking, another row)"]


def _moved(
    key: str, before: Limit | None, after: Limit | None, old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float
) -> str | None:
    """What moved across: the score or the limit. None where both runs judge the same."""
    limit = before or after
    assert limit is not None
    a, b = old[limit.score], new[limit.score]
    if (before is not None and before.violated(a)) == (after is not None and after.violated(b)):
        return None
    score = f"{limit.score} {_number(a)}" + (f" -> {_number(b)}" if a != b else "")
    asked = [f"{limit.op} {each.value:g}" if each else "off" for each in (before, after)]
    within = a is not None and b is not None and a != b and abs(a - b) <= tolerance * max(abs(a), abs(b))
    line = f"{score}, limit {key} {asked[0]}" + (f" -> {asked[1]}" if asked[0] != asked[1] else "")
    return f"{line} (within the tolerance)" if within else line


def _number(value: float | None) -> str:
    return "not computed" if value is None else f"{value:g}"


def _step_keys(one: pa.Table, two: pa.Table) -> dict[str, int]:
    """Rows by the stages whose results were made by other settings, code or input."""
    texts = [_keys_as_text(table) for table in (one, two)]
    pick = pa.array(np.flatnonzero(_unequal(*texts)))
    found: Counter[str] = Counter()
    for old, new in zip(*(table["step_keys"].take(pick).to_pylist() for table in (one, two)), strict=True):
        before, after = dict(old or ()), dict(new or ())
        found.update(name for name in {*before, *after} if before.get(name) != after.get(name))
    return dict(sorted(found.items()))


def _keys_as_text(table: pa.Table) -> pa.Array:
    keys = table["step_keys"].combine_chunks()
    names = pc.binary_join_element_wise(keys.keys, keys.items, "=")
    return pc.binary_join(pa.ListArray.from_arrays(keys.offsets, names), "\t")


def _weights(one: pa.Table, two: pa.Table) -> list[str]:
    """Checkpoints that touched rows of one run only, by name and digest."""
    used: list[set[tuple[str, str]]] = []
    for table in (one, two):
        flat = pc.list_flatten(table["weights"].combine_chunks())
        names, digests = (pc.struct_field(flat, each) for each in ("name", "sha256"))
        used.append(set(zip(pc.fill_null(names, "").to_pylist(), pc.fill_null(digests, "").to_pylist(), strict=True)))
    lines = [f"{name} {digest}: only in the first" for name, digest in sorted(used[0] - used[1])]
    return lines + [f"{name} {digest}: only in the second" for name, digest in sorted(used[1] - used[0])]


def _made_of(first: OutputFolder, second: OutputFolder) -> dict[str, list[str]]:
    """By source what its units depended on: settings, versions of stages, digests of weights, identities of inputs, captions."""
    old, new = (_key_parts(output) for output in (first, second))
    found = {}
    for source in dict.fromkeys([*old, *new]):
        before, after = old.get(source), new.get(source)
        if before is None or after is None:
            continue  # its rows are only in one, or its parts are not there
        lines = list(recipe_differences(_by_stage(before["source"]), _by_stage(after["source"])))
        for what, text in (("candidates", "other input files (path, size or time)"), ("captions", "another caption")):
            names = [name for name in before[what] if name in after[what] and before[what][name] != after[what][name]]
            if names:
                lines.append(f"{len(names)} candidates with {text}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
        if lines:
            found[source] = lines
    return found


def _key_parts(output: OutputFolder) -> dict[str, dict[str, Any]]:
    """By source what DIR/parts says of the units in the manifest."""
    found: dict[str, dict[str, Any]] = {}
    for unit in output.table("units", ["unit", "unit_key", "source"]).to_pylist():
        path = part_path(output.path, unit["unit"], unit["unit_key"])
        if size_of(path) is None:
            continue
        parts = read_meta(path)["key_parts"]
        own = found.setdefault(unit["source"], {"source": parts["source"], "candidates": {}, "captions": {}})
        own["candidates"] |= parts["candidates"]
        own["captions"] |= parts["captions"]
    return found


def _by_stage(source: Mapping[str, Any]) -> dict[str, Any]:
    """Stages by name, so that one more does not move all others."""
    return {**source, "stages": {stage["name"]: stage for stage in source["stages"]}}


def _shards(first: OutputFolder, second: OutputFolder) -> dict[str, list[str]]:
    digests = []
    for output in (first, second):
        table = output.table("shards", ["shard", "sha256"])
        digests.append(dict(zip(table["shard"].to_pylist(), table["sha256"].to_pylist(), strict=True)))
    old, new = digests
    return {
        "only_first": sorted(set(old) - set(new)),
        "only_second": sorted(set(new) - set(old)),
        "changed": sorted(name for name in set(old) & set(new) if old[name] != new[name]),
    }


def format_diff(found: Mapping[str, Any], shown: int = 20) -> str:
    """For a terminal: at most `shown` lines of every kind."""
    blocks: list[tuple[str, list[str]]] = [
        ("run.json", list(found["run"])),
        *((f"what the rows of {source} were made of", lines) for source, lines in found["made_of"].items()),
        ("results with another step key", [f"{stage}: {count} rows" for stage, count in found["step_keys"].items()]),
        ("weights", list(found["weights"])),
        ("rows only in the first", list(found["only_first"])),
        ("rows only in the second", list(found["only_second"])),
        ("verdicts", [_verdict(each) for each in found["verdicts"]]),
        ("scores", [_score_line(name, each) for name, each in found["scores"].items()]),
        ("other columns", [f"{name}: {count} rows" for name, count in found["columns"].items()]),
        ("samples with other content", list(found["content"])),
        *((f"shards, {name.replace('_', ' in the ')}", lines) for name, lines in found["shards"].items()),
    ]
    flips = Counter(f"{each['before']['status']}->{each['after']['status']}" for each in found["verdicts"])
    text = []
    for title, lines in blocks:
        if lines:
            total = f" ({len(lines)})" + (
                f": {', '.join(f'{count} {flip}' for flip, count in sorted(flips.items()))}" if title == "verdicts" else ""
            )
            more = [f"  ... and {len(lines) - shown} more: --json has all"] if len(lines) > shown else []
            text.append("\n".join([f"{title}{total}", *(f"  {line}" for line in lines[:shown]), *more]))
    text += [] if differs(found) else ["the same rows and shards"]
    return "\n\n".join(text)


def _verdict(each: Mapping[str, Any]) -> str:
    states = [
        f"{state['status']}{' (' + ', '.join(state['reasons']) + ')' if state['reasons'] else ''}"
        for state in (each["before"], each["after"])
    ]
    return f"{each['sample_id']}: {states[0]} -> {states[1]}; {'; '.join(each['why'])}"


def _score_line(name: str, each: Mapping[str, Any]) -> str:
    return f"{name}: {each['rows']} rows, the most {_number(each['first'])} -> {_number(each['second'])} ({each['sample_id']})"
