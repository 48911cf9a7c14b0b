"""ONNX files of DWPose's pair at their true size: YOLOX-L and RTMPose-L (dw-ll_ucoco_384), random weights, every layer of the originals.

Layers follow the papers (arXiv 2107.08430; 2212.07784 and 2303.07399) with batch normalisation folded into the convolutions, as the
official files have it, so that a run costs what theirs does. What such networks say is noise: the detector finds nobody.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

_WHOLEBODY = 133
# How YOLOX's training begins: every answer close to log-odds of 1 %.
_UNSURE, _FAINT = -4.6, 0.01


def write_detector(path: Path, seed: int = 0) -> Path:
    """yolox_l.onnx: [1,3,640,640] -> [1,8400,85]: box (x, y, log width, log height), objectness, 80 classes."""
    net = _Net(seed)
    quarters = [net.slice(net.slice("input", 2, down), 3, across) for across in (0, 1) for down in (0, 1)]
    x = net.conv(net.concat(quarters), 12, 64, 3)
    levels = []
    for into, out, blocks in ((64, 128, 3), (128, 256, 9), (256, 512, 9)):
        x = net.stage(net.conv(x, into, out, 3, 2), out, out, blocks)
        levels.append(x)
    x = net.pyramid_pool(net.conv(x, 512, 1024, 3, 2), 1024)
    x = net.stage(x, 1024, 1024, 3, shortcut=False)
    fine, middle = levels[1:]
    top = net.conv(x, 1024, 512, 1)
    x = net.stage(net.concat([net.twice(top), middle]), 1024, 512, 3, shortcut=False)
    side = net.conv(x, 512, 256, 1)
    fine = net.stage(net.concat([net.twice(side), fine]), 512, 256, 3, shortcut=False)
    middle = net.stage(net.concat([net.conv(fine, 256, 256, 3, 2), side]), 512, 512, 3, shortcut=False)
    coarse = net.stage(net.concat([net.conv(middle, 512, 512, 3, 2), top]), 1024, 1024, 3, shortcut=False)
    answers = []
    for x, width in ((fine, 256), (middle, 512), (coarse, 1024)):
        x = net.conv(x, width, 256, 1)
        what, where = (net.conv(net.conv(x, 256, 256, 3), 256, 256, 3) for _ in range(2))
        sure = [
            net.node("Sigmoid", net.conv(each, 256, out, 1, act=False, bias=_UNSURE, gain=_FAINT)) for each, out in ((where, 1), (what, 80))
        ]
        answers.append(net.reshape(net.concat([net.conv(where, 256, 4, 1, act=False, gain=_FAINT), *sure]), (1, 85, -1)))
    net.node("Transpose", net.concat(answers, 2), perm=[0, 2, 1], to="output")
    return net.write(path, (1, 3, 640, 640), {"output": (1, 8400, 85)})


def write_pose(path: Path, seed: int = 0) -> Path:
    """dw-ll_ucoco_384.onnx: [1,3,384,288] -> simcc_x [1,133,576], simcc_y [1,133,768]. CSPNeXt-L, then RTMPose's head."""
    net = _Net(seed)
    x = net.conv(net.conv(net.conv("input", 3, 32, 3, 2), 32, 32, 3), 32, 64, 3)
    for into, out, blocks in ((64, 128, 3), (128, 256, 6), (256, 512, 6), (512, 1024, 3)):
        x = net.conv(x, into, out, 3, 2)
        if out == 1024:
            x = net.pyramid_pool(x, out)
        x = net.stage(x, out, out, blocks, shortcut=out < 1024, next=True)
    x = net.reshape(net.conv(x, 1024, _WHOLEBODY, 7, act=False), (1, _WHOLEBODY, 108))
    x = net.linear(net.norm(x, 108), 108, 256)
    x = net.gated_attention(x, 256, 512, 128)
    net.linear(x, 256, 576, to="simcc_x")
    net.linear(x, 256, 768, to="simcc_y")
    return net.write(path, (1, 3, 384, 288), {"simcc_x": (1, _WHOLEBODY, 576), "simcc_y": (1, _WHOLEBODY, 768)})


class _Net:
    """A graph as it grows: every method adds nodes and returns the name of what they give."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def write(self, path: Path, takes: tuple[int, ...], gives: dict[str, tuple[int, ...]]) -> Path:
        entry = helper.make_tensor_value_info("input", TensorProto.FLOAT, takes)
        exits = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in gives.items()]
        graph = helper.make_graph(self._nodes, path.stem, [entry], exits, self._constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
        return path

    def node(self, kind: str, *inputs: str, to: str | None = None, **settings: Any) -> str:
        to = to or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [to], **settings))
        return to

    def constant(self, values: Array) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def _random(self, *shape: int, gain: float = 1.0) -> str:
        """Normal, of a spread that keeps activations from growing layer by layer."""
        spread = np.sqrt(1 / np.prod(shape[1:] if len(shape) == 4 else shape[:1]))
        return self.constant(self._rng.standard_normal(shape, np.float32) * np.float32(gain * spread))

    def slice(self, x: str, axis: int, start: int) -> str:
        """Every second place along an axis."""
        begin, end, along, step = (self.constant(np.array([value], np.int64)) for value in (start, 1 << 30, axis, 2))
        return self.node("Slice", x, begin, end, along, step)

    def concat(self, parts: list[str], axis: int = 1) -> str:
        return self.node("Concat", *parts, axis=axis)

    def reshape(self, x: str, shape: tuple[int, ...]) -> str:
        return self.node("Reshape", x, self.constant(np.array(shape, np.int64)))

    def twice(self, x: str) -> str:
        return self.node("Resize", x, "", self.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")

    def silu(self, x: str) -> str:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def conv(
        self,
        x: str,
        into: int,
        out: int,
        side: int,
        stride: int = 1,
        *,
        group: int = 1,
        act: bool = True,
        bias: float = 0.0,
        gain: float = 1.0,
    ) -> str:
        weight, offset = self._random(out, into // group, side, side, gain=gain), self.constant(np.full(out, bias, np.float32))
        x = self.node("Conv", x, weight, offset, strides=[stride] * 2, pads=[side // 2] * 4, group=group)
        return self.silu(x) if act else x

    def linear(self, x: str, into: int, out: int, to: str | None = None) -> str:
        return self.node("MatMul", x, self._random(into, out), to=to)

    def pyramid_pool(self, x: str, width: int) -> str:
        x = self.conv(x, width, width // 2, 1)
        pooled = [self.node("MaxPool", x, kernel_shape=[side] * 2, pads=[side // 2] * 4, strides=[1, 1]) for side in (5, 9, 13)]
        return self.conv(self.concat([x, *pooled]), 2 * width, width, 1)

    def stage(self, x: str, into: int, out: int, blocks: int, *, shortcut: bool = True, next: bool = False) -> str:
        """A cross-stage partial layer: half of the channels through residual blocks. next: CSPNeXt's blocks, and attention to channels."""
        half = out // 2
        deep, wide = self.conv(x, into, half, 1), self.conv(x, into, half, 1)
        for _ in range(blocks):
            if next:
                y = self.conv(self.conv(self.conv(deep, half, half, 3), half, half, 5, group=half), half, half, 1)
            else:
                y = self.conv(self.conv(deep, half, half, 1), half, half, 3)
            deep = self.node("Add", y, deep) if shortcut else y
        x = self.concat([deep, wide])
        if next:
            mean = self.conv(self.node("GlobalAveragePool", x), out, out, 1, act=False)
            x = self.node("Mul", x, self.node("HardSigmoid", mean, alpha=1 / 6, beta=0.5))
        return self.conv(x, out, out, 1)

    def norm(self, x: str, width: int) -> str:
        """Divided by the root of the mean square, times one weight."""
        length = self.node("ReduceL2", x, axes=[-1], keepdims=1)
        length = self.node("Mul", length, self.constant(np.array(width**-0.5, np.float32)))
        x = self.node("Div", x, self.node("Max", length, self.constant(np.array(1e-5, np.float32))))
        return self.node("Mul", x, self.constant(np.ones(1, np.float32)))

    def gated_attention(self, x: str, width: int, hidden: int, shared: int) -> str:
        """The gated attention unit of RTMPose between the 133 points."""
        y = self.silu(self.linear(self.norm(x, width), width, 2 * hidden + shared))
        parts = [f"{y}{name}" for name in "uvb"]
        self._nodes.append(helper.make_node("Split", [y, self.constant(np.array([hidden, hidden, shared], np.int64))], parts, axis=2))
        gate, values, base = parts
        query, key = (
            self.node("Add", self.node("Mul", base, self._random(1, shared)), self.constant(np.zeros(shared, np.float32))) for _ in range(2)
        )
        likeness = self.node("MatMul", query, self.node("Transpose", key, perm=[0, 2, 1]))
        kernel = self.node("Relu", self.node("Div", likeness, self.constant(np.array(shared**0.5, np.float32))))
        mixed = self.node("MatMul", self.node("Mul", kernel, kernel), values)
        found = self.linear(self.node("Mul", gate, mixed), hidden, width)
        return self.node("Add", found, self.node("Mul", x, self.constant(np.ones(width, np.float32))))
