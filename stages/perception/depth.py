"""Metric depth of single images: ZoeDepth, Depth Anything V2 (its metric variants) and Depth Pro, through transformers.

Each is loaded from a folder as its publisher has it on the hub (config.json, model.safetensors, preprocessor_config.json), and its
own preprocessing and post-processing are used. specs/recapture.md 1.2 names ZoeDepth, "such as"; the others are ours to offer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.typed import from_json
from stages.perception.device import Precision, torch_device
from stages.perception.results import Image
from stages.perception.weights import WeightsError

Array = NDArray[np.float64]

NEAREST_M = 1e-3  # bicubic resizing overshoots at edges; nothing is nearer than ZoeDepth's own least depth
_NAMED = 4  # tensors that a message lists
_CLASSES = {
    "zoedepth": "ZoeDepthForDepthEstimation",
    "depth_anything": "DepthAnythingForDepthEstimation",
    "depth_pro": "DepthProForDepthEstimation",
}
_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, eq=False)
class DepthMaps:
    """metres [n,H,W] float32, planar (along the optical axis), 0 where unknown and inf where there is nothing.
    K [n,3,3]: intrinsics in pixels of these maps, centres at integer + 0.5; None where nobody knows them."""

    metres: NDArray[np.float32]
    K: Array | None = None


class DepthModel:
    """One of the three families on one device; which one the folder's config.json says.

    device: "auto" is a GPU where there is one. precision: of the network; its result is resized in float32 always. batch: images at
    once. A ZoeDepth with several heads (nyu-kitti) chooses between them by a vote of the batch, so it gets its images one by one
    whatever the batch: an image's depth must not depend on its neighbours. Raises WeightsError.
    """

    def __init__(self, folder: Path, *, device: str = "auto", precision: Precision = "fp32", batch: int = 1) -> None:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise WeightsError(f"depth needs the package {error.name}; install it with: uv pip install -e '.[perception]'") from None

        config = _config(folder)
        self._kind = str(config["model_type"])
        self._device = torch_device(device)
        self._dtype = getattr(torch, _TYPES[precision])
        voting = self._kind == "zoedepth" and len(config.get("bin_configurations") or ()) > 1
        self._batch = 1 if voting else batch
        self._network = _load(getattr(transformers, _CLASSES[self._kind]), folder).to(self._device, self._dtype).eval()
        try:
            self._processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            raise WeightsError(
                f"{folder}: its preprocessor_config.json (or processor_config.json) cannot be used: {_first_line(error)}"
            ) from None

    def depth(self, images: Sequence[Image]) -> DepthMaps:
        """Maps of images [H,W,3] of one size, at that size, 1 mm at least. K from Depth Pro only, which estimates the focal length:
        square pixels, principal point in the middle."""
        if len({image.shape for image in images}) != 1:
            raise ValueError(f"depth takes images of one size, at least one; got {sorted({image.shape for image in images})}")
        found = [self._some(images[start : start + self._batch]) for start in range(0, len(images), self._batch)]
        metres = np.concatenate([each for each, _ in found])
        if self._kind != "depth_pro":
            return DepthMaps(metres)
        height, width = metres.shape[1:]
        K = np.tile(np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]], np.float64), (len(metres), 1, 1))
        K[:, 0, 0] = K[:, 1, 1] = np.concatenate([each for _, each in found])
        return DepthMaps(metres, K)

    def _some(self, images: Sequence[Image]) -> tuple[NDArray[np.float32], Array]:
        """Maps [b,H,W] and focal lengths [b] in pixels (nothing but with Depth Pro) of one batch."""
        import torch

        sizes = [image.shape[:2] for image in images]
        own = [image.copy() for image in images]  # torch warns of arrays that it may not write to, as shared frames are
        inputs = self._processor(images=own, return_tensors="pt", input_data_format="channels_last")
        with torch.inference_mode():
            answer = self._network(pixel_values=inputs["pixel_values"].to(self._device, self._dtype))
            answer.predicted_depth = answer.predicted_depth.float()
            if self._kind == "depth_pro":
                answer.field_of_view = answer.field_of_view.float()
            named = "source_sizes" if self._kind == "zoedepth" else "target_sizes"  # ZoeDepth cuts its own padding off
            maps = self._processor.post_process_depth_estimation(answer, **{named: sizes})
            metres = torch.stack([each["predicted_depth"] for each in maps]).clamp(min=NEAREST_M).cpu().numpy()
        focal = [float(each["focal_length"]) for each in maps if self._kind == "depth_pro"]
        return metres.reshape(len(images), *sizes[0]).astype(np.float32, copy=False), np.array(focal, np.float64)


def _config(folder: Path) -> dict[str, Any]:
    """config.json, checked for what this module can run."""
    try:
        config = from_json((folder / "config.json").read_text("utf-8"))
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder} is no folder of a depth model: its config.json cannot be used ({_first_line(error)})") from None
    if kind not in _CLASSES:
        raise WeightsError(f"{folder} holds a model of type {kind!r}; depth takes {', '.join(_CLASSES)}")
    if kind == "depth_anything" and config.get("depth_estimation_type", "relative") != "metric":
        raise WeightsError(f"{folder} is a Depth Anything that gives relative depth, without a unit; take a metric one (indoor or outdoor)")
    if kind == "depth_pro" and not config.get("use_fov_model", False):
        raise WeightsError(f"{folder} is a Depth Pro without its field-of-view network, so its depth has no unit; take apple/DepthPro-hf")
    return dict(config)


def _load(network: Any, folder: Path) -> Any:
    """The module with every tensor from the folder's safetensors, and no other. Reads nothing but the folder."""
    from safetensors import SafetensorError

    try:
        with _without_bars():
            loaded, info = network.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(f"{folder} cannot be loaded as {network.__name__}: {_first_line(error)}") from None
    shapes = [f"{name} {list(theirs)} instead of {list(ours)}" for name, theirs, ours in sorted(info["mismatched_keys"])]
    listed = ((sorted(info["missing_keys"]), "missing"), (sorted(info["unexpected_keys"]), "unexpected"), (shapes, "of another shape"))
    problems = [
        f"{len(names)} {how}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}" for names, how in listed if names
    ]
    if problems:
        raise WeightsError(f"{folder} does not fit {network.__name__}: {'; '.join(problems)}")
    return loaded


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers draws a progress bar while it loads, which a run with many workers does not want."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def scaled(maps: DepthMaps, height: int) -> DepthMaps:
    """The maps at that height, or at their own where it is less: nearest pixels, for a mean over an edge lies on neither side of it. K to
    match."""
    rows, columns = maps.metres.shape[1:]
    if rows <= height:
        return maps
    width = max(1, round(columns * height / rows))
    metres = np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for each in maps.metres])
    K = None if maps.K is None else np.diag([width / columns, height / rows, 1.0]) @ maps.K
    return replace(maps, metres=metres, K=K)


def joined(found: Sequence[DepthMaps]) -> DepthMaps:
    """One after another; K where all have it."""
    known = [each.K for each in found if each.K is not None]
    return DepthMaps(np.concatenate([each.metres for each in found]), np.concatenate(known) if len(known) == len(found) else None)


def back_project(metres: NDArray[np.floating[Any]], K: Array, c2w: Array) -> Array:
    """World points [H,W,3] of the pixel centres of a map [H,W]; K [3,3] in its pixels, c2w [4,4]. Of unknown depth: the camera's own
    position; of infinite depth: not finite."""
    height, width = metres.shape
    pixels = np.stack([*np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), np.ones((height, width))], axis=-1)
    rays = pixels @ np.linalg.inv(K).T @ c2w[:3, :3].T
    return np.asarray(rays * metres[..., None].astype(np.float64) + c2w[:3, 3], np.float64)
