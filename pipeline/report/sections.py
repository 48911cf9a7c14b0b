"""One source's section: limits with their sheets, other reasons, errors, angles, scores without a limit. And the run's."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import pyarrow.dataset as ds

from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.layout import format_number
from pipeline.report.charts import angle_chart, bar, histogram_chart, legend, status_bar
from pipeline.report.data import SourceData
from pipeline.report.gallery import Gallery
from pipeline.report.histogram import Histogram, make_histogram
from pipeline.report.sheets import Entry, Sheet
from schemas.manifest import ANGLE_BINS
from schemas.scores import SCORES
from schemas.verdict import ERRORS, REASON_TEXT, Reason, Status

MOST_ERRORS = 40


def source_section(output: OutputFolder, source: SourceData, number: int, gallery: Gallery) -> str:
    """Everything about one source."""
    recipe = output.run.get("recipe", {}).get("sources", {}).get(source.name, {})
    chips = "".join(f'<span class="chip">{escape(text)}</span>' for text in _chips(source, recipe))
    limits = gallery.limit_sheets[source.name]
    reasons = gallery.reason_sheets[source.name]
    blocks = [
        f'<section id="source-{number}"><div class="source-head"><h2>{escape(source.name)}</h2><div class="chips">{chips}</div></div>',
        status_bar(source.status_counts()),
    ]
    if limits:
        key = [("kept", "kept"), ("rejected", "beyond this limit"), ("other", "dropped for something else"), ("line", "limit")]
        blocks.append(f'<h3 class="section-title">At the limits</h3>{legend(key)}<br>')
        blocks += [_limit_panel(source, sheet, gallery) for sheet in limits]
    if reasons:
        blocks.append('<h3 class="section-title">Other reasons</h3>')
        blocks += [_reason_panel(sheet, gallery) for sheet in reasons]
    blocks += [_errors(output, source), _angles(source), _free_scores(source, {sheet.title for sheet in limits}), "</section>"]
    return "\n".join(block for block in blocks if block)


def _chips(source: SourceData, recipe: Mapping[str, Any]) -> list[str]:
    counts = source.status_counts()
    chips = [str(recipe["ingest"])] if recipe.get("ingest", source.name) != source.name else []
    chips += [f"{source.found:,} candidates", f"{counts[str(Status.KEPT)]:,} kept"]
    chips.append(f"licence: {recipe['license']}" if recipe.get("license") else "licence not stated")
    if recipe.get("target_count"):
        chips.append(f"keeps the best {recipe['target_count']:,} by {recipe['best_by']}")
    return chips


def _limit_panel(source: SourceData, sheet: Sheet, gallery: Gallery) -> str:
    histogram = make_histogram(sheet.title, source.scores[sheet.title], source.kept, sheet.limits)
    score = SCORES[sheet.title]
    chart = histogram_chart(histogram, source.name) if histogram is not None else '<p class="empty">No finite value.</p>'
    facts = _facts(histogram) if histogram is not None else ""
    kept = _side(f"Kept, nearest first ({sheet.n_kept:,})", sheet.kept, gallery, "Nothing was kept.")
    rejected = _side(f"Beyond the limit, nearest first ({sheet.n_rejected:,})", sheet.rejected, gallery, "Nothing lies beyond.")
    return (
        f'<article class="panel"><div><h3>{escape(_title(sheet.title))}</h3><p class="what">{escape(score.meaning)} ({escape(score.unit)})</p>'
        f'{chart}{facts}</div><div class="sides">{kept}{rejected}</div></article>'
    )


def _facts(histogram: Histogram) -> str:
    parts = [f"<b>{histogram.total:,}</b> values, median <b>{format_number(histogram.median)}</b>"]
    for limit, beyond in zip(histogram.limits, histogram.beyond_limit, strict=True):
        parts.append(f"<b>{beyond:,}</b> ({beyond / histogram.total:.1%}) {'below' if limit.op == '>=' else 'above'} {format_number(limit.value)}: <code>{escape(limit.reason)}</code>")
    if histogram.logarithmic:
        parts.append("logarithmic axis")
    return f'<p class="facts">{"<br>".join(parts)}</p>'


def _reason_panel(sheet: Sheet, gallery: Gallery) -> str:
    text = REASON_TEXT[Reason(sheet.title)]
    shown = "".join(_tile(entry, gallery) for entry in sheet.rejected)
    return (
        f'<article class="panel"><div><h3><code class="text-rejected">{escape(sheet.title)}</code></h3><p class="what">{escape(text)}</p>'
        f'<p class="facts"><b>{sheet.n_rejected:,}</b> rows; {len(sheet.rejected)} shown, spread over the source</p></div>'
        f'<div class="sides one"><div class="tiles">{shown}</div></div></article>'
    )


def _side(title: str, entries: tuple[Entry, ...], gallery: Gallery, empty: str) -> str:
    tiles = "".join(_tile(entry, gallery) for entry in entries)
    return f'<div><h4>{escape(title)}</h4>' + (f'<div class="tiles">{tiles}</div></div>' if entries else f'<p class="empty">{escape(empty)}</p></div>')


def _tile(entry: Entry, gallery: Gallery) -> str:
    picture, name = gallery.picture(entry.sample_id), escape(entry.sample_id)
    if picture.number is None:
        image = f'<div class="gone">{escape(picture.missing)}</div>'
    else:
        image = f'<img data-picture="{picture.number}" width="{picture.width}" height="{picture.height}" alt="{name}">'
    value = ""
    if entry.score is not None and entry.limit is not None:
        sign = "≥" if entry.limit.op == ">=" else "≤"
        value = f'<span><b>{format_number(entry.score)}</b> <span class="off">{sign} {format_number(entry.limit.value)}</span></span>'
    return f'<figure class="tile">{image}<figcaption><code title="{name}">{name}</code>{value}</figcaption></figure>'


def _errors(output: OutputFolder, source: SourceData) -> str:
    columns = ["sample_id", "candidate_id", "reasons", "stage", "error_message"]
    failed = (ds.field("source") == source.name) & (ds.field("status") == str(Status.ERROR))
    rows = output.table("samples", columns, failed).to_pylist()
    if not rows:
        return ""
    body = []
    for row in rows[:MOST_ERRORS]:
        codes = " ".join(reason for reason in row["reasons"] if reason in ERRORS)
        body.append(
            f'<tr><td class="name"><code class="text-error">{escape(codes)}</code></td><td class="wide"><code>{escape(row["candidate_id"])}</code></td>'
            f'<td class="wide">{escape(row["error_message"] or "")}</td><td>{escape(row["stage"] or "")}</td></tr>'
        )
    more = f'<p class="note">{len(rows) - MOST_ERRORS:,} more: pipeline.audit sql.</p>' if len(rows) > MOST_ERRORS else ""
    return (
        f'<h3 class="section-title">Errors ({len(rows):,})</h3><div class="scroll"><table class="errors"><thead><tr><th>Code</th><th>Candidate</th>'
        f'<th>Message</th><th>Stage</th></tr></thead><tbody>{"".join(body)}</tbody></table></div>{more}'
    )


def _angles(source: SourceData) -> str:
    if len(source.pair_angles) == 0:
        return ""
    largest = max(source.angle_bins.values(), default=0)
    rows = "".join(
        f'<tr><td class="name">{escape(name)}°</td><td class="number">{source.angle_bins[name]:,}</td><td>{bar(source.angle_bins[name], largest, "kept")}</td></tr>'
        for name in ANGLE_BINS
    )
    return (
        '<h3 class="section-title">Angles between views</h3><article class="panel"><div>'
        f'<p class="what">The {escape(source.angle_kind)} of every pair of views of what was kept, median over its frames.</p>'
        f'{angle_chart(source.pair_angles, source.name)}</div><div><h4>Samples in shards, by angle bin</h4><div class="scroll"><table class="bins">'
        f'<thead><tr><th>Bin</th><th class="number">samples</th><th></th></tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="note">The bins overlap, as the curriculum\'s do, so a sample may count in two.</p></div></article>'
    )


def _free_scores(source: SourceData, limited: set[str]) -> str:
    cards = []
    for name, values in source.scores.items():
        histogram = None if name in limited else make_histogram(name, values, source.kept, ())
        if histogram is None:
            continue
        score = SCORES[name]
        cards.append(
            f'<article class="card"><h3>{escape(_title(name))}</h3><p class="what">{escape(score.meaning)} ({escape(score.unit)})</p>'
            f'{histogram_chart(histogram, source.name)}{_facts(histogram)}</article>'
        )
    return f'<h3 class="section-title">Scores without a limit</h3><div class="grid">{"".join(cards)}</div>' if cards else ""


def _title(score: str) -> str:
    return score.replace("_", " ").capitalize()


def run_section(output: OutputFolder) -> str:
    """What made this folder: versions, hashes, inputs, and the recipe as it ran."""
    run = output.run
    facts = [(label, run[key]) for key, label in _FACTS.items() if run.get(key) is not None]
    facts += [(f"input {name}", root) for name, root in run.get("inputs", {}).items()]
    rows = "".join(f'<tr><td class="name">{escape(label)}</td><td class="wide"><code>{escape(str(value))}</code></td></tr>' for label, value in facts)
    recipe = json.dumps(run.get("recipe", {}), indent=2, sort_keys=True, ensure_ascii=False)
    return (
        f'<section id="run"><div class="source-head"><h2>Run</h2></div><div class="scroll"><table><tbody>{rows}</tbody></table></div><br>'
        f'<details><summary>The recipe as it ran</summary><div class="scroll"><pre><code>{escape(recipe)}</code></pre></div></details></section>'
    )


_FACTS = {
    "state": "state",
    "parallax_version": "Parallax",
    "code_version": "code",
    "lock_sha256": "requirements.lock",
    "recipe_sha256": "recipe",
    "seed": "seed",
    "limit": "limit",
    "units": "units of work",
}
