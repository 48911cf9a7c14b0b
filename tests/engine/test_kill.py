"""Killed at any moment, the same command ends with the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.curate import DONE
from tests.engine import toy

ROOT = Path(__file__).resolve().parents[2]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_sigkill_at_every_commit_step_then_resume(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.storm", str(tmp_path)],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["steps"] > 60, "units, shards, tables and run.json all commit"
    assert set(result["digests"]) == {result["reference"]}


def _command(tmp_path: Path, output: Path, executor: str, workers: int = 2) -> list[str]:
    recipe = toy.recipe(tmp_path, touchy={"max_brightness": 0.03, "fail": [2], "sleep_s": 0.03}, unit=4)
    return [
        sys.executable, "-m", "pipeline.curate", str(recipe), f"--input=numbers={tmp_path / 'in'}", f"--output={output}",
        f"--executor={executor}", f"--workers={workers}", "--quiet", "--no-report",
    ]  # fmt: skip


def _kill_then_resume(tmp_path: Path, executor: str, workers: int, moments: list[float], reference: str) -> None:
    output = tmp_path / "killed"
    command = _command(tmp_path, output, executor, workers)
    for moment in moments:
        shutil.rmtree(output, ignore_errors=True)
        child = subprocess.Popen(command, cwd=ROOT, env=_environment(), start_new_session=True, stderr=subprocess.PIPE)
        time.sleep(moment)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        resumed = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=120)
        assert resumed.returncode == DONE, resumed.stderr[-2000:]
        assert reference == toy_digest(output), f"killed after {moment:.2f} s"


def toy_digest(output: Path) -> str:
    from tests.engine.storm import digest

    return digest(output)


@pytest.fixture
def reference(tmp_path):
    toy.make_numbers(tmp_path / "in", 40)
    output = tmp_path / "reference"
    subprocess.run(_command(tmp_path, output, "inline"), cwd=ROOT, env=_environment(), check=True, timeout=120)
    return toy_digest(output)


def test_sigkill_at_random_moments_then_resume(tmp_path, reference):
    rng = random.Random(1)
    _kill_then_resume(tmp_path, "process", 2, [rng.uniform(1.0, 5.0) for _ in range(3)], reference)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("executor", "workers", "kills"), [("process", 2, 20), ("process", 1, 3), ("process", 4, 3), ("inline", 1, 3), ("ray", 2, 3)]
)
def test_sigkill_at_random_moments_with_every_executor(tmp_path, reference, executor, workers, kills):
    rng = random.Random(f"{executor}{workers}")
    latest = 20.0 if executor == "ray" else 6.0  # a local Ray takes its time to start
    _kill_then_resume(tmp_path, executor, workers, [rng.uniform(0.5, latest) for _ in range(kills)], reference)


def test_sigterm_stops_cleanly_and_the_same_command_resumes(tmp_path, reference):
    output = tmp_path / "stopped"
    child = subprocess.Popen(_command(tmp_path, output, "process"), cwd=ROOT, env=_environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(output.glob("parts/u*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1 and "run the same command to resume" in said
    assert json.loads((output / "run.json").read_text())["state"] == "interrupted"
    assert not list(output.rglob(".tmp-*")), "what was abandoned left nothing half-written"
    resumed = subprocess.run(_command(tmp_path, output, "process"), cwd=ROOT, env=_environment(), timeout=120, check=False)
    assert resumed.returncode == DONE and toy_digest(output) == reference


@pytest.mark.parametrize("executor", ["process", "ray"])
def test_one_killer_among_a_thousand_costs_one_candidate(tmp_path, executor, request):
    from pipeline.curate import main

    if executor == "ray":
        request.getfixturevalue("ray_cluster")
    footage = toy.make_numbers(tmp_path / "in", 1000)
    recipe = toy.recipe(tmp_path, touchy={"kill": [537]}, unit=50, target_mb=1.0)
    code = main(
        [
            str(recipe),
            f"--input=numbers={footage}",
            f"--output={tmp_path / 'out'}",
            f"--executor={executor}",
            "--workers=2",
            "--quiet",
            "--no-report",
        ]
    )
    assert code == DONE
    import pyarrow.dataset as ds

    rows = ds.dataset(tmp_path / "out" / "manifest" / "samples").to_table(columns=["candidate_id", "status", "reasons"]).to_pylist()
    assert len(rows) == 1000
    assert [(row["candidate_id"], row["reasons"]) for row in rows if row["status"] != "kept"] == [("n00537", ["E_CRASH"])]
