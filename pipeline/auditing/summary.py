"""Counts of an output folder: by source and status, by reason, text, errors against their budget, shards."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.auditing.export import NONE
from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.layout import human_bytes, text_table
from schemas.verdict import REASON_TEXT, Reason, Status

STATUSES = [str(status) for status in Status]


def summarize(output: OutputFolder) -> dict[str, Any]:
    """Plain numbers, JSON-ready, counted from the tables and not copied from run.json.

    {"state", "sources": {source: {"candidates", "rows", status: n, "samples", "text": {"with", "without"}, "reasons": {reason:
    n}}}, "licenses": {licence: {"rows", "samples", "noncommercial"}}, "candidates", "error_budget", "shards": {"count", "bytes",
    "samples"}}. noncommercial: samples that depend on weights of which the licence forbids commercial use. A row with several
    reasons counts under each. Statuses are of what was judged: a source from which samples were drawn counts only when it
    failed.
    """
    columns = ["source", "status", "is_source", "is_sample", "has_text", "shard", "reasons", "license", "weights"]
    rows = output.table("samples", columns)
    shards = output.table("shards", ["bytes", "n_samples"])
    sources = {name: _source(rows.filter(pc.equal(rows["source"], name))) for name in output.sources()}
    candidates = sum(each["candidates"] for each in sources.values())
    return {
        "state": output.run.get("state", "unknown"),
        "sources": sources,
        "licenses": _licenses(rows),
        "error_budget": output.run.get("error_budget"),
        "candidates": candidates,
        "shards": {
            "count": shards.num_rows,
            "bytes": pc.sum(shards["bytes"]).as_py() or 0,
            "samples": pc.sum(shards["n_samples"]).as_py() or 0,
        },
    }


def _source(rows: pa.Table) -> dict[str, Any]:
    judged = rows.filter(pc.or_(rows["is_sample"], pc.not_equal(rows["status"], str(Status.KEPT))))
    status = Counter(judged["status"].to_pylist())
    packed = rows.filter(pc.is_valid(rows["shard"]))
    with_text = pc.sum(packed["has_text"]).as_py() or 0
    reasons = Counter(pc.list_flatten(rows["reasons"]).to_pylist())
    return {
        "candidates": pc.sum(rows["is_source"]).as_py() or 0,
        "rows": rows.num_rows,
        **{name: status[name] for name in STATUSES},
        "samples": packed.num_rows,
        "text": {"with": with_text, "without": packed.num_rows - with_text},
        "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    }


def _licenses(rows: pa.Table) -> dict[str, dict[str, int]]:
    """Licences by name, "none" where a source states none."""
    names, packed = pc.fill_null(rows["license"], NONE).to_pylist(), pc.is_valid(rows["shard"]).to_pylist()
    touched = [any(each["noncommercial"] for each in weights or ()) for weights in rows["weights"].to_pylist()]
    found: dict[str, dict[str, int]] = {name: {"rows": 0, "samples": 0, "noncommercial": 0} for name in sorted(set(names))}
    for name, is_packed, is_touched in zip(names, packed, touched, strict=True):
        found[name]["rows"] += 1
        found[name]["samples"] += is_packed
        found[name]["noncommercial"] += is_packed and is_touched
    return found


def format_summary(summary: dict[str, Any]) -> str:
    """The summary as text for a terminal."""
    sources = summary["sources"]
    header = ["source", "candidates", "rows", *STATUSES, "samples", "with text"]
    body = [
        [name, each["candidates"], each["rows"], *(each[status] for status in STATUSES), each["samples"], _share(each["text"])]
        for name, each in sources.items()
    ]
    if len(body) > 1:
        body.append(["all", *(sum(row[i] for row in body) for i in range(1, len(header) - 1)), ""])
    blocks = [f"state: {summary['state']}", text_table(header, body)]
    blocks.append("candidates: what ingest found; rows: these and what was sampled from them; samples: what the shards hold.")
    licenses = [[name, each["rows"], each["samples"], each["noncommercial"]] for name, each in summary["licenses"].items()]
    if licenses:
        blocks.append(text_table(["licence", "rows", "samples", "with non-commercial weights"], licenses))
    reasons = [[name, reason, count, _meaning(reason)] for name, each in sources.items() for reason, count in each["reasons"].items()]
    if reasons:
        blocks.append(text_table(["source", "reason", "rows", "meaning"], reasons))
    if summary["error_budget"]:
        blocks.append(format_budget(summary["error_budget"]))
    shards = summary["shards"]
    blocks.append(f"shards: {shards['count']} with {shards['samples']} samples, {human_bytes(shards['bytes'])}")
    return "\n\n".join(blocks)


def format_budget(budget: dict[str, Any]) -> str:
    """One line on the error budget, from run.json's entry."""
    errors, judged, limit = budget["errors"], budget["judged"], budget["limit"]
    share = errors / judged if judged else 0.0
    verdict = "EXCEEDED" if budget["exceeded"] else "kept"
    return f"error budget {verdict}: {errors} of {judged} samples are errors ({share:.1%}, at most {limit:.1%})"


def _share(text: dict[str, int]) -> str:
    total = text["with"] + text["without"]
    return f"{text['with'] / total:.0%}" if total else "-"


def _meaning(reason: str) -> str:
    return REASON_TEXT[Reason(reason)] if reason in set(Reason) else "not a reason this version knows"
