"""The official reader over the same shards gives the same pictures, and never unpickles anything."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import webdataset as wds
from torch.utils.data import DataLoader

from benchmarks.server import RangeServer
from pipeline.loader.catalog import Catalog, CatalogError
from pipeline.loader.draw import Draw
from pipeline.loader.fetch import ReadError
from pipeline.loader.loader import Loader
from pipeline.loader.settings import LoaderSettings
from pipeline.loader.streaming import stream


def drawn(catalog, i, views, frames, size):
    """The sample by the indexed reader."""
    kind = catalog.kind(i)
    return Loader.read(catalog, LoaderSettings(size=size), [Draw(0, 0, 0, kind, i, views, frames)])


def test_every_sample_comes_once_as_the_indexed_reader_has_it(curated):
    catalog = Catalog.open(curated)
    found = {sample.sample_id: sample for sample in stream(curated, (24, 40))}
    assert sorted(found) == sorted(catalog.sample_id(i) for i in range(len(catalog)))
    for i in range(0, len(catalog), 3):
        sample = found[catalog.sample_id(i)]
        frames = tuple(range(sample.video.shape[1]))
        batch = drawn(catalog, i, tuple(range(len(catalog.view_ids(i)))), frames, (24, 40))
        assert len(frames) == catalog.n_frames(i)
        assert np.array_equal(sample.video, batch.video[0].permute(0, 2, 3, 4, 1))
        assert (sample.view_ids, sample.caption, sample.metric) == (batch.view_ids[0], batch.captions[0], batch.metric[0])
        assert (sample.c2w is None) == (batch.c2w is None)
        if sample.c2w is not None:
            assert np.array_equal(sample.c2w, batch.c2w[0]) and np.array_equal(sample.K, batch.K[0])


def test_chosen_views_and_frames_and_webdataset_s_own_methods_in_workers(curated):
    samples = stream(curated, (24, 24), views=[0], frames=[0]).shuffle(10)
    found = list(DataLoader(samples, batch_size=None, num_workers=2))
    assert len({sample.sample_id for sample in found}) == len(found) == len(Catalog.open(curated))
    assert {sample.video.shape for sample in found} == {(1, 1, 24, 24, 3)}


def test_through_a_server_without_a_shell(curated):
    names = sorted(path.name for path in (curated / "shards").iterdir())
    with RangeServer(curated, pages=False) as server:
        remote = list(stream(server.url, (24, 24), frames=[0], shards=names))
        with pytest.raises(CatalogError, match=r"name the shards|holds no"):
            stream(server.url, (24, 24))
    local = list(stream(curated, (24, 24), frames=[0]))
    assert [sample.sample_id for sample in remote] == [sample.sample_id for sample in local]
    assert all(np.array_equal(a.video, b.video) for a, b in zip(remote, local, strict=True))


class Armed:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).mkdir, (self.path,))


@pytest.mark.parametrize("suffix", ["pyd", "pickle", "pkl", "PKL"])
def test_pickles_are_refused_unopened(tmp_path, suffix):
    (tmp_path / "shards").mkdir()
    data = pickle.dumps(Armed(tmp_path / "made"))
    with tarfile.open(tmp_path / "shards" / "a.tar", "w") as tar:
        info = tarfile.TarInfo(f"s1.pose.{suffix}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    with pytest.raises(ReadError, match=rf"s1\.pose\.{suffix}.*pickle"):
        list(stream(tmp_path, (24, 24)))
    assert not (tmp_path / "made").exists()


def test_a_bad_sample_raises_or_goes_to_the_handler(copied):
    catalog = Catalog.open(copied)
    bad = next(i for i in range(len(catalog)) if catalog.kind(i) == "multiview_video")
    member = catalog.members(bad)["view01.mp4"]
    with (copied / "shards" / member.shard).open("r+b") as file:
        file.seek(member.offset)
        file.write(b"?" * member.size)
    with pytest.raises(ReadError, match=rf"{catalog.sample_id(bad)}\.view01\.mp4"):
        list(stream(copied, (24, 24), frames=[0]))
    rest = list(stream(copied, (24, 24), frames=[0], handler=wds.ignore_and_continue))
    assert len(rest) == len(catalog) - 1


def test_a_folder_without_shards(tmp_path):
    with pytest.raises(CatalogError, match="holds no"):
        stream(tmp_path, (24, 24))
