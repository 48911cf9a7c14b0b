"""SuperPoint: keypoints, and descriptors wherever they are asked for (DeTone et al., CVPR workshops 2018).

The network is transformers'. What follows it is here, because GlueStick needs descriptors at junctions too, and because transformers
(5.23) keeps keypoints at the right and the lower border that SuperPoint drops.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schemas.typed import RecipeError
from stages.perception.device import torch_device
from stages.perception.state import load_strict, read_state
from stages.perception.weights import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

CELL = 8  # pixels of a side that one place of the dense descriptors stands for


@dataclass(frozen=True, eq=False)
class Features:
    """xy [N,2] pixels, the centre of the first pixel at (0, 0); scores [N], 0 to 1; dense [256,H/8,W/8], each place of length 1."""

    xy: "Tensor"
    scores: "Tensor"
    dense: "Tensor"


class SuperPoint:
    """Called with luma [H,W] uint8, of 8 pixels a side at least, it gives Features, computed on `device`.

    path: the authors' superpoint_v1.pth, or transformers' model.safetensors, or the folder it lies in. Keypoints: the places that score
    above `threshold` and highest within `nms_radius`, `border` pixels clear of every side; where there are more than `max_keypoints`,
    the best of them, best first, else row by row. Raises WeightsError and, without its packages, RecipeError.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_keypoints: int = 1000,
        threshold: float = 0.005,
        nms_radius: int = 4,
        border: int = 4,
        device: str = "auto",
    ) -> None:
        model = load_superpoint(path)
        self.device = torch_device(device)
        self.model = model.to(self.device)
        self._max_keypoints, self._threshold, self._nms_radius, self._border = max_keypoints, threshold, nms_radius, border

    def __call__(self, luma: NDArray[np.uint8]) -> Features:
        import torch
        from torch.nn import functional

        image = torch.from_numpy(np.ascontiguousarray(luma)).to(self.device).float()[None, None] / 255
        model: Any = self.model
        points, describe = model.keypoint_decoder, model.descriptor_decoder
        with torch.inference_mode():
            encoded = model.encoder(image).last_hidden_state
            cells = points.conv_score_b(points.conv_score_a(encoded).relu()).softmax(1)[:, :-1]  # less the one for "none here"
            dense = describe.conv_descriptor_b(describe.conv_descriptor_a(encoded).relu())
            xy, scores = self._keypoints(functional.pixel_shuffle(cells, CELL)[0, 0])
            return Features(xy, scores, functional.normalize(dense, dim=1)[0])

    def _keypoints(self, scores: "Tensor") -> tuple["Tensor", "Tensor"]:
        """Positions [N,2] and scores [N] of a score map [H,W]."""
        highest = _suppressed(scores, self._nms_radius) > self._threshold
        inside = highest.new_zeros(highest.shape)
        height, width = highest.shape
        inside[self._border : max(height - self._border, 0), self._border : max(width - self._border, 0)] = True
        yx = (highest & inside).nonzero()
        found = scores[yx[:, 0], yx[:, 1]]
        if len(found) > self._max_keypoints:
            # A stable sort: of equal scores those further up and left stay, on every device.
            found, best = found.sort(descending=True, stable=True)
            found, yx = found[: self._max_keypoints], yx[best[: self._max_keypoints]]
        return yx.flip(1).float(), found


def sample(dense: "Tensor", xy: "Tensor") -> "Tensor":
    """Descriptors [N,256], of length 1, at positions [N,2] as in Features, between the places of the dense ones; 0 far outside.

    SuperPoint's own way: the first place stands at 3.5, the last one at the image's last pixel centre, so that places lie a bit more
    than 8 pixels apart.
    """
    from torch.nn import functional

    if not len(xy):
        return dense.new_zeros(0, len(dense))
    size = xy.new_tensor([dense.shape[2], dense.shape[1]]) * CELL
    grid = (xy - (CELL - 1) / 2) / (size - (CELL + 1) / 2) * 2 - 1
    found = functional.grid_sample(dense[None], grid[None, None].to(dense.dtype), mode="bilinear", align_corners=True)
    return functional.normalize(found[0, :, 0], dim=0).T


def load_superpoint(path: Path) -> "nn.Module":
    """transformers' network with the weights of a file (see SuperPoint). On the CPU, ready to infer."""
    try:
        import torch  # noqa: F401
        from transformers import SuperPointConfig, SuperPointForKeypointDetection
    except ImportError as error:
        raise RecipeError(f"SuperPoint needs the package {error.name}; install it with: uv pip install -e '.[perception]'") from None
    if path.is_dir():
        path = path / "model.safetensors"
        if not path.is_file():
            raise WeightsError(f"superpoint: there is no {path}; fetch it with: python -m pipeline.weights fetch superpoint")
    state = read_state(path)
    if any(name.startswith("conv1a.") for name in state):
        state = from_magic_leap(state)
    model = SuperPointForKeypointDetection(SuperPointConfig())
    load_strict(model, state, str(path))
    return model.eval()


def magic_leap_names() -> dict[str, str]:
    """The layers of the authors' file, by transformers' names of them."""
    names = {f"encoder.conv_blocks.{block}.conv_{half}": f"conv{block + 1}{half}" for block in range(4) for half in "ab"}
    names |= {f"keypoint_decoder.conv_score_{half}": f"convP{half}" for half in "ab"}
    return names | {f"descriptor_decoder.conv_descriptor_{half}": f"convD{half}" for half in "ab"}


def from_magic_leap(state: Mapping[str, Any]) -> dict[str, Any]:
    """The authors' names made transformers'; unknown ones stay, for the loader to report."""
    return _renamed(state, {theirs: ours for ours, theirs in magic_leap_names().items()})


def to_magic_leap(state: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' names made the authors'."""
    return _renamed(state, magic_leap_names())


def _suppressed(scores: "Tensor", radius: int) -> "Tensor":
    """A score map [H,W] with 0 wherever something within `radius` scores higher, given up to two rounds to settle who goes."""
    import torch
    from torch.nn import functional

    def highest(values: "Tensor") -> "Tensor":
        return functional.max_pool2d(values[None, None], 2 * radius + 1, stride=1, padding=radius)[0, 0]

    peaks = scores == highest(scores)
    for _ in range(2):
        shadowed = highest(peaks.float()) > 0
        rest = torch.where(shadowed, 0, scores)
        peaks = peaks | ((rest == highest(rest)) & ~shadowed)
    return torch.where(peaks, scores, 0)


def _renamed(state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    made = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        made[f"{names[layer]}.{kind}" if layer in names else name] = tensor
    return made
