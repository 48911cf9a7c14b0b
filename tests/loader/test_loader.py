"""Batches against the footage they were curated from, and the same for any workers, ranks, micro-batches and start."""

import io
import itertools
import logging
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.server import RangeServer
from pipeline.loader.batch import KINDS
from pipeline.loader.catalog import Catalog
from pipeline.loader.fetch import ReadError, StorageError
from pipeline.loader.loader import Loader, LoaderError
from pipeline.loader.order import Order, OrderError
from pipeline.loader.sample import Wanted, read_sample
from pipeline.loader.settings import LoaderSettings

SETTINGS = LoaderSettings(batch=4, views=2, image_views=3, frames=5, size=(32, 40), curriculum=(), seed=5)
MULTIVIEW = replace(SETTINGS, mix={"multiview_video": 1.0})


@pytest.fixture(scope="module")
def catalog(curated):
    return Catalog.open(curated)


def take(catalog, steps, settings=SETTINGS, **how):
    return list(itertools.islice(Loader(catalog, settings, **how), steps))


def plain(batches, columns=("sample_ids", "view_ids", "captions", "metric")):
    """Slot -> what is in it, whatever batch it came in."""
    found = {}
    for batch in batches:
        for i, slot in enumerate(batch.slots):
            numbers = [None if array is None else np.asarray(array[i]).tobytes() for array in (batch.video, batch.c2w, batch.K)]
            found[slot] = [batch.step, batch.kind, batch.size, *(getattr(batch, name)[i] for name in columns), *numbers]
    return found


@pytest.fixture(scope="module")
def expected(catalog):
    """Six steps of one process."""
    return [plain(step) for step in take(catalog, 6)]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(catalog, expected, workers):
    assert [plain(step) for step in take(catalog, 6, workers=workers)] == expected


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_same_steps(catalog, expected, world):
    shares = [take(catalog, 6, rank=rank, world=world) for rank in range(world)]
    assert all(set(plain(step)) == {rank + i * world for i in range(4 // world)} for rank, share in enumerate(shares) for step in share)
    assert [{slot: each for share in shares for slot, each in plain(share[step]).items()} for step in range(6)] == expected


@pytest.mark.parametrize("micro_batch", [1, 3, 9])
def test_micro_batches_are_cuts_of_the_same_step(catalog, expected, micro_batch):
    steps = take(catalog, 6, micro_batch=micro_batch)
    assert [plain(step) for step in steps] == expected
    assert {len(batch.slots) for step in steps for batch in step} == {1: {1}, 3: {3, 1}, 9: {4}}[micro_batch]


@pytest.mark.parametrize(("first", "workers"), [(1, 0), (2, 2), (5, 1)])
def test_resuming_at_a_step_goes_on_as_if_never_stopped(catalog, expected, first, workers):
    assert [plain(step) for step in take(catalog, 6 - first, step=first, workers=workers)] == expected[first:]


def test_the_state_is_three_integers(catalog):
    loader = Loader(catalog, SETTINGS, step=7, workers=2)
    assert loader.state() == {"selection": int(catalog.digest[:15], 16), "seed": 5, "step": 7}
    for _ in itertools.islice(loader, 3):
        pass
    assert loader.state()["step"] == 10
    assert all(type(value) is int for value in loader.state().values())
    assert next(iter(loader))[0].step == 10


def test_starting_workers_leaves_the_global_random_stream_alone(catalog):
    before = torch.get_rng_state()
    take(catalog, 1, workers=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_kind_has_its_shape(catalog):
    shapes = {}
    for [batch] in itertools.islice(Loader(catalog, SETTINGS), 200):  # which kinds come first depends on the run's ids
        if batch.kind in shapes:
            continue
        shapes[batch.kind] = [None if array is None else tuple(array.shape[1:]) for array in (batch.video, batch.c2w, batch.K)]
        assert batch.video.dtype == torch.uint8
        assert batch.size == (32, 40)
        assert all(len(views) == batch.video.shape[1] for views in batch.view_ids)
        if len(shapes) == 3:
            break
    assert shapes == {
        "multiview_video": [(2, 3, 5, 32, 40), (2, 5, 4, 4), (2, 5, 3, 3)],
        "multiview_images": [(3, 3, 1, 32, 40), (3, 1, 4, 4), (3, 1, 3, 3)],
        "singleview_video": [(1, 3, 5, 32, 40), None, None],
    }
    assert set(shapes) == set(KINDS)


def test_pictures_are_those_of_the_named_view_of_the_source(catalog, footage):
    """By PyAV and OpenCV from the footage; every drawn frame is nearest to the source's frame of that number."""
    for step in range(3):
        draws = Order(catalog, MULTIVIEW).draws(step)
        batch = Loader.read(catalog, MULTIVIEW, draws)
        for i, draw in enumerate(draws):
            scene = catalog.sample_id(draw.sample).rsplit("-", 1)[-1].lstrip("_")
            for v, view in enumerate(batch.view_ids[i]):
                with av.open(str(footage / "syncamvideo" / "train" / "videos" / scene / f"{view}.mp4")) as container:
                    source = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
                # 96x64 covers 40x32 (W x H) at 48x32; 4 columns go on either side.
                fitted = [cv2.resize(each, (48, 32), interpolation=cv2.INTER_AREA)[:, 4:44].astype(int) for each in source]
                for f, frame in enumerate(draw.frames):
                    shown = batch.video[i, v, :, f].permute(1, 2, 0).numpy()
                    errors = [np.abs(shown - each).mean() for each in fitted]
                    assert np.argmin(errors) == frame
                    assert errors[frame] < 4  # this converter repeats chroma instead of interpolating it


def test_cameras_are_those_of_the_drawn_views_and_frames(catalog, curated):
    draws = Order(catalog, MULTIVIEW).draws(0)
    batch = Loader.read(catalog, MULTIVIEW, draws)
    for i, draw in enumerate(draws):
        member = catalog.members(draw.sample)["cameras.npz"]
        data = (curated / "shards" / member.shard).read_bytes()[member.offset : member.offset + member.size]
        stored = np.load(io.BytesIO(data))
        assert np.array_equal(batch.c2w[i], stored["c2w"][list(draw.views)][:, list(draw.frames)])
        for v, view in enumerate(draw.views):
            K = stored["K"][view][list(draw.frames)]
            # halved from 96x64 to 48x32, then 4 columns less
            assert np.allclose(batch.K[i, v, :, :2], K[:, :2] / 2 - np.array([[0, 0, 4], [0, 0, 0]]), atol=1e-9)
    assert all(batch.metric) and batch.c2w.dtype == batch.K.dtype == np.float64


def test_only_the_members_that_are_needed_are_read(catalog):
    loader = Loader(catalog, MULTIVIEW, workers=2)
    read = list(itertools.islice(loader, 3))
    wanted = []
    for step in range(3):
        for draw in Order(catalog, MULTIVIEW).draws(step):
            have = catalog.members(draw.sample)
            wanted += [have[name] for name in (*(f"view{view:02d}.mp4" for view in draw.views), "cameras.npz", "caption.txt")]
    assert len(read) == 3
    assert loader.counters.bytes_read == loader.counters.bytes_asked == sum(member.size for member in wanted)
    assert loader.counters.requests == len(wanted) == 4 * 3 * 4


def test_through_a_server_it_is_the_same(curated, expected):
    local = Loader(Catalog.open(curated), SETTINGS)
    assert [plain(step) for step in itertools.islice(local, 6)] == expected
    with RangeServer(curated, latency_s=0.01) as server:
        remote = Loader(Catalog.open(server.url), SETTINGS, workers=2)
        assert [plain(step) for step in itertools.islice(remote, 6)] == expected
        again = Catalog.open(server.url)  # this process's own connections have outlived the workers
        assert [plain(step) for step in take(again, 2)] == expected[:2]
    assert remote.counters.bytes_asked == local.counters.bytes_asked <= remote.counters.bytes_read
    assert remote.counters.requests < local.counters.requests / 2  # there it is one a member


def overwritten(folder: Path, member, data: bytes) -> None:
    with (folder / "shards" / member.shard).open("r+b") as file:
        file.seek(member.offset)
        file.write(data.ljust(member.size, b"\0"))


def npz_of(folder, member, change):
    data = (folder / "shards" / member.shard).read_bytes()[member.offset : member.offset + member.size]
    arrays = change(dict(np.load(io.BytesIO(data))))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def damage_video(folder, catalog, sample):
    for name, member in catalog.members(sample).items():
        if name.endswith(".mp4"):
            overwritten(folder, member, b"?" * member.size)
    return "not a video"


def fewer_cameras(folder, catalog, sample):
    member = catalog.members(sample)["cameras.npz"]
    overwritten(folder, member, npz_of(folder, member, lambda arrays: {name: array[:3] for name, array in arrays.items()}))
    return "cameras of 3 views, but the sample has 4 views"


def fewer_camera_frames(folder, catalog, sample):
    member = catalog.members(sample)["cameras.npz"]
    kept = {"c2w", "K", "frame"}
    overwritten(folder, member, npz_of(folder, member, lambda a: {n: each[:, :2] if n in kept else each for n, each in a.items()}))
    return "has no camera"


def no_rotation(folder, catalog, sample):
    member = catalog.members(sample)["cameras.npz"]
    overwritten(folder, member, npz_of(folder, member, lambda arrays: arrays | {"c2w": arrays["c2w"] * 2}))
    return "E_CAMERA"


def other_size(folder, catalog, sample):
    member = catalog.members(sample)["cameras.npz"]
    overwritten(folder, member, npz_of(folder, member, lambda arrays: arrays | {"size": arrays["size"] * 2}))
    return "192x128 pictures, but they are 96x64"


def no_cameras(folder, catalog, sample):
    """The member is not in the manifest."""
    for path in (folder / "manifest" / "shards").glob("*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            row["members"] = [m for m in row["members"] if (m["sample_id"], m["name"]) != (catalog.sample_id(sample), "cameras.npz")]
        pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    return "no such member"


def truncated(folder, catalog, sample):
    member = max(catalog.members(sample).values(), key=lambda member: member.offset)
    with (folder / "shards" / member.shard).open("r+b") as file:
        file.truncate(min(m.offset for m in catalog.members(sample).values()))
    return "audit verify"


DAMAGES = [damage_video, fewer_cameras, fewer_camera_frames, no_rotation, other_size, no_cameras, truncated]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_sample_is_replaced_and_named_and_no_other_slot_changes(copied, damage, caplog):
    caplog.set_level(logging.WARNING)
    sound = Catalog.open(copied)
    multiview = [i for i in range(len(sound)) if sound.kind(i) == "multiview_video"]
    bad = next(i for i in multiview if i + 1 == len(sound) or sound.shards[i + 1] != sound.shards[i])  # the last of its shard
    before = [plain(step) for step in take(sound, 4, MULTIVIEW)]
    why = damage(copied, sound, bad)
    catalog = Catalog.open(copied)
    assert catalog.digest == sound.digest

    loader = Loader(catalog, MULTIVIEW)
    steps = list(itertools.islice(loader, 4))
    after = [plain(step) for step in steps]
    order = Order(catalog, MULTIVIEW)
    replaced = 0
    for step in range(4):
        for draw in order.draws(step):
            if draw.sample == bad:
                instead = Loader.read(catalog, MULTIVIEW, [order.redraw(draw)])
                assert after[step][draw.slot] == plain([instead])[draw.slot]
                replaced += 1
            else:
                assert after[step][draw.slot] == before[step][draw.slot]
    named = [said for step in steps for batch in step for said in batch.skipped]
    assert replaced == len(named) == loader.skipped > 0
    assert all(said.startswith(f"{catalog.sample_id(bad)}: ") and why in said for said in named)
    assert sum(catalog.sample_id(bad) in record.getMessage() for record in caplog.records) == replaced
    assert [plain(step) for step in take(catalog, 4, MULTIVIEW, workers=2, micro_batch=1)] == after
    with pytest.raises(ReadError, match=catalog.sample_id(bad)):
        Loader.read(catalog, MULTIVIEW, [replace(order.draws(0)[0], sample=bad, frames=(0, 2, 4, 6, 8))])


@pytest.mark.parametrize("workers", [0, 1])
def test_when_nothing_can_be_read_training_ends_with_what_to_do(copied, workers):
    catalog = Catalog.open(copied)
    for shard in (copied / "shards").glob("syncamvideo*"):
        shard.unlink()
    with pytest.raises(LoaderError, match=r"in a row could not be read.*audit verify.*is missing") as raised:
        take(catalog, 1, MULTIVIEW, workers=workers)
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_kind_that_the_data_lacks_ends_it_by_name(curated, workers):
    settings = replace(MULTIVIEW, views=5)
    with pytest.raises(OrderError, match=r"multiview_video.*views: 5"):
        take(Catalog.open(curated), 1, settings, workers=workers)


def test_storage_that_fails_ends_it_and_blames_no_sample(curated, monkeypatch):
    monkeypatch.setattr("pipeline.loader.fetch.FIRST_DELAY_S", 0.001)
    with RangeServer(curated) as server:
        catalog = Catalog.open(server.url)
        server.fail_first = 10_000
        with pytest.raises(StorageError, match="does not answer"):
            take(catalog, 1, workers=1)


def test_pictures_where_latents_are_wanted_are_refused_at_once(catalog):
    with pytest.raises(LoaderError, match=r"pipeline.encode_latents"):
        Loader(catalog, replace(SETTINGS, payload="latents"))


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_a_sample_of_latents():
    rng = np.random.default_rng(0)
    latents, text = rng.normal(size=(3, 4, 2, 4, 5)).astype(np.float16), rng.normal(size=(6, 8)).astype(np.float16)
    c2w = np.tile(np.eye(4), (3, 9, 1, 1))
    c2w[..., 0, 3] = np.arange(27).reshape(3, 9)
    K = np.tile(np.array([[90.0, 0, 48], [0, 90, 32], [0, 0, 1]]), (3, 9, 1, 1))
    frame = np.tile(np.arange(9)[::-1], (3, 1))  # stored from the last to the first
    members = {f"view{v:02d}_latent.npz": npz(latent=latents[v]) for v in range(3)}
    members |= {
        "text.npz": npz(text=text),
        "caption.txt": "Zwei Züge\n".encode(),
        "cameras.npz": npz(c2w=c2w, K=K, frame=frame, size=np.tile([96, 64], (3, 1)), metric=np.array([True, False, True])),
    }
    wanted = Wanted(views=(2, 0), frames=(0, 4, 8), size=(32, 40), cameras=True, latents=True)
    sample = read_sample("s", ["a", "b", "c"], wanted, members)
    assert np.array_equal(sample.latents, latents[[2, 0]]) and np.array_equal(sample.text, text) and sample.video is None
    assert (sample.view_ids, sample.caption, sample.metric) == (["c", "a"], "Zwei Züge", True)
    assert sample.c2w[:, :, 0, 3].tolist() == [[26, 22, 18], [8, 4, 0]]
    assert np.allclose(sample.K[0, 0], [[45, 0, 20], [0, 45, 16], [0, 0, 1]])
    pickled = npz(text=np.array([{"a": 1}], dtype=object))
    single = io.BytesIO()
    np.save(single, text)
    damaged = [("text.npz", pickled), ("text.npz", single.getvalue()), ("cameras.npz", b"PK"), ("view02_latent.npz", npz(latent=latents))]
    for name, data in damaged:
        with pytest.raises(ReadError, match=f"s.{name}"):
            read_sample("s", ["a", "b", "c"], wanted, members | {name: data})
    with pytest.raises(ReadError, match=r"s\.text\.npz: there is no such member"):
        read_sample("s", ["a", "b", "c"], wanted, {name: data for name, data in members.items() if name != "text.npz"})
