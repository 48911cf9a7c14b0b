"""One row of `samples`, readable: its verdict, each score beside its limit, its files, frames, members, family."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.layout import format_cell, format_number, human_bytes, text_table
from pipeline.selection import FOLDER
from pipeline.store import names, read_bytes
from schemas.scores import SCORES
from schemas.verdict import REASON_TEXT, Reason
from stages.stage import Limit


class UnknownSample(Exception):
    """No row has this id. The message names the nearest ones."""


def show(output: OutputFolder, sample_id: str) -> str:
    """The sample as text. Takes a sample_id, or a candidate_id that is unique. Raises UnknownSample."""
    row = find_row(output, sample_id)
    return "\n\n".join(block for block in _blocks(output, row) if block)


def find_row(output: OutputFolder, name: str) -> dict[str, Any]:
    """The row whose sample_id, or else whose candidate_id, is `name`. Raises UnknownSample."""
    rows = output.table("samples", where=ds.field("sample_id") == name).to_pylist()
    if not rows:
        rows = output.table("samples", where=(ds.field("candidate_id") == name) & ds.field("is_source")).to_pylist()
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise UnknownSample(f"{name!r} is the name of several: give one of {', '.join(row['sample_id'] for row in rows)}")
    known = output.table("samples", ["sample_id"]).column("sample_id")
    # difflib is quadratic: look closely only at ids that share a piece with what was asked for.
    near = known.filter(pc.match_substring(known, name[:4])) if name else known
    pool = (near if len(near) else known).slice(0, 20_000).to_pylist()
    close = difflib.get_close_matches(name, pool, n=5, cutoff=0.4)
    hint = f"did you mean {', '.join(close)}?" if close else f"the table holds {len(known)} rows" + (f", e.g. {pool[0]}" if pool else "")
    raise UnknownSample(f"no sample {name!r}; {hint}")


def _blocks(output: OutputFolder, row: Mapping[str, Any]) -> Iterator[str]:
    yield _head(row)
    yield _verdict(row)
    yield _scores(row, output.limits(row["source"]))
    yield _views(row)
    yield _pairs(row["pairs"] or [])
    yield _mapping("notes", row["notes"])
    yield _steps(output, row)
    yield _weights(row["weights"] or [])
    yield _members(output, row)
    yield _unit(output, row["unit"])
    yield _selections(output, row["sample_id"])
    yield _family(output, row)


def _head(row: Mapping[str, Any]) -> str:
    size = f"{row['width']}x{row['height']}" if row["width"] and row["height"] else None
    facts = {
        "sample": row["sample_id"],
        "candidate": row["candidate_id"],
        "source": row["source"],
        "kind": row["kind"],
        "split": row["split"],
        "license": row["license"],
        "text": "yes" if row["has_text"] else "no",
        "size": size,
        "frames": row["n_frames"],
        "fps": row["fps"],
        "angle bins": ", ".join(row["angle_bins"]) if row["angle_bins"] else None,
        "unit": row["unit"],
        "attempts": row["attempts"],
    }
    return "\n".join(f"{name:<12}{format_cell(value)}" for name, value in facts.items() if value is not None)


def _verdict(row: Mapping[str, Any]) -> str:
    lines = [f"{'status':<12}{row['status'].upper()}"]
    lines += [f"  {reason}: {REASON_TEXT[Reason(reason)]}" for reason in row["reasons"]]
    if row["error_message"]:
        lines.append(f"  message: {format_cell(row['error_message'])}")
    if row["stage"]:
        lines.append(f"  raised by stage: {row['stage']}")
    if row["stopped_at"]:
        lines.append(f"  not examined from stage {row['stopped_at']} on: an earlier cost tier had failed")
    return "\n".join(lines)


def _scores(row: Mapping[str, Any], limits: Sequence[Limit]) -> str:
    by_score: dict[str, list[Limit]] = {}
    for limit in limits:
        by_score.setdefault(limit.score, []).append(limit)
    body = []
    for name, score in SCORES.items():
        value, own = row["scores"][name], by_score.get(name, [])
        if value is None and not own:
            continue
        found = format_number(value)
        body += [[name, found, score.unit, f"{limit.op} {format_number(limit.value)}", _judge(limit, value)] for limit in own]
        if not own:
            body.append([name, found, score.unit, "", ""])
    return text_table(["score", "value", "unit", "limit", ""], body) if body else ""


def _judge(limit: Limit, value: float | None) -> str:
    if value is None:
        return "not computed"
    return f"FAILS: {limit.reason}" if limit.violated(value) else "ok"


def _views(row: Mapping[str, Any]) -> str:
    lines = [f"files ({len(row['media'])}, relative to the source's input folder)"]
    lines += [f"  {format_cell(name)}" for name in row["media"][:12]]
    if len(row["media"]) > 12:
        lines.append(f"  ... and {len(row['media']) - 12} more")
    frames, times = row["frame_index"], row["pts_ns"]
    for i, view in enumerate(row["view_ids"]):
        chosen = "whole video" if frames is None or i >= len(frames) else _runs(frames[i])
        when = ""
        if times is not None and i < len(times) and times[i]:
            when = f"   {times[i][0] / 1e9:.3f} s" + (f" to {times[i][-1] / 1e9:.3f} s" if len(times[i]) > 1 else "")
        lines.append(f"  view {format_cell(view)}: frames {chosen}{when}")
    return "\n".join(lines)


def _runs(frames: Sequence[int]) -> str:
    """Frame numbers, evenly spaced ones as first..last step n."""
    steps = {b - a for a, b in pairwise(frames)}
    if len(frames) > 2 and len(steps) == 1:
        step = steps.pop()
        return f"{frames[0]}..{frames[-1]} ({len(frames)} frames" + (")" if step == 1 else f", every {step})")
    return ", ".join(map(str, frames))


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    angles = ("rotation_deg", "axis_deg", "parallax_deg", "azimuth_deg", "elevation_deg")
    body = [[pair["a"], pair["b"], *(_median(pair[name]) for name in angles), format_number(pair["overlap"])] for pair in pairs]
    return text_table(["a", "b", "rotation°", "axis°", "parallax°", "azimuth°", "elevation°", "overlap"], body) if body else ""


def _median(spread: Mapping[str, float] | None) -> str:
    return "-" if spread is None or spread["median"] is None else f"{spread['median']:.1f}"


def _mapping(title: str, entries: Sequence[tuple[str, str]] | None) -> str:
    if not entries:
        return ""
    return "\n".join([title, *(f"  {name}: {format_cell(value)}" for name, value in entries)])


def _steps(output: OutputFolder, row: Mapping[str, Any]) -> str:
    """The stages in the recipe's order: which ran on the row, under which key, and what their limits said."""
    keys = dict(row["step_keys"] or [])
    if not keys:
        return ""
    listed = list(zip(output.run.get("limits", {}).get(row["source"], []), output.limits(row["source"]), strict=True))
    order = ["ingest", *_stages(output, row["source"])]
    names = [name for name in order if name in keys or name != "ingest"] + [name for name in keys if name not in order]
    body = []
    for name in names:
        limits = [limit for each, limit in listed if each.get("stage") == name]
        failed = [limit.key for limit in limits if name in keys and limit.violated(row["scores"][limit.score])]
        said = f"FAILS: {', '.join(failed)}" if failed else "error" if row["stage"] == name else "ok" if name in keys else "not run"
        body.append([name, keys.get(name), said])
    return text_table(["step", "key", ""], body)


def _stages(output: OutputFolder, source: str) -> list[str]:
    """Names of the source's stages as the rows know them: of a user's own, named module:Class, only where it ran."""
    spec = output.run.get("recipe", {}).get("sources", {}).get(source, {})
    return [name for stage in spec.get("stages", []) for name in stage if ":" not in name]


def _weights(weights: Sequence[Mapping[str, Any]]) -> str:
    body = [[each["name"], each["license"], "non-commercial" if each["noncommercial"] else "", each["sha256"]] for each in weights]
    return text_table(["weights", "license", "", "sha256"], body) if body else ""


def _unit(output: OutputFolder, name: str) -> str:
    """The unit of work: who made the row, and when."""
    columns = ["unit_key", "host", "started_ns", "ended_ns", "n_candidates", "n_rows", "steps_computed", "steps_reused"]
    found = output.table("units", columns, ds.field("unit") == name).to_pylist()
    if not found:
        return ""
    [unit] = found[:1]
    seconds = max(0, unit["ended_ns"] - unit["started_ns"]) / 1e9
    when = datetime.fromtimestamp(unit["ended_ns"] / 1e9, UTC).isoformat(timespec="seconds")
    return (
        f"unit {name} ({unit['unit_key']}): {unit['n_candidates']} candidates, {unit['n_rows']} rows; "
        f"{unit['steps_computed']} steps computed, {unit['steps_reused']} reused\n"
        f"  on {format_cell(unit['host'])}, done {when} after {format_number(seconds)} s"
    )


def _selections(output: OutputFolder, sample_id: str) -> str:
    """What each selection of the folder says of the row."""
    body = []
    for name in names(output.path / FOLDER, ".parquet"):
        try:
            data = pa.BufferReader(read_bytes(output.path / FOLDER / name))
            rows = pq.read_table(data, columns=["status", "reasons", "needs"], filters=[("sample_id", "==", sample_id)]).to_pylist()
        except (OSError, pa.ArrowException):
            continue  # not one of ours, or damaged: `audit verify` says so
        body += [
            [name.removesuffix(".parquet"), each["status"], " ".join(each["reasons"]), f"needs {each['needs']}" if each["needs"] else ""]
            for each in rows
        ]
    return text_table(["selection", "status", "reasons", ""], body) if body else ""


def _members(output: OutputFolder, row: Mapping[str, Any]) -> str:
    if row["shard"] is None:
        return "not in a shard"
    members = members_of(output, row["shard"], row["sample_id"])
    body = [[each["name"], each["offset"], each["size"], human_bytes(each["size"]), each["sha256"]] for each in members]
    return f"shards/{row['shard']}   content sha256 {row['content_sha256']}\n" + text_table(
        ["member", "offset", "size", "", "sha256"], body
    )


def members_of(output: OutputFolder, shard: str, sample_id: str) -> list[dict[str, Any]]:
    """The sample's entries in the shard's member list, in tar order."""
    found = output.table("shards", ["members"], ds.field("shard") == shard).column("members").to_pylist()
    return [member for members in found for member in members if member["sample_id"] == sample_id]


def _family(output: OutputFolder, row: Mapping[str, Any]) -> str:
    lines = []
    if row["parent_id"]:
        parent = output.table("samples", ["status", "candidate_id"], ds.field("sample_id") == row["parent_id"]).to_pylist()
        state = f"{parent[0]['status']}, {format_cell(parent[0]['candidate_id'])}" if parent else "its row is missing"
        lines.append(f"parent  {row['parent_id']} ({state})")
    if row["is_source"] and row["n_children"]:
        columns = ["sample_id", "status", "reasons"]
        children = output.table("samples", columns, ds.field("parent_id") == row["sample_id"]).to_pylist()
        lines.append(f"children ({len(children)})")
        lines += [f"  {each['sample_id']}  {each['status']}  {' '.join(each['reasons'])}".rstrip() for each in children[:40]]
        if len(children) > 40:
            lines.append(
                f"  ... and {len(children) - 40} more: audit sql DIR \"SELECT * FROM samples WHERE parent_id = '{row['sample_id']}'\""
            )
    return "\n".join(lines)
