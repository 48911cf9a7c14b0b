"""Members by byte ranges: the right bytes, few requests, and errors that name the shard."""

import pickle
import tarfile

import pytest

from benchmarks.server import RangeServer
from pipeline.loader import fetch
from pipeline.loader.catalog import Catalog, Member
from pipeline.loader.fetch import ReadError, StorageError, Store, join


@pytest.fixture
def members(curated):
    """Every member of every sample."""
    catalog = Catalog.open(curated)
    return [member for i in range(len(catalog)) for member in catalog.members(i).values()]


def in_the_tar(folder, member):
    with tarfile.open(folder / "shards" / member.shard) as tar:
        return tar.extractfile(f"{member.sample_id}.{member.name}").read()


def test_local_members_are_what_tar_says_and_nothing_else_is_read(curated, members):
    store, wanted = Store(curated), members[::-3]
    assert store.fetch(wanted) == [in_the_tar(curated, member) for member in wanted]
    size = sum(member.size for member in wanted)
    assert (store.counters.bytes_asked, store.counters.bytes_read, store.counters.requests) == (size, size, len(wanted))
    store.close()
    assert store.fetch(wanted[:1]) == [in_the_tar(curated, wanted[0])]


def test_more_shards_than_open_files(curated, members, monkeypatch):
    monkeypatch.setattr(fetch, "_OPEN_FILES", 1)
    by_turns = sorted(members, key=lambda member: member.offset)
    store = Store(curated)
    assert len({member.shard for member in by_turns}) > 2
    assert [store.fetch([member])[0] for member in by_turns] == [in_the_tar(curated, member) for member in by_turns]


def test_a_server_gives_the_same_bytes_with_fewer_requests(curated, members):
    wanted = members[:3] + members[8:20] + members[-2:]
    with RangeServer(curated, latency_s=0.03) as server:
        store = Store(server.url)
        assert store.fetch(wanted) == Store(curated).fetch(wanted)
    assert server.requests == store.counters.requests < len(wanted) / 2
    assert server.bytes_sent == store.counters.bytes_read >= store.counters.bytes_asked == sum(member.size for member in wanted)


@pytest.mark.parametrize(
    ("layout", "gap", "spans"),
    [
        ([(0, 10), (600, 10)], 0, [(0, 10), (600, 610)]),
        ([(0, 10), (600, 10)], 590, [(0, 610)]),
        ([(0, 10), (600, 10)], 589, [(0, 10), (600, 610)]),
        ([(600, 10), (0, 10)], 590, [(0, 610)]),
        ([(0, 100), (150, 100), (300, 100)], 0, [(0, 400)]),  # 300 of 400 bytes are wanted
        ([(0, 100), (900, 100), (1000, 900)], 0, [(0, 100), (900, 1900)]),
        ([(0, 100), (0, 100), (50, 100)], 0, [(0, 150)]),
    ],
)
def test_ranges_are_joined_when_near_or_dense(layout, gap, spans):
    members = [Member("s", f"{i}", "a.tar", offset, size) for i, (offset, size) in enumerate(layout)]
    found = join(members, gap)
    assert [(span.start, span.stop) for span in found] == spans
    assert sorted(i for span in found for i in span.members) == list(range(len(members)))


def test_joining_respects_shards_and_the_largest_request():
    members = [Member("s", "0", "a.tar", 0, 10), Member("s", "1", "b.tar", 10, 10), Member("s", "2", "a.tar", 10, 10)]
    assert [(span.shard, span.start, span.stop) for span in join(members, 1 << 20)] == [("a.tar", 0, 20), ("b.tar", 10, 20)]
    assert len(join(members, 1 << 20, largest=15)) == 3


@pytest.mark.parametrize("remote", [False, True])
def test_a_truncated_shard_costs_its_lost_members_only(copied, members, remote):
    shard = copied / "shards" / members[0].shard
    of_shard = [member for member in members if member.shard == members[0].shard]
    cut = of_shard[4].offset + 10
    whole = Store(copied).fetch(of_shard)
    with shard.open("r+b") as file:
        file.truncate(cut)
    with RangeServer(copied) as server:
        found = Store(server.url if remote else copied).fetch_each(of_shard)
    lost = [i for i, member in enumerate(of_shard) if member.offset + member.size > cut]
    assert 0 < len(lost) < len(of_shard)
    assert [each for i, each in enumerate(found) if i not in lost] == [each for i, each in enumerate(whole) if i not in lost]
    assert all(isinstance(found[i], ReadError) for i in lost)
    said = str(found[lost[0]])
    first = of_shard[lost[0]]
    for part in (shard.name, first.name, str(first.offset), f"has {cut} bytes", "python -m pipeline.audit verify"):
        assert part in said


@pytest.mark.parametrize("remote", [False, True])
def test_a_missing_shard_is_named(copied, members, remote):
    (copied / "shards" / members[0].shard).unlink()
    with RangeServer(copied) as server, pytest.raises(ReadError, match=rf"{members[0].shard}.* is missing.*audit verify"):
        Store(server.url if remote else copied).fetch(members[:1])


def test_failing_requests_are_repeated(curated, members, monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_DELAY_S", 0.001)
    with RangeServer(curated, fail_first=4) as server:
        assert Store(server.url).fetch(members) == Store(curated).fetch(members)


def test_storage_that_never_answers_is_not_blamed_on_a_sample(curated, members, monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_DELAY_S", 0.001)
    with RangeServer(curated, fail_first=1000) as server, pytest.raises(StorageError, match=r"5 attempts.*503"):
        Store(server.url).fetch_each(members[:1])


def test_a_server_without_ranges_is_refused(curated, members):
    with RangeServer(curated, ranges=False) as server, pytest.raises(StorageError, match="byte ranges"):
        Store(server.url).fetch(members[:1])


def test_storage_without_concurrency_of_its_own(curated, members):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(curated / "shards"), "/kept/shards", recursive=True)
    try:
        assert Store("memory://kept").fetch(members) == Store(curated).fetch(members)
    finally:
        memory.rm("/kept", recursive=True)


def test_a_used_store_may_go_to_another_process(curated, members):
    store = Store(curated)
    found = store.fetch(members[:2])
    assert pickle.loads(pickle.dumps(store)).fetch(members[:2]) == found
