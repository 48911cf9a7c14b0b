"""Folders, globs and lists of plain clips."""

from pathlib import Path

import pytest

from schemas.typed import RecipeError
from schemas.verdict import CandidateError, Reason
from stages.storage import Tree


def ids(found) -> list[tuple[str, str | None, str | None]]:
    return [(each.candidate_id, each.caption, each.error and str(each.error[0])) for each in found]


def test_folder_in_natural_order_with_side_cars(tmp_path: Path, make_video, ingest, load) -> None:
    for name in ("clip10.mp4", "clip2.mp4", "sub/clip1.mkv", ".hidden.mp4", "we ird $(x);'&.MP4"):
        make_video(tmp_path / name if name != "we ird $(x);'&.MP4" else tmp_path / "we ird $(x);'&.mp4")
    (tmp_path / "clip2.txt").write_text(" a dog\n")
    (tmp_path / "clip10.txt").write_text("  \n")
    (tmp_path / "notes.md").write_text("not a clip")
    reader = ingest("clips")
    found = list(reader.discover(Tree(tmp_path)))
    assert ids(found) == [
        ("clip2.mp4", "a dog", None),
        ("clip10.mp4", None, None),
        ("sub/clip1.mkv", None, None),
        ("we ird $(x);'&.mp4", None, None),
    ]
    scene = load(reader, tmp_path, found[3])
    assert len(scene.views[0].index) == 3 and scene.views[0].cameras is None


def test_glob_and_extensions(tmp_path: Path, make_video, ingest) -> None:
    for name in ("a/x.mp4", "a/y.mkv", "b/z.mp4"):
        make_video(tmp_path / name)
    assert [each.candidate_id for each in ingest("clips", glob="a/*").discover(Tree(tmp_path))] == ["a/x.mp4", "a/y.mkv"]
    assert [each.candidate_id for each in ingest("clips", extensions=[".mkv"]).discover(Tree(tmp_path))] == ["a/y.mkv"]
    for bad in ("../*", "/etc/*", ""):
        with pytest.raises(RecipeError, match="stay below"):
            ingest("clips", glob=bad)
    with pytest.raises(RecipeError, match="lower-case"):
        ingest("clips", extensions=["mp4"])


def test_every_row_of_a_list_gets_its_own_verdict(tmp_path: Path, make_video, ingest) -> None:
    root = tmp_path / "in"
    for name in ("a.mp4", "b.mp4", "unlisted.mp4"):
        make_video(root / name)
    outside = make_video(tmp_path / "secret.mp4")
    (root / "link.mp4").symlink_to(outside)
    (root / "dangling.mp4").symlink_to(tmp_path / "nothing.mp4")
    (root / "folder.mp4").mkdir()
    (root / "b.txt").write_text("side-car")
    (root / "list.csv").write_text(
        'file_name,text\nb.mp4,\na.mp4,"first, of two"\n./a.mp4,again\na.mp4,once more\nmissing.mp4,x\n'
        f"../secret.mp4,x\n{outside},x\nlink.mp4,x\ndangling.mp4,x\nfolder.mp4,x\n,no name\n"
    )
    found = list(ingest("clips", csv="list.csv").discover(Tree(root)))
    assert ids(found) == [
        ("b.mp4", "side-car", None),
        ("a.mp4", "first, of two", None),
        ("a.mp4#2", "again", "E_DUPLICATE"),
        ("a.mp4#3", "once more", "E_DUPLICATE"),
        ("missing.mp4", "x", "no_footage"),
        ("../secret.mp4", "x", "E_UNSAFE_PATH"),
        (str(outside), "x", "E_UNSAFE_PATH"),
        ("link.mp4", "x", "E_UNSAFE_PATH"),
        ("dangling.mp4", "x", "no_footage"),
        ("folder.mp4", "x", "E_UNSAFE_PATH"),
        ("line12", "no name", "no_footage"),
    ]
    assert len({each.key for each in found}) == len(found)
    with pytest.raises(FileNotFoundError, match=r"other\.csv"):
        list(ingest("clips", csv="other.csv").discover(Tree(root)))


def test_metadata_csv_gives_captions_and_rows_for_what_is_missing(tmp_path: Path, make_video, ingest) -> None:
    for name in ("a.mp4", "b.mp4"):
        make_video(tmp_path / name)
    (tmp_path / "b.txt").write_text("from the side-car")
    (tmp_path / "metadata.csv").write_bytes("\ufefffile_name,text\na.mp4,größer\nc.mp4,gone\na.mp4,twice\n".encode())
    assert ids(ingest("clips").discover(Tree(tmp_path))) == [
        ("a.mp4", "größer", None),
        ("a.mp4#2", "twice", "E_DUPLICATE"),
        ("b.mp4", "from the side-car", None),
        ("c.mp4", "gone", "no_footage"),
    ]


def test_a_linked_folder_is_not_entered_and_a_name_that_is_not_utf8_is_a_row(tmp_path: Path, make_video, ingest) -> None:
    root = tmp_path / "in"
    make_video(root / "a.mp4")
    make_video(tmp_path / "outside" / "b.mp4")
    (root / "away").symlink_to(tmp_path / "outside", target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    try:
        (root / "\udcff.mp4").write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    tree = Tree(root)
    assert ids(ingest("clips").discover(tree)) == [("a.mp4", None, None), ("\\xff.mp4", None, "E_UNSAFE_PATH")]
    [(name, (reason, message))] = tree.links()
    assert (name, reason) == ("away", Reason.E_UNSAFE_PATH) and "give that folder as an input" in message


def test_what_is_no_video_fails_when_it_is_loaded(tmp_path: Path, ingest, load) -> None:
    (tmp_path / "a.mp4").write_bytes(b"hello")
    reader = ingest("clips")
    [candidate] = reader.discover(Tree(tmp_path))
    with pytest.raises(CandidateError) as caught:
        load(reader, tmp_path, candidate)
    assert caught.value.reason is Reason.E_OPEN


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path, ingest) -> None:
    with pytest.raises(ValueError, match="holds no clip"):
        list(ingest("clips").discover(Tree(tmp_path)))
