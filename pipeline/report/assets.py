"""Pieces of every page: files of this package, what a page may load (nothing), and data inside it."""

import base64
from hashlib import sha256
from importlib import resources

MARK = (
    '<svg viewBox="0 0 22 22" aria-hidden="true"><rect x="1.5" y="5.5" width="12" height="9" rx="2" fill="none" stroke="var(--faint)" '
    'stroke-width="1.6"/><rect x="8.5" y="8.5" width="12" height="9" rx="2" fill="var(--card)" stroke="var(--kept)" '
    'stroke-width="1.6"/></svg>'
)
HALF_MOON = (
    '<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6" fill="none" stroke="currentColor"/>'
    '<path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor"/></svg>'
)
BRAND = f'<span class="brand">{MARK}Parallax</span>'
THEME = f'<button id="theme" type="button" title="Light or dark" aria-label="Light or dark">{HALF_MOON}</button>'


def asset(name: str) -> str:
    """A text file of this package."""
    return resources.files("pipeline.report").joinpath(name).read_text("utf-8")


def policy(style: str, script: str) -> str:
    """Nothing may be loaded from anywhere, and only this style and this script count."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(sha256(text.encode()).digest()).decode()


def embedded(text: str) -> str:
    """JSON for the inside of a <script> block: "</script>" in a string would end it, and JSON may write "<" as an escape."""
    return text.replace("<", "\\u003c")
