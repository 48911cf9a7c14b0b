"""What one training step of SynCamMaster is: noise and targets by the base's schedule, the input video in view 0, losses by hand."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.bases.registry import load_base
from pipeline.loader.batch import Batch
from pipeline.methods.conditions import Texts, clean_latents
from pipeline.methods.syncammaster.config import ObjectiveConfig, ViewConfig
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.methods.syncammaster.objective import ViewObjective, draw_inputs
from pipeline.training.randomness import Streams

SIZE, VIEWS, FRAMES = (32, 32), 3, 2


@pytest.fixture(scope="module")
def base():
    return load_base("tiny")


def make_batch(slots, kind="multiview_video", views=VIEWS, frames=FRAMES):
    """Slot s always holds the same sample, whatever else is in the batch."""
    generators = [torch.Generator().manual_seed(100 + slot) for slot in slots]
    video = torch.stack([torch.randint(256, (views, 3, frames, *SIZE), dtype=torch.uint8, generator=g) for g in generators])
    c2w = np.tile(np.eye(4), (len(slots), views, frames, 1, 1))
    c2w[:, :, :, 0, 3] = np.arange(views)[:, None]
    return Batch(
        step=7, kind=kind, slots=list(slots), sample_ids=[f"s{slot}" for slot in slots], view_ids=[["a"] * views for _ in slots],
        captions=[f"text {slot}" for slot in slots], metric=[True] * len(slots), c2w=c2w, K=None, size=SIZE, video=video,
    )  # fmt: skip


def inputs(base, batch, objective):
    x0 = clean_latents(base, batch, torch.device("cpu"))
    made = draw_inputs(
        base, ViewConfig(), objective, x0, Texts(base).embed(batch, torch.device("cpu")), batch, Streams(3, batch.step, batch.slots)
    )
    return x0, made


def plain(share=0.0, **changes):
    return dataclasses.replace(ObjectiveConfig(text_dropout=0.0, novel_view=share), **changes)


def test_all_views_of_a_sample_share_a_timestep_and_have_noise_of_their_own(base):
    x0, made = inputs(base, make_batch([0, 1]), plain())
    noise = made["target"] + x0  # flow: target = noise - x0
    sigma = (made["t"] / 1000).reshape(-1, 1, 1, 1, 1, 1)
    torch.testing.assert_close(made["z"], (1 - sigma) * x0 + sigma * noise, atol=1e-5, rtol=0)
    flat = noise.flatten(2)
    assert abs(float(flat.mean())) < 0.05 and abs(float(flat.std()) - 1) < 0.05
    correlation = torch.corrcoef(flat.flatten(0, 1)) - torch.eye(2 * VIEWS)
    assert float(correlation.abs().max()) < 0.1
    assert made["cameras"].shape == (2, VIEWS, FRAMES, 12)
    assert made["cameras"][0, 2, 0, 3] == 1.0  # two metres to the right, in units of two metres


def test_a_replaced_view_is_the_clean_video_and_counts_for_nothing(base):
    x0, made = inputs(base, make_batch(range(4)), plain(share=1.0))
    assert torch.equal(made["z"][:, 0], x0[:, 0])
    assert not torch.isclose(made["z"][:, 1:], x0[:, 1:]).all(dim=(2, 3, 4, 5)).any()
    assert (made["weight"][:, 0] == 0).all() and (made["weight"][:, 1:] > 0).all()
    _, counted = inputs(base, make_batch(range(4)), plain(share=1.0, loss_on_input=True))
    assert (counted["weight"] > 0).all() and torch.equal(counted["z"], made["z"])


def test_the_share_of_replaced_samples_is_as_asked_and_drawn_for_each_slot(base):
    slots = range(200)
    _, made = inputs(base, make_batch(slots, frames=1), plain(share=0.9))
    replaced = made["weight"][:, 0] == 0
    assert 165 <= int(replaced.sum()) <= 195  # binomial(200, 0.9): 180 +- 3.5 standard deviations
    _, apart = inputs(base, make_batch(slots[50:60], frames=1), plain(share=0.9))
    assert torch.equal(apart["weight"][:, 0] == 0, replaced[50:60])


@pytest.mark.parametrize(("kind", "views"), [("multiview_images", VIEWS), ("singleview_video", 1)])
def test_only_multi_view_video_has_an_input_video(base, kind, views):
    x0, made = inputs(base, make_batch(range(3), kind=kind, views=views), plain(share=1.0))
    assert (made["weight"] > 0).all()
    assert not torch.isclose(made["z"], x0).all(dim=(2, 3, 4, 5)).any()


def test_nothing_drawn_depends_on_the_rest_of_the_micro_batch(base):
    objective = ObjectiveConfig(text_dropout=0.5, novel_view=0.5)
    _, whole = inputs(base, make_batch(range(6)), objective)
    for part in ([0], [3, 4], [5]):
        _, made = inputs(base, make_batch(part), objective)
        for name, value in made.items():
            assert torch.equal(value, whole[name][part]), name


def test_dropped_texts_are_the_empty_text(base):
    _, kept = inputs(base, make_batch([0, 1]), plain())
    assert torch.equal(kept["text"], base.embed(["text 0", "text 1"]))
    _, dropped = inputs(base, make_batch([0, 1]), plain(text_dropout=1.0))
    assert torch.equal(dropped["text"], base.embed(["", ""]))


def test_the_loss_is_each_samples_mean_over_the_views_that_count(base):
    model = SynCamModel(base, ViewConfig())
    try:
        _, made = inputs(base, make_batch(range(6)), plain(share=0.5))
        assert 0 < int((made["weight"][:, 0] == 0).sum()) < 6  # some samples of either sort
        with torch.no_grad():
            said = model(made["z"], made["t"], made["text"], made["cameras"])
            loss = ViewObjective(model)(**made)["loss"]
        by_hand = []
        for b in range(6):
            errors = [
                float(base.schedule.weight(made["t"])[b] * ((said - made["target"])[b, v] ** 2).mean())
                for v in range(VIEWS)
                if made["weight"][b, v] > 0
            ]
            by_hand.append(sum(errors) / len(errors))
        assert float(loss) == pytest.approx(sum(by_hand) / 6, rel=1e-5)
    finally:
        model.detach()
