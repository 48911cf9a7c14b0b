"""The catalog says what the manifest says, from any storage, and names what it cannot find."""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.loader.catalog import Catalog, CatalogError
from tests.loader.manifests import Made, circle, mixed, write_manifest


def write_selection(folder: Path, name: str, text: str) -> None:
    (folder / "selections").mkdir(exist_ok=True)
    (folder / "selections" / f"{name}.txt").write_text(text)


def test_only_kept_and_packed_samples_are_there_classified_by_views_and_frames(tmp_path):
    rows = [
        Made("video", views=2),
        Made("images", views=3, frames=1),
        Made("clip"),
        Made("posed", other={"kind": "posed_video"}),
        Made("unknown-length", views=2, frames=None),
        Made("rejected", other={"status": "rejected"}),
        Made("parent", other={"is_sample": False}),
        Made("unpacked", shard=None),
    ]
    catalog = Catalog.open(write_manifest(tmp_path, rows))
    kinds = {catalog.sample_id(i): catalog.kind(i) for i in range(len(catalog))}
    assert kinds == {
        "video": "multiview_video",
        "images": "multiview_images",
        "clip": "singleview_video",
        "posed": "singleview_video",
        "unknown-length": "multiview_video",
    }
    lengths = {catalog.sample_id(i): catalog.n_frames(i) for i in range(len(catalog))}
    assert lengths["unknown-length"] is None and lengths["images"] == 1 and lengths["clip"] == 60


def test_members_views_and_text_are_those_of_the_tables(tmp_path):
    folder = write_manifest(tmp_path, [*mixed(6, 4, 3), Made("mute", text=False, shard=9)], parts=3)
    catalog = Catalog.open(folder)
    expected: dict[str, dict[str, tuple[str, int, int]]] = {}
    for part in (folder / "manifest" / "shards").iterdir():
        for shard in pq.read_table(part).to_pylist():
            for member in shard["members"]:
                place = (shard["shard"], member["offset"], member["size"])
                expected.setdefault(member["sample_id"], {})[member["name"]] = place
    found = {
        catalog.sample_id(i): {name: (m.shard, m.offset, m.size) for name, m in catalog.members(i).items()} for i in range(len(catalog))
    }
    assert found == expected
    assert [catalog.sample_id(i) for i in range(len(catalog)) if not catalog.has_text(i)] == ["mute"]
    group = next(i for i in range(len(catalog)) if catalog.sample_id(i) == "group000")
    assert catalog.view_ids(group) == ["cam00", "cam01", "cam02", "cam03"]


def test_samples_stand_in_the_order_of_the_shards_whatever_the_order_of_the_rows(tmp_path):
    rows = mixed(30, 8, 8)
    catalogs = [Catalog.open(write_manifest(tmp_path / "a", rows)), Catalog.open(write_manifest(tmp_path / "b", rows, parts=4))]
    for catalog in catalogs:
        places = [(m.shard, m.offset) for i in range(len(catalog)) for m in [next(iter(catalog.members(i).values()))]]
        assert places == sorted(places)
    a, b = ([catalog.sample_id(i) for i in range(len(catalog))] for catalog in catalogs)
    assert a == b and catalogs[0].digest == catalogs[1].digest


def test_angles_are_symmetric_and_unknown_where_the_manifest_is_silent(tmp_path):
    catalog = Catalog.open(write_manifest(tmp_path, [Made("a", views=3, angles={(0, 2): 25.0, (2, 1): 70.0}), Made("b", views=2)]))
    by_id = {catalog.sample_id(i): catalog.angle(i) for i in range(2)}
    nan = np.nan
    np.testing.assert_array_equal(by_id["a"], np.array([[0, nan, 25], [nan, 0, 70], [25, 70, 0]], np.float32))
    np.testing.assert_array_equal(by_id["b"], np.array([[0, nan], [nan, 0]], np.float32))


def test_the_angle_is_the_recipes_then_parallax_then_the_optical_axes(tmp_path):
    def pairs(**angles: float | None) -> dict:
        spreads = {f"{kind}_deg": None if value is None else {"min": 0.0, "median": 0.0, "max": value} for kind, value in angles.items()}
        return {"pairs": [{"a": "cam00", "b": "cam01", **spreads}]}

    rows = [
        Made("parallax", views=2, other=pairs(parallax=10.0, axis=20.0, rotation=30.0)),
        Made("axis", views=2, other=pairs(parallax=None, axis=20.0, rotation=30.0)),
        Made("rotation", views=2, other=pairs(parallax=10.0, axis=20.0, rotation=30.0) | {"notes": [("x", "axis"), ("angle", "rotation")]}),
        Made("undefined", views=2, other=pairs(parallax=None, axis=20.0) | {"notes": [("angle", "parallax")]}),
    ]
    catalog = Catalog.open(write_manifest(tmp_path, rows))
    found = {catalog.sample_id(i): float(catalog.angle(i)[0, 1]) for i in range(4)}
    assert found == {"parallax": 10.0, "axis": 20.0, "rotation": 30.0, "undefined": 20.0}


def test_the_digest_is_over_ids_content_and_shards_of_the_chosen(tmp_path):
    folder = write_manifest(tmp_path / "out", [Made("b", shard=1), Made("a", shard=0)])
    lines = [f"{each}\t{sha256(each.encode()).hexdigest()}\tmade-all-{shard:06d}-01234567.tar\n" for each, shard in (("a", 0), ("b", 1))]
    assert Catalog.open(folder).digest == sha256("".join(lines).encode()).hexdigest()
    write_selection(folder, "one", "b\n")
    assert Catalog.open(folder, "one").digest == sha256(lines[1].encode()).hexdigest()
    moved = write_manifest(tmp_path / "packed-otherwise", [Made("b", shard=1), Made("a", shard=1)])
    assert Catalog.open(moved).digest != Catalog.open(folder).digest


def test_a_selection_names_ids_with_comments_and_blank_lines(tmp_path):
    folder = write_manifest(tmp_path, mixed(5, 0, 5))
    write_selection(folder, "few", "# two of them\nclip003  # a clip\n\nscene001\nclip003\n")
    catalog = Catalog.open(folder, selection="few")
    assert {catalog.sample_id(i) for i in range(len(catalog))} == {"clip003", "scene001"}
    assert len(catalog.members(0)) == 11 and catalog.angle(0).shape == (10, 10)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("fwe", None, ["fwe.txt", "did you mean 'few'"]),
        ("../few", None, ["no such selection"]),
        ("few", "clip001\nnobody\nnothing\n", ["2 of 3 ids", "nobody, nothing", "there are 10"]),
        ("few", "# nobody\n", ["names no sample"]),
    ],
)
def test_a_wrong_selection_says_what_there_is(tmp_path, name, text, words):
    folder = write_manifest(tmp_path, mixed(5, 0, 5))
    write_selection(folder, "few", text or "clip001\n")
    with pytest.raises(CatalogError) as caught:
        Catalog.open(folder, selection=name)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_split_is_chosen_or_the_splits_are_listed(tmp_path):
    folder = write_manifest(tmp_path, [Made("a", split="train"), Made("b", split="test"), Made("c"), Made("d", split="test")])
    catalog = Catalog.open(folder, split="test")
    assert [catalog.sample_id(i) for i in range(len(catalog))] == ["b", "d"]
    with pytest.raises(CatalogError, match=r"'val'.*\(no split\): 1, test: 2, train: 1"):
        Catalog.open(folder, split="val")


def test_what_is_no_output_folder_is_named(tmp_path):
    with pytest.raises(CatalogError, match=r"nowhere.*manifest/samples.*pipeline\.curate"):
        Catalog.open(tmp_path / "nowhere")
    with pytest.raises(CatalogError, match="bogus"):
        Catalog.open("bogus://bucket/out")
    folder = write_manifest(tmp_path / "out", [Made("a", other={"status": "rejected"})])
    with pytest.raises(CatalogError, match="no sample was kept"):
        Catalog.open(folder)
    (folder / "manifest" / "samples" / "part-00000.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(CatalogError, match=r"part-00000\.parquet: cannot be read"):
        Catalog.open(folder)


def test_a_sample_that_no_shard_lists_is_named(tmp_path):
    folder = write_manifest(tmp_path / "out", [Made("a"), Made("b")])
    table = write_manifest(tmp_path / "other", [Made("a")]) / "manifest" / "shards" / "part-00000.parquet"
    (folder / "manifest" / "shards" / "part-00000.parquet").write_bytes(table.read_bytes())
    with pytest.raises(CatalogError, match=r"no members of 1 samples \(b"):
        Catalog.open(folder)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]"])
def test_a_run_file_that_nobody_of_ours_wrote_is_told(tmp_path, text):
    folder = write_manifest(tmp_path / "out", [Made("a")])
    (folder / "run.json").write_text(text)
    with pytest.raises(CatalogError, match=r"run\.json: cannot be read as JSON"):
        Catalog.open(folder)


@pytest.mark.parametrize("column", ["sample_id", "name", "offset", "size"])
def test_members_without_their_name_or_place_are_damage(tmp_path, column):
    folder = write_manifest(tmp_path / "out", [Made("a"), Made("b")])
    path = folder / "manifest" / "shards" / "part-00000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["members"][0][column] = None
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(CatalogError, match=rf"1 members have no {column}"):
        Catalog.open(folder)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files and byte ranges of them, and lists nothing."""

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        first, last = 0, len(data) - 1
        if (wanted := self.headers.get("Range")) is not None:
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
        self.send_response(200 if wanted is None else 206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if body:
            self.wfile.write(data[first : last + 1])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server over tmp_path."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Ranges, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("storage", ["memory", "web"])
def test_any_storage_gives_the_same_catalog(tmp_path, web, storage):
    folder = write_manifest(tmp_path / "out", mixed(12, 5, 4), parts=3)
    (folder / "run.json").write_text(json.dumps({"encoding": {"base": "tiny"}}))
    write_selection(folder, "few", "scene001\nclip002\n")
    location = f"{web}/out"
    if storage == "memory":
        location = "memory://catalog/out"
        fsspec.filesystem("memory").put(str(folder), "/catalog/out", recursive=True)
    here, there = Catalog.open(folder), Catalog.open(location)
    assert there.location == location and there.digest == here.digest and there.encoding == {"base": "tiny"}
    assert [there.members(i) for i in range(len(there))] == [here.members(i) for i in range(len(here))]
    np.testing.assert_array_equal(there.pairs.angle, here.pairs.angle)
    assert len(Catalog.open(location, selection="few")) == 2
    with pytest.raises(CatalogError, match=r"gone.*pipeline\.curate"):
        Catalog.open(location.replace("out", "gone"))


def test_views_that_share_a_circle_have_the_angles_of_their_azimuths(tmp_path):
    catalog = Catalog.open(write_manifest(tmp_path, [circle("a", [350, 10, 190])]))
    np.testing.assert_allclose(catalog.angle(0), [[0, 20, 160], [20, 0, 180], [160, 180, 0]], atol=1e-4)
