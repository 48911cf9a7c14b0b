"""Checkpoints of random weights at the true size, in the official files' layouts: for measuring what models cost where no hub is."""

import sys
from pathlib import Path
from typing import Any

from benchmarks.dwpose_networks import write_detector, write_pose
from stages.perception.gluestick_net import GlueStickNet
from stages.perception.superpoint import to_magic_leap

SHARPER = 1000.0  # random mask logits are close to 0: so many times as large they are as stable as a trained network's


def write_all(folder: Path, sam: str, cotracker: str, code: Path, seed: int = 0) -> dict[str, Path]:
    """Name in the registry -> file. sam: "vit_b", "vit_l", "vit_h"; cotracker: "offline", "online"; code: upstream's package."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    states = {
        f"sam-{sam.replace('_', '-')}": segment_anything(sam),
        f"cotracker3-{cotracker}": tracker(cotracker, code),
        "gluestick": {"model": {f"matcher.{name}": tensor for name, tensor in GlueStickNet().state_dict().items()}},
        "superpoint": superpoint(),
    }
    files = {name: folder / f"{name}.pth" for name in states}
    for name, state in states.items():
        torch.save(state, files[name])
    files["dwpose-det"] = write_detector(folder / "yolox_l.onnx", seed)
    files["dwpose-pose"] = write_pose(folder / "dw-ll_ucoco_384.onnx", seed)
    return files


def segment_anything(model: str) -> dict[str, Any]:
    """One of the three masks for each point passes the default limits on IoU and stability, as about a third do with trained weights;
    what is left of them when repeated ones are gone depends on chance."""
    import torch
    from segment_anything import sam_model_registry

    sam = sam_model_registry[model]()
    decoder = sam.mask_decoder
    with torch.no_grad():
        decoder.iou_prediction_head.layers[-1].weight.mul_(0.01)
        decoder.iou_prediction_head.layers[-1].bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
        for network in decoder.output_hypernetworks_mlps:
            network.layers[-1].weight.mul_(SHARPER)
            network.layers[-1].bias.mul_(SHARPER)
    return dict(sam.state_dict())


def tracker(mode: str, code: Path) -> dict[str, Any]:
    """As it is initialised: points hardly move. The work does not depend on where they go."""
    folder = code if code.name == "cotracker" else code / "cotracker"
    sys.path.insert(0, str(folder.parent))
    try:
        from cotracker import predictor
    finally:
        sys.path.remove(str(folder.parent))
    kind, window = (predictor.CoTrackerOnlinePredictor, 16) if mode == "online" else (predictor.CoTrackerPredictor, 60)
    return dict(kind(checkpoint=None, window_len=window).model.state_dict())


def superpoint() -> dict[str, Any]:
    """Every place is about as likely a keypoint as any other: the best of each neighbourhood are found, as many as asked for."""
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    return to_magic_leap(SuperPointForKeypointDetection(SuperPointConfig()).state_dict())
