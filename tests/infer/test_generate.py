"""Sampling against its formulas, written out: a predictor that mixes views, text, cameras and time linearly stands for the model."""

import itertools

import numpy as np
import pytest
import torch

from pipeline.bases.registry import load_base
from pipeline.methods.syncammaster.cameras import camera_tensor
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.generate import classifier_free, dual, dynamic_guidance, generate
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.viewpoints import preset

SIZE, FRAMES, VIEWS, STEPS = (16, 32), 3, 3, 4


@pytest.fixture(scope="module")
def base():
    return load_base("tiny", seed=1)


@pytest.fixture(scope="module")
def model():
    """A SynCamModel whose added modules do something."""
    made = SynCamModel(load_base("tiny", seed=1), ViewConfig())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.trained().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def cameras(base, views: int = VIEWS, samples: int = 1) -> torch.Tensor:
    points = preset("arc:angle=90", views=views, frames=FRAMES, size=(SIZE[1], SIZE[0]))
    c2w, K = (np.stack([each] * samples) for each in (points.c2w, points.K))
    return camera_tensor(c2w, K, [True] * samples, base.spec, ViewConfig(), SIZE)


def linear(z, t, text, told):
    """Every view depends on every other, on the text, the cameras and the time."""
    said = 0.4 * z + 0.3 * z.roll(1, dims=1) + 0.1 * z.mean(dim=1, keepdim=True)
    extra = 3 * text.mean(dim=(1, 2)) + 0.5 * t / 1000
    return said + extra[:, None, None, None, None, None] + 0.2 * told.mean(dim=-1)[:, :, None, :, None, None]


def run(base, predictor=linear, **changes):
    views = changes.pop("views", VIEWS)
    settings = {"texts": ["a red cube"], "cameras": cameras(base, views), "frames": FRAMES, "size": SIZE, "steps": STEPS}
    settings |= {"guidance": 5.0, "seeds": [7]}
    return generate(predictor, base, **(settings | changes))


def noise(base, seed: int = 7) -> torch.Tensor:
    return torch.randn((VIEWS, base.spec.channels, FRAMES, SIZE[0] // 8, SIZE[1] // 8), generator=torch.Generator().manual_seed(seed))[None]


def sigmas() -> list[float]:
    """The tiny base's: uniform, shifted by 5, and 0 at the end."""
    uniform = [1 - i / STEPS for i in range(STEPS)]
    return [5 * s / (1 + 4 * s) for s in uniform] + [0.0]


def a_video(seed: int = 3) -> torch.Tensor:
    return torch.rand((1, 3, FRAMES, *SIZE), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_classifier_free_guidance_is_its_formula(base):
    told, untold, at = base.embed(["a red cube"]), base.embed([""]), cameras(base)
    z, steps = noise(base), sigmas()
    for now, following in itertools.pairwise(steps):
        t = torch.tensor([1000 * now])
        without = linear(z, t, untold, at)
        v = without + 5 * (linear(z, t, told, at) - without)
        z = z + (following - now) * v
    expected = torch.stack([base.decode(view) for view in z.unbind(1)], dim=1).clamp(-1, 1)
    assert torch.allclose(run(base), expected, atol=1e-4)
    assert run(base).shape == (1, VIEWS, 3, FRAMES, *SIZE)


@pytest.mark.parametrize("scales", [(1.8, 7.5), (1.0, 3.0), (2.0, 2.0), (1.0, 1.0)])
def test_dual_guidance_is_its_formula(base, scales):
    told, untold, at, video = base.embed(["a red cube"]), base.embed([""]), cameras(base), a_video()
    clean = base.encode(video)[:, None]
    z, steps, eps = noise(base)[:, 1:], sigmas(), noise(base)[:, :1]
    for now, following in itertools.pairwise(steps):
        t = torch.tensor([1000 * now])
        with_video = torch.cat([clean, z], dim=1)
        without = torch.cat([(1 - now) * clean + now * eps, z], dim=1)
        v_00, v_v0, v_vt = linear(without, t, untold, at), linear(with_video, t, untold, at), linear(with_video, t, told, at)
        v = v_00 + scales[0] * (v_v0 - v_00) + scales[1] * (v_vt - v_v0)
        z = z + (following - now) * v[:, 1:]
    expected = torch.stack([base.decode(view) for view in z.unbind(1)], dim=1).clamp(-1, 1)
    made = run(base, video=video, video_guidance=scales[0], text_guidance=scales[1])
    assert torch.allclose(made[:, 1:], expected, atol=1e-4)
    assert torch.equal(made[:, 0], video)


def test_branches_that_weigh_nothing_are_not_run(base):
    assert [branch.weight for branch in classifier_free(1.0)] == [1.0]
    assert [(branch.weight, branch.text) for branch in classifier_free(0.0)] == [(1.0, False)]
    assert [(branch.text, branch.video) for branch in dual(1.0, 1.0)] == [(True, True)]
    assert [branch.weight for branch in dual(1.8, 7.5)] == pytest.approx([-0.8, -5.7, 7.5])
    sizes = []

    def counted(z, t, text, told):
        sizes.append(len(z))
        return linear(z, t, text, told)

    run(base, counted, guidance=1.0)
    run(base, counted)
    run(base, counted, video=a_video())
    assert sizes == [1] * STEPS + [2] * STEPS + [3] * STEPS


@pytest.mark.parametrize("video", [False, True])
def test_branches_one_by_one_are_the_batch(base, model, video):
    given = {"video": a_video()} if video else {}
    together, one_by_one = (run(model.base, model, batched=batched, **given) for batched in (True, False))
    assert torch.allclose(together, one_by_one, atol=1e-3)


def test_equal_seeds_give_equal_videos_and_a_sample_does_not_depend_on_its_batch(model):
    base = model.base
    assert torch.equal(run(base, model), run(base, model))
    assert not torch.allclose(run(base, model), run(base, model, seeds=[8]), atol=0.1)
    both = run(base, model, texts=["a red cube", "a dog"], seeds=[7, 8], cameras=cameras(base, samples=2))
    assert torch.allclose(both[:1], run(base, model), atol=1e-3)
    assert torch.allclose(both[1:], run(base, model, texts=["a dog"], seeds=[8]), atol=1e-3)


def test_the_input_video_stays_as_it_is_and_reaches_the_other_views(model):
    base = model.base
    one, other = (run(base, model, video=a_video(seed)) for seed in (3, 4))
    assert torch.equal(one[:, 0], a_video(3)) and torch.equal(other[:, 0], a_video(4))
    assert not torch.allclose(one[:, 1:], other[:, 1:], atol=1e-2)
    with model.disabled():  # alone, the base makes every view by itself
        one, other = (run(base, model, video=a_video(seed)) for seed in (3, 4))
    assert torch.allclose(one[:, 1:], other[:, 1:], atol=1e-3)


def test_the_unconditional_text_can_be_another(base):
    assert not torch.allclose(run(base), run(base, negative="blurred"), atol=1e-3)
    assert torch.equal(run(base, guidance=1.0), run(base, guidance=1.0, negative="blurred"))


def test_dynamic_guidance_swings_between_1_and_the_scale_above_it(base):
    assert dynamic_guidance(6.0, 50, 50) == 1  # ((N - t) / N)^5 is 0
    assert dynamic_guidance(6.0, 0, 50) == pytest.approx(7)  # and 1
    assert dynamic_guidance(6.0, 100, 50) == pytest.approx(7)  # and -1
    t_half = 50 * (1 - 0.5 ** (1 / 5))
    assert dynamic_guidance(6.0, t_half, 50) == pytest.approx(4)
    scales = [dynamic_guidance(5.0, 1000 * s, STEPS) for s in sigmas()[:-1]]
    assert not torch.allclose(run(base, dynamic=True), run(base), atol=1e-3)
    z, told, untold, at = noise(base), base.embed(["a red cube"]), base.embed([""]), cameras(base)
    for scale, now, following in zip(scales, sigmas(), sigmas()[1:], strict=False):
        t = torch.tensor([1000 * now])
        without = linear(z, t, untold, at)
        z = z + (following - now) * (without + scale * (linear(z, t, told, at) - without))
    assert torch.allclose(run(base, dynamic=True)[:, 1], base.decode(z[:, 1]).clamp(-1, 1), atol=1e-3)


def test_steps_are_reported(base):
    seen = []
    run(base, on_step=seen.append)
    assert seen == list(range(STEPS))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"texts": ["a", "b"]}, "2 texts, 1 seeds and cameras of 1 samples"),
        ({"frames": 5}, "cameras of 3 latent frames; 5 frames are 5"),
        ({"size": (16, 20)}, "multiples of 16"),
        ({"video": torch.zeros(1, 3, 2, *SIZE)}, r"must be \[1, 3, 3, 16, 32\]"),
        ({"video": torch.zeros(1, 3, FRAMES, *SIZE), "views": 1}, "at least one more view"),
    ],
)
def test_what_does_not_fit_is_refused(base, changes, expected):
    with pytest.raises(ValueError, match=expected):
        run(base, **changes)
