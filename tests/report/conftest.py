import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor import BROWSERS
from pipeline.report import write_report
from tests.audit.fabricate import Fabricated, make_output

# A browser of a fresh machine asks the network for updates and components; a test must not.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fabricated, Path]:
    """A fabricated output folder and its report."""
    made = make_output(tmp_path_factory.mktemp("report"))
    return made, write_report(made.path)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no browser found; install a browser: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing; uv pip install '.[dev]'")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


def watched(page: Any) -> Any:
    """The page with a list `trouble` of everything that no page of ours may do: complain, ask for a file, open a dialog."""
    page.trouble = []
    page.on("console", lambda message: page.trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: page.trouble.append(f"error: {error}"))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or page.trouble.append(f"request: {request.url}"))
    page.on("requestfailed", lambda request: page.trouble.append(f"failed: {request.url[:80]}"))
    page.on("dialog", lambda dialog: (page.trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    return page
