"""The table of samples that the page filters and sorts: a bounded number of rows, evenly drawn, with all that a row's own view shows."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pipeline.auditing.folder import OutputFolder
from pipeline.report.camera_view import spread
from pipeline.report.data import SourceData, load_rows
from schemas.scores import SCORES
from schemas.verdict import REASON_TEXT, Reason, Status

MOST_ROWS = 2000
MOST_TEXT = 200  # characters of an error's message


def choose(sources: Sequence[SourceData], most: int = MOST_ROWS) -> dict[str, list[str]]:
    """Sample ids by source, in table order: all that were judged, or as many of each source's verdicts, spread over the table."""
    groups = [
        (source, rows)
        for source in sources
        for status in Status
        if len(rows := np.flatnonzero(source.judged & (source.status == str(status))))
    ]
    share = fair_share([len(rows) for _, rows in groups], most)
    chosen: dict[str, list[int]] = {source.name: [] for source in sources}
    for (source, rows), count in zip(groups, share, strict=True):
        chosen[source.name] += [int(rows[i]) for i in spread(len(rows), count)]
    by_name = {source.name: source for source in sources}
    return {name: [by_name[name].sample_ids[i] for i in sorted(rows)] for name, rows in chosen.items()}


def fair_share(sizes: Sequence[int], most: int) -> list[int]:
    """How many of each group to take so that no more than `most` are taken: small groups whole, the rest alike."""
    shares = [0] * len(sizes)
    left, waiting = most, len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: (sizes[i], i)):
        shares[i] = min(sizes[i], left // waiting)
        left -= shares[i]
        waiting -= 1
    return shares


def explorer_json(
    output: OutputFolder,
    sources: Sequence[SourceData],
    chosen: Mapping[str, Sequence[str]],
    pictures: Mapping[str, int],
    scenes: Mapping[str, int],
) -> dict[str, Any]:
    """What samples.js takes. chosen: by `choose`. pictures, scenes: number of the stored picture, of the camera view, by sample id."""
    reasons = sorted({reason for source in sources for reason in source.reason_counts()})
    rows = []
    for number, source in enumerate(sources):
        found = load_rows(output, list(chosen[source.name]))
        for sample_id in chosen[source.name]:
            row = found[sample_id]
            rows.append(_row(row, number, source, reasons) | _shown(sample_id, pictures, scenes))
    return {
        "total": int(sum(source.judged.sum() for source in sources)),
        "sources": [{"name": each.name, "scores": list(each.scores), "limits": _limits(each)} for each in sources],
        "statuses": [str(status) for status in Status],
        "reasons": [[name, REASON_TEXT[Reason(name)] if name in set(Reason) else ""] for name in reasons],
        "scores": {name: [SCORES[name].unit, SCORES[name].meaning] for name in SCORES if any(name in each.scores for each in sources)},
        "rows": rows,
    }


def _limits(source: SourceData) -> list[list[Any]]:
    """[score, op, value, reason] each; one that two stages set, e.g. min_views, once."""
    return [list(each) for each in dict.fromkeys((limit.score, limit.op, limit.value, str(limit.reason)) for limit in source.limits)]


def _row(row: Mapping[str, Any], number: int, source: SourceData, reasons: Sequence[str]) -> dict[str, Any]:
    """Short names, because each stands two thousand times: s source, v verdict, r reasons, n numbers, m message, k kind, f frames."""
    made = {
        "id": row["sample_id"],
        "s": number,
        "v": [str(status) for status in Status].index(row["status"]),
        "r": [reasons.index(reason) for reason in row["reasons"]],
        "n": [_number(row["scores"][name], name, source) for name in source.scores],
        "k": row["kind"],
        "f": _frames(row),
    }
    if row["error_message"]:
        made["m"] = row["error_message"][:MOST_TEXT]
    return made | ({"o": row["stopped_at"]} if row["stopped_at"] else {})


def _shown(sample_id: str, pictures: Mapping[str, int], scenes: Mapping[str, int]) -> dict[str, int]:
    made = {"p": pictures[sample_id]} if sample_id in pictures else {}
    return made | ({"c": scenes[sample_id]} if sample_id in scenes else {})


def _number(value: float | None, name: str, source: SourceData) -> float | None:
    """Seven digits, or all of them where those would fall on the other side of a limit."""
    if value is None or not np.isfinite(value):
        return None
    short = float(f"{value:.7g}")
    same = all(limit.violated(short) == limit.violated(value) for limit in source.limits if limit.score == name)
    exact = short if same else float(value)
    return int(exact) if exact == int(exact) and abs(exact) < 1e15 else exact


def _frames(row: Mapping[str, Any]) -> str:
    """Which frames of how many views: "2 views; frames 0 to 48 of each (17)"."""
    views = len(row["view_ids"])
    what = [f"{views} view{'' if views == 1 else 's'}"] if views else []
    if row["width"] and row["height"]:
        what.append(f"{row['width']} x {row['height']}")
    if row["fps"]:
        what.append(f"{row['fps']:.4g} fps")
    index = row["frame_index"]
    if index and all(index):
        each = f"frames {index[0][0]} to {index[0][-1]} ({len(index[0])})" if len(index[0]) > 1 else f"frame {index[0][0]}"
        many = f"frames {', '.join(str(frames[0]) for frames in index[:12])}" if views > 1 and len(index[0]) == 1 else each
        what.append(many)
    elif row["n_frames"]:
        what.append(f"all {row['n_frames']} frames")
    return "; ".join(what)


def explorer_section() -> str:
    """The controls; samples.js fills them."""
    choices = "".join(
        f'<label>{escape(text)} <select id="samples-{name}"></select></label>'
        for name, text in (("source", "source"), ("status", "verdict"), ("reason", "reason"), ("score", "score"))
    )
    return (
        '<section id="samples"><div class="source-head"><h2>Samples</h2></div><p id="samples-told" class="note"></p>'
        f'<form class="panel-line fields" id="samples-fields">{choices}'
        '<label>from <input id="samples-low" type="number" step="any"></label>'
        '<label>to <input id="samples-high" type="number" step="any"></label>'
        '<label>sort <select id="samples-sort"><option value="">as in the table</option><option value="up">score, low first</option>'
        '<option value="down">score, high first</option></select></label>'
        '<label>id has <input id="samples-id" type="search" autocomplete="off" spellcheck="false"></label>'
        '<label>show <select id="samples-as"><option value="table">table</option><option value="gallery">pictures</option></select></label>'
        '</form><p class="note" id="samples-count" role="status"></p><div id="samples-list"></div>'
        '<div class="pager"><button type="button" id="samples-before">Previous</button><span id="samples-page"></span>'
        '<button type="button" id="samples-after">Next</button></div></section>'
    )
