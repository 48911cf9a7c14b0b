"""PSNR and SSIM of pictures [...,C,H,W], one value per picture, over the whole of it or over a mask.

Pictures lie in [0, data_range]. Everything is computed in float64 on the tensors' device. A mask [...,1,H,W] (bool, its leading
dimensions broadcast) restricts a metric to its True pixels; a picture without any gives NaN, never a number that looks like one.
"""

import torch
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004, "Image quality assessment", section III.C


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None, *, data_range: float = 1.0) -> Tensor:
    """[...] float64 decibels: 10 log10(data_range^2 / MSE), the mean over pixels and channels; inf for identical pictures.

    Raises ValueError for shapes that differ, values outside [0, data_range], and a mask of another shape or type.
    """
    a, b, mask = _checked(a, b, mask, data_range)
    squares = (a - b).square().mean(-3, keepdim=True)
    return 10 * torch.log10(data_range**2 / _mean(squares, mask))


def ssim(a: Tensor, b: Tensor, mask: Tensor | None = None, *, data_range: float = 1.0) -> Tensor:
    """[...] float64 in [-1, 1]: the mean of the SSIM map over windows that lie wholly in the picture, per channel, then averaged.

    Gaussian window of 11 x 11 with sigma 1.5, K1 0.01, K2 0.03 (Wang et al. 2004). With a mask: over the windows whose 121 pixels
    are all True, so that nothing outside the mask has a say; NaN where no window fits. Raises ValueError as `psnr` does, and for
    pictures smaller than the window.
    """
    a, b, mask = _checked(a, b, mask, data_range)
    height, width = a.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW}x{WINDOW} pixels, got {height}x{width}")
    quality = _map(a, b, data_range).mean(-3, keepdim=True)
    return _mean(quality, None if mask is None else _whole_windows(mask))


def _map(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """The SSIM map [...,C,H-10,W-10]."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a * mean_a
    var_b = _blur(b * b) - mean_b * mean_b
    cov = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    return luminance * (2 * cov + c2) / (var_a + var_b + c2)


def _blur(x: Tensor) -> Tensor:
    """Weighted means over every window that lies wholly in the picture."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights = weights / weights.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = functional.conv2d(functional.conv2d(flat, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return flat.reshape(*x.shape[:-2], *flat.shape[-2:])


def _whole_windows(mask: Tensor) -> Tensor:
    """[...,1,H-10,W-10] bool: windows without a False pixel."""
    outside = (~mask).to(torch.float32).reshape(-1, 1, *mask.shape[-2:])
    touched = functional.max_pool2d(outside, WINDOW, stride=1)
    return (touched == 0).reshape(*mask.shape[:-2], *touched.shape[-2:])


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """[...,1,H,W] to [...]: the mean over the mask; 0/0, that is NaN, where it is empty."""
    if mask is None:
        return values.mean((-3, -2, -1))
    chosen = torch.where(mask, values, 0.0).sum((-3, -2, -1))
    return chosen / mask.expand(values.shape).sum((-3, -2, -1))


def _checked(a: Tensor, b: Tensor, mask: Tensor | None, data_range: float) -> tuple[Tensor, Tensor, Tensor | None]:
    if a.shape != b.shape or a.ndim < 3:
        raise ValueError(f"pictures must both be [...,C,H,W] of one shape, got {list(a.shape)} and {list(b.shape)}")
    if not data_range > 0:
        raise ValueError(f"data_range must be positive, got {data_range!r}")
    for name, x in (("first", a), ("second", b)):
        if x.numel() and not (x.min() >= -1e-6 * data_range and x.max() <= (1 + 1e-6) * data_range):
            raise ValueError(
                f"the {name} picture's values span [{float(x.min()):g}, {float(x.max()):g}], they must lie in [0, {data_range:g}]; "
                "map [-1, 1] to x / 2 + 0.5, give 8-bit pictures data_range=255"
            )
    if mask is None:
        return a.double(), b.double(), None
    wanted = (*a.shape[:-3], 1, *a.shape[-2:])
    if mask.dtype != torch.bool or mask.ndim < 3 or mask.shape[-3:] != wanted[-3:]:
        raise ValueError(f"the mask must be bool {list(wanted)}, got {mask.dtype} {list(mask.shape)}")
    try:
        return a.double(), b.double(), mask.expand(wanted)
    except RuntimeError:
        raise ValueError(f"the mask must be bool {list(wanted)}, got {mask.dtype} {list(mask.shape)}") from None
