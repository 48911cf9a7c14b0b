"""An input gives the same samples from a folder, an archive, an object store and a web server; what storage does to it blames nobody."""

import json
import re
import sys
import tempfile
import zipfile
from pathlib import Path

import fsspec
import pytest

from benchmarks.server import RangeServer
from pipeline.curate import DONE, OVER_BUDGET, USAGE
from pipeline.studio import write_layout
from schemas.verdict import CandidateError, Reason
from stages.ingest import ingests
from stages.storage import ROOT, Tree, cache, remote
from tests.e2e.output import Output, run
from tests.storage.inputs import members, outcome, tarred, uploaded, zipped
from tests.storage.servers import BUCKET, Fault

SCENES, FRAMES = 2, 20


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DL3DV from the studio: a folder, one zip, one tar, and a zip a scene as it is published."""
    root = tmp_path_factory.mktemp("forms")
    write_layout("dl3dv", root / "folder", scenes=SCENES, frames=FRAMES, size=(96, 54))
    zipped(root / "folder", root / "one/all.zip", zipfile.ZIP_DEFLATED)
    tarred(root / "folder", root / "one/all.tar")
    for scene in sorted(path.parent for path in (root / "folder").rglob("transforms.json")):
        zipped(scene, root / "scenes" / scene.parent.name / f"{scene.name}.zip")
    return root


@pytest.fixture(scope="session")
def expected(forms: Path) -> Output:
    return curated(forms / "folder", forms / "out")


def curated(place: str | Path, output: Path, *more: str, executor: str = "inline") -> Output:
    return run("smoke", {"dl3dv": place}, output, f"--executor={executor}", "--no-report", *more)  # type: ignore[dict-item]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that another test fetched is there, and further attempts come soon."""
    cache._of_process.clear()
    monkeypatch.setattr(remote, "FIRST_DELAY_S", 0.01)


@pytest.mark.parametrize("form", ["one/all.zip", "one/all.tar", "scenes"])
def test_archives_are_what_they_would_be_unpacked(form: str, forms: Path, expected: Output, tmp_path: Path) -> None:
    assert len(members(expected)) > 10
    assert outcome(curated(forms / form, tmp_path / "out")) == outcome(expected)


@pytest.mark.parametrize(("form", "most"), [("folder", 1 + SCENES * 2 * (FRAMES + 1)), ("one/all.zip", 12)])
def test_an_object_store_is_listed_once_and_asked_for_what_is_needed(
    form: str, most: int, s3, forms: Path, expected: Output, tmp_path: Path
) -> None:
    """Of a folder each file is fetched and then looked at again; of archives their index and the ranges that hold the pictures."""
    uploaded(s3, forms, form.split("/")[0])
    s3.requests.clear()
    assert outcome(curated(f"{s3.url}/{form}", tmp_path / "out")) == outcome(expected)
    assert len(s3.requests) <= most, s3.requests
    assert len([each for each in s3.requests if "list-type" in each]) == 1
    fetched = [each for each in s3.requests if each.startswith("GET") and each.endswith((".png", ".json"))]
    assert len(set(fetched)) == len(fetched), "each once"


@pytest.mark.parametrize(("form", "most"), [("folder", 2 + 10 * SCENES + SCENES * 3 * (FRAMES + 1)), ("one/all.zip", 12), ("scenes", 16)])
def test_a_web_server_with_30_ms_latency(form: str, most: int, forms: Path, expected: Output, tmp_path: Path) -> None:
    with RangeServer(forms, latency_s=0.03) as server:
        assert outcome(curated(f"{server.url}/{form}", tmp_path / "out")) == outcome(expected)
        assert server.requests <= most


@pytest.mark.parametrize("form", ["folder", "archive", "object store"])
def test_clips_are_copied_byte_for_byte_out_of_a_container(form: str, s3, tmp_path: Path) -> None:
    """A zip that only holds clips is a folder of its name, so that two of them never give one id."""
    write_layout("clips", tmp_path / "clips", scenes=2, frames=12, size=(64, 48))
    zipped(tmp_path / "clips", tmp_path / "batches/one.zip")
    recipe = tmp_path / "clips.yaml"
    recipe.write_text("name: clips\nsources:\n  clips:\n    stages: [header: {}]\n    payload: {video: copy}\n")
    place = {"folder": tmp_path / "clips", "archive": tmp_path / "batches"}.get(form) or uploaded(s3, tmp_path, "batches")
    output = run(recipe, {"clips": place}, tmp_path / "out", "--executor=inline", "--no-report", "--error-budget=1")  # type: ignore[dict-item]
    prefix = "" if form == "folder" else "one.zip/"
    kept = {row["candidate_id"]: row["sample_id"] for row in output.of("clips", status="kept")}
    files = {path.relative_to(tmp_path / "clips").as_posix(): path for path in (tmp_path / "clips").rglob("*.mp4")}
    assert len(kept) >= 2 and all(name.startswith(prefix) for name in kept)
    for name, sample in kept.items():
        assert output.samples[sample]["view00.mp4"] == files[name.removeprefix(prefix)].read_bytes()


def test_workers_of_their_own_need_no_index(s3, forms: Path, expected: Output, tmp_path: Path, monkeypatch) -> None:
    """Discovery has put into each candidate what a worker needs: it reads ranges and lists nothing."""
    uploaded(s3, forms, "scenes")
    s3.requests.clear()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert outcome(curated(f"{s3.url}/scenes", tmp_path / "out", "--workers=2", executor="process")) == outcome(expected)
    assert [path for path in tmp_path.glob("*parallax-inputs*") if path != cache.cache().folder] == [], "of workers nothing is left"
    assert len([each for each in s3.requests if "list-type" in each]) == 1
    assert len([each for each in s3.requests if each.startswith("GET") and ".zip" in each]) <= SCENES * 4, s3.requests


def test_other_stores_are_inputs_as_well(forms: Path, expected: Output, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(forms / "scenes"), "/inputs-test", recursive=True)
    assert outcome(curated("memory://inputs-test", tmp_path / "out")) == outcome(expected)
    store.rm("/inputs-test", recursive=True)


@pytest.mark.parametrize(("form", "most"), [("train", 2 + 30), ("packed", 2 + 4)])
def test_first_lines_of_trajectories_are_not_asked_for_one_by_one(form: str, most: int, s3, tmp_path: Path) -> None:
    """Of objects a range each, of a zip the whole in a few; without footage nothing else is needed."""
    (tmp_path / "train").mkdir()
    for i in range(15):
        (tmp_path / f"train/{i:016x}.txt").write_text(
            f"https://www.youtube.com/watch?v=abcdefghij{i % 10}\n0 1 1 0.5 0.5 0 0 {'1 ' * 12}\n"
        )
    zipped(tmp_path / "train", tmp_path / "packed/train.zip")
    uploaded(s3, tmp_path, form)
    s3.requests.clear()
    options = ingests()["realestate10k"].Options()
    tree = Tree(f"{s3.url}/{form}" if form == "train" else f"{s3.url}/packed/train.zip")
    found = list(ingests()["realestate10k"](options).discover(tree))
    assert len(found) == 15 and {each.error[0] for each in found if each.error} == {Reason.NO_FOOTAGE}
    assert len({each.attrs["video_id"] for each in found}) == 10 and len(s3.requests) <= most, s3.requests


def test_a_store_that_stumbles_is_asked_again(s3, forms: Path, expected: Output, tmp_path: Path) -> None:
    uploaded(s3, forms, "one")
    s3.faults += [Fault("GET .*all.zip", times=2, after=2), Fault("HEAD .*all.zip", times=1)]
    assert outcome(curated(f"{s3.url}/one/all.zip", tmp_path / "out")) == outcome(expected)


def test_a_store_that_fails_blames_nobody_and_the_rest_is_done_later(
    s3, forms: Path, expected: Output, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    monkeypatch.setattr("pipeline.unit._STORAGE_PAUSES_S", ())
    uploaded(s3, forms, "scenes")
    bad = sorted((forms / "scenes").rglob("*.zip"))[0].stem
    s3.faults.append(Fault(f"GET .*{bad}", times=None, status=403, after=2))  # the index is read
    failed = curated(f"{s3.url}/scenes", tmp_path / "out")
    assert failed.code == OVER_BUDGET
    assert sorted(failed.verdicts("dl3dv").values()) == ["error E_IO", "kept"], "a token that expired says nothing about the footage"
    s3.faults.clear()
    assert outcome(curated(f"{s3.url}/scenes", tmp_path / "out")) == outcome(expected)


def test_what_is_gone_or_changed_since_it_was_listed_is_no_fault_of_the_footage(s3, forms: Path) -> None:
    uploaded(s3, forms, "one")
    tree = Tree(f"{s3.url}/one/all.zip")
    [file] = tree.identify([next(tree.glob("**/*.json"))])
    assert json.loads(Tree(tree.location).read(file, 1 << 20))["frames"]
    s3.client().upload_file(str(forms / "one/all.tar"), BUCKET, "one/all.zip")
    cache.release()
    with pytest.raises(CandidateError, match=r"run the same command again|damaged") as changed:
        tree.local([_other(tree)])
    assert changed.value.reason in (Reason.E_IO, Reason.E_TRUNCATED)
    s3.client().delete_object(Bucket=BUCKET, Key="one/all.zip")
    with pytest.raises(CandidateError, match="no longer in the storage") as gone:
        tree.local([_other(tree)])
    assert gone.value.reason is Reason.E_IO


def _other(tree: Tree):
    return tree.identify([next(tree.glob("**/frame_00002.png"))])[0]


def test_what_is_no_input_is_said_before_anything_runs(tmp_path: Path, monkeypatch, capsys, forms: Path) -> None:
    with RangeServer(forms) as server:
        for place, said in {
            f"{server.url}/none.zip": "there is nothing at|no longer in the storage",
            str(tmp_path / "none"): "there is nothing at",
            "nosuch://bucket/x": "nosuch",
            str(forms / "folder") + "/": None,
        }.items():
            code = curated(place, tmp_path / "out", "--dry-run").code
            assert (code == DONE) if said is None else (code == USAGE and re.search(said, capsys.readouterr().err)), place
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\3\4" + bytes(500))
    assert curated(broken, tmp_path / "out").code == USAGE
    assert "cut off, damaged or no such archive" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    assert curated("s3://bucket/x", tmp_path / "out").code == USAGE
    assert "uv pip install -e '.[s3]'" in capsys.readouterr().err


def test_credentials_of_a_url_are_used_and_written_nowhere(forms: Path, expected: Output, tmp_path: Path, capsys) -> None:
    with RangeServer(forms) as server:
        url = server.url.replace("://", "://someone:hunter2@") + "/one/all.zip?signature=deadbeef"
        output = curated(url, tmp_path / "out")
        assert outcome(output) == outcome(expected)
        shown = server.url.removeprefix("http://") + "/one/all.zip"
        assert output.run["inputs"] == {"dl3dv": f"http://{shown}"}
        missing = Tree(url.replace("all.zip", "none"))
        with pytest.raises((OSError, CandidateError)) as caught:
            missing.entries(ROOT)
        said = capsys.readouterr()
        texts = [said.out, said.err, str(caught.value), str(missing), repr(missing)]
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    for secret in ("hunter2", "deadbeef"):
        assert secret.encode() not in written
        assert not [text for text in texts if secret in text]


def test_a_file_larger_than_the_limit_is_not_fetched(forms: Path, tmp_path: Path) -> None:
    tree = Tree(forms / "one/all.zip")
    [file] = tree.identify([next(tree.glob("**/*.json"))])
    with pytest.raises(CandidateError, match=r"media\.max_fetch_mb") as caught:
        tree.local([file], most=file.size - 1)
    assert caught.value.reason is Reason.E_TOO_BIG
    assert tree.local([file], most=file.size)[0].stat().st_size == file.size
