"""verify finds every kind of damage, names it, and finds nothing in a sound folder."""

import io
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.audit import main
from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.verify import total_bytes, verify
from tests.audit.fabricate import Fabricated, read_table, write_table


def shard_of(folder: Path) -> Path:
    return sorted((folder / "shards").iterdir())[0]


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in verify(OutputFolder(folder))]


def test_a_sound_folder_has_no_problem_and_every_byte_was_read(intact: Fabricated) -> None:
    read = []
    assert verify(OutputFolder(intact.path), read.append) == []
    on_disk = sum(path.stat().st_size for path in (intact.path / "shards").iterdir())
    assert sum(read) == on_disk == total_bytes(OutputFolder(intact.path))


def test_a_flipped_bit_names_the_shard_and_the_member(folder: Path) -> None:
    row = read_table(folder, "shards")[0]
    member = row["members"][1]
    path = folder / "shards" / row["shard"]
    data = bytearray(path.read_bytes())
    data[member["offset"] + 3] ^= 1
    path.write_bytes(data)
    found = problems(folder)
    assert len(found) == 2
    assert found[0].startswith(f"shards/{row['shard']}: sha256 is {sha256(data).hexdigest()}")
    assert found[1].startswith(f"shards/{row['shard']} {member['sample_id']}.{member['name']}: sha256 of bytes")


def test_a_truncated_shard(folder: Path) -> None:
    path = shard_of(folder)
    path.write_bytes(path.read_bytes()[:5000])
    found = "\n".join(problems(folder))
    assert "is 5000 bytes, the table says" in found
    assert "lie beyond the end of the file" in found


def test_missing_stray_and_linked_shards(folder: Path, tmp_path: Path) -> None:
    first, second, *_ = sorted((folder / "shards").iterdir())
    first.unlink()
    second.rename(tmp_path / "elsewhere.tar")
    second.symlink_to(tmp_path / "elsewhere.tar")
    (folder / "shards" / "left.tar").write_bytes(b"")
    found = problems(folder)
    assert any(first.name in each and "no plain file" in each for each in found)
    assert any(second.name in each and "goes through a link" in each for each in found)
    assert any(each.startswith("shards/left.tar: is not in the shards table") for each in found)


def rebuild(folder: Path, change: Callable[[tarfile.TarInfo], None]) -> Path:
    """Write the first shard again with one entry changed, and make its hash and size in the table right again."""
    path = shard_of(folder)
    out = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as new:
        for i, entry in enumerate(old):
            data = old.extractfile(entry).read()
            if i == 0:
                change(entry)
            new.addfile(entry, io.BytesIO(data) if entry.isreg() else None)
    path.write_bytes(out.getvalue())
    rows = read_table(folder, "shards")
    for row in rows:
        if row["shard"] == path.name:
            row["bytes"], row["sha256"] = len(out.getvalue()), sha256(out.getvalue()).hexdigest()
    write_table(folder, "shards", rows)
    return path


def test_a_link_inside_a_shard(folder: Path) -> None:
    def to_link(entry: tarfile.TarInfo) -> None:
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"

    rebuild(folder, to_link)
    assert any("is no plain file (tar type b'2')" in each for each in problems(folder))


@pytest.mark.parametrize("name", ["/etc/cron.d/x", "../../x", "a/b.mp4"])
def test_a_member_name_that_leaves_the_folder(folder: Path, name: str) -> None:
    def renamed(entry: tarfile.TarInfo) -> None:
        entry.name = name

    rebuild(folder, renamed)
    found = problems(folder)
    assert any("could leave the folder" in each for each in found)
    assert any("is in the tar, but not in the shards table" in each for each in found)


def test_a_time_in_a_header(folder: Path) -> None:
    def dated(entry: tarfile.TarInfo) -> None:
        entry.mtime = 1_700_000_000

    rebuild(folder, dated)
    assert [each for each in problems(folder) if "has mtime 1700000000, must be 0" in each]


def test_a_shard_name_in_the_table_that_leaves_the_folder(folder: Path, tmp_path: Path) -> None:
    rows = read_table(folder, "shards")
    (tmp_path / "outside.tar").write_bytes((folder / "shards" / rows[0]["shard"]).read_bytes())
    rows[0]["shard"] = "../../outside.tar"
    write_table(folder, "shards", rows)
    assert any("the name in the table leaves DIR/shards" in each for each in problems(folder))


CHANGES: list[tuple[str, Callable[[list[dict]], None], str]] = [
    ("children", lambda rows: _first(rows, "groups").update(n_children=4), "n_children is 4, but 9 rows name it as their parent"),
    ("key", lambda rows: rows[-1].update(sample_id="a.b/c"), "a sample key is 1 to"),
    ("status", lambda rows: _first(rows, "clips").update(status="kept"), "status is 'kept', but its reasons ['blurred'] mean 'rejected'"),
    ("reason", lambda rows: _first(rows, "clips").update(reasons=["ugly"]), "reasons outside the closed set: ['ugly']"),
    ("unpacked", lambda rows: _kept(rows).update(shard=None), "shard is None in samples"),
    ("two rows", lambda rows: rows.append(dict(rows[0])), "2 rows have this sample_id"),
    ("lost row", lambda rows: rows.remove(_kept(rows)), "this sample has no row in the samples table"),
    ("orphan", lambda rows: rows[-1].update(parent_id="nobody"), "parent_id 'nobody' is no source row of 'groups'"),
    ("content", lambda rows: _kept(rows).update(content_sha256="0"), "content_sha256 is not that of its members"),
    ("unit", lambda rows: rows[0].update(unit="u9"), "1 rows of samples name this unit, which the units table does not hold"),
]


def _first(rows: list[dict], source: str) -> dict:
    return next(row for row in rows if row["source"] == source)


def _kept(rows: list[dict]) -> dict:
    return next(row for row in rows if row["shard"])


@pytest.mark.parametrize(("change", "expected"), [each[1:] for each in CHANGES], ids=[each[0] for each in CHANGES])
def test_a_samples_table_that_contradicts_itself(folder: Path, change: Callable[[list[dict]], None], expected: str) -> None:
    rows = read_table(folder, "samples")
    change(rows)
    write_table(folder, "samples", rows)
    assert any(expected in each for each in problems(folder))


def test_a_kept_sample_in_two_shards_and_in_none(folder: Path) -> None:
    rows = read_table(folder, "shards")
    moved = [member for member in rows[0]["members"] if member["sample_id"] == rows[0]["members"][0]["sample_id"]]
    rows[1]["members"] += moved
    lost = rows[2]["members"][0]["sample_id"]
    rows[2]["members"] = [member for member in rows[2]["members"] if member["sample_id"] != lost]
    write_table(folder, "shards", rows)
    found = problems(folder)
    expected = f"must be in exactly one shard; it is in ['{rows[0]['shard']}', '{rows[1]['shard']}']"
    assert any(each.startswith(f"samples {moved[0]['sample_id']}:") and expected in each for each in found)
    assert any(each == f"samples {lost}: is kept, so it must be in exactly one shard; it is in none" for each in found)


def test_members_that_are_not_contiguous_or_not_sorted(folder: Path) -> None:
    rows = read_table(folder, "shards")
    members = rows[0]["members"]
    keys = list(dict.fromkeys(member["sample_id"] for member in members))
    members[0]["sample_id"], members[2]["sample_id"] = keys[1], keys[0]
    write_table(folder, "shards", rows)
    found = "\n".join(problems(folder))
    assert "members are not contiguous" in found
    assert "members are not sorted" in found


def test_the_command_prints_what_is_wrong_and_exits_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "--quiet"]) == 0
    assert "intact: 5 shards" in capsys.readouterr().out
    shard_of(folder).unlink()
    assert main(["verify", str(folder), "--quiet"]) == 1
    assert "problem(s) found" in capsys.readouterr().out
    assert main(["verify", str(folder / "shards"), "--quiet"]) == 2
    assert main(["verify", str(folder / "nowhere")]) == 2


def test_a_part_that_is_no_parquet(folder: Path) -> None:
    (folder / "manifest" / "units" / "part-00000.parquet").write_bytes(b"PAR1 not really")
    assert "cannot be read as Parquet" in problems(folder)[0]
