"""Storage that fails while an input is listed: nothing is concluded from it, and nothing that is finished is dropped."""

import errno
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pytest

from benchmarks.server import RangeServer
from pipeline.binding import bind
from pipeline.curate import DONE, USAGE
from pipeline.plan import discover
from pipeline.studio import write_layout
from schemas.recipe import parse_recipe
from schemas.verdict import CandidateError, Reason
from stages.storage import ROOT, Tree, cache, remote
from stages.storage.local import LocalStore
from stages.storage.remote import RemoteStore
from tests.e2e.output import Output, run
from tests.storage.inputs import zipped
from tests.storage.servers import BUCKET, Fault


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    cache._of_process.clear()
    monkeypatch.setattr(remote, "FIRST_DELAY_S", 0.01)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[], Output]:
    """Copies the clips of `in`: a plain one, and a zip of two."""
    write_layout("clips", tmp_path / "clips", scenes=1, frames=12, size=(64, 48))
    zipped(tmp_path / "clips", tmp_path / "in/batch.zip")
    next((tmp_path / "clips").rglob("*.mp4")).rename(tmp_path / "in/plain.mp4")
    recipe = tmp_path / "clips.yaml"
    recipe.write_text("name: clips\nsources:\n  clips:\n    stages: [header: {}]\n    payload: {video: copy}\n")
    return lambda: run(recipe, {"clips": tmp_path / "in"}, tmp_path / "out", "--executor=inline", "--no-report", "--error-budget=1")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_index_that_cannot_be_read_for_a_moment_drops_nothing(copied: Callable[[], Output], monkeypatch, capsys) -> None:
    done = copied()
    before = everything(done.path)
    assert done.code == DONE and len(done.verdicts("clips")) >= 2
    read = LocalStore.read

    def failing(self: LocalStore, name: str, start: int, stop: int) -> bytes:
        if name.endswith(".zip"):
            raise CandidateError(Reason.E_IO, f"storage failed for {name!r}: Input/output error")
        return read(self, name, start, stop)

    monkeypatch.setattr(LocalStore, "read", failing)
    capsys.readouterr()
    assert copied().code == USAGE and "run the same command again" in capsys.readouterr().err
    assert everything(done.path) == before
    monkeypatch.setattr(LocalStore, "read", read)
    again = copied()
    assert again.code == DONE and again.verdicts("clips") == done.verdicts("clips")


@pytest.mark.parametrize("call", ["stat", "lstat", "scandir"])
def test_what_cannot_be_looked_at_is_not_taken_for_gone(call: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "in/b").mkdir(parents=True)
    for name in ("a.mp4", "b/c.mp4"):
        (tmp_path / "in" / name).write_bytes(b"x")
    source = bind(parse_recipe({"name": "x", "sources": {"clips": {"stages": []}}}))["clips"]
    answer: Any = getattr(os, call)

    def failing(path: Any, **kept: Any) -> Any:
        if str(path).endswith(("b", "b/c.mp4")):
            raise OSError(errno.ESTALE, "Stale file handle")
        return answer(path, **kept)

    def found() -> list[str]:
        return [each.candidate_id for each in discover(source, Tree(tmp_path / "in"), None, (), {})]

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(OSError, match="Stale file handle"):
            found()
    assert found() == ["a.mp4", "b/c.mp4"]
    (tmp_path / "in/dead").symlink_to("nothing")
    assert not Tree(tmp_path / "in").exists(PurePosixPath("dead")) and found() == ["a.mp4", "b/c.mp4"], "this is an answer"
    assert Tree(tmp_path / "in").is_dir(ROOT)


@pytest.mark.parametrize(
    ("status", "code", "times"),
    [(400, None, 1), (400, Reason.E_IO, None), (401, Reason.E_IO, None), (403, Reason.E_IO, None), (405, Reason.E_OPEN, None)],
)
def test_what_a_store_refuses_for_a_moment_is_no_verdict(status: int, code: Reason | None, times: int | None, s3) -> None:
    s3.client().put_object(Bucket=BUCKET, Key="in/a.mp4", Body=b"bytes")
    tree = Tree(f"{s3.url}/in")
    [file] = tree.identify([PurePosixPath("a.mp4")])
    s3.faults = [Fault("GET .*a.mp4", times=times, status=status)]
    if code is None:
        assert tree.read(file, 100) == b"bytes"
        return
    with pytest.raises(CandidateError) as caught:
        tree.read(file, 100)
    assert caught.value.reason is code


def test_messages_hold_no_part_of_a_long_signature(tmp_path: Path) -> None:
    """Cut, written otherwise by the client, or in a URL within a URL."""
    (tmp_path / "a.zip").write_bytes(b"PK")
    query = f"X-Amz-Security-Token={'hunter2' * 100}&X-Amz-Credential=AKIAEXAMPLE%2F2026%2Fs3&X-Amz-Signature=deadbeef"
    with RangeServer(tmp_path) as server:
        url = server.url.replace("://", "://someone:hun%2Fter2@")
        with pytest.raises(OSError, match="none") as caught:
            RemoteStore(f"{url}/none/?{query}").entries(".").__next__()
        told = [str(caught.value)]
        store = RemoteStore(f"{url}/a.zip?{query}")
        error = OSError(f"500, message='no', url='{server.url}/a.zip?{unquote(query)}'")
        told.append(store._said(error))
    for chained in (f"simplecache::{url}/", f"zip://a::{url}/b.zip", f"zip://a::s3://hunter2:x@b?{query}"):
        with pytest.raises(ValueError, match="give its own URL") as refused:
            Tree(chained)
        told.append(str(refused.value))
    for secret in ("hun", "AKIA", "dead", "ter2"):
        assert not [text for text in told if secret in text]


def test_a_trajectory_whose_first_line_does_not_come_is_not_blamed(s3) -> None:
    line = "https://www.youtube.com/watch?v=aaaaaaaaaaa\n0 1 1 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n"
    for name in ("abc", "abd"):
        s3.client().put_object(Bucket=BUCKET, Key=f"in/train/{name}.txt", Body=line.encode())
    source = bind(parse_recipe({"name": "x", "sources": {"realestate10k": {"stages": []}}}))["realestate10k"]

    def found() -> dict[str, Reason | None]:
        return {each.candidate_id: each.error and each.error[0] for each in discover(source, Tree(f"{s3.url}/in"), None, (), {})}

    expected = {"train/abc": Reason.NO_FOOTAGE, "train/abd": Reason.NO_FOOTAGE}
    assert found() == expected
    s3.faults = [Fault("GET .*train/abd.txt", times=None)]
    with pytest.raises(OSError, match=r"abd\.txt.*run again"):
        found()
    s3.faults = []
    assert found() == expected


@pytest.mark.parametrize("place", ["data.v2", "data.v2/", "data.v2/in.zip"])
def test_a_web_folder_may_have_a_dot_in_its_name_and_is_listed_again_after_it_was_forgotten(place: str, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.mp4").write_bytes(b"bytes")
    zipped(tmp_path / "clips", tmp_path / "data.v2/in.zip")
    with RangeServer(tmp_path) as server:
        tree = Tree(f"{server.url}/{place}")
        for _ in range(2):
            [path] = tree.glob("**/*.mp4")
            assert tree.read(tree.identify([path])[0], 100) == b"bytes"
            tree.forget()
