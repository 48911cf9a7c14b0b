"""Archives that mean harm, or are damaged: each gives its code, costs its own candidate, and writes nothing outside the cache."""

import io
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.binding import bind
from pipeline.curate import DONE, main
from pipeline.plan import discover
from schemas.recipe import parse_recipe
from schemas.verdict import CandidateError
from stages.storage import Tree, archives, cache

GOOD, DATA = "good.mp4", bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache lies in a folder that the test can look at."""
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "cache"))
    cache._of_process.clear()


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr(GOOD, DATA, zipfile.ZIP_DEFLATED)
        for name, data in members:
            archive.writestr(name, data, method)
    return made.getvalue()


def tar_of(*members: tarfile.TarInfo, data: bytes = DATA) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info in (tarfile.TarInfo(GOOD), *members):
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def link(name: str, kind: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.create_system, made.external_attr = 3, (kind | 0o777) << 16
    return made


def central(archive: bytes, name: bytes, at: int, form: str, value: int) -> bytes:
    """The zip with a number of a member's entry in the index changed."""
    changed = bytearray(archive)
    start = archive.rindex(b"PK\1\2", 0, archive.rindex(name))
    struct.pack_into(form, changed, start + at, value)
    return bytes(changed)


def nul_in_name() -> bytes:
    return zip_of(("bad_.mp4", DATA)).replace(b"bad_.mp4", b"ba\0_.mp4")


def damaged() -> bytes:
    made = bytearray(zip_of(("bad.mp4", DATA), method=zipfile.ZIP_STORED))
    made[made.index(b"bad.mp4") + 100] ^= 1
    return bytes(made)


def overlapping() -> bytes:
    made = zip_of(("bad.mp4", DATA), ("worse.mp4", DATA))
    return central(made, b"worse.mp4", 42, "<I", made.index(b"PK\3\4", 5))


SIZE = 24  # of a member, in its entry
BAD = "bad.mp4"
# archive -> what becomes of its members, by their path below it; GOOD is good in all of them
ZIPS: dict[str, tuple[Callable[[], bytes], dict[str, str]]] = {
    "up": (lambda: zip_of(("../bad.mp4", DATA)), {"../bad.mp4": "E_UNSAFE_PATH"}),
    "up-inside": (lambda: zip_of(("a/../../bad.mp4", DATA)), {"a/../../bad.mp4": "E_UNSAFE_PATH"}),
    "absolute": (lambda: zip_of(("/etc/bad.mp4", DATA)), {"/etc/bad.mp4": "E_UNSAFE_PATH"}),
    "backslash": (lambda: zip_of(("..\\bad.mp4", DATA)), {"..\\bad.mp4": "E_UNSAFE_PATH"}),
    "drive": (lambda: zip_of(("C:/bad.mp4", DATA)), {"C:/bad.mp4": "E_UNSAFE_PATH"}),
    "nul": (nul_in_name, {"ba\\0_.mp4": "E_UNSAFE_PATH"}),
    "link": (lambda: zip_of((link(BAD), b"/etc/passwd")), {BAD: "E_UNSAFE_PATH"}),
    "pipe": (lambda: zip_of((link(BAD, stat.S_IFIFO), b"")), {BAD: "E_UNSAFE_PATH"}),
    "twice": (lambda: zip_of((BAD, DATA), (BAD, DATA[1:])), {BAD: "E_OPEN"}),
    "file-and-folder": (lambda: zip_of((BAD, DATA), (f"{BAD}/x.mp4", DATA)), {BAD: "ok", f"{BAD}/x.mp4": "E_UNSAFE_PATH"}),
    "encrypted": (lambda: central(zip_of((BAD, DATA)), BAD.encode(), 8, "<H", 1), {BAD: "E_OPEN"}),
    "bzip2": (lambda: zip_of((BAD, DATA), method=zipfile.ZIP_BZIP2), {BAD: "E_OPEN"}),
    "crc": (damaged, {BAD: "E_TRUNCATED"}),
    "more-than-promised": (lambda: central(zip_of((BAD, DATA)), BAD.encode(), SIZE, "<I", 100), {BAD: "E_TOO_BIG"}),
    "less-than-promised": (lambda: central(zip_of((BAD, DATA)), BAD.encode(), SIZE, "<I", 20_000), {BAD: "E_TRUNCATED"}),
    "no-such-ratio": (lambda: central(zip_of((BAD, DATA)), BAD.encode(), SIZE, "<I", 0xFFFFFFF0), {BAD: "E_TOO_BIG"}),
    "overlap": (overlapping, {BAD: "E_OPEN", "worse.mp4": "E_OPEN"}),
    "offset": (lambda: central(zip_of((BAD, DATA)), BAD.encode(), 42, "<I", 1 << 30), {BAD: "E_TRUNCATED"}),
    "wrong-place": (lambda: central(zip_of((BAD, DATA)), BAD.encode(), 42, "<I", 0), {BAD: "E_OPEN", GOOD: "E_OPEN"}),
    "nested": (lambda: zip_of(("inner.zip", zip_of())), {"inner.zip": "no_footage"}),
}
TARS: dict[str, tuple[Callable[[], bytes], dict[str, str]]] = {
    "up": (lambda: tar_of(info("../bad.mp4")), {"../bad.mp4": "E_UNSAFE_PATH"}),
    "absolute": (lambda: tar_of(info("/etc/bad.mp4")), {"/etc/bad.mp4": "E_UNSAFE_PATH"}),
    "link": (lambda: tar_of(info(BAD, tarfile.SYMTYPE, "/etc/passwd")), {BAD: "E_UNSAFE_PATH"}),
    "hard-link": (lambda: tar_of(info(BAD, tarfile.LNKTYPE, GOOD)), {BAD: "E_UNSAFE_PATH"}),
    "device": (lambda: tar_of(info(BAD, tarfile.CHRTYPE)), {BAD: "E_UNSAFE_PATH"}),
    "pipe": (lambda: tar_of(info(BAD, tarfile.FIFOTYPE)), {BAD: "E_UNSAFE_PATH"}),
    "twice": (lambda: tar_of(info(BAD), info(BAD)), {BAD: "E_OPEN"}),
    "not-utf8": (lambda: tar_of(info("b\udcff.mp4")), {"b\\xff.mp4": "E_UNSAFE_PATH"}),
}
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.zip": (lambda: b"", "E_OPEN"),
    "text.zip": (lambda: b"no archive at all" * 100, "E_OPEN"),
    "cut.zip": (lambda: zip_of()[:-60], "E_TRUNCATED"),
    "cut.tar": (lambda: tar_of(info(BAD))[: 512 + 10_240 + 512 + 5000], "E_TRUNCATED"),
    "no-end.tar": (lambda: tar_of(info(BAD))[: 2 * (512 + 10_240)], "E_TRUNCATED"),
    "negative.tar": (lambda: _negative(tar_of(info(BAD))), "E_TRUNCATED"),
    "text.tar": (lambda: b"no archive at all" * 100, "E_OPEN"),
    "whole.tar.gz": (lambda: b"\x1f\x8b", "E_OPEN"),
    "whole.tgz": (lambda: b"\x1f\x8b", "E_OPEN"),
    "too-many-bad.zip": (lambda: zip_of(*((f"../{i}", b"") for i in range(200))), "E_UNSAFE_PATH"),
}


def _negative(tar: bytes) -> bytes:
    """The second member's size is below zero, in the base-256 form of GNU's; its header leads back to itself."""
    changed = bytearray(tar)
    header = 512 + len(DATA)
    changed[header + 124 : header + 136] = (-1024).to_bytes(12, "big", signed=True)
    changed[header + 148 : header + 156] = b" " * 8
    changed[header + 148 : header + 156] = b"%06o\0 " % sum(changed[header : header + 512])
    return bytes(changed)


def verdicts(folder: Path) -> dict[str, str]:
    """What a recipe of clips makes of it: the code of each candidate, "ok" where its bytes come."""
    source = bind(parse_recipe({"name": "x", "sources": {"clips": {"stages": []}}}))["clips"]
    tree = Tree(folder)
    found = {}
    for candidate in discover(source, tree, None, (), {}):
        try:
            if candidate.error is not None:
                raise CandidateError(*candidate.error)
            [path] = Tree(folder).local(candidate.files())
            assert path.read_bytes() == DATA, "what comes is what was packed"
            found[candidate.candidate_id] = "ok"
        except CandidateError as error:
            found[candidate.candidate_id] = str(error.reason)
    return found


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "cache" not in path.parts}


@pytest.mark.parametrize("name", [*(f"{name}.zip" for name in ZIPS), *(f"{name}.tar" for name in TARS)])
def test_a_bad_member_has_its_code_and_its_neighbours_are_read(name: str, tmp_path: Path) -> None:
    stem, _, form = name.rpartition(".")
    make, expected = (ZIPS if form == "zip" else TARS)[stem]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(make())
    before = everything(tmp_path)
    assert verdicts(tmp_path / "in") == {f"{name}/{member}": code for member, code in ({GOOD: "ok"} | expected).items()}
    assert everything(tmp_path) == before and not os.path.exists("/etc/bad.mp4")
    assert all(path.stat().st_size <= len(DATA) for path in (tmp_path / "cache").rglob("*.mp4")), "no more than was promised"


def test_a_broken_archive_is_one_row_and_the_others_are_read(tmp_path: Path) -> None:
    for name, (make, _) in BROKEN.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(make())
    (tmp_path / "in" / "whole.zip").write_bytes(zip_of())
    before = everything(tmp_path)
    assert verdicts(tmp_path / "in") == {name: code for name, (_, code) in BROKEN.items()} | {f"whole.zip/{GOOD}": "ok"}
    assert everything(tmp_path) == before


def test_nothing_but_broken_archives_is_rows_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.zip").write_bytes(zip_of()[:-60])
    assert verdicts(tmp_path / "in") == {"cut.zip": "E_TRUNCATED"}


def test_a_linked_archive_is_looked_into_where_it_stays_in_the_input(tmp_path: Path) -> None:
    """As a hub's cache links its snapshots to its blobs."""
    snapshot, blobs = tmp_path / "in" / "snapshots" / "main", tmp_path / "in" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "0123").write_bytes(zip_of())
    (tmp_path / "outside.zip").write_bytes(zip_of())
    (snapshot / "inside.zip").symlink_to("../../blobs/0123")
    (snapshot / "outside.zip").symlink_to(tmp_path / "outside.zip")
    (snapshot / "gone.zip").symlink_to("../../blobs/4567")
    found = verdicts(tmp_path / "in")
    assert found == {
        "snapshots/main/inside.zip/good.mp4": "ok",
        "snapshots/main/outside.zip": "E_UNSAFE_PATH",
        "snapshots/main/gone.zip": "no_footage",
    }
    (tmp_path / "linked.zip").symlink_to(tmp_path / "in/blobs/0123")
    assert verdicts(tmp_path / "linked.zip") == {"good.mp4": "ok"}, "the user named it"
    recipe = tmp_path / "clips.yaml"
    recipe.write_text("name: clips\nsources:\n  clips:\n    stages: []\n")
    assert main([str(recipe), f"--input=clips={tmp_path / 'linked.zip'}", f"--output={tmp_path / 'out'}", "--dry-run", "--quiet"]) == DONE


def test_links_with_odd_names_and_loops_are_rows_or_nothing(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "outside"
    for folder in (inside / "b", outside):
        folder.mkdir(parents=True)
        (folder / "good.mp4").write_bytes(DATA)
    (inside / "loop").symlink_to(".")
    (inside / "loop.zip").symlink_to("loop.zip")
    try:
        (inside / "\udcff.zip").symlink_to("nothing")
        (inside / "\udcfe").symlink_to(outside)
        (inside / "\udcfd").symlink_to("b")
        (inside / "\udcfc.tar").write_bytes(b"no tar")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert verdicts(inside) == {
        "b/good.mp4": "ok", "loop.zip": "no_footage", "\\xff.zip": "no_footage", "\\xfe": "E_UNSAFE_PATH", "\\xfc.tar": "E_UNSAFE_PATH",
    }  # fmt: skip


def test_a_folder_with_nothing_but_links_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/away").symlink_to(tmp_path)
    (tmp_path / "in/gone.zip").symlink_to("nothing")
    with pytest.raises(ValueError, match=r"holds no clip.*'away' is a link to a folder outside.*'gone\.zip' is a link to nothing"):
        verdicts(tmp_path / "in")


def test_an_index_and_members_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(zip_of(*((f"{i}.txt", b"") for i in range(50))))
    monkeypatch.setattr(archives, "MAX_MEMBERS", 40)
    assert verdicts(tmp_path / "in") == {"a.zip": "E_TOO_BIG"}
    monkeypatch.setattr(archives, "MAX_MEMBERS", 400)
    monkeypatch.setattr(archives, "MAX_INDEX_BYTES", 1000)
    assert verdicts(tmp_path / "in") == {"a.zip": "E_TOO_BIG"}


def test_names_of_zips_are_utf8_where_they_can_be(tmp_path: Path) -> None:
    """Info-ZIP and macOS write UTF-8 without its mark; what is none is code page 437. Back to back, so that lengths must be right."""
    names = {"na\u00efve.mp4": "na\u00efve.mp4".encode(), "\u65e5\u672c.mp4": "\u65e5\u672c.mp4".encode(), "\u00e4.mp4": b"\x84.mp4"}
    asked = [f"{i}".ljust(len(raw), "_") for i, raw in enumerate(names.values())]
    made = zip_of(*((name, DATA) for name in asked), method=zipfile.ZIP_STORED)
    for name, raw in zip(asked, names.values(), strict=True):
        assert made.count(name.encode()) == 2, "in its own header and in the index"
        made = made.replace(name.encode(), raw)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.zip").write_bytes(made)
    assert verdicts(tmp_path / "in") == {f"a.zip/{name}": "ok" for name in (GOOD, *names)}


def test_a_zip_of_more_than_4_gib_is_read(tmp_path: Path) -> None:
    """zip64: the index says offsets and sizes beyond 32 bits. The file has a hole, so that it takes no room."""
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "large.zip").open("wb") as file:
        file.seek(5 << 30)
        file.write(zip_of())
    assert verdicts(tmp_path / "in") == {f"large.zip/{GOOD}": "ok"}
    with zipfile.ZipFile(tmp_path / "in" / "forced.zip", "w") as archive, archive.open(GOOD, "w", force_zip64=True) as member:
        member.write(DATA)
    assert verdicts(tmp_path / "in")[f"forced.zip/{GOOD}"] == "ok"
