"""The order is a pure function of selection, seed and step: shares, phases, epochs, ranks and substitutes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.loader.batch import KINDS
from pipeline.loader.catalog import Catalog
from pipeline.loader.order import BLOCK, MAX_ATTEMPTS, WINDOW, Order, OrderError, block_shuffle
from pipeline.loader.seeded import bits
from pipeline.loader.settings import LoaderSettings, Phase
from pipeline.loader.views import eligible
from tests.loader.manifests import Made, circle, mixed, write_manifest

SETTINGS = LoaderSettings(batch=8, frames=17)
VIDEOS = replace(SETTINGS, mix={"multiview_video": 1.0})
CLIPS = replace(SETTINGS, mix={"singleview_video": 1.0})


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.open(write_manifest(tmp_path_factory.mktemp("order"), mixed()))


def test_the_random_numbers_are_those_of_splitmix64():
    # The first outputs of the published generator with seeds 0 and 1234567 (Vigna's reference implementation).
    assert [hex(each) for each in bits(0, np.arange(3)).tolist()] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]
    assert bits(1234567, np.arange(3)).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_the_mix_has_its_shares_and_steps_are_independent(catalog):
    steps, order = 50_000, Order(catalog, SETTINGS)
    kinds = np.array([KINDS.index(order.kind_at(step)) for step in range(steps)])
    shares = np.array([0.6, 0.2, 0.2])
    for number, share in enumerate(shares):
        assert abs((kinds == number).sum() - share * steps) < 4 * math.sqrt(steps * share * (1 - share))
    expected = np.outer(shares, shares) * (steps - 1)
    pairs = np.bincount(kinds[:-1] * 3 + kinds[1:], minlength=9).reshape(3, 3)
    assert ((pairs - expected) ** 2 / expected).sum() < 26.1  # chi-square, 8 degrees of freedom, p = 0.001


def test_a_kind_without_a_share_is_never_drawn(catalog):
    order = Order(catalog, replace(SETTINGS, mix={"multiview_video": 0.0, "singleview_video": 0.3, "multiview_images": 0.7}))
    assert {order.kind_at(step) for step in range(2000)} == {"singleview_video", "multiview_images"}
    with pytest.raises(ValueError):
        replace(SETTINGS, mix={"singleview_video": 0.3})


def test_every_draw_is_of_its_steps_kind_and_complete(catalog):
    order = Order(catalog, replace(SETTINGS, views=3, frame_stride=2))
    for step in range(200):
        draws = order.draws(step)
        assert [draw.slot for draw in draws] == list(range(8))
        for draw in draws:
            assert draw.kind == order.kind_at(step) == catalog.kind(draw.sample)
            views, frames = {"multiview_video": (3, 17), "multiview_images": (3, 1), "singleview_video": (1, 17)}[draw.kind]
            assert len(set(draw.views)) == views and max(draw.views) < len(catalog.view_ids(draw.sample))
            assert len(draw.frames) == frames and draw.frames[-1] < catalog.n_frames(draw.sample)
            assert draw.attempt == 0 and draw.step == step


def test_draws_do_not_depend_on_what_was_asked_before(catalog):
    walked = Order(catalog, SETTINGS)
    history = [walked.draws(step) for step in range(120)]
    for step in (0, 1, 57, 119):
        assert Order(catalog, SETTINGS).draws(step) == history[step]
    assert Order(catalog, SETTINGS).draws(20_500) == walked.draws(20_500)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8, 11])
def test_ranks_share_the_draws_of_one(catalog, world):
    whole = Order(catalog, SETTINGS)
    ranks = [Order(catalog, SETTINGS) for _ in range(world)]
    for step in (0, 3, 9_999, 10_000):
        parts = [order.draws(step, rank, world) for rank, order in enumerate(ranks)]
        assert sorted((draw for part in parts for draw in part), key=lambda draw: draw.slot) == whole.draws(step)
        assert all([draw.slot for draw in part] == list(range(rank, 8, world)) for rank, part in enumerate(parts))
    with pytest.raises(ValueError, match="rank"):
        whole.draws(0, world, world)


def test_the_seed_and_the_selection_change_the_order(catalog, tmp_path):
    def of(catalog: Catalog, **settings) -> list:
        order = Order(catalog, replace(CLIPS, **settings))
        return [catalog.sample_id(draw.sample) for step in range(5) for draw in order.draws(step)]

    assert of(catalog) == of(catalog)
    assert of(catalog) != of(catalog, seed=1)
    folder = write_manifest(tmp_path, mixed())
    (folder / "selections").mkdir()
    (folder / "selections" / "all-but-one.txt").write_text("\n".join(each.id for each in mixed() if each.id != "scene000"))
    fewer = Catalog.open(folder, selection="all-but-one")
    assert fewer.digest != catalog.digest and of(fewer) != of(catalog)
    assert of(Catalog.open(folder)) == of(catalog)  # the same content elsewhere


def samples_of(order: Order, steps: range) -> list[int]:
    return [draw.sample for step in steps for draw in order.draws(step)]


def test_every_sample_is_drawn_once_an_epoch_and_epochs_differ(catalog):
    order = Order(catalog, replace(CLIPS, batch=5))
    epochs = [samples_of(order, range(4 * i, 4 * i + 4)) for i in range(3)]
    clips = np.flatnonzero(catalog.kinds == KINDS.index("singleview_video")).tolist()
    assert len(clips) == 20 and all(sorted(epoch) == clips for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_may_be_larger_than_the_data(tmp_path):
    catalog = Catalog.open(write_manifest(tmp_path, [Made("a"), Made("b"), Made("c")]))
    samples = samples_of(Order(catalog, replace(CLIPS, batch=32)), range(3))
    assert np.bincount(samples).tolist() == [32, 32, 32]


def test_in_a_mix_each_kind_walks_its_own_epochs(catalog):
    order = Order(catalog, replace(SETTINGS, batch=5, curriculum=()))
    for kind, count in (("multiview_video", 40), ("multiview_images", 30), ("singleview_video", 20)):
        steps = [step for step in range(300) if order.kind_at(step) == kind][: count // 5]
        samples = [draw.sample for step in steps for draw in order.draws(step)]
        assert len(set(samples)) == count


def test_a_phase_begins_at_its_step_with_an_epoch_of_its_own(tmp_path):
    rows = [circle(f"near{i}", [0, 40]) for i in range(6)] + [circle(f"far{i}", [0, 100]) for i in range(4)]
    catalog = Catalog.open(write_manifest(tmp_path, rows))
    order = Order(catalog, replace(VIDEOS, batch=2, curriculum=(Phase(0, 0, 60), Phase(10_000, 30, 90), Phase(20_000, 60, 120))))
    names = {step: {catalog.sample_id(draw.sample)[:3] for draw in order.draws(step)} for step in (0, 9_999, 10_000, 19_999, 20_000)}
    assert names == {0: {"nea"}, 9_999: {"nea"}, 10_000: {"nea"}, 19_999: {"nea"}, 20_000: {"far"}}
    for start, size in ((0, 6), (10_000, 6), (20_000, 4)):  # 10,000 steps of 2 are no whole number of epochs of 6
        assert len(set(samples_of(order, range(start, start + size // 2)))) == size


def test_the_order_of_a_phase_is_the_same_with_and_without_the_mix_before_it(catalog):
    """Draws are counted, not remembered: a fresh order asked for a late step counts the steps of the kind itself."""
    order = Order(catalog, SETTINGS)
    steps = [step for step in range(10_000, 10_200) if order.kind_at(step) == "multiview_video"][:5]
    pool = eligible(catalog, SETTINGS, "multiview_video", SETTINGS.curriculum[1])
    drawn = samples_of(order, steps)
    assert len(set(drawn)) == min(len(pool), len(drawn))


@pytest.mark.parametrize("sizes", [[1], [3], [16] * 8, [1000], [5, 0, 300, 17, 1, 1, 64], [1] * 50])
def test_block_shuffle_is_a_permutation_and_differs_by_key(sizes):
    shards = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    orders = [block_shuffle(shards, key) for key in range(4)]
    assert all(sorted(order.tolist()) == list(range(len(shards))) for order in orders)
    assert len(shards) < 10 or len({tuple(order.tolist()) for order in orders}) == 4


def test_neighbours_in_the_order_are_neighbours_in_the_shards():
    shards = np.repeat(np.arange(20, dtype=np.int32), 500)
    order, size = block_shuffle(shards, 3), BLOCK * WINDOW

    def regions(order: np.ndarray) -> float:
        """In how many far places the samples of a stretch as long as a window lie, on average."""
        stretches = [np.sort(order[start : start + size]) for start in range(0, len(order) - size, size)]
        return float(np.mean([1 + (np.diff(each) > BLOCK).sum() for each in stretches]))

    # A stretch touches two windows, as a rule; without blocks there would be some hundred places.
    assert regions(order) < 2.5 * WINDOW < 50 < regions(np.random.default_rng(0).permutation(len(shards)))
    # Within a window it is a shuffle, and windows come from all over.
    assert np.abs(np.diff(order)).mean() > BLOCK
    starts = [int(order[i]) for i in range(0, len(order), size)]
    assert np.corrcoef(starts, np.arange(len(starts)))[0, 1] < 0.5


def test_every_place_of_the_order_is_reached_by_every_sample():
    """Over many epochs a sample's place is uniform: no sample is always early."""
    shards = np.repeat(np.arange(4, dtype=np.int32), 100)
    places = np.argsort(np.stack([block_shuffle(shards, key) for key in range(600)]), axis=1)
    assert np.abs(places.mean(axis=0) - 199.5).max() < 5 * 400 / math.sqrt(12 * 600)


def test_a_redraw_is_seeded_and_another_sample_of_the_same_kind_and_phase(catalog):
    order = Order(catalog, SETTINGS)
    for step in (0, 1, 2, 3, 4, 20_001, 20_002):
        for draw in order.draws(step)[:3]:
            chain = [draw]
            for attempt in range(1, 8):
                chain.append(order.redraw(chain[-1]))
                assert (chain[-1].step, chain[-1].slot, chain[-1].kind, chain[-1].attempt) == (step, draw.slot, draw.kind, attempt)
            samples = [each.sample for each in chain]
            assert len(set(samples)) == len(samples)
            number = 2 if step >= 20_000 else 0
            phase = SETTINGS.curriculum[number] if draw.kind == "multiview_video" else None
            assert set(samples) <= set(eligible(catalog, SETTINGS, draw.kind, phase).tolist())
            fresh = Order(catalog, SETTINGS)
            assert fresh.redraw(chain[5]) == chain[6]  # also without the draws before


def test_substitutes_are_spread_over_all_samples(catalog):
    order = Order(catalog, CLIPS)
    counts = np.bincount([order.redraw(draw).sample for step in range(250) for draw in order.draws(step)])
    counts = counts[counts > 0]
    assert len(counts) == 20 and ((counts - 100) ** 2 / 100).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


@pytest.mark.parametrize("count", [1, 2, 40])
def test_redraws_end_with_the_names_of_what_failed(tmp_path, count):
    catalog = Catalog.open(write_manifest(tmp_path, [Made(f"clip{i:02d}") for i in range(count)]))
    order = Order(catalog, CLIPS)
    draw, failed = order.draws(0)[2], []
    for _ in range(MAX_ATTEMPTS):
        failed.append(catalog.sample_id(draw.sample))
        following = order.redraw(draw)
        assert count == 1 or following.sample != draw.sample
        draw = following
    failed.append(catalog.sample_id(draw.sample))
    with pytest.raises(OrderError) as caught:
        order.redraw(draw)
    assert f"slot 2: {MAX_ATTEMPTS + 1} draws" in str(caught.value) and all(name in str(caught.value) for name in failed)


def test_a_step_that_no_sample_can_fill_says_what_was_asked(tmp_path):
    catalog = Catalog.open(write_manifest(tmp_path, [circle("near", [0, 20])]))
    with pytest.raises(OrderError, match=r"multiview_video \(views: 2, frames: 17, view pairs at 60-120 degrees\)"):
        Order(catalog, VIDEOS).draws(20_000)


def test_latents_are_read_whole(tmp_path):
    catalog = Catalog.open(write_manifest(tmp_path, [Made("clip", frames=9)]))
    [draw] = Order(catalog, replace(CLIPS, batch=1, frames=9, frame_stride=3, payload="latents")).draws(0)
    assert draw.frames == tuple(range(9))
