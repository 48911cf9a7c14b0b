"""What the run cost, and what N candidates would: seconds by stage from the table `units`, bytes by stage from `shards`."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.layout import format_number, human_bytes
from pipeline.report.charts import bar
from pipeline.report.data import SourceData
from pipeline.report.markup import cell, code, count_cell, table

OTHER = "outside stages"
PACKED = "payload"  # what makes every member that is not a stage's own NAME.npz


@dataclass
class Cost:
    """One source's. seconds, bytes: by stage. unit_seconds: wall-clock time of its units, each on one worker."""

    candidates: int = 0
    unit_seconds: float = 0.0
    steps_computed: int = 0
    steps_reused: int = 0
    packed: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes: Counter[str] = field(default_factory=Counter)


def measure(output: OutputFolder, sources: Sequence[SourceData]) -> dict[str, Cost]:
    """Cost by source, in the order given. Time in a unit that no stage counts goes to OTHER."""
    found: defaultdict[str, Cost] = defaultdict(Cost)
    columns = ["source", "n_candidates", "started_ns", "ended_ns", "seconds", "steps_computed", "steps_reused"]
    for row in output.table("units", columns).to_pylist():
        cost = found[row["source"]]
        cost.candidates += row["n_candidates"]
        cost.unit_seconds += (row["ended_ns"] - row["started_ns"]) / 1e9
        cost.steps_computed += row["steps_computed"]
        cost.steps_reused += row["steps_reused"]
        for stage, seconds in row["seconds"]:
            cost.seconds[stage] += seconds
    for cost in found.values():
        rest = cost.unit_seconds - sum(cost.seconds.values())
        if rest > 0:
            cost.seconds[OTHER] += rest
    for source in sources:
        found[source.name].packed = source.packed
    _count_bytes(output, found)
    return {source.name: found[source.name] for source in sources}


def _count_bytes(output: OutputFolder, found: Mapping[str, Cost]) -> None:
    for batch in output.table("shards", ["source", "members"]).to_batches(max_chunksize=64):
        members = batch.column("members")
        sources = pc.take(batch.column("source"), pc.list_parent_indices(members))
        flat = pc.list_flatten(members)
        sized = pa.table({"source": sources, "name": pc.struct_field(flat, "name"), "size": pc.struct_field(flat, "size")})
        for row in sized.group_by(["source", "name"]).aggregate([("size", "sum")]).to_pylist():
            if row["source"] in found:
                cost = found[row["source"]]
                cost.bytes[_maker(row["name"], cost.seconds)] += row["size_sum"]


def _maker(member: str, stages: Mapping[str, float]) -> str:
    """A stage's own member is called after it: motion.npz."""
    stem, _, suffix = member.partition(".")
    return stem if suffix == "npz" and stem in stages else PACKED


def projection(costs: Mapping[str, Cost]) -> list[dict[str, Any]]:
    """What cost.js computes with, a source each: only those that were measured."""
    return [
        {"source": name, "candidates": cost.candidates, "seconds": cost.unit_seconds, "packed": cost.packed, "bytes": cost.bytes.total()}
        for name, cost in costs.items()
        if cost.candidates and cost.unit_seconds > 0
    ]


def cost_section(costs: Mapping[str, Cost]) -> str:
    """Tables by source and by stage, and the fields that cost.js reads."""
    known = {name: cost for name, cost in costs.items() if cost.candidates}
    title = '<section id="cost"><div class="source-head"><h2>Cost</h2></div>'
    if not projection(costs):
        return f'{title}<p class="note">No unit of work was timed.</p></section>'
    return f"{title}{_by_source(known)}{_reused(known)}{_by_stage(known)}{_PROJECTION}</section>"


def _by_source(costs: Mapping[str, Cost]) -> str:
    names = ["candidates", "seconds", "s / candidate", "candidates / worker-hour", "in shards", "bytes", "bytes / sample"]
    heads = [("Source", ""), *((name, "number") for name in names)]
    rows = []
    for name, cost in costs.items():
        each = cost.unit_seconds / cost.candidates
        rate = f"{3600 / each:,.0f}" if each > 0 else "–"
        size = human_bytes(cost.bytes.total() / cost.packed) if cost.packed else "–"
        numbers = [f"{cost.unit_seconds:,.1f}", format_number(each), rate, f"{cost.packed:,}", human_bytes(cost.bytes.total()), size]
        rows.append([cell(escape(name), "name"), count_cell(cost.candidates), *(cell(text, "number") for text in numbers)])
    return table("cost", heads, rows)


def _reused(costs: Mapping[str, Cost]) -> str:
    reused = sum(cost.steps_reused for cost in costs.values())
    every = reused + sum(cost.steps_computed for cost in costs.values())
    if not reused:
        return '<p class="note">Wall-clock time of the units, each on one worker.</p>'
    return (
        f'<p class="notice">{reused:,} of {every:,} steps were reused from an earlier run and took no time in this one: '
        "the whole job costs more than these seconds say.</p>"
    )


def _by_stage(costs: Mapping[str, Cost]) -> str:
    stages = {stage for cost in costs.values() for stage in cost.seconds}
    seconds = defaultdict(float, {stage: sum(cost.seconds.get(stage, 0.0) for cost in costs.values()) for stage in stages})
    size: Counter[str] = sum((cost.bytes for cost in costs.values()), Counter())
    total, largest = sum(seconds.values()), max(seconds.values(), default=0.0)
    heads = [("Stage", ""), ("seconds", "number"), ("share", "number"), ("", ""), ("bytes in shards", "number")]
    heads += [(f"{name}, s / candidate", "number") for name in costs]
    rows = []
    for stage in sorted(seconds.keys() | size.keys(), key=lambda name: (name == OTHER, -seconds[name], name)):
        each = [cost.seconds[stage] / cost.candidates if stage in cost.seconds else None for cost in costs.values()]
        name = escape(stage) if stage == OTHER else code(stage)
        drawn = bar(round(1000 * seconds[stage]), max(1, round(1000 * largest)), "kept")
        rows.append(
            [
                cell(name, "name"),
                cell(f"{seconds[stage]:,.2f}", "number"),
                cell(f"{seconds[stage] / total:.1%}" if total else "–", "number"),
                cell(drawn),
                cell(human_bytes(size[stage]) if size[stage] else "–", "number" if size[stage] else "number zero"),
                *(cell("–", "number zero") if value is None else cell(format_number(value), "number") for value in each),
            ]
        )
    note = f"{PACKED} counts the bytes of views, cameras, meta and captions; a stage, those of the arrays that it found. {OTHER}: "
    note += "reading, writing, and starting what a stage needs."
    return f'<h3 class="section-title">By stage</h3>{table("stages", heads, rows)}<p class="note">{escape(note)}</p>'


_PROJECTION = (
    '<h3 class="section-title">For N candidates</h3><div class="panel-line fields">'
    '<label>of <select id="cost-source"></select></label>'
    '<label>candidates <input id="cost-count" type="number" min="1" step="1" value="1000000"></label>'
    '<label>workers <input id="cost-workers" type="number" min="1" step="1" value="64"></label></div>'
    '<dl id="cost-answer" class="answers" aria-live="polite"></dl>'
    '<p class="note">Measured seconds and bytes per candidate, times the number; divided by the workers, for ever busy. '
    "A worker is one like those of this run.</p>"
)
