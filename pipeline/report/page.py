"""The page as a whole: head, headline counts, tables, one section a source, the run."""

import base64
import json
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib import resources
from string import Template

from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.layout import human_bytes
from pipeline.auditing.summary import format_budget, summarize
from pipeline.report import sections
from pipeline.report.charts import bar, legend, status_bar
from pipeline.report.data import SourceData, load_source
from pipeline.report.gallery import Gallery
from pipeline.report.markup import cell, code, count_cell, table
from schemas.verdict import ERRORS, REASON_TEXT, SKIPS, Reason, Status

STATUSES = [str(status) for status in Status]
MARK = (
    '<svg viewBox="0 0 22 22" aria-hidden="true"><rect x="1.5" y="5.5" width="12" height="9" rx="2" fill="none" stroke="var(--faint)" '
    'stroke-width="1.6"/><rect x="8.5" y="8.5" width="12" height="9" rx="2" fill="var(--card)" stroke="var(--kept)" '
    'stroke-width="1.6"/></svg>'
)
HALF_MOON = (
    '<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6" fill="none" stroke="currentColor"/>'
    '<path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor"/></svg>'
)
THEME = f'<button id="theme" type="button" title="Light or dark" aria-label="Light or dark">{HALF_MOON}</button>'


def render(output: OutputFolder) -> str:
    """The report as one HTML document. The same folder and footage give the same text."""
    sources = [load_source(output, name) for name in output.sources()]
    gallery = Gallery(output, sources)
    body = _body(output, sources, gallery)
    style, script = _asset("page.css"), _asset("page.js")
    name = str(output.run.get("recipe", {}).get("name", output.path.name))
    return Template(_asset("page.html")).substitute(
        policy=escape(_policy(style, script)),
        title=f"Parallax: {escape(name)}",
        style=style,
        script=script,
        body=body,
        # "</script>" inside a string would end the block; JSON may write "<" as an escape.
        pictures=json.dumps(gallery.data_uris()).replace("<", "\\u003c"),
    )


def _policy(style: str, script: str) -> str:
    """Nothing may be loaded from anywhere, and only the style and the script of this file count."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    return resources.files("pipeline.report").joinpath(name).read_text("utf-8")


def _body(output: OutputFolder, sources: Sequence[SourceData], gallery: Gallery) -> str:
    links = "".join(f'<a href="#source-{i}">{escape(source.name)}</a>' for i, source in enumerate(sources))
    nav = f'<nav aria-label="Sections"><a href="#sources">Overview</a>{links}<a href="#run">Run</a></nav>'
    return "\n".join(
        [
            f'<header class="top"><div><span class="brand">{MARK}Parallax</span>{nav}{THEME}</div></header>',
            "<main>",
            _hero(output),
            _cards(output, sources),
            _source_table(sources),
            _reason_table(sources),
            *(sections.source_section(output, source, i, gallery) for i, source in enumerate(sources)),
            sections.run_section(output),
            "</main>",
            '<dialog id="viewer"><img alt=""><p></p></dialog>',
        ]
    )


def _hero(output: OutputFolder) -> str:
    run = output.run
    recipe = run.get("recipe", {})
    state = str(run.get("state", "unknown"))
    chips = [f'<span class="chip{"" if state == "done" else " warn"}">{escape(state)}</span>']
    if "seed" in run:
        chips.append(f'<span class="chip">seed {escape(str(run["seed"]))}</span>')
    if run.get("recipe_sha256"):
        chips.append(f'<span class="chip">recipe {escape(str(run["recipe_sha256"])[:10])}</span>')
    description = escape(" ".join(str(recipe.get("description", "")).split()))
    notice = ""
    if state != "done":
        notice = (
            f'<p class="notice">This run is <b>{escape(state)}</b>: what you see is what its manifest holds so far. '
            "The same pipeline.curate command resumes it.</p>"
        )
    budget = run.get("error_budget")
    if budget and budget["exceeded"]:
        notice += f'<p class="notice">{escape(format_budget(budget).capitalize())}.</p>'
    title = escape(str(recipe.get("name", output.path.name)))
    return f'<div class="hero"><div><h1>{title}</h1><p>{description}</p></div><div class="chips">{"".join(chips)}</div></div>{notice}'


def _cards(output: OutputFolder, sources: Sequence[SourceData]) -> str:
    summary = summarize(output)
    counts = {status: sum(each[status] for each in summary["sources"].values()) for status in STATUSES}
    judged = sum(counts.values())
    found, shards, budget = summary["candidates"], summary["shards"], summary["error_budget"]
    with_text = sum(source.with_text for source in sources)
    packed = sum(source.packed for source in sources)

    def share(count: int) -> str:
        return f"{count / judged:.1%} of samples judged" if judged else "nothing was judged"

    errors = f"{budget['errors']} of {budget['judged']} samples judged; budget {budget['limit']:.0%}" if budget else share(counts["error"])
    text = f"{with_text / packed:.0%} with text" if packed else ""
    cards = [
        ("", f"{found:,}", "candidates", f"in {len(sources)} source{'s' if len(sources) != 1 else ''}; {judged:,} samples judged"),
        ("text-kept", f"{counts['kept']:,}", "kept", share(counts["kept"])),
        ("text-rejected", f"{counts['rejected']:,}", "rejected", share(counts["rejected"])),
        ("text-error", f"{counts['error']:,}", "errors", errors),
        ("text-skipped", f"{counts['skipped']:,}", "skipped", share(counts["skipped"])),
        ("", f"{shards['count']:,}", "shards", f"{human_bytes(shards['bytes'])}; {text}" if text else human_bytes(shards["bytes"])),
    ]
    tiles = "".join(
        f'<div class="card"><b class="{kind}">{value}</b><span>{label}</span><small>{escape(note)}</small></div>'
        for kind, value, label, note in cards
    )
    key = legend([(status, status) for status in STATUSES])
    return f'<div class="cards">{tiles}</div>{status_bar(counts)}{key}'


def _source_table(sources: Sequence[SourceData]) -> str:
    heads = [("Source", ""), ("Verdicts", ""), *((name, "number") for name in ["candidates", *STATUSES, "in shards", "with text"])]
    rows = []
    for i, source in enumerate(sources):
        counts = source.status_counts()
        link = cell(f'<a href="#source-{i}">{escape(source.name)}</a>', "name")
        text = cell(f"{source.with_text / source.packed:.0%}" if source.packed else "–", "number")
        numbers = [count_cell(count) for count in (source.found, *counts.values(), source.packed)]
        rows.append([link, cell(status_bar(counts)), *numbers, text])
    return (
        f'<h2 id="sources">Sources</h2>{table("sources", heads, rows)}'
        '<p class="note">Candidates are what ingest found. Verdicts are over samples: a scene that view groups or windows were '
        "drawn from counts through these, and by itself only when it failed.</p>"
    )


def _reason_table(sources: Sequence[SourceData]) -> str:
    per_source = [source.reason_counts() for source in sources]
    totals: Counter[str] = sum((Counter(counts) for counts in per_source), Counter())
    if not totals:
        return '<h2 id="reasons">Reasons</h2><p class="note">Nothing was rejected.</p>'
    heads = [("Reason", ""), ("Meaning", ""), *((source.name, "number") for source in sources), ("all", "number"), ("", "")]
    rows = []
    for name, total in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
        kind = reason_status(name)
        numbers = [count_cell(counts.get(name, 0)) for counts in per_source]
        what = [cell(code(name, f"text-{kind}"), "name"), cell(escape(reason_text(name)), "wide")]
        rows.append([*what, *numbers, cell(f"<b>{total:,}</b>", "number"), cell(bar(total, max(totals.values()), kind))])
    return (
        f'<h2 id="reasons">Reasons</h2>{table("reasons", heads, rows)}'
        '<p class="note">A row with several reasons counts under each of them. Reasons in capitals are errors: the candidate '
        "could not be examined.</p>"
    )


def reason_text(name: str) -> str:
    """What a reason means; a manifest of a later version may hold one that this version does not know."""
    return REASON_TEXT[Reason(name)] if name in set(Reason) else "Not known to this version."


def reason_status(name: str) -> str:
    if name in ERRORS:
        return str(Status.ERROR)
    return str(Status.SKIPPED if name in SKIPS else Status.REJECTED)
