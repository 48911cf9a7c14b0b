"""What the tests of GlueStick share: pictures, graphs, and files of random weights of the official layout that find something."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.perception.gluestick import GlueStick
from stages.perception.gluestick_net import WIDTH, GlueStickNet, Graph
from tests.perception.test_superpoint import random_magic_leap


def boxes(seed: int = 1, height: int = 192, width: int = 256) -> np.ndarray:
    """A picture of overlapping boxes on a faint grain."""
    rng = np.random.default_rng(seed)
    image = rng.integers(100, 116, (height, width, 3), dtype=np.uint8)
    for _ in range(12):
        x, y = rng.integers(8, width - 60), rng.integers(8, height - 60)
        image[y : y + rng.integers(24, 50), x : x + rng.integers(24, 50)] = rng.integers(0, 256, 3)
    return image


def graph(points: int = 14, lines: int = 8, seed: int = 0, scores: float | None = None) -> Graph:
    """Nodes at random, every segment between junctions of its own but the second one, which shares an end with the first."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.arange(2 * lines).reshape(lines, 2)
    if lines > 1:
        ends = (ends - (ends > 2).long()).clamp(min=0)
        ends[1, 0] = 1
    count = points + (int(ends.max()) + 1 if lines else 0)
    described = torch.nn.functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
    strength = torch.rand(lines, generator=generator) if scores is None else torch.full((lines,), scores)
    xy = torch.rand(count, 2, generator=generator) * torch.tensor([320.0, 200.0])
    return Graph(xy, torch.rand(count, generator=generator), described, ends, strength, (320, 200))


def noisy(given: Graph, amount: float = 0.05) -> Graph:
    """The same nodes, described a little differently."""
    shift = torch.randn(given.descriptors.shape, generator=torch.Generator().manual_seed(9)) * amount / WIDTH**0.5
    return dataclasses.replace(given, descriptors=torch.nn.functional.normalize(given.descriptors + shift, dim=1))


def random_net() -> GlueStickNet:
    """Random weights that tell nodes apart: a random projection amplified until equals outdo the rest."""
    torch.manual_seed(0)
    net = GlueStickNet().eval()
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        for projection in (net.final_proj, net.final_line_proj):
            projection.weight.mul_(100)
    return net


def telling_net() -> GlueStickNet:
    """Random weights, less what all nodes have in common, so that they can be told apart."""
    made = random_net()
    seen: list[torch.Tensor] = []
    hook = made.final_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        made(graph(seed=0), graph(seed=1))
    hook.remove()
    _center(made, seen)
    return made.requires_grad_(False)


def official(net: GlueStickNet, prefix: str = "matcher.") -> dict[str, Any]:
    """The layout of the official file: the matcher among the training's other parts."""
    model = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    model["extractor.conv1a.weight"] = torch.zeros(64, 1, 3, 3)
    return {"model": model, "epoch": 3}


def write_superpoint(folder: Path) -> Path:
    """The authors' file, of random weights."""
    path = folder / "superpoint_v1.pth"
    torch.save(random_magic_leap(), path)
    return path


def write_checkpoint(folder: Path, superpoint: Path) -> Path:
    """An official file of random weights that find something: what all nodes have in common is taken off before they are compared."""
    path = folder / "checkpoint_GlueStick_MD.tar"
    net = random_net()
    torch.save(official(net), path)
    model = GlueStick(path, superpoint, max_lines=40, max_keypoints=60, device="cpu")
    seen: list[torch.Tensor] = []
    assert model._net is not None
    model._net.final_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.match(boxes(), np.roll(boxes(), 8, 1))
    _center(net, seen)
    torch.save(official(net), path)
    return path


def _center(net: GlueStickNet, seen: list[torch.Tensor]) -> None:
    common = torch.cat(seen, 2).mean(2)[0]
    with torch.no_grad():
        for projection in (net.final_proj, net.final_line_proj):
            projection.bias.copy_(-projection.weight[:, :, 0] @ common)
