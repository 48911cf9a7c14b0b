"""Every choice of the method, in one place; stored beside the weights, so inference builds what training built."""

from dataclasses import dataclass
from typing import Literal

from schemas.typed import bounded

Translation = Literal["two_metres", "metres", "normalised"]
CameraForm = Literal["extrinsics", "plucker"]

FPS = 15.0  # of what is generated: SynCamVideo's


@dataclass(frozen=True)
class ViewConfig:
    """The architecture of the added modules.

    camera: 12 numbers of [R|t] relative to view 0 (the default of paper and releases), or Pluecker rays (6 per token; the
    paper's ablation). translation: the unit of t. "two_metres" is the release's (centimetres / 200); "normalised" divides by
    the largest distance of a camera from view 0 at the first frame (ours), which also serves scenes of arbitrary scale.
    text_per_view: the CogVideoX release's repetition of the text once per view in view attention, redundant by its author's
    word; False keeps one copy. view_rope: rotary positions (view, row, column) in view attention; the Wan release has them,
    the CogVideoX release passes none (2b has no rotary positions at all).
    """

    camera: CameraForm = "extrinsics"
    translation: Translation = "two_metres"
    text_per_view: bool = False
    view_rope: bool = True

    @property
    def camera_dim(self) -> int:
        return 12 if self.camera == "extrinsics" else 6


@dataclass(frozen=True)
class ObjectiveConfig:
    """What one training step does.

    text_dropout: share of samples trained on the empty text (paper: unknown; ours 0.1, classifier-free guidance needs some).
    novel_view: share of multi-view video samples whose view 0 is the clean latent of the input video (paper: 0.9 in
    novel-view mode, 0 otherwise). loss_on_input: whether a replaced view 0 counts in the loss (paper: unknown; ours no, there
    is no noise to predict).
    """

    text_dropout: float = bounded(0.1, low=0, high=1)
    novel_view: float = bounded(0.0, low=0, high=1)
    loss_on_input: bool = False
