"""What is given to others has one licence, unless told; and a reader takes it like any other folder."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.audit import main
from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.summary import summarize
from pipeline.auditing.verify import verify
from pipeline.loader.catalog import Catalog
from schemas.manifest import SAMPLES
from tests.audit.fabricate import Fabricated

DEPTH = {"name": "depth-large", "sha256": "0" * 64, "license": "CC-BY-NC-4.0", "noncommercial": True}


def rewrite(folder: Path, **by_source: dict) -> None:
    """Other values in columns of all rows of a source."""
    for path in sorted((folder / "manifest" / "samples").glob("*.parquet")):
        rows = pq.read_table(path).to_pylist()
        changed = [{**row, **by_source.get(row["source"], {})} for row in rows]
        pq.write_table(pa.Table.from_pylist(changed, schema=SAMPLES), path)


@pytest.fixture
def licensed(folder: Path) -> Path:
    """clips CC0, scenes CC-BY-4.0, groups without a licence."""
    rewrite(folder, clips={"license": "CC0"}, scenes={"license": "CC-BY-4.0"}, groups={"license": None})
    return folder


def test_several_licences_are_refused_with_their_counts(licensed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "export"
    assert main(["export", str(licensed), "--output", str(target)]) == 2
    told = capsys.readouterr().err
    assert "CC-BY-4.0: 3 samples; CC0: 19 samples; none: 3 samples" in told and "--license" in told and "--mixed-licenses" in told
    assert main(["export", str(licensed), "--output", str(target), "--license", "CC0", "--license", "none"]) == 2
    assert main(["export", str(licensed), "--output", str(target), "--license", "CC-0"]) == 2
    assert "did you mean 'CC0'?" in capsys.readouterr().err
    assert not target.exists(), "nothing is written by what is refused"


def test_one_licence_is_a_sound_folder_that_training_reads(licensed: Path, tmp_path: Path, intact: Fabricated) -> None:
    target = tmp_path / "export"
    assert main(["export", str(licensed), "--output", str(target), "--license", "CC0"]) == 0
    assert verify(OutputFolder(target), lambda count: None) == []
    rows = OutputFolder(target).table("samples").to_pylist()
    assert {row["sample_id"] for row in rows} == {row["sample_id"] for row in intact.of("clips")}, "with what became of the others"
    catalog = Catalog.open(target)
    kept = {row["sample_id"] for row in rows if row["shard"] is not None}
    assert {catalog.sample_id(i) for i in range(len(catalog))} == kept and len(kept) == 19
    run = json.loads((target / "run.json").read_text())
    assert list(run["recipe"]["sources"]) == ["clips"] and run["exported"] == {"licenses": {"CC0": 19}}
    assert main(["export", str(licensed), "--output", str(target), "--license", "CC0"]) == 2, "a folder in use is left alone"


def test_mixed_when_told(licensed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "export"
    assert main(["export", str(licensed), "--output", str(target), "--mixed-licenses"]) == 0
    assert "CC0: 19 samples" in capsys.readouterr().out
    assert verify(OutputFolder(target), lambda count: None) == []
    assert len(Catalog.open(target)) == 25


def test_noncommercial_weights_are_refused_unless_accepted(licensed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(licensed, clips={"license": "CC0", "weights": [DEPTH]})
    command = ["export", str(licensed), "--output", str(tmp_path / "export"), "--license", "CC0"]
    assert main(command) == 2
    assert "depth-large (CC-BY-NC-4.0): 19 samples" in capsys.readouterr().err
    assert main([*command, "--accept-noncommercial"]) == 0
    assert "made with non-commercial depth-large: 19 samples" in capsys.readouterr().out
    assert main(["export", str(licensed), "--output", str(tmp_path / "other"), "--license", "CC-BY-4.0"]) == 0, "these are not touched"


def test_summary_counts_licences(licensed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(licensed, scenes={"license": "CC-BY-4.0", "weights": [DEPTH]})
    licenses = summarize(OutputFolder(licensed))["licenses"]
    assert licenses["CC0"] == {"rows": 26, "samples": 19, "noncommercial": 0}
    assert licenses["CC-BY-4.0"]["samples"] == licenses["CC-BY-4.0"]["noncommercial"] == 3
    assert licenses["none"]["samples"] == 3
    assert main(["summary", str(licensed)]) == 0
    assert "with non-commercial weights" in capsys.readouterr().out
