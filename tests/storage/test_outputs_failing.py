"""An object store that is slow, fails for a while or goes away: no candidate is blamed, nothing is lost, nothing is there in part."""

import os
from functools import partial

import pytest

from pipeline import location, scheduler, store
from pipeline.audit import main as audit
from pipeline.curate import DONE, FAILED, USAGE, main
from pipeline.location import StorageFailure, locate
from pipeline.store import atomic_file
from tests.engine import toy
from tests.storage.outputs import files, objects, same, uploads
from tests.storage.servers import BUCKET, Fault


@pytest.fixture
def impatient(monkeypatch):
    """Attempts without the pauses between them: of this process, and of the store's client in what it starts."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(location, "FIRST_DELAY_S", 0.01)


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_faults_that_pass_leave_no_trace(s3, numbers, impatient, executor):
    command, local = numbers
    s3.latency_s = 0.01
    s3.faults += [
        Fault(r"PUT /bucket/out/parts/u000001-\w+\.parquet", times=5),  # more often than one attempt at the unit asks
        Fault(r"PUT /bucket/out/parts/u000002-.*tar", times=2, status=500),
        Fault(r"POST .*shards/.*\?uploads", times=2),
        Fault(r"PUT .*shards/.*partNumber=1", times=1, after=3),
        Fault(r"POST .*shards/.*uploadId", times=1, after=1, status=None),
        Fault(r"GET .*list-type", times=2),
        Fault(r"GET /bucket/out/parts/.*tar", times=1, status=None),
        Fault(r"GET /bucket/out/parts/u000003", times=2),
        Fault(r"PUT .*manifest/samples", times=3),
        Fault(r"PUT .*run.json", times=2),
    ]
    assert main([*command, f"--output={s3.url}/out", f"--executor={executor}", "--workers=2"]) == DONE
    assert all(fault.seen > fault.after for fault in s3.faults), [fault for fault in s3.faults if fault.seen <= fault.after]
    same(objects(s3, "out/"), files(local))
    assert not uploads(s3), "what was given up was thrown away"


def test_footage_that_was_refused_is_marked_on_the_store_too(s3, numbers, monkeypatch):
    command, local = numbers
    with monkeypatch.context() as away:
        toy.refuse(away, "n00003.txt")
        assert main([*command, f"--output={s3.url}/out", "--executor=inline"]) == DONE
        marks = [name for name in objects(s3, "out/") if name.endswith(".again")]
        assert len(marks) == 1 and marks[0].startswith("parts/u000000-")
    assert main([*command, f"--output={s3.url}/out", "--executor=inline"]) == DONE
    same(objects(s3, "out/"), files(local))


@pytest.mark.parametrize("where", ["manifest/units", "parts/"])
def test_faults_that_last_end_the_run_and_the_same_command_finishes_it(s3, numbers, impatient, monkeypatch, capsys, where):
    soon = partial(scheduler.run, policy=scheduler.Policy(attempts_lost=2, backoff_s=0.01))
    monkeypatch.setattr("pipeline.run.schedule", soon)
    command, local = numbers
    s3.faults.append(Fault(f"PUT .*/{where}", times=None))
    assert main([*command, f"--output={s3.url}/out", "--executor=inline"]) == FAILED
    said = capsys.readouterr().err
    assert "failed; run the same command to resume" in said and "Traceback" not in said
    assert "does not answer" in said and "s3://bucket/out" in said
    s3.faults.clear()
    assert main([*command, f"--output={s3.url}/out", "--executor=inline"]) == DONE
    same(objects(s3, "out/"), files(local))


def test_a_store_that_is_away_is_named_and_blamed(s3, numbers, impatient, capsys, monkeypatch):
    command, _ = numbers
    s3.faults.append(Fault(times=None))
    assert main([*command, f"--output={s3.url}/out", "--executor=inline"]) == FAILED
    assert "s3://bucket/out" in capsys.readouterr().err
    assert audit(["summary", f"{s3.url}/out"]) in (FAILED, USAGE)
    assert "does not answer" in capsys.readouterr().err


def test_half_an_upload_is_no_object(s3, impatient):
    path = locate(f"{s3.url}/out/shards/large.tar")
    piece = os.urandom(1 << 20)
    s3.faults.append(Fault(r"PUT .*partNumber=2", times=None))
    with pytest.raises(StorageFailure, match=r"large\.tar"), atomic_file(path) as file:
        for _ in range(40):
            file.write(piece)
    with pytest.raises(KeyError, match="bug"), atomic_file(path) as file:
        file.write(piece)
        raise KeyError("bug")
    assert not s3.objects() and not uploads(s3)
    s3.faults.clear()
    with atomic_file(path) as file:
        for _ in range(40):
            file.write(piece)
    assert s3.objects()["out/shards/large.tar"] == piece * 40


def test_uploads_of_a_killed_run_are_swept_and_those_of_other_outputs_are_not(s3, numbers, impatient):
    (command, _), client, others = numbers, s3.client(), ["out/second/shards/a.tar", "outside/b.tar"]
    for key in ("out/shards/a.tar", *others):
        client.create_multipart_upload(Bucket=BUCKET, Key=key)
    assert main([*command, f"--output={s3.url}/out", "--executor=inline"]) == DONE
    assert uploads(s3) == others
    client.create_multipart_upload(Bucket=BUCKET, Key="c.tar")
    store.sweep(locate(s3.url))
    assert uploads(s3) == others, "and where the output is the bucket itself"
