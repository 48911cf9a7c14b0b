import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.doctor import BROWSERS
from pipeline.report import write_report
from schemas.camera import intrinsics, look_at
from schemas.manifest import UNITS
from tests.audit.fabricate import Fabricated, make_output, read_table, write_table

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
    add_cameras(made)
    write_table(made.path, "units", UNITS_ROWS)
    return made, write_report(made.path)


# Seconds and candidates as a person would check them: clips took 30 s for 26, of which stages count 21 s.
UNITS_ROWS = [
    dict.fromkeys(UNITS.names, 0) | {"unit": "u0", "unit_key": "k", "host": "h"} | row
    for row in (
        {"source": "clips", "n_candidates": 20, "ended_ns": 20 * 10**9, "seconds": [("quality", 12.0), ("payload", 4.0)]},
        {
            "source": "clips",
            "n_candidates": 6,
            "ended_ns": 10 * 10**9,
            "seconds": [("quality", 5.0)],
            "steps_computed": 9,
            "steps_reused": 1,
        },
        {"source": "scenes", "n_candidates": 4, "ended_ns": 8 * 10**9, "seconds": [("payload", 8.0)], "steps_computed": 5},
    )
]


def add_cameras(made: Fabricated) -> None:
    """A cameras.npz of six cameras on a circle to every kept scene: behind its shard's last byte, where the table says."""
    shards = read_table(made.path, "shards")
    for shard in shards:
        if shard["source"] != "scenes":
            continue
        path = made.path / "shards" / shard["shard"]
        for sample_id in sorted({member["sample_id"] for member in shard["members"]}):
            data, size = cameras_npz(), path.stat().st_size
            with path.open("ab") as file:
                file.write(data)
            shard["members"].append({"sample_id": sample_id, "name": "cameras.npz", "offset": size, "size": len(data), "sha256": "0" * 64})
    write_table(made.path, "shards", shards)


def cameras_npz() -> bytes:
    """Static, 4 m from the middle, 20 degrees apart."""
    angles = np.radians(20.0) * np.arange(6)
    c2w = np.stack([look_at((4 * np.cos(a), 4 * np.sin(a), 1.5), (0, 0, 1)) for a in angles])[:, None]
    arrays = {"c2w": c2w, "K": np.tile(intrinsics(150, 150, 80, 45), (6, 1, 1, 1)), "frame": np.zeros((6, 1), np.int64)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, size=np.tile([160, 90], (6, 1)), distortion=np.zeros((6, 0)), metric=np.ones(6, bool))
    return buffer.getvalue()


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
