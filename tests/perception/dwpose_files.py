"""ONNX files of DWPose's official signature whose answers are known: what the detector says is planted, the pose network finds dots.

The pose network answers with the place of the brightest pixel of one colour channel: points 0, 3, 6, ... look for red, the next for
green, the next for blue. Whoever draws a dot knows where its points must be found, and the same network shows whether crops, channel
order, normalisation and back-mapping are right.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CELLS = 8400
SCORE_X, SCORE_Y = 0.3, 0.2  # of the normalised brightness, in the two answers of the pose network


@dataclass(frozen=True)
class Row:
    """One of the 8400 answers: of the cell (column, row) of a stride. offset, log_size: raw; lit: where (x, y) of the network's
    picture it looks: its objectness is the red there, over 255; always sure without."""

    stride: int
    cell: tuple[int, int]
    offset: tuple[float, float] = (0.0, 0.0)
    log_size: tuple[float, float] = (0.0, 0.0)
    label: int = 0
    score: float = 0.9
    lit: tuple[int, int] | None = None

    @property
    def number(self) -> int:
        side = 640 // self.stride
        return {8: 0, 16: 6400, 32: 8000}[self.stride] + self.cell[1] * side + self.cell[0]


def write_detector(path: Path, rows: list[Row], batch: int | str = 1) -> Path:
    """yolox_l.onnx in form: [1,3,640,640] -> [1,8400,85]."""
    fixed, gain = np.zeros((1, CELLS, 85), np.float32), np.zeros((1, CELLS, 1), np.float32)
    places = np.zeros((CELLS, 4), np.int64)  # batch, channel, y, x; the batch is 0, and the file takes one
    for row in rows:
        fixed[0, row.number, :4] = (*row.offset, *row.log_size)
        fixed[0, row.number, 5 + row.label] = row.score
        fixed[0, row.number, 4] = float(row.lit is None)
        if row.lit is not None:
            gain[0, row.number] = 1 / 255
            places[row.number] = (0, 0, row.lit[1], row.lit[0])
    column = np.zeros((1, 1, 85), np.float32)
    column[0, 0, 4] = 1
    shape = np.array([1, CELLS, 1], np.int64)
    nodes = [
        helper.make_node("GatherND", ["input", "places"], ["red"]),
        helper.make_node("Reshape", ["red", "shape"], ["column_red"]),
        helper.make_node("Mul", ["column_red", "gain"], ["lit"]),
        helper.make_node("Mul", ["lit", "column"], ["objectness"]),
        helper.make_node("Add", ["objectness", "fixed"], ["output"]),
    ]
    constants = {"places": places, "shape": shape, "gain": gain, "column": column, "fixed": fixed}
    return _write(path, nodes, constants, ("input", [batch, 3, 640, 640]), [("output", [batch, CELLS, 85])])


def write_pose(path: Path, batch: int | str = 1) -> Path:
    """dw-ll_ucoco_384.onnx in form: [1,3,384,288] -> simcc_x [1,133,576], simcc_y [1,133,768]. Two answers for each pixel."""
    constants: dict[str, NDArray] = {
        "channels": np.arange(133, dtype=np.int64) % 3,
        "last": np.array([3], np.int64),
        "second": np.array([2], np.int64),
        "score_x": np.array(SCORE_X, np.float32),
        "score_y": np.array(SCORE_Y, np.float32),
    }
    nodes = []
    for name, reduced, kept in (("x", "second", 288), ("y", "last", 384)):
        constants |= {
            f"twice_{name}": np.array([1, 1, 1, 2], np.int64),
            f"flat_{name}": np.array([0, 3, 2 * kept], np.int64),
            f"tall_{name}": np.array([0, 3, kept, 1], np.int64),
        }
        nodes += [
            helper.make_node("ReduceMax", ["input", reduced], [f"most_{name}"], keepdims=0),
            helper.make_node("Reshape", [f"most_{name}", f"tall_{name}"], [f"column_{name}"]),
            helper.make_node("Tile", [f"column_{name}", f"twice_{name}"], [f"pairs_{name}"]),
            helper.make_node("Reshape", [f"pairs_{name}", f"flat_{name}"], [f"line_{name}"]),
            helper.make_node("Gather", [f"line_{name}", "channels"], [f"all_{name}"], axis=1),
            helper.make_node("Mul", [f"all_{name}", f"score_{name}"], [f"simcc_{name}"]),
        ]
    outputs = [("simcc_x", [batch, 133, 576]), ("simcc_y", [batch, 133, 768])]
    return _write(path, nodes, constants, ("input", [batch, 3, 384, 288]), outputs)


def _write(path: Path, nodes: list, constants: dict[str, NDArray], entry: tuple[str, list], exits: list[tuple[str, list]]) -> Path:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(entry[0], TensorProto.FLOAT, entry[1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in exits],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def draw_dot(image: NDArray[np.uint8], x: float, y: float, channel: int, width: float = 3.0) -> None:
    """A soft dot around (x, y) in pixels, the first pixel's centre at (0.5, 0.5)."""
    down, across = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    dot = 255 * np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * width**2))
    image[..., channel] = np.maximum(image[..., channel], np.rint(dot).astype(np.uint8))
