"""What storage does is no candidate's fault, on the way in and on the way out."""

import errno
import os

from pipeline import examine
from pipeline.curate import DONE, main
from pipeline.store import LateNamed
from schemas.verdict import CandidateError, Reason
from stages.storage import Tree
from tests.engine import toy
from tests.engine.conftest import Curated, curate, footage

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
    with monkeypatch.context() as away:
        toy.refuse(away, "n00003.txt", pauses=(0.0, 0.0))
        out = curate()
    assert [row["reasons"] for row in out.rows if row["status"] == "error"] == [["E_IO"]]
    assert "storage failed for 1 samples" in capsys.readouterr().err
    curate("--explain", "--dry-run")
    assert "4 units are done\nu000000: storage failed (E_IO), looked at again" in capsys.readouterr().out
    again = curate()
    assert again.digest == healthy.digest and [unit["steps_computed"] for unit in again.units] == [2, 10, 10, 10, 6], "that candidate alone"
    started = {unit["unit"]: unit["started_ns"] for unit in again.units}
    curate()
    assert {unit["unit"]: unit["started_ns"] for unit in curate().units} == started, "once it is well nothing runs again"


def test_what_is_rejected_and_was_not_stored_as_storage_failed_is_looked_at_again(tmp_path, footage, monkeypatch):
    recipe = toy.recipe(tmp_path, touchy={"max_brightness": 0.0025})
    recipe.write_text(recipe.read_text() + "keep_rejected: payload\n")

    def run(output):
        arguments = [
            str(recipe),
            f"--input=numbers={footage}",
            f"--output={tmp_path / output}",
            "--executor=inline",
            "--quiet",
            "--no-report",
        ]
        assert main(arguments) == DONE
        return Curated(tmp_path / output, DONE)

    healthy = run("healthy")
    make = examine.make_members

    def failing(item, *others):
        if item.scene.candidate.candidate_id == "n00007":
            raise CandidateError(Reason.E_IO, "storage failed")
        return make(item, *others)

    with monkeypatch.context() as away:
        away.setattr(examine, "make_members", failing)
        away.setattr("pipeline.unit._STORAGE_PAUSES_S", (0.0,))
        bad = run("out")
        assert bad.by_id["n00007"]["status"] == "rejected" and "not stored" in dict(bad.by_id["n00007"]["notes"])["payload"]
        assert bad.digest != healthy.digest
        assert run("out").digest == bad.digest, "as long as it fails, the same again"
        assert len(list((tmp_path / "out/parts").glob("*.again"))) == 1
    assert run("out").digest == healthy.digest
    assert not list((tmp_path / "out/parts").glob("*.again"))


def test_a_mark_of_a_unit_that_is_made_otherwise_goes(curate, monkeypatch):
    toy.refuse(monkeypatch, "n00003.txt")
    out = curate()
    [mark] = (out.path / "parts").glob("*.again")
    curate(touchy={"max_brightness": 0.01})
    [other] = (out.path / "parts").glob("*.again")
    assert mark != other and not mark.exists()
    monkeypatch.undo()
    assert curate(touchy={"max_brightness": 0.01}).code == DONE
    assert not list((out.path / "parts").glob("*.again"))


def test_a_worker_that_was_thought_lost_and_writes_late_loses_nothing(curate, monkeypatch):
    """Its part is that of a moment when storage failed; another's, which was sound, lay there before and its mark is gone."""
    healthy = curate(output="healthy")
    with monkeypatch.context() as away:
        toy.refuse(away, "n00003.txt")
        out = curate()
    [mark] = (out.path / "parts").glob("*.again")
    mark.unlink()
    assert curate().by_id["n00003"]["reasons"] == ["E_IO"], "taken for done this time ..."
    assert mark.exists(), "... and found"
    assert curate().digest == healthy.digest


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
