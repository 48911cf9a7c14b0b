"""Masks of everything in an image by Segment Anything, through its own package (`segment-anything` 1.0 is the authors' code)."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.typed import RecipeError, nearest
from stages.perception.device import Precision, lower, torch_device
from stages.perception.results import Image, Mask
from stages.perception.state import load_strict, read_state

if TYPE_CHECKING:
    pass

_MODELS = ("vit_b", "vit_l", "vit_h")


class SamSegmenter:
    """Automatic masks of `segment_anything`: a grid of points asks for three masks each; doubtful and repeated ones are left out.

    path: an official checkpoint (`sam-vit-b`, `-l`, `-h`), or one of the same keys. points_per_side: of the grid.
    pred_iou_thresh, stability_score_thresh: masks below either are left out; their defaults are the package's. min_area: so is a
    mask that covers less than this share of the image (ours; the package's own parameter of that kind mends masks instead).

    points_per_batch: memory against speed; a point takes 12 bytes for each pixel of the image, several times over.
    precision: of the image encoder, which is nearly all of the work; prompts and masks stay in float32. By how much the embedding
    then differs, as a share of its norm (vit_b with random weights, 256 pixels, on a CPU): 0.8 % with bf16, 0.1 % with fp16.
    Raises WeightsError for a checkpoint that does not fit, RecipeError where the package is missing.
    """

    def __init__(
        self,
        path: str | Path,
        model: str = "vit_b",
        *,
        points_per_side: int = 32,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        min_area: float = 0.0005,
        device: str = "auto",
        points_per_batch: int = 64,
        precision: Precision = "fp32",
    ) -> None:
        if model not in _MODELS:
            raise RecipeError(f"no Segment Anything model {model!r}{nearest(model, _MODELS)}")
        try:
            from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
        except ImportError as error:
            raise RecipeError(
                f"Segment Anything needs the packages segment-anything, torch and torchvision ({error}); "
                "install them with: uv pip install -e '.[perception]'"
            ) from None
        sam = sam_model_registry[model]()
        load_strict(sam, read_state(Path(path)), str(path))
        sam.to(torch_device(device)).requires_grad_(False).eval()
        lower(sam.image_encoder, precision)
        self._generator = SamAutomaticMaskGenerator(
            sam,
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
        )
        self._generator._process_batch = _on_cpu(self._generator._process_batch)
        self._min_area = min_area

    def masks(self, image: Image) -> list[Mask]:
        """Masks [H,W] of an image [H,W,3] with the model's guess of their IoU, the largest first; of two that are as large, the one
        whose first pixel (row by row) comes first, then the better one."""
        found = [(each["segmentation"], float(each["predicted_iou"])) for each in self._generator.generate(np.ascontiguousarray(image))]
        enough = self._min_area * image.shape[0] * image.shape[1]
        kept = [(pixels, score) for pixels, score in found if pixels.any() and pixels.sum() >= enough]
        kept.sort(key=lambda each: (-int(each[0].sum()), int(each[0].argmax()), -each[1]))
        return [Mask(pixels, min(max(score, 0.0), 1.0)) for pixels, score in kept]


def _on_cpu(process: Callable[..., Any]) -> Callable[..., Any]:
    """What a batch of points gave, moved to the CPU: the released package compares boxes (non-maximum suppression) with categories
    that it always makes on the CPU, and fails for many boxes on a GPU. A few thousand boxes are fast anywhere."""

    def processed(*arguments: Any) -> Any:
        data = process(*arguments)
        for name, value in list(data.items()):
            if hasattr(value, "cpu"):
                data[name] = value.cpu()
        return data

    return processed
