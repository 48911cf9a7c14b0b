"""Many files of a folder are what each of them is on its own."""

from pathlib import Path, PurePosixPath

import pytest

from schemas.verdict import CandidateError, Reason
from stages.ingest.files import media_file
from stages.storage import Tree


def test_many_files_are_what_each_is_on_its_own(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("top.png", "a/1.png", "a/2.png", "b/ä.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "a/link.png").symlink_to("../top.png")
    (root / "c").symlink_to("a")
    paths = [PurePosixPath(name) for name in ("top.png", "a/1.png", "a/2.png", "a/link.png", "b/ä.png", "c/1.png")]
    found = Tree(root).identify(paths)
    assert found == [media_file(Tree(root), path) for path in paths]
    assert [each.path for each in found] == ["top.png", "a/1.png", "a/2.png", "a/link.png", "b/ä.png", "c/1.png"]
    (tmp_path / "linked").symlink_to(root)
    assert Tree(tmp_path / "linked").identify([PurePosixPath("a/1.png")]) == [found[1]]


def test_nothing_outside_comes_in_with_many(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/1.png").write_bytes(b"x")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "a/file.png").symlink_to(tmp_path / "outside/1.png")
    (root / "a/nothing.png").symlink_to("gone.png")
    (root / "a/folder.png").mkdir()
    refused = {
        "folder/1.png": Reason.E_UNSAFE_PATH, "a/file.png": Reason.E_UNSAFE_PATH, "a/../../outside/1.png": Reason.E_UNSAFE_PATH,
        "a/folder.png": Reason.E_UNSAFE_PATH, "a/nothing.png": Reason.NO_FOOTAGE, "a/missing.png": Reason.NO_FOOTAGE,
    }  # fmt: skip
    for name, reason in refused.items():
        with pytest.raises(CandidateError) as caught:
            Tree(root).identify([PurePosixPath(name)])
        assert caught.value.reason is reason, name
