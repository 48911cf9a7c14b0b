"""What storage does is no candidate's fault, on the way in and on the way out."""

import errno
import os

from pipeline.curate import DONE
from pipeline.store import LateNamed
from schemas.verdict import CandidateError, Reason
from stages.storage import Tree
from tests.engine.conftest import curate, footage

__all__ = ["curate", "footage"]  # fixtures


def test_footage_that_cannot_be_read_for_a_moment_is_looked_at_again(curate, monkeypatch):
    healthy = curate(output="healthy")
    read, asked = Tree.read, []

    def failing(self, file, most):
        asked.append(file.path)
        if file.path in ("n00003.txt", "n00011.txt") and asked.count(file.path) < 3:
            raise CandidateError(Reason.E_IO, "storage failed")
        return read(self, file, most)

    monkeypatch.setattr(Tree, "read", failing)
    monkeypatch.setattr("pipeline.unit._STORAGE_PAUSES_S", (0.0, 0.0))
    out = curate()
    assert out.code == DONE and {row["status"] for row in out.rows} == {"kept"}
    assert out.digest == healthy.digest
    assert [asked.count(f"n{number:05d}.txt") for number in (2, 3, 11)] == [1, 3, 3], "only what failed"


def test_storage_that_stays_away_costs_the_candidate_until_the_same_command_runs_again(curate, monkeypatch, capsys):
    healthy = curate(output="healthy")
    read = Tree.read

    def failing(self, file, most):
        if file.path == "n00003.txt":
            raise CandidateError(Reason.E_IO, "storage failed")
        return read(self, file, most)

    with monkeypatch.context() as away:
        away.setattr(Tree, "read", failing)
        away.setattr("pipeline.unit._STORAGE_PAUSES_S", (0.0, 0.0))
        out = curate()
    assert [row["reasons"] for row in out.rows if row["status"] == "error"] == [["E_IO"]]
    assert "storage failed for 1 samples" in capsys.readouterr().err
    curate("--explain", "--dry-run")
    assert "4 units are done\nu000000: ended in E_IO, looked at again" in capsys.readouterr().out
    again = curate()
    assert again.digest == healthy.digest and [unit["steps_computed"] for unit in again.units] == [2, 10, 10, 10, 6], "that candidate alone"
    started = {unit["unit"]: unit["started_ns"] for unit in again.units}
    curate()
    assert {unit["unit"]: unit["started_ns"] for unit in curate().units} == started, "once it is well nothing runs again"


def test_a_full_disk_while_a_candidate_is_packed_is_not_its_fault(curate, monkeypatch):
    healthy = curate(output="healthy")
    opened = []

    class Full(LateNamed):
        def __init__(self, folder):
            opened.append(folder)
            if len(opened) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            super().__init__(folder)

    monkeypatch.setattr("pipeline.parts.LateNamed", Full)
    out = curate()
    assert out.code == DONE and len(opened) == 6, "five units, one of them twice"
    assert out.digest == healthy.digest


def test_members_that_are_lost_from_the_parts_are_made_again(curate):
    curate(touchy={"max_brightness": 0.015})
    out = curate(output="other", touchy={"max_brightness": 0.018})
    for tar in (out.path.parent / "out" / "parts").glob("*.tar"):
        tar.unlink()
    again = curate(touchy={"max_brightness": 0.018})
    assert again.code == DONE and again.digest == out.digest
