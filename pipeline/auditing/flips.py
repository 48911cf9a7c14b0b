"""What a what-if changes, counted and as text."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.auditing.decided_rows import OVER
from pipeline.auditing.layout import format_number, text_table
from pipeline.auditing.redecide import GONE, PAYLOAD, RANKING, SAMPLER, TWINS, UNKNOWN
from pipeline.auditing.whatif import Answer
from schemas.verdict import Status

STATUSES = [str(status) for status in Status]
NOW = [*STATUSES, UNKNOWN, GONE]


def count_flips(answer: Answer) -> dict[str, Any]:
    """JSON-ready numbers.

    {"limits": [{source, stage, key, score, op, reason, before, after}], "sources": {source: {"rows", "before": {status: n},
    "after": {status: n, "unknown": n, "gone": n}, "flips": {"kept->rejected": n, ...}, "other_reasons": n, "reasons": {reason: {flip: n}},
    "needs": {stage: n}}}}. before and after count what `audit summary` counts: samples, and sources that came to nothing.
    A kept->rejected row counts under each reason that it gets, a rejected->kept or unknown one under each that falls.
    """
    found: dict[str, Any] = {}
    if len(answer.table) == 0:
        return {"limits": list(answer.changes), "sources": found}
    sources = answer.table["source"].chunk(0)
    for number, name in enumerate(sources.dictionary.to_pylist()):
        rows = np.flatnonzero(sources.indices.to_numpy() == number)
        found[name] = {"rows": len(rows), **_statuses(answer, rows), **_flips(answer, rows)}
    return {"limits": list(answer.changes), "sources": found}


def _statuses(answer: Answer, rows: Any) -> dict[str, Any]:
    column = answer.table["status"].chunk(0)
    own = np.array([STATUSES.index(name) for name in column.dictionary.to_pylist()])
    was = own[column.indices.to_numpy()[rows]]
    then = np.array([*(NOW.index(each.status) for each in answer.outcomes), -1])[answer.outcome[rows]]
    now = np.where(then < 0, was, then)
    sample = answer.table["is_sample"].chunk(0).to_numpy(zero_copy_only=False)[rows]
    counted = []
    for status in (was, now):
        judged = sample | (status != STATUSES.index(Status.KEPT))
        counts = np.bincount(status[judged], minlength=len(NOW)).tolist()
        counted.append(dict(zip(NOW, counts, strict=True)))
    return {"before": {name: counted[0][name] for name in STATUSES}, "after": counted[1]}


def _flips(answer: Answer, rows: Any) -> dict[str, Any]:
    """Counted by groups of rows with the same old reasons and the same outcome."""
    rows = rows[answer.outcome[rows] >= 0]
    reasons = pc.binary_join(answer.table["reasons"].chunk(0).take(rows), "\t").dictionary_encode() if len(rows) else None
    flips, by_reason, needs, other = Counter[str](), defaultdict[str, Counter[str]](Counter), Counter[str](), 0
    if reasons is not None:
        status = answer.table["status"].chunk(0)
        width = len(reasons.dictionary) * len(answer.outcomes)
        key = (
            status.indices.to_numpy()[rows].astype(np.int64) * width
            + reasons.indices.to_numpy().astype(np.int64) * len(answer.outcomes)
            + answer.outcome[rows]
        )
        for code, count in zip(*np.unique(key, return_counts=True), strict=True):
            was = status.dictionary[int(code) // width].as_py()
            old = reasons.dictionary[int(code) % width // len(answer.outcomes)].as_py()
            outcome = answer.outcomes[int(code) % len(answer.outcomes)]
            had, has = set(filter(None, old.split("\t"))), set(outcome.reasons)
            if was == outcome.status:
                other += int(count)
                continue
            flip = f"{was}->{outcome.status}"
            flips[flip] += int(count)
            if outcome.needs is not None:
                needs[outcome.needs] += int(count)
            for reason in sorted(has - had or had - has):
                by_reason[reason][flip] += int(count)
    return {
        "flips": dict(sorted(flips.items())),
        "other_reasons": other,
        "reasons": {reason: dict(sorted(by_reason[reason].items())) for reason in sorted(by_reason)},
        "needs": dict(sorted(needs.items())),
    }


def format_flips(counts: dict[str, Any], command: str) -> str:
    """For a terminal. command: what decides what is unknown."""
    blocks = ["\n".join(_limit(each) for each in counts["limits"]) or "no limit is another than it was"]
    sources = counts["sources"]
    header = ["source", "rows", "kept", "would be", "rejected", "would be", "error", "skipped", "unknown", "gone"]
    body = []
    for name, each in sources.items():
        before, after = each["before"], each["after"]
        pairs = [count for status in ("kept", "rejected") for count in (before[status], after[status])]
        body.append([name, each["rows"], *pairs, after["error"], after["skipped"], after[UNKNOWN], after[GONE]])
    blocks.append(text_table(header, body))
    flips = [[name, flip, count] for name, each in sources.items() for flip, count in each["flips"].items()]
    flips += [[name, "rejected for other reasons", each["other_reasons"]] for name, each in sources.items() if each["other_reasons"]]
    blocks.append(text_table(["source", "flip", "rows"], flips) if flips else "no row changes")
    reasons = [
        [name, reason, flip, count]
        for name, each in sources.items()
        for reason, own in each["reasons"].items()
        for flip, count in own.items()
    ]
    if reasons:
        blocks.append(text_table(["source", "reason", "flip", "rows"], reasons))
    lines = [f"{count} rows of {name}: {_needed(need)}" for name, each in sources.items() for need, count in each["needs"].items()]
    if lines:
        blocks.append("\n".join(["unknown, needs a run:", *(f"  {line}" for line in lines), f"  {command}"]))
    return "\n\n".join(blocks)


def _limit(change: dict[str, Any]) -> str:
    before, after = ("off" if change[name] is None else format_number(change[name]) for name in ("before", "after"))
    place = ".".join(change[name] for name in ("source", "stage", "key"))
    return f"{place}: {change['score']} {change['op']} {before} -> {after}, else {change['reason']}"


def _needed(need: str) -> str:
    if need == RANKING:
        return f"whether they are among the best depends on what is unknown ({OVER})"
    if need == TWINS:
        return "whose twins they are depends on what is unknown, or their fingerprints are not in DIR/parts"
    if need == SAMPLER:
        return "whether their sampler refused them whatever the limits is not in DIR/parts"
    if need == PAYLOAD:
        return "would be kept, but their payload could not be made"
    return f"{need!r} has not run on them: a cheaper stage had turned them away"
