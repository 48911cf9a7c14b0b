"""Targets: data sets in zips and tars, the archives damaged and made hostile; every member looked at and unpacked."""

import io
import struct
import tarfile
import zipfile
from functools import cache
from pathlib import Path, PurePosixPath

from hypothesis import strategies as st

from schemas.verdict import CandidateError, Reason
from stages.ingest import ingests
from stages.storage import ROOT, Tree
from stages.storage import cache as copies
from tests.fuzz import seeds
from tests.fuzz.mutate import NASTY, mutated
from tests.fuzz.reading import Reader
from tests.fuzz.target import Target, check_scene, check_text

_NAMES = ("scene1/cameras.json", "scene1/videos/cam01.mp4", "scene1/videos/cam02.mp4")


def _zip(files: dict[str, bytes], method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def _tar(files: dict[str, bytes], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@cache
def _archives() -> list[bytes]:
    files = seeds.layout("rig")
    bomb = _zip({"scene1/cameras.json": bytes(3 << 20)}, zipfile.ZIP_DEFLATED)
    return [
        *(_zip(files, method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)),
        *(_tar(files, form) for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)),
        bomb,
    ]


@st.composite
def _hostile(draw: st.DrawFn) -> tuple[str, bytes]:
    """An archive with names, types and sizes that no data set has; or a good one with bytes changed."""
    kind = draw(st.sampled_from(("zip", "tar", "bytes", "bytes")))
    ending = draw(st.sampled_from((".zip", ".tar", ".ZIP", ".tar.gz")))
    if kind == "bytes":
        pieces = [
            b"PK\1\2",
            b"PK\3\4",
            b"PK\5\6",
            b"PK\6\6",
            b"PK\6\7",
            b"ustar\x0000",
            b"../x",
            b"\0" * 512,
            b"\x80" + b"\xff" * 11,
            b"1" * 11,
            struct.pack("<I", 2**32 - 1),
        ]
        return draw(st.sampled_from((".zip", ".tar"))), draw(mutated(_archives(), pieces))
    names = draw(st.lists(st.one_of(st.sampled_from(_NAMES), st.sampled_from(NASTY), st.sampled_from(
        ("../up", "/abs", "a/../../b", "C:/x", "a//b", "./a", "a/", "scene1", "scene1/videos", "scene1/inner.zip",
        "\\\\srv\\x", "nul\0x", "x" * 3000)
    )), max_size=6))  # fmt: skip
    files = [(name, seeds.layout("rig").get(name, b"{}")) for name in (*_NAMES, *names)]
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in files:
                info = zipfile.ZipInfo("x")
                info.filename = name.encode("utf-8", "replace").decode()
                info.external_attr = draw(st.sampled_from((0, 0, 0o100644, 0o120777, 0o040755, 0o010644))) << 16
                archive.writestr(
                    info, data, draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
                )
    else:
        with tarfile.open(fileobj=buffer, mode="w", format=draw(st.sampled_from((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)))) as tar:
            for name, data in files:
                entry = tarfile.TarInfo(name.replace("\0", "").encode("utf-8", "replace").decode() or "x")
                entry.size = len(data)
                entry.type = draw(
                    st.sampled_from(
                        (tarfile.REGTYPE,) * 4 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
                    )
                )
                entry.linkname = "/etc/passwd" if entry.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
                entry.size = len(data) if entry.isreg() else 0
                tar.addfile(entry, io.BytesIO(data) if entry.isreg() else None)
    return ending, draw(mutated([buffer.getvalue()])) if draw(st.integers(0, 3)) == 0 else buffer.getvalue()


def _write(value: tuple[str, bytes], folder: Path) -> None:
    (folder / f"data{value[0]}").write_bytes(value[1])


def _walked(tree: Tree, folder: PurePosixPath, left: int = 200) -> list[PurePosixPath]:
    """Every file below."""
    found: list[PurePosixPath] = []
    waiting = [folder]
    while waiting and left:
        left -= 1
        at = waiting.pop()
        for entry in tree.entries(at):
            (waiting if entry.is_folder else found).append(at / entry.name)
    return found


def _members(value: tuple[str, bytes], folder: Path) -> str:
    """Every member's identity and bytes, the archive within the input and the archive as the input."""
    outcomes = set()
    for tree in (Tree(folder), Tree(folder / f"data{value[0]}")):
        for path in _walked(tree, ROOT):
            try:
                [file] = tree.identify([path])
                data = tree.read(file, 1 << 22)
                assert len(data) == min(file.size, 1 << 22)
                check_text(file.path)
                outcomes.add("read")
            except CandidateError as error:
                assert error.reason not in (Reason.E_IO, Reason.E_STAGE), error
                check_text(error.message)
                outcomes.add(str(error.reason))
            tree.release()
        for name, (reason, message) in tree.unplaced():
            check_text(name, message)
            outcomes.add(str(reason))
    return " ".join(sorted(outcomes)) or "nothing"


def _data_set(value: tuple[str, bytes], folder: Path) -> str:
    layout = ingests()["rig"]
    ingest, tree = layout(layout.Options()), Tree(folder / f"data{value[0]}")
    media, outcomes = Reader.of(folder), set()
    media.tree = tree
    for candidate in ingest.discover(tree):
        check_text(candidate.candidate_id)
        reason = candidate.error and candidate.error[0]
        if candidate.error is None:
            try:
                check_scene(ingest.load(tree, candidate, media))
            except CandidateError as error:
                reason = error.reason
        assert reason not in (Reason.E_IO, Reason.E_STAGE), (candidate, reason)
        outcomes.add(str(reason or "loaded"))
    tree.release()
    return " ".join(sorted(outcomes))


def targets() -> list[Target]:
    copies.cache()  # makes its folder
    return [
        Target("members of archives", _hostile(), _members, (CandidateError,), _write),
        Target("data set in an archive", _hostile(), _data_set, (ValueError, FileNotFoundError), _write, sandbox=True, memory_mb=None),
    ]
