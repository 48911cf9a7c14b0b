"""Small pieces of HTML and SVG. Text arguments are escaped here; `html` arguments are markup already."""

from collections.abc import Sequence
from html import escape


def rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    """An SVG rectangle of the style sheet's class `kind`; never narrower than a pixel."""
    return f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{max(1.0, width):.2f}" height="{height:.2f}"/>'


def line(kind: str, x1: float, y1: float, x2: float, y2: float, data: str = "") -> str:
    """An SVG line; `data` holds further attributes as markup."""
    return f'<line class="{kind}" {data} x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}"/>'


def label(kind: str, x: float, y: float, text: str, anchor: str = "middle") -> str:
    """An SVG text."""
    return f'<text class="{kind}" x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{escape(text)}</text>'


def chart(kind: str, width: int, height: int, spoken: str, shapes: Sequence[str], **data: str) -> str:
    """An SVG picture that scales with its box; `spoken` is what a screen reader says, `data` become data attributes."""
    attributes = "".join(f' data-{name}="{escape(value)}"' for name, value in data.items())
    head = f'<svg class="chart {kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(spoken)}"{attributes}>'
    return f"{head}{''.join(shapes)}</svg>"


def cell(html: str, kind: str = "") -> str:
    """A table cell."""
    return f'<td class="{kind}">{html}</td>' if kind else f"<td>{html}</td>"


def count_cell(count: int) -> str:
    """A table cell with a number; zero is drawn faintly."""
    return cell(f"{count:,}", "number" if count else "number zero")


def code(text: str, kind: str = "") -> str:
    return f'<code class="{kind}">{escape(text)}</code>' if kind else f"<code>{escape(text)}</code>"


def table(kind: str, heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls sideways where it must. heads: (text, class of the column's head); rows: cells as markup."""
    head = "".join(f'<th class="{style}">{escape(text)}</th>' if style else f"<th>{escape(text)}</th>" for text, style in heads)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    header = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return f'<div class="scroll"><table class="{kind}">{header}<tbody>{body}</tbody></table></div>'


def heading(text: str) -> str:
    return f'<h3 class="section-title">{escape(text)}</h3>'
