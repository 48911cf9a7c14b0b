"""PSNR and SSIM against the formulas written out pixel by pixel, and against cases whose value is known."""

import math

import numpy as np
import pytest
import torch

from pipeline.metrics.image import psnr, ssim


def pictures(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two smooth pictures that have something in common."""
    rng = np.random.default_rng(seed)
    a = rng.random(shape)
    b = np.clip(0.7 * a + 0.3 * rng.random(shape), 0, 1)
    return torch.from_numpy(a).float(), torch.from_numpy(b).float()


def slow_ssim(x: np.ndarray, y: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """One channel [H,W], window by window, with the 2-d weights and centred moments as the paper writes them (equations 13-16)."""
    r = np.arange(11) - 5
    w = np.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            if mask is not None and not mask[i : i + 11, j : j + 11].all():
                continue
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq, c = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
            found.append((2 * mp * mq + c1) * (2 * c + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(found)) if found else float("nan")


def test_a_constant_offset_has_the_psnr_of_the_formula():
    a = torch.full((3, 8, 8), 0.25)
    assert psnr(a, a + 0.5).item() == pytest.approx(20 * math.log10(2))
    a = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    assert psnr(a, a + 5, data_range=255).item() == pytest.approx(20 * math.log10(255 / 5))


def test_identical_pictures_have_infinite_psnr_and_ssim_1():
    a, _ = pictures(2, 3, 16, 16)
    assert torch.isinf(psnr(a, a)).all()
    assert torch.allclose(ssim(a, a), torch.ones(2).double(), atol=1e-12)


def test_every_picture_gets_its_own_value():
    a, b = pictures(2, 4, 3, 13, 17)
    for metric in (psnr, ssim):
        values = metric(a, b)
        assert values.shape == (2, 4)
        assert values[1, 2].item() == pytest.approx(metric(a[1, 2], b[1, 2]).item(), rel=1e-12)


def test_ssim_of_constants_is_the_luminance_term():
    x, y = 0.3, 0.8
    a, b = torch.full((1, 12, 12), x, dtype=torch.float64), torch.full((1, 12, 12), y, dtype=torch.float64)
    assert ssim(a, b).item() == pytest.approx((2 * x * y + 1e-4) / (x * x + y * y + 1e-4), rel=1e-9)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_is_that_of_the_slow_formula(data_range):
    a, b = pictures(3, 19, 23)
    a, b = a * data_range, b * data_range
    wanted = np.mean([slow_ssim(a[c].double().numpy(), b[c].double().numpy(), data_range) for c in range(3)])
    assert ssim(a, b, data_range=data_range).item() == pytest.approx(wanted, rel=1e-9)


def test_a_mask_leaves_only_what_it_shows():
    a, b = pictures(2, 3, 24, 30)
    mask = torch.zeros(2, 1, 24, 30, dtype=torch.bool)
    mask[:, :, 3:20, 5:27] = True
    mask[1, :, 10, 10] = False
    region = mask[0, 0]
    wanted = 10 * math.log10(1 / (a[0][:, region] - b[0][:, region]).double().square().mean())
    assert psnr(a, b, mask)[0].item() == pytest.approx(wanted, rel=1e-9)
    for frame in range(2):
        shown = mask[frame, 0].numpy()
        wanted = np.mean([slow_ssim(a[frame, c].double().numpy(), b[frame, c].double().numpy(), 1.0, shown) for c in range(3)])
        assert ssim(a, b, mask)[frame].item() == pytest.approx(wanted, rel=1e-9)
    hidden = torch.where(mask, b, torch.zeros_like(b))
    assert torch.equal(psnr(a, hidden, mask), psnr(a, b, mask))
    assert torch.allclose(ssim(a, hidden, mask), ssim(a, b, mask), atol=1e-12)


def test_one_mask_serves_many_pictures_and_a_full_one_changes_nothing():
    a, b = pictures(4, 3, 16, 16)
    full = torch.ones(1, 16, 16, dtype=torch.bool)
    for metric in (psnr, ssim):
        assert torch.allclose(metric(a, b, full), metric(a, b), rtol=1e-12)


def test_an_empty_mask_gives_nan_for_its_picture_only():
    a, b = pictures(2, 3, 16, 16)
    mask = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    mask[0] = False
    for metric in (psnr, ssim):
        assert metric(a, b, mask).isnan().tolist() == [True, False]
    mask[1, :, 8, 8] = False  # no window of 11 x 11 without this pixel in 16 x 16
    assert ssim(a, b, mask).isnan().all() and not psnr(a, b, mask)[1].isnan()


def test_noise_lowers_both_the_more_of_it_there_is():
    rng = torch.Generator().manual_seed(1)
    a = torch.rand(3, 32, 32, generator=rng) * 0.5 + 0.25
    noise = torch.rand(3, 32, 32, generator=rng) - 0.5
    for metric in (psnr, ssim):
        values = [metric(a, a + s * noise).item() for s in (0.05, 0.1, 0.2, 0.4)]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a, b, m: (a, b[..., 1:], m), "one shape"),
        (lambda a, b, m: (a[0, 0], b[0, 0], None), "one shape"),
        (lambda a, b, m: (a, 2 * b - 1, m), "[0, 1]"),
        (lambda a, b, m: (a, (255 * b).byte(), m), "data_range=255"),
        (lambda a, b, m: (a, b * float("nan"), m), "[nan, nan]"),
        (lambda a, b, m: (a, b, m.float()), "bool"),
        (lambda a, b, m: (a, b, m[..., 1:]), "bool [2, 1, 16, 16]"),
        (lambda a, b, m: (a, b, m[:1].expand(3, -1, -1, -1)), "bool [2, 1, 16, 16]"),
    ],
)
def test_what_does_not_fit_is_refused(metric, change, said):
    a, b = pictures(2, 3, 16, 16)
    with pytest.raises(ValueError) as refused:
        metric(*change(a, b, torch.ones(2, 1, 16, 16, dtype=torch.bool)))
    assert said in str(refused.value)


def test_ssim_needs_a_whole_window():
    a, b = pictures(3, 10, 40)
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 10x40"):
        ssim(a, b)
