"""An output on an object store is what the same run leaves in a folder, whatever the store does meanwhile."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from pipeline import scheduler, store
from pipeline.audit import main as audit
from pipeline.curate import DONE, FAILED, USAGE, main
from pipeline.store import StorageFailure, atomic_file, locate
from tests.engine import toy
from tests.storage.servers import BUCKET, Fault

ROOT = Path(__file__).resolve().parents[2]
_CLOCKS = re.compile(r"manifest/units/.*|parts/u\d+-[0-9a-f]{16}\.parquet")  # they say when and where a unit ran


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A recipe that keeps, rejects and fails, and its footage; what it comes to in a folder."""
    work = tmp_path_factory.mktemp("numbers")
    footage = toy.make_numbers(work / "in", 23)
    recipe = toy.recipe(work, touchy={"max_brightness": 0.015, "fail": [2]}, unit=4, target_mb=0.008)
    command = [str(recipe), f"--input=numbers={footage}", "--quiet", "--no-report", "--error-budget=1"]
    assert main([*command, f"--output={work / 'out'}", "--executor=inline"]) == DONE
    return command, work / "out"


@pytest.fixture
def impatient(monkeypatch):
    """Attempts without the pauses between them: of this process, and of the store's client in what it starts."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(store, "FIRST_DELAY_S", 0.01)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not _CLOCKS.fullmatch(name) and found[name] != expected[name]] == []


def _objects(s3, prefix: str) -> dict[str, bytes]:
    return {key.removeprefix(prefix): data for key, data in s3.objects().items() if key.startswith(prefix)}


def _uploads(s3) -> list[str]:
    return [each["Key"] for each in s3.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())]


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_objects_are_the_files_of_a_folder(s3, numbers, executor):
    command, local = numbers
    assert main([*command, f"--output={s3.url}/a/out", f"--executor={executor}", "--workers=2"]) == DONE
    requests = list(s3.requests)
    found = _objects(s3, "a/out/")
    _same(found, _files(local))
    assert not _uploads(s3)
    text = b"".join(data for name, data in found.items() if name.endswith((".json", ".jsonl"))).decode()
    assert not any(secret in text for secret in (*s3.environment.values(), "127.0.0.1"))
    rows = [each for each in requests if re.search(r"/parts/u000001-\w+\.parquet", each)]
    assert len(rows) <= 5, rows  # written once; read for the plan of shards, for two tables, and for what is to be kept
    tar = [each for each in requests if re.search(r"/parts/u000001-.*\.tar", each)]
    assert len(tar) <= 1 + 2 * 3, tar  # written once; its size and its bytes for each of the three shards that it goes into
    listed = [each for each in requests if "prefix=a%2Fout%2Fparts%2F&" in each]
    assert len(listed) <= 3, listed


def test_a_rerun_asks_for_what_is_there_and_writes_no_part(s3, numbers):
    command, local = numbers
    url = f"--output={s3.url}/out"
    assert main([*command, url, "--executor=inline"]) == DONE
    before = len(s3.requests)
    assert main([*command, url, "--executor=inline"]) == DONE
    again = s3.requests[before:]
    assert not [each for each in again if each.startswith(("PUT", "POST")) and ("/out/parts/" in each or "/out/shards/" in each)]
    _same(_objects(s3, "out/"), _files(local))


def test_killed_in_the_middle_the_same_command_ends_with_the_same_bytes(s3, tmp_path, numbers):
    _, local = numbers
    command = [str(toy.recipe(tmp_path, touchy={"max_brightness": 0.015, "fail": [2], "sleep_s": 0.1}, unit=4, target_mb=0.008))]
    command += [f"--input=numbers={local.parent / 'in'}", "--quiet", "--no-report", "--error-budget=1", f"--output={s3.url}/out"]
    start = [sys.executable, "-m", "pipeline.curate", *command, "--executor=process", "--workers=2"]
    child = subprocess.Popen(start, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    deadline = time.monotonic() + 60
    while len([each for each in s3.requests if re.match(r"PUT .*/parts/u\d+-\w+\.parquet", each)]) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    there = [name for name in _objects(s3, "out/parts/") if name.endswith(".parquet")]
    assert 0 < len(there) < 6, "it was killed in the middle"
    before = len(s3.requests)
    assert main([*command, "--executor=process", "--workers=2"]) == DONE
    written = {each.split("/parts/")[1] for each in s3.requests[before:] if each.startswith("PUT") and "/parts/u" in each}
    assert not written & set(there), "what was done was not done again"
    found, expected = _objects(s3, "out/"), _files(local)
    assert {name: found[name] for name in found if name.startswith("shards/")} == {
        name: expected[name] for name in expected if name.startswith("shards/")
    }
    assert audit(["verify", "--quiet", f"{s3.url}/out"]) == DONE


def test_the_audit_of_a_url_is_that_of_the_folder(s3, numbers, tmp_path, capsys):
    command, made = numbers
    local, url = tmp_path / "out", f"{s3.url}/deep/er/out"
    shutil.copytree(made, local)
    assert main([*command, f"--output={url}", "--executor=inline"]) == DONE

    def both(*arguments: str) -> str:
        said = []
        for place in (str(local), url):
            capsys.readouterr()
            assert audit([arguments[0], place, *arguments[1:]]) == DONE
            lines = capsys.readouterr().out.replace(place, "DIR").splitlines()
            said.append([line for line in lines if not line.startswith("  on ")])  # when and where the unit ran
        assert said[0] == said[1]
        return "\n".join(said[0])

    assert "15  100%" in both("summary")
    assert both("verify", "--quiet").startswith("intact: 8 shards")
    assert "overexposed" in both("show", "numbers_-n00020")
    assert "cameras" not in both("show", "numbers_-n00003")
    assert "23" in both("sql", "SELECT count(*) FROM samples")
    assert "kept->rejected" in both("what-if", "--set", "touchy.max_brightness=0.01", "--write", "dark")
    assert "dark" in both("show", "numbers_-n00012")
    assert audit(["diff", url, str(local)]) == DONE
    assert audit(["export", url, "--output", f"{s3.url}/given", "--license", "CC0-1.0"]) == DONE
    assert audit(["export", url, "--output", str(tmp_path / "given"), "--license", "CC0-1.0"]) == DONE
    assert audit(["export", str(local), "--output", str(tmp_path / "own"), "--license", "CC0-1.0"]) == DONE
    own = _files(tmp_path / "own")
    _same(_objects(s3, "given/"), own)
    _same(_files(tmp_path / "given"), own)
    assert audit(["verify", "--quiet", f"{s3.url}/given"]) == DONE
    assert main([*command, f"--output={url}", "--executor=inline", "--selection=dark"]) == DONE
    assert json.loads(_objects(s3, "deep/er/out/")["run.json"])["counts"]["numbers"]["kept"] == 10


def test_damage_to_an_object_is_found(s3, numbers, capsys):
    command, _ = numbers
    assert main([*command, f"--output={s3.url}/out", "--executor=inline"]) == DONE
    key = next(key for key in s3.objects() if key.endswith(".tar") and "/shards/" in key)
    damaged = bytearray(s3.objects()[key])
    damaged[600] ^= 1
    s3.client().put_object(Bucket=BUCKET, Key=key, Body=bytes(damaged))
    s3.client().put_object(Bucket=BUCKET, Key="out/shards/stranger.tar", Body=b"x")
    capsys.readouterr()
    assert audit(["verify", "--quiet", f"{s3.url}/out"]) == FAILED
    said = capsys.readouterr().out
    assert "sha256 is" in said and key.removeprefix("out/") in said and "shards/stranger.tar: is not in the shards table" in said


def test_the_report_goes_to_the_store(s3, numbers, capsys):
    command, _ = numbers
    assert main([*(each for each in command if each != "--no-report"), f"--output={s3.url}/out", "--executor=inline"]) == DONE
    assert f"report: {s3.url}/out/report/index.html" in capsys.readouterr().out
    assert b"<html" in _objects(s3, "out/")["report/index.html"][:200]


def test_training_reads_what_was_written(s3, numbers):
    from pipeline.loader.catalog import Catalog
    from pipeline.loader.fetch import Store

    command, local = numbers
    assert main([*command, f"--output={s3.url}/out", "--executor=inline"]) == DONE
    found = []
    for place in (f"{s3.url}/out", str(local)):
        catalog = Catalog.open(place)
        reader = Store(place)
        found.append([(catalog.sample_id(i), reader.fetch(list(catalog.members(i).values()))) for i in range(len(catalog))])
        reader.close()
    assert found[0] == found[1] and len(found[0]) == 15


class TestFailures:
    """Faults of the store: no candidate is blamed, nothing is lost, nothing is there in part."""

    @pytest.mark.parametrize("executor", ["inline", "process"])
    def test_passing_ones_leave_no_trace(self, s3, numbers, impatient, executor):
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
        _same(_objects(s3, "out/"), _files(local))
        assert not _uploads(s3), "what was given up was thrown away"

    @pytest.mark.parametrize("where", ["run.json", "plan/", "manifest/units", "parts/"])
    def test_lasting_ones_end_the_run_and_the_same_command_finishes_it(self, s3, numbers, impatient, monkeypatch, capsys, where):
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
        _same(_objects(s3, "out/"), _files(local))

    def test_a_store_that_is_away_is_named_and_blamed(self, s3, numbers, impatient, capsys, monkeypatch):
        command, _ = numbers
        s3.faults.append(Fault(times=None))
        assert main([*command, f"--output={s3.url}/out", "--executor=inline"]) == FAILED
        assert "s3://bucket/out" in capsys.readouterr().err
        assert audit(["summary", f"{s3.url}/out"]) in (FAILED, USAGE)
        assert "does not answer" in capsys.readouterr().err

    def test_half_an_upload_is_no_object(self, s3, impatient):
        path = locate(f"{s3.url}/out/shards/large.tar")
        piece = os.urandom(1 << 20)
        s3.faults.append(Fault(r"PUT .*partNumber=2", times=None))
        with pytest.raises(StorageFailure, match=r"large\.tar"), atomic_file(path) as file:
            for _ in range(40):
                file.write(piece)
        with pytest.raises(KeyError, match="bug"), atomic_file(path) as file:
            file.write(piece)
            raise KeyError("bug")
        assert not s3.objects() and not _uploads(s3)
        s3.faults.clear()
        with atomic_file(path) as file:
            for _ in range(40):
                file.write(piece)
        assert s3.objects()["out/shards/large.tar"] == piece * 40

    def test_uploads_of_a_killed_run_are_swept(self, s3):
        client = s3.client()
        for key in ("out/shards/a.tar", "outside/b.tar"):
            client.create_multipart_upload(Bucket=BUCKET, Key=key)
        store.sweep(locate(f"{s3.url}/out"))
        assert _uploads(s3) == ["outside/b.tar"]


def test_what_another_process_wrote_is_seen_at_once(s3):
    folder = locate(f"{s3.url}/out/parts")
    assert store.names(folder) == []
    s3.client().put_object(Bucket=BUCKET, Key="out/parts/a.json", Body=b"1")
    s3.client().put_object(Bucket=BUCKET, Key="out/parts/below/b.json", Body=b"2")
    assert store.names(folder) == ["a.json"]
    assert store.names(folder, below=True) == ["a.json", "below/b.json"]
    assert store.read_json(folder / "a.json") == 1
    s3.client().put_object(Bucket=BUCKET, Key="out/parts/a.json", Body=b"1234")
    assert store.size_of(folder / "a.json") == 4 and store.read_range(folder / "a.json", 2, 9) == b"34"
    assert store.read_range(folder / "a.json", 4, 1) == b"" and store.size_of(folder / "below") is None
    store.remove(folder / "a.json")
    store.remove(folder / "a.json")
    assert store.names(folder) == []


def test_a_listing_is_one_request_for_a_thousand(s3):
    for number in range(1100):
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(BUCKET, f"out/parts/u{number:06d}.parquet", b"")
    s3.requests.clear()
    assert len(store.names(locate(f"{s3.url}/out/parts"))) == 1100
    assert len(s3.requests) == 2


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("s3://key:secret@bucket/out", "by the environment"),
        ("sftp://host/out", "no object store"),
        ("https://host/out", "no object store"),
        ("s3://bucket/../out", "without"),
        ("s3:///out", "without"),
    ],
)
def test_what_is_no_output_is_refused_before_anything_is_done(numbers, capsys, output, said):
    command, _ = numbers
    assert main([*command, f"--output={output}"]) == USAGE
    message = capsys.readouterr().err
    assert said in message and "secret" not in message


@pytest.mark.parametrize(
    ("outer", "inner", "inside"),
    [
        ("s3://b/data", "s3://b/data/out", True),
        ("s3://b/data/", "s3a://b/data", True),
        ("s3://b/data", "s3://b/database", False),
        ("s3://b/data", "s3://c/data/out", False),
        ("/b/data", "s3://b/data/out", False),
        ("/b/data", "/b/data/../data/out", True),
        ("/b/data", "/b/database", False),
    ],
)
def test_one_place_inside_another(outer, inner, inside):
    assert store.holds(outer, inner) is inside
