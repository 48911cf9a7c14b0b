"""The page as a whole: head, headline counts, tables, one section a source, the run."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from string import Template

from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.layout import human_bytes
from pipeline.auditing.summary import format_budget, summarize
from pipeline.report import explorer, sections
from pipeline.report.assets import BRAND, THEME, asset, embedded, policy
from pipeline.report.charts import bar, legend, status_bar
from pipeline.report.cost import Cost, cost_section, measure, projection
from pipeline.report.data import SourceData, load_source
from pipeline.report.gallery import Gallery
from pipeline.report.markup import cell, code, count_cell, table
from pipeline.report.scenes import Scenes
from schemas.verdict import ERRORS, REASON_TEXT, SKIPS, Reason, Status

STATUSES = [str(status) for status in Status]
_STYLES = ("page.css", "samples.css", "camera_view.css")
_SCRIPTS = ("theme.js", "camera_view.js", "samples.js", "cost.js", "page.js")


def render(output: OutputFolder) -> tuple[str, bool]:
    """The report as one HTML document, and whether it has every picture that another time may give. The same folder and footage give the
    same text."""
    sources = [load_source(output, name) for name in output.sources()]
    listed = explorer.choose(sources)
    gallery, scenes, costs = Gallery(output, sources, listed), Scenes(output, sources), measure(output, sources)
    body = _body(output, sources, gallery, scenes, costs)
    style, script = ("".join(map(asset, names)) for names in (_STYLES, _SCRIPTS))
    samples = explorer.explorer_json(output, sources, listed, gallery.numbers, scenes.by_sample)
    data = {"samples": samples, "scenes": scenes.all, "costs": projection(costs)}
    name = str(output.run.get("recipe", {}).get("name", output.path.name))
    page = Template(asset("page.html")).substitute(
        policy=escape(policy(style, script)),
        title=f"Parallax: {escape(name)}",
        style=style,
        script=script,
        body=body,
        pictures=embedded(json.dumps(gallery.data_uris())),
        data=embedded(json.dumps(data, separators=(",", ":"))),
    )
    return page, gallery.complete


def _body(output: OutputFolder, sources: Sequence[SourceData], gallery: Gallery, scenes: Scenes, costs: Mapping[str, Cost]) -> str:
    links = "".join(f'<a href="#source-{i}">{escape(source.name)}</a>' for i, source in enumerate(sources))
    around = ("sources", "Overview"), ("samples", "Samples"), ("cost", "Cost"), ("run", "Run")
    overview, samples, cost, run = (f'<a href="#{place}">{name}</a>' for place, name in around)
    nav = f'<nav aria-label="Sections">{overview}{samples}{links}{cost}{run}</nav>'
    return "\n".join(
        [
            f'<header class="top"><div>{BRAND}{nav}{THEME}</div></header>',
            "<main>",
            _hero(output),
            _cards(output, sources),
            _source_table(sources),
            _reason_table(sources),
            explorer.explorer_section(),
            *(sections.source_section(output, source, i, gallery, scenes) for i, source in enumerate(sources)),
            cost_section(costs),
            sections.run_section(output),
            "</main>",
            '<dialog id="viewer"><img alt=""><p></p></dialog><dialog id="sample" aria-labelledby="sample-title"></dialog>',
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
