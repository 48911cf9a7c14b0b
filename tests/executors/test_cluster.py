"""Whole curations on clusters of several nodes on this machine, whose nodes come, go, or lack a mount. See drill.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def drill(work: Path, scenario: str) -> tuple[dict[str, Any], str]:
    """What the drill reports, and what the run said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.executors.drill", str(work), scenario]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def complete(found: dict[str, Any]) -> bool:
    """Done, with one row for every candidate, the one error that is a candidate's own, and the bytes of a run without a cluster."""
    return found["code"] == 0 and found["same"] and found["rows"] and found["errors"] == {"n00007": ["E_TRUNCATED"]} and not found["left"]


def test_nodes_that_are_killed_and_preempted_cost_nothing_but_time(tmp_path: Path) -> None:
    found, said = drill(tmp_path, "losses")
    assert complete(found), found
    assert found["nodes"] == 3, "units were on every node"
    assert len(found["interrupted"]) == 2 and min(found["interrupted"]) >= 2, "what ran there was begun again elsewhere"
    assert said.count("runs again") == 2


@pytest.mark.long
def test_a_cluster_without_workers_grows_when_there_is_work(tmp_path: Path) -> None:
    found, _ = drill(tmp_path, "growth")
    assert complete(found), found
    assert found["nodes"] == 2, "the first node's work asked for the second"


@pytest.mark.long
def test_a_node_that_does_not_see_the_output_is_named_and_writes_nothing(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a mount namespace, to give a node another folder under the same path")
    found, said = drill(tmp_path, "blind")
    assert complete(found), found
    assert found["nodes"] == 1 and found["elsewhere"] == []
    assert f"does not see {tmp_path}/ray/plan/" in said and f"the node {os.uname().nodename}" in said
