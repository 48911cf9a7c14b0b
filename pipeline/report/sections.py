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
from pipeline.report.markup import cell, code, count_cell, heading, table
from pipeline.report.overlays import TITLES
from pipeline.report.scenes import Scenes, scenes_block
from pipeline.report.sheets import Entry, Sheet
from schemas.manifest import ANGLE_BINS
from schemas.scores import SCORES, Score
from schemas.verdict import ERRORS, REASON_TEXT, Reason, Status

MOST_ERRORS = 40
_TAIL = 10  # characters of a sample id that are never cut


def source_section(output: OutputFolder, source: SourceData, number: int, gallery: Gallery, scenes: Scenes) -> str:
    """Everything about one source."""
    recipe = output.run.get("recipe", {}).get("sources", {}).get(source.name, {})
    chips = "".join(f'<span class="chip">{escape(text)}</span>' for text in _chips(source, recipe))
    limits = gallery.limit_sheets[source.name]
    reasons = gallery.reason_sheets[source.name]
    blocks = [
        f'<section id="source-{number}"><div class="source-head"><h2>{escape(source.name)}</h2><div class="chips">{chips}</div></div>',
        status_bar(source.status_counts()),
    ]
    crossed = [sheet for sheet in limits if sheet.n_rejected]
    quiet = [sheet for sheet in limits if not sheet.n_rejected]
    if limits:
        key = [("kept", "kept"), ("rejected", "beyond this limit"), ("other", "dropped for something else"), ("line", "limit")]
        blocks.append(f"{heading('At the limits')}{legend(key)}<br>")
        blocks += [_limit_panel(source, sheet, gallery) for sheet in crossed]
    if quiet:
        title = heading("Limits that nothing crosses") if crossed else ""
        blocks.append(f'{title}<div class="grid">{"".join(_quiet_card(source, sheet, gallery) for sheet in quiet)}</div>')
    if reasons:
        blocks.append(heading("Other reasons"))
        blocks += [_reason_panel(sheet, gallery) for sheet in reasons]
    if found := gallery.member_sheets[source.name]:
        blocks.append(heading("What the stages saw"))
        blocks += [_member_panel(sheet, gallery) for sheet in found]
    blocks += [
        _errors(output, source),
        scenes_block(source, scenes),
        _angles(source),
        _free_scores(source, {sheet.title for sheet in limits}),
        "</section>",
    ]
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
    # No longer than the other side, so that the page stays short: but two, to see what the limit lets through.
    beside = sheet.kept[: max(2, len(sheet.rejected))]
    kept = _side(f"Kept, nearest first ({sheet.n_kept:,})", beside, gallery, "Nothing was kept.")
    rejected = _side(f"Beyond the limit, nearest first ({sheet.n_rejected:,})", sheet.rejected, gallery, "Nothing lies beyond.")
    return (
        f'<article class="panel"><div><h3>{_title(sheet.title)}</h3><p class="what">{escape(_meaning(score))}</p>'
        f'{chart}{facts}</div><div class="sides">{kept}{rejected}</div></article>'
    )


def _quiet_card(source: SourceData, sheet: Sheet, gallery: Gallery) -> str:
    """A limit that rejects nothing: its histogram and the sample that comes nearest."""
    histogram = make_histogram(sheet.title, source.scores[sheet.title], source.kept, sheet.limits)
    if histogram is None:
        return ""
    nearest = "".join(_tile(entry, gallery) for entry in sheet.kept[:1])
    return _card(source, histogram, f"<h4>Kept, nearest</h4>{nearest}" if nearest else "")


def _card(source: SourceData, histogram: Histogram, more: str = "") -> str:
    score = SCORES[histogram.score]
    return (
        f'<article class="card"><h3>{_title(histogram.score)}</h3><p class="what">{escape(_meaning(score))}</p>'
        f"{histogram_chart(histogram, source.name)}{_facts(histogram)}{more}</article>"
    )


def _facts(histogram: Histogram) -> str:
    parts = [f"<b>{histogram.total:,}</b> {'value' if histogram.total == 1 else 'values'}, median <b>{format_number(histogram.median)}</b>"]
    for limit, beyond in zip(histogram.limits, histogram.beyond_limit, strict=True):
        side = "below" if limit.op == ">=" else "above"
        parts.append(f"<b>{beyond:,}</b> ({beyond / histogram.total:.1%}) {side} {format_number(limit.value)}: {code(limit.reason)}")
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


def _member_panel(sheet: Sheet, gallery: Gallery) -> str:
    """What a stage found, drawn over the frames it looked at."""
    shown = "".join(_tile(entry, gallery) for entry in sheet.kept)
    return (
        f'<article class="panel"><div><h3><code>{escape(sheet.title)}</code></h3><p class="what">{escape(TITLES[sheet.title][1])}</p>'
        f'<p class="facts"><b>{sheet.n_kept:,}</b> rows; {len(sheet.kept)} shown, spread over the source</p></div>'
        f'<div class="sides one"><div class="tiles">{shown}</div></div></article>'
    )


def _side(title: str, entries: tuple[Entry, ...], gallery: Gallery, empty: str) -> str:
    tiles = "".join(_tile(entry, gallery) for entry in entries)
    return f"<div><h4>{escape(title)}</h4>" + (
        f'<div class="tiles">{tiles}</div></div>' if entries else f'<p class="empty">{escape(empty)}</p></div>'
    )


def _tile(entry: Entry, gallery: Gallery) -> str:
    picture, name = gallery.picture(entry), escape(entry.sample_id)
    if picture.number is None:
        image = f'<div class="gone">{escape(picture.missing)}</div>'
    else:
        image = f'<img data-picture="{picture.number}" width="{picture.width}" height="{picture.height}" alt="{name}">'
    value = ""
    if entry.score is not None and entry.limit is not None:
        allowed = f"{'≥' if entry.limit.op == '>=' else '≤'} {format_number(entry.limit.value)}"
        value = f'<span class="value"><b>{format_number(entry.score)}</b> <span class="off">{allowed}</span></span>'
    # The end of a long name tells children of one parent apart, so it is the middle that gives way.
    label = f'<code title="{name}"><span>{escape(entry.sample_id[:-_TAIL])}</span>{escape(entry.sample_id[-_TAIL:])}</code>'
    return f'<figure class="tile">{image}<figcaption>{label}{value}</figcaption></figure>'


def _errors(output: OutputFolder, source: SourceData) -> str:
    columns = ["sample_id", "candidate_id", "reasons", "stage", "error_message"]
    failed = (ds.field("source") == source.name) & (ds.field("status") == str(Status.ERROR))
    total = source.status_counts()[str(Status.ERROR)]
    body = []
    for row in output.dataset("samples").head(MOST_ERRORS, columns=columns, filter=failed).to_pylist():
        codes = " ".join(reason for reason in row["reasons"] if reason in ERRORS)
        what = [cell(code(codes, "text-error"), "name"), cell(code(row["candidate_id"]), "wide")]
        body.append([*what, cell(escape(row["error_message"] or ""), "wide"), cell(escape(row["stage"] or ""), "name")])
    if not body:
        return ""
    heads = [("Code", ""), ("Candidate", ""), ("Message", ""), ("Stage", "")]
    more = f'<p class="note">{total - len(body):,} more, for pipeline.audit sql.</p>' if total > len(body) else ""
    return f"{heading(f'Errors ({total:,})')}{table('errors', heads, body)}{more}"


def _angles(source: SourceData) -> str:
    if len(source.pair_angles) == 0:
        return ""
    largest = max(source.angle_bins.values(), default=0)
    counts = {name: source.angle_bins[name] for name in ANGLE_BINS}
    rows = [[cell(f"{name}°", "name"), count_cell(count), cell(bar(count, largest, "kept"))] for name, count in counts.items()]
    return (
        f'{heading("Angles between views")}<article class="panel"><div>'
        f'<p class="what">The {escape(source.angle_kind)} of every pair of views of what was kept, median over its frames.</p>'
        f"{angle_chart(source.pair_angles, source.name)}</div><div><h4>Samples in shards, by angle bin</h4>"
        f"{table('bins', [('Bin', ''), ('samples', 'number'), ('', '')], rows)}"
        '<p class="note">The bins overlap, as the curriculum\'s do, and a sample counts in every bin that it serves.</p></div></article>'
    )


def _free_scores(source: SourceData, limited: set[str]) -> str:
    cards = []
    for name, values in source.scores.items():
        histogram = None if name in limited else make_histogram(name, values, source.kept, ())
        if histogram is not None:
            cards.append(_card(source, histogram))
    return f'{heading("Scores without a limit")}<div class="grid">{"".join(cards)}</div>' if cards else ""


_TITLES = {
    "fps": "Frame rate",
    "n_frames": "Frames",
    "n_views": "Views",
    "fov_deg": "Field of view",
    "sync_fps_spread": "Sync frame rate spread",
}


def _title(score: str) -> str:
    """A readable name, beside the one that recipes and SQL use."""
    words = score.split("_")
    plain = " ".join(words[:-1] if words[-1] in ("s", "ms", "deg") else words)
    return f'{escape(_TITLES.get(score, _sentence(plain)))} <code class="key">{escape(score)}</code>'


def _meaning(score: Score) -> str:
    """The score's meaning with its unit, unless the words name that already."""
    return _sentence(score.meaning) + ("" if score.unit in ("fraction", "frames", "views") else f", {score.unit}")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def run_section(output: OutputFolder) -> str:
    """What made this folder: versions, hashes, inputs, and the recipe as it ran."""
    run = output.run
    facts = [(label, run[key]) for key, label in _FACTS.items() if run.get(key) is not None]
    facts += [(f"input {name}", root) for name, root in run.get("inputs", {}).items()]
    rows = [[cell(escape(name), "name"), cell(code(str(value)), "wide")] for name, value in facts]
    recipe = json.dumps(run.get("recipe", {}), indent=2, sort_keys=True, ensure_ascii=False)
    return (
        f'<section id="run"><div class="source-head"><h2>Run</h2></div>{table("run", [], rows)}<br>'
        f'<details><summary>The recipe as it ran</summary><div class="scroll"><pre>{code(recipe)}</pre></div></details></section>'
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
