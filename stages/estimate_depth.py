"""Depth of chosen frames, packed beside the views: from a model, or from files that already know it.

There is no depth without weights or files: a recipe that has neither is refused with what to fetch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.frames import SceneView
from schemas.typed import bounded
from schemas.verdict import CandidateError, Reason
from stages.media.paths import resolve
from stages.perception.depth import Array, DepthMaps, DepthModel
from stages.perception.depth_files import read_kubric4d, read_npz
from stages.perception.device import Precision
from stages.perception.weights import WeightsError, find
from stages.stage import Findings, Item, Look, Shown, Watcher, placement

Model = Literal["zoedepth", "depth-anything-v2-metric-indoor", "depth-anything-v2-metric-outdoor", "depth-pro"]

MOST_ASPECT_DIFFERENCE = 0.02  # between the maps of a file and the frames: rounding, but no crop


@dataclass(frozen=True)
class EstimateDepthConfig:
    """model: of specs/recapture.md 1.2 or another metric one; weights: the folder of your own copy.

    files: a folder with depth that is known; then no model runs. layout "npz" (see stages.perception.depth_files; also the studio's
    truth): `NAME.npz`, where NAME is the path of a view's file below the input without its extension, for frames the path of their
    folder, or else the candidate's id. layout "kubric4d": the dataset's own folder.

    stride: every so many frames of the sample have a map, from the first on. height: of the stored maps in pixels; smaller sources
    keep theirs.
    """

    model: Model = "zoedepth"
    weights: str | None = placement(None)
    files: str | None = None
    layout: Literal["npz", "kubric4d"] = "npz"
    stride: int = bounded(4, low=1, high=100_000)
    height: int = bounded(128, low=16, high=4096)
    precision: Precision = "fp32"
    device: str = placement("auto")
    batch: int = placement(1)


class EstimateDepth(Watcher):
    """The member depth.npz: for each view NN `depth_NN` [n,h,w] float16 metres along the optical axis, 0 where unknown, inf where
    there is nothing; `frames_NN` [n], the frames of the sample that they belong to; `size_NN` [2], width and height of the source;
    and where known `K_NN` [n,3,3], intrinsics in pixels of the stored maps.

    Maps are scaled by taking the nearest pixel: a mean over an edge lies on neither side of it. Position (x, y) of a map is
    (x * width / w, y * height / h) in the source. float16 keeps 11 bits: 4 mm at 10 m. No scores and no limits.
    """

    name = "depth"
    version = 1
    needs = frozenset({"video"})
    Config = EstimateDepthConfig
    config: EstimateDepthConfig

    def weights(self) -> tuple[tuple[str, str | None], ...]:
        files = self.config.files
        if files is None:
            return ((self.config.model, self.config.weights),)
        if not Path(files).is_dir():
            raise WeightsError(
                f"files is {files!r}, which is no folder; give the one that holds the depth files, or leave it out for a model"
            )
        return ()

    def compute_settings(self) -> dict[str, Any]:
        """With files also what they are, by names, sizes and times: what changes there is computed anew."""
        settings = super().compute_settings()
        return settings if self.config.files is None else {**settings, "files": self._listing}

    @cached_property
    def _listing(self) -> str:
        folder, pattern = Path(str(self.config.files)), "**/*.npz" if self.config.layout == "npz" else "**/depth_*.tiff"
        seen = sorted((str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.glob(pattern))
        return sha256(repr(seen).encode("utf-8", "surrogateescape")).hexdigest()

    @cached_property
    def _model(self) -> DepthModel:
        config = self.config
        folder = find(config.model, config.weights, accept_noncommercial=self.accept_noncommercial).path
        return DepthModel(folder, device=config.device, precision=config.precision, batch=max(1, config.batch))

    def wants(self, item: Item) -> list[Look]:
        if self.config.files is not None:  # who knows the depth needs no pixels
            return []
        return [Look(number, frames) for number, frames in enumerate(self._chosen(item))]

    def _chosen(self, item: Item) -> list[NDArray[np.int64]]:
        """Per output view the frames of its index that get a map."""
        return [np.unique(frames[:: self.config.stride]) for _, frames in item.selection()]

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        found = self._estimated(frames) if self.config.files is None else self._known(item)
        selection, chosen = item.selection(), self._chosen(item)
        arrays: dict[str, NDArray[Any]] = {}
        for number, maps in found:
            position, shown = selection[number]
            index = item.scene.views[position].index
            arrays[f"depth_{number:02d}"] = maps.metres.astype(np.float16)
            arrays[f"frames_{number:02d}"] = np.array([int(np.flatnonzero(shown == frame)[0]) for frame in chosen[number]], np.int64)
            arrays[f"size_{number:02d}"] = np.array([index.width, index.height], np.int64)
            if maps.K is not None:
                arrays[f"K_{number:02d}"] = maps.K
        return Findings(members={"depth": arrays})

    def _estimated(self, frames: Iterator[Shown]) -> Iterator[tuple[int, DepthMaps]]:
        """Per view all its maps at the stored height; holds one batch of frames."""
        for number, shown in groupby(frames, key=lambda each: each.view):
            found = []
            while held := [each.pixels for each in islice(shown, max(1, self.config.batch))]:
                found.append(scaled(self._model.depth(held), self.config.height))
            yield number, _joined(found)

    def _known(self, item: Item) -> Iterator[tuple[int, DepthMaps]]:
        root = Path(str(self.config.files))
        for number, ((position, _), frames) in enumerate(zip(item.selection(), self._chosen(item), strict=True)):
            view = item.scene.views[position]
            if self.config.layout == "kubric4d":
                maps = read_kubric4d(root / PurePosixPath(view.media.files[0].path).parent, frames.tolist())
            else:
                maps = read_npz(self._file(root, item, view), frames.tolist(), len(view.index), view.view_id)
            found = []
            for each in maps:
                _check_shape(each, view)
                found.append(scaled(each, self.config.height))
            yield number, _joined(found)

    def _file(self, root: Path, item: Item, view: SceneView) -> Path:
        """The view's npz. Raises CandidateError(E_OPEN) that lists where it was looked for."""
        first = PurePosixPath(view.media.files[0].path)
        stem = first.parent if view.media.kind == "images" else first.with_suffix("")
        names = list(dict.fromkeys(f"{name}.npz" for name in (stem, item.scene.candidate.candidate_id)))
        for name in names:
            if (root / name).is_file():
                return resolve(root, name)
        raise CandidateError(Reason.E_OPEN, f"no depth for view {view.view_id!r}: the folder {root} has neither {' nor '.join(names)}")


def scaled(maps: DepthMaps, height: int) -> DepthMaps:
    """The maps at that height, or at their own where it is less: nearest pixels, K to match."""
    rows, columns = maps.metres.shape[1:]
    if rows <= height:
        return maps
    width = max(1, round(columns * height / rows))
    metres = np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for each in maps.metres])
    return replace(maps, metres=metres, K=_scaled_K(maps.K, width / columns, height / rows))


def _scaled_K(K: Array | None, across: float, down: float) -> Array | None:
    return None if K is None else np.diag([across, down, 1.0]) @ K


def _joined(found: list[DepthMaps]) -> DepthMaps:
    known = [each.K for each in found if each.K is not None]
    return DepthMaps(np.concatenate([each.metres for each in found]), np.concatenate(known) if len(known) == len(found) else None)


def _check_shape(maps: DepthMaps, view: SceneView) -> None:
    height, width = maps.metres.shape[1:]
    wanted = view.index.width / view.index.height
    if abs(width / height / wanted - 1) > MOST_ASPECT_DIFFERENCE:
        raise CandidateError(
            Reason.E_OPEN,
            f"depth maps of view {view.view_id!r} are {width}x{height}, its frames {view.index.width}x{view.index.height}; "
            "they must show the same picture, at any scale",
        )
