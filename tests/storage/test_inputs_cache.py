"""Copies of what this machine does not hold as files: bounded, gone with their process, and never shown in a message."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from schemas.candidate import MediaFile, MediaRef
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from stages.storage import Tree, cache

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where caches lie; this process has none yet."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    cache._of_process.clear()
    return tmp_path / "tmp"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "ten.zip", "w") as made:
        for i in range(10):
            made.writestr(f"{i}.bin", bytes([i]) * 1000)
    return tmp_path / "ten.zip"


def files(archive: Path) -> tuple[Tree, list[MediaFile]]:
    tree = Tree(archive)
    return tree, tree.identify(PurePosixPath(f"{i}.bin") for i in range(10))


def test_copies_stay_within_the_budget_and_those_in_use_stay(folder: Path, archive: Path) -> None:
    tree, found = files(archive)
    kept = cache.Cache(budget=4500)
    first = kept.get("x", tree._store, found[:2], None)
    for each in found[2:4]:
        kept.get("x", tree._store, [each], None)
    kept.release()
    assert kept.get("x", tree._store, found[:1], None) == first[:1], "it is there still"
    last = kept.get("x", tree._store, found[4:7], None)
    assert [path.exists() for path in first] == [True, False], "the one in use stays, the oldest of the others leaves"
    assert sum(path.stat().st_size for path in kept.folder.rglob("*.bin")) <= 4500
    assert [path.read_bytes()[0] for path in last] == [4, 5, 6]
    with pytest.raises(CandidateError, match="of one candidate have 5000 bytes; 4500 are kept") as caught:
        kept.get("x", tree._store, found[7:8], None)
    assert caught.value.reason is Reason.E_TOO_BIG
    kept.release()
    assert kept.get("x", tree._store, found[7:9], None)[0].read_bytes() == bytes([7]) * 1000
    kept.close()
    assert not kept.folder.exists()


def test_a_failed_fetch_leaves_nothing_and_a_full_disk_blames_nobody(folder: Path, archive: Path, monkeypatch) -> None:
    tree, found = files(archive)
    kept = cache.Cache()

    def full(file, pieces, out):
        out.write(b"half")
        if file.path == "3.bin":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "unpack", full)
    with pytest.raises(CandidateError, match="TMPDIR") as caught:
        kept.get("x", tree._store, found, None)
    assert caught.value.reason is Reason.E_IO and not list(kept.folder.rglob("*.bin"))
    monkeypatch.undo()
    assert len(kept.get("x", tree._store, found, None)) == 10
    kept.close()


def test_a_process_takes_its_copies_along_and_those_of_a_killed_one_are_swept(folder: Path, archive: Path) -> None:
    program = (
        "import sys, pathlib, os, signal; from stages.storage import Tree\n"
        "tree = Tree(sys.argv[1]); [path] = tree.local(tree.identify([pathlib.PurePosixPath('1.bin')]))\n"
        "print(path, flush=True)\n"
        "if sys.argv[2] == 'die': os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(folder)}

    def start(how: str) -> tuple[int, Path]:
        done = subprocess.run([sys.executable, "-c", program, str(archive), how], cwd=ROOT, env=environment, capture_output=True, text=True)
        return done.returncode, Path(done.stdout.strip())

    code, path = start("end")
    assert code == 0 and path.is_relative_to(folder) and not path.parent.parent.exists()
    ours = cache.cache().folder  # of a process that lives
    code, left = start("die")
    assert code == -signal.SIGKILL and left.exists()
    start("end")
    assert not left.exists() and ours.exists(), "swept by the next one, which leaves the living alone"


def test_messages_name_the_file_of_the_input(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as made:
        made.writestr("a/0.png", b"no picture")
    tree = Tree(tmp_path / "in.zip")
    with Media(tree, MediaLimits()) as media, pytest.raises(CandidateError) as caught:
        media.index(MediaRef("images", tuple(tree.identify([PurePosixPath("a/0.png")])), pts_ns=(0,)))
    assert caught.value.message.startswith("a/0.png is no picture") and str(folder) not in caught.value.message


def test_an_archive_that_changed_since_it_was_listed_is_told(folder: Path, archive: Path) -> None:
    tree, found = files(archive)
    os.utime(archive, ns=(1, 1))
    with pytest.raises(CandidateError, match=r"the archive changed since it was listed: .* run the same command again") as caught:
        tree.local(found[:1])
    assert caught.value.reason is Reason.E_IO
    shutil.rmtree(cache.cache().folder)


def test_copies_that_nobody_uses_are_bounded_in_number(folder: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_COPIES", 3)
    tree, found = files(archive)
    assert [tree.read(file, 1000)[0] for file in found] == list(range(10))
    assert len(list(cache.cache().folder.rglob("*.bin"))) == 3
    assert [path.read_bytes()[0] for path in tree.local(found)] == list(range(10)), "what is in use is not counted out"


def test_the_beginning_of_a_member_is_all_that_is_unpacked(folder: Path, tmp_path: Path) -> None:
    """A member of 64 MiB takes some memory to begin, and no disk; its checksum is that of the whole."""
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("big.txt", b"first line\n" + bytes(64 << 20))
    tree = Tree(tmp_path / "in.zip")
    path = PurePosixPath("big.txt")
    tracemalloc.start()
    assert tree.heads([path], 10) == [b"first line"] and tree.read(tree.identify([path])[0], 11) == b"first line\n"
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert [each.name for each in cache.cache().folder.iterdir()] == ["lock"]
    os.utime(tmp_path / "in.zip", ns=(1, 1))
    with pytest.raises(OSError, match="changed since it was listed"):
        tree.heads([path], 10)


def test_a_copy_may_leave_when_its_reader_fails(folder: Path, archive: Path) -> None:
    tree, found = files(archive)
    with pytest.raises(RuntimeError), tree.open(found[0]):
        raise RuntimeError
    assert not cache.cache()._held


def test_a_sweep_ends_what_another_began_and_waits_for_nothing(folder: Path) -> None:
    for name in ("begun", "killed"):
        (folder / f"{cache.PREFIX}{name}" / "00000001").mkdir(parents=True)
        (folder / f"{cache.PREFIX}{name}" / "lock").touch()
    (folder / f"{cache.PREFIX}begun" / "lock").unlink()
    (folder / f"{cache.PREFIX}begun" / "00000001").rmdir()
    (folder / f"{cache.PREFIX}odd").mkdir()
    os.mkfifo(folder / f"{cache.PREFIX}odd" / "lock")
    living = cache.Cache()
    cache.sweep_dead()
    assert list(folder.iterdir()) == [living.folder]
    living.close()
    assert not list(folder.iterdir())
