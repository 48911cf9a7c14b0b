"""Train SynCamMaster's modules on a frozen base: views of one scene, filmed at once, that agree with each other and their cameras."""

import argparse
from typing import TYPE_CHECKING, Any

from pipeline.methods.syncammaster.config import ObjectiveConfig, ViewConfig

if TYPE_CHECKING:
    from pipeline.bases.base import Base
    from pipeline.methods.syncammaster.training import SynCamTraining

# Of the bases: the longest clip that their published weights were trained on; tiny is ours.
_FRAMES = {"cogvideox-2b": 49, "cogvideox-5b": 49, "wan2.1-1.3b": 81, "wan2.1-14b": 81, "tiny": 3}


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("syncammaster")
    view, objective = ViewConfig(), ObjectiveConfig()
    group.add_argument(
        "--camera",
        choices=("extrinsics", "plucker"),
        default=view.camera,
        help="12 numbers of [R|t], or rays (default: extrinsics)",
    )
    group.add_argument(
        "--translation",
        choices=("two_metres", "metres", "normalised"),
        default=view.translation,
        help="the unit of t: 2 m (the releases), metres, or the scene's extent (default: two_metres)",
    )
    group.add_argument(
        "--text-per-view", action="store_true", help="repeat the text once per view in view attention, as the CogVideoX release does"
    )
    group.add_argument("--no-view-rope", action="store_true", help="no rotary positions in view attention")
    group.add_argument(
        "--text-dropout",
        metavar="SHARE",
        type=float,
        default=objective.text_dropout,
        help="samples trained on the empty text (default: 0.1; the paper names none)",
    )
    group.add_argument(
        "--novel-view",
        metavar="SHARE",
        type=float,
        default=objective.novel_view,
        help="multi-view video samples whose view 0 is the clean input video; 0.9 trains the paper's novel-view mode (default: 0)",
    )
    group.add_argument("--loss-on-input", action="store_true", help="count the loss of a view 0 that was replaced")


def defaults(base: str) -> dict[str, Any]:
    """Settings of the loader that fit a base; a folder has Wan's unless it says otherwise on the command line."""
    from pipeline.bases.registry import codec_of

    if codec_of(base) == "tiny":
        return {"frames": _FRAMES["tiny"], "size": (64, 64), "precision": "no"}
    return {"frames": _FRAMES.get(base, 81), "size": (384, 672)}


def build(base: "Base", options: argparse.Namespace) -> "SynCamTraining":
    """Raises ValueError for options out of range."""
    from pipeline.methods.conditions import Texts
    from pipeline.methods.syncammaster.training import SynCamTraining

    view = ViewConfig(options.camera, options.translation, options.text_per_view, not options.no_view_rope)
    for name in ("text_dropout", "novel_view"):
        share = getattr(options, name)
        if not 0 <= share <= 1:
            raise ValueError(f"--{name.replace('_', '-')} {share:g}: a share lies from 0 to 1")
    objective = ObjectiveConfig(options.text_dropout, options.novel_view, options.loss_on_input)
    recorded = {"size": list(options.size), "frames": options.frames, "views": options.views, "frame_stride": options.frame_stride}
    encoded = options.data if options.payload == "latents" else None
    return SynCamTraining(base, options.base, view, objective, recorded, Texts(base, encoded))
