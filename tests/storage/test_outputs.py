"""An output on an object store is what the same run leaves in a folder, whatever the store does meanwhile."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from pipeline import location, store
from pipeline.audit import main as audit
from pipeline.curate import DONE, FAILED, USAGE, main
from pipeline.loader.manifest import Manifest
from pipeline.location import locate
from tests.engine import toy
from tests.storage.outputs import files, objects, put, same, uploads
from tests.storage.servers import BUCKET

ROOT = Path(__file__).resolve().parents[2]


def test_objects_are_the_files_of_a_folder(s3, numbers):
    command, local = numbers
    assert main([*command, f"--output={s3.url}/a/out", "--executor=process", "--workers=2"]) == DONE
    requests = list(s3.requests)
    found = objects(s3, "a/out/")
    same(found, files(local))
    assert not uploads(s3)
    text = b"".join(data for name, data in found.items() if name.endswith((".json", ".jsonl"))).decode()
    assert not any(secret in text for secret in (*s3.environment.values(), "127.0.0.1"))
    rows = [each for each in requests if re.search(r"/parts/u000001-\w+\.parquet", each)]
    assert len(rows) <= 1 + 2 + 3, rows  # written once; read for the plan of shards, for the tables, and by each of the three shards
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
    same(objects(s3, "out/"), files(local))


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
    there = [name for name in objects(s3, "out/parts/") if name.endswith(".parquet")]
    assert 0 < len(there) < 6, "it was killed in the middle"
    before = len(s3.requests)
    assert main([*command, "--executor=process", "--workers=2"]) == DONE
    written = {each.split("/parts/")[1] for each in s3.requests[before:] if each.startswith("PUT") and "/parts/u" in each}
    assert not written & set(there), "what was done was not done again"
    found, expected = objects(s3, "out/"), files(local)
    assert {name: found[name] for name in found if name.startswith("shards/")} == {
        name: expected[name] for name in expected if name.startswith("shards/")
    }
    assert audit(["verify", "--quiet", f"{s3.url}/out"]) == DONE


def test_the_audit_of_a_url_is_that_of_the_folder(s3, numbers, tmp_path, capsys):
    command, made = numbers
    local, url = tmp_path / "out", f"{s3.url}/deep/er/out"
    shutil.copytree(made, local)
    put(s3, made, "deep/er/out/")

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
    own = files(tmp_path / "own")
    same(objects(s3, "given/"), own)
    same(files(tmp_path / "given"), own)
    assert audit(["verify", "--quiet", f"{s3.url}/given"]) == DONE
    assert main([*command, f"--output={url}", "--executor=inline", "--selection=dark"]) == DONE
    assert json.loads(objects(s3, "deep/er/out/")["run.json"])["counts"]["numbers"]["kept"] == 10


def test_damage_to_an_object_is_found(s3, numbers, capsys):
    put(s3, numbers[1], "out/")
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
    put(s3, numbers[1], "out/")
    assert audit(["report", f"{s3.url}/out"]) == DONE
    assert capsys.readouterr().out == f"{s3.url}/out/report/index.html\n"
    assert b"<html" in objects(s3, "out/")["report/index.html"][:200]


def test_training_reads_what_was_written(s3, numbers):
    from pipeline.loader.catalog import Catalog
    from pipeline.loader.fetch import Store

    local = numbers[1]
    put(s3, local, "out/")
    found = []
    for place in (f"{s3.url}/out", str(local)):
        catalog = Catalog.open(place)
        reader = Store(place)
        found.append([(catalog.sample_id(i), reader.fetch(list(catalog.members(i).values()))) for i in range(len(catalog))])
        reader.close()
    assert found[0] == found[1] and len(found[0]) == 15


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
    manifest = Manifest(f"{s3.url}/out")
    assert manifest.names("parts", ".json") == ["a"]
    s3.client().put_object(Bucket=BUCKET, Key="out/parts/c.json", Body=b"3")
    assert manifest.names("parts", ".json") == ["a", "c"] and store.names(folder) == ["a.json", "c.json"]
    store.remove(folder / "c.json")
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


@pytest.mark.parametrize(("footage", "output"), [("in", "in/out"), ("out/in", "out"), ("same", "same")])
def test_footage_and_output_in_one_another_are_refused(s3, capsys, footage, output):
    s3.client().put_object(Bucket=BUCKET, Key=f"{footage}/clip.mp4", Body=b"not one")
    assert main(["smoke", f"--input=clips={s3.url}/{footage}", f"--output={s3.url}/{output}", "--quiet"]) == USAGE
    assert "lies inside" in capsys.readouterr().err
    assert list(s3.objects()) == [f"{footage}/clip.mp4"]


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
    assert location.holds(outer, inner) is inside
