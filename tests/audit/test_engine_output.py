"""What pipeline.curate writes passes the audit as it is, and its report draws from shards and from footage."""

import json
from pathlib import Path

import pytest

from pipeline.audit import main
from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.summary import summarize
from pipeline.auditing.verify import verify
from pipeline.curate import main as curate
from tests.audit.fabricate import small_video

RECIPE = """
name: tiny
sources:
  clips:
    license: CC0
    stages:
      - header: {min_duration_s: 0.5}
      - quality: {every: true, min_sharpness: 1.0}
"""


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curated")
    (folder / "footage").mkdir()
    for i, frames in enumerate((9, 12, 3)):
        (folder / "footage" / f"clip {i}.mp4").write_bytes(small_video(i, frames))
    (folder / "footage" / "broken.mp4").write_bytes(b"no video at all")
    (folder / "recipe.yaml").write_text(RECIPE)
    arguments = [str(folder / "recipe.yaml"), f"--input=clips={folder / 'footage'}", f"--output={folder / 'out'}"]
    assert curate([*arguments, "--executor=inline", "--error-budget=0.5", "--quiet"]) == 0
    return folder / "out"


def test_verify_finds_nothing(curated: Path) -> None:
    assert [str(problem) for problem in verify(OutputFolder(curated))] == []


def test_the_summary_counts_what_the_run_counted(curated: Path) -> None:
    run = json.loads((curated / "run.json").read_text())
    clips = summarize(OutputFolder(curated))["sources"]["clips"]
    assert {name: clips[name] for name in ("kept", "rejected", "error", "skipped") if clips[name]} == run["counts"]["clips"]
    assert (clips["kept"], clips["rejected"], clips["error"]) == (2, 1, 1)
    assert clips["reasons"] == run["reasons"]["clips"] == {"too_short": 1, "E_OPEN": 1}
    assert clips["text"] == run["text"]["clips"]


def test_the_report_shows_kept_and_rejected_footage(curated: Path) -> None:
    text = (curated / "report" / "index.html").read_text("utf-8")
    pictures = json.loads(text.split('id="pictures">')[1].split("</script>")[0])
    assert len(pictures) == 3  # two kept from their shard, one rejected from the footage
    assert "not available" not in text and "cannot be shown" not in text
    assert main(["report", str(curated), f"--output={curated.parent / 'again.html'}"]) == 0
    assert (curated.parent / "again.html").read_text("utf-8") == text
