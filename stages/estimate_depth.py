"""Depth of chosen frames, packed beside the views: from a model (`depth`), or from files that already know it (`known_depth`).

There is no depth without weights or files: a recipe that has neither is refused with what to fetch.

The member depth.npz: for each view NN `depth_NN` [n,h,w] float16 metres along the optical axis, 0 where unknown, inf where there is
nothing (or more than 65 km away); `frames_NN` [n], the frames of the sample that they belong to; `size_NN` [2], width and height of the
source; and where known `K_NN` [n,3,3], intrinsics in pixels of the stored maps.

Maps are scaled by taking the nearest pixel. Position (x, y) of a map is (x * width / w, y * height / h) in the source. float16 keeps 11
bits: 4 mm at 10 m. One map takes 2 * h * w bytes: 14.6 kB at the default height of 64 in 16:9. A window of 49 frames has 13 maps a
view at the default stride: 190 kB in the shard, 253 kB as the base64 that is kept for rejected samples too. 64 rows and every fourth
frame are about what the latents of a 480p clip resolve (ours); ask for more where the depth itself is the target.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.candidate import Candidate, MediaRef
from schemas.frames import SceneView
from schemas.typed import RecipeError, bounded
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from stages.perception.depth import DepthModel, joined, scaled
from stages.perception.device import Precision
from stages.perception.loaded import loaded
from stages.perception.weights import find
from stages.stage import Findings, Item, Look, Scorer, Shown, Tier, Watcher, placement
from stages.storage.paths import resolve

Model = Literal["zoedepth", "depth-anything-v2-metric-indoor", "depth-anything-v2-metric-outdoor", "depth-pro"]

HEIGHT = 64  # of stored maps, px
STRIDE = 4
MOST_BYTES = 16 << 20  # ours: of the maps of one item, which lie in the manifest's parts; some 1100 maps as they come


@dataclass(frozen=True)
class EstimateDepthConfig:
    """model: of specs/recapture.md 1.2 or another metric one; weights: the folder of your own copy.

    stride: every so many frames of the sample have a map, from the first on. height: of the stored maps in pixels; smaller sources
    keep theirs.
    """

    model: Model = "zoedepth"
    weights: str | None = placement(None)
    stride: int = bounded(STRIDE, low=1, high=100_000)
    height: int = bounded(HEIGHT, low=16, high=4096)
    precision: Precision = "fp32"
    device: str = placement("auto")
    batch: int = bounded(1, low=1, high=1024)


class EstimateDepth(Watcher):
    """The member depth.npz from a model. No scores and no limits."""

    name = packs = "depth"
    version = 1
    needs = frozenset({"video"})
    Config = EstimateDepthConfig
    config: EstimateDepthConfig

    def weights(self) -> tuple[tuple[str, str | None], ...]:
        return ((self.config.model, self.config.weights),)

    def prepare(self) -> None:
        self._model  # noqa: B018

    @cached_property
    def _model(self) -> DepthModel:
        config, batch = self.config, max(1, self.config.batch)
        found = find(config.model, config.weights, accept_noncommercial=self.accept_noncommercial)
        settings = (found, config.device, config.precision, batch)
        return loaded(
            f"depth {config.model}",
            settings,
            lambda: DepthModel(found.path, device=config.device, precision=config.precision, batch=batch),
        )

    def wants(self, item: Item) -> list[Look]:
        chosen = _chosen(item, self.config.stride)
        _check_room(item, chosen, self.config.height)
        return [Look(number, frames) for number, frames in enumerate(chosen)]

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        arrays: dict[str, NDArray[Any]] = {}
        for number, shown in groupby(frames, key=lambda each: each.view):
            found = []  # at the stored height: at the source's own it is one batch that is held
            while held := [each.pixels for each in islice(shown, max(1, self.config.batch))]:
                found.append(scaled(self._model.depth(held), self.config.height))
            maps = joined(found)
            arrays |= _packed(item, number, self.config.stride, maps.metres, maps.K)
        return Findings(members={"depth": arrays})


@dataclass(frozen=True)
class KnownDepthConfig:
    """files: the folder that holds the depth. layout "npz" (see stages.perception.depth_files; also the studio's truth): `NAME.npz`,
    where NAME is the path of a view's file below the input without its extension, for frames the path of their folder, or else the
    candidate's id. layout "kubric4d": the dataset's own folder.

    stride, height: as in EstimateDepthConfig.
    """

    files: str | None = placement(None)
    layout: Literal["npz", "kubric4d"] = "npz"
    stride: int = bounded(STRIDE, low=1, high=100_000)
    height: int = bounded(HEIGHT, low=16, high=4096)


class KnownDepth(Scorer):
    """The member depth.npz from files, which are read in the sandbox like footage; the frames themselves are not looked at.

    What a candidate's files are, by names, sizes and times, is part of its step keys: a file that comes, goes or changes makes the
    candidate that reads it be computed anew, and no other. No scores and no limits.
    """

    name = "known_depth"
    packs = "depth"
    version = 1
    tier = Tier.PIXELS
    needs = frozenset({"video"})
    Config = KnownDepthConfig
    config: KnownDepthConfig

    def check(self) -> None:
        files = self.config.files
        if files is None or not Path(files).is_dir():
            raise RecipeError(f"files is {files!r}, which is no folder; give the one that holds the depth files")

    @property
    def _root(self) -> Path:
        return Path(str(self.config.files))

    def inputs(self, candidate: Candidate) -> str:
        found = [view.media for view in candidate.views if view.media.files]
        if self.config.layout == "npz":
            names = [name for media in found for name in _npz_names(media, candidate)]
        else:
            names = [name for media in found for name in self._kubric_names(media)]
        seen = [(name, _stamp(self._root / name)) for name in sorted(set(names))]
        return sha256(repr(seen).encode("utf-8", "surrogateescape")).hexdigest()

    def score(self, item: Item, media: Media) -> Findings:
        chosen, selection = _chosen(item, self.config.stride), item.selection()
        _check_room(item, chosen, self.config.height)
        arrays: dict[str, NDArray[Any]] = {}
        for number, ((position, _), frames) in enumerate(zip(selection, chosen, strict=True)):
            view = item.scene.views[position]
            if view.media.lens is not None:
                raise CandidateError(
                    Reason.E_CAMERA, f"view {view.view_id!r} is undistorted, its depth files are not; set undistort to false"
                )
            paths, size = self._paths(item, view, frames), (view.index.width, view.index.height)
            asked = (self.config.layout, paths, frames.tolist(), len(view.index), view.view_id, size, self.config.height, media.limits)
            found = media.run("stages.perception.depth_files:known_maps", *asked)
            arrays |= _packed(item, number, self.config.stride, found["depth"], found.get("K"))
        return Findings(members={"depth": arrays})

    def _paths(self, item: Item, view: SceneView, frames: NDArray[np.int64]) -> list[str]:
        """What is to be read for these frames, in the order of `known_maps`. Raises CandidateError (E_OPEN where there is nothing, and as
        `resolve`)."""
        if self.config.layout == "kubric4d":
            camera, folder = _kubric(view.media)
            return [self._file([name], view) for name in (camera, *(f"{folder}/depth_{frame:05d}.tiff" for frame in frames.tolist()))]
        return [self._file(_npz_names(view.media, item.scene.candidate), view)]

    def _file(self, names: list[str], view: SceneView) -> str:
        """The first of the names that is there."""
        for name in names:
            path = self._root / name
            if os.path.islink(path) and not os.path.exists(path):
                raise CandidateError(Reason.E_OPEN, f"no depth for view {view.view_id!r}: {path} is a link to nothing")
            if os.path.lexists(path):
                return str(resolve(self._root, name))
        what = f"neither {' nor '.join(names)}" if len(names) > 1 else f"no {names[0]}"
        raise CandidateError(Reason.E_OPEN, f"no depth for view {view.view_id!r}: the folder {self._root} has {what}")

    def _kubric_names(self, media: MediaRef) -> list[str]:
        camera, folder = _kubric(media)
        try:
            maps = [each for each in os.listdir(self._root / folder) if each.startswith("depth_")]
        except (OSError, ValueError):
            maps = []
        return [camera, *(f"{folder}/{each}" for each in maps)]


def _chosen(item: Item, stride: int) -> list[NDArray[np.int64]]:
    """Per output view the frames of its index that get a map."""
    return [np.unique(frames[::stride]) for _, frames in item.selection()]


def _check_room(item: Item, chosen: list[NDArray[np.int64]], height: int) -> None:
    """Raises CandidateError(E_TOO_BIG) where the maps, had they the shape of the frames, would take more than MOST_BYTES."""
    size = 0
    for (position, _), frames in zip(item.selection(), chosen, strict=True):
        index = item.scene.views[position].index
        rows = min(height, index.height)
        size += 2 * len(frames) * rows * round(index.width * rows / index.height)
    if size > MOST_BYTES:
        raise CandidateError(
            Reason.E_TOO_BIG,
            f"depth of {sum(map(len, chosen))} frames would take {size / 1e6:.1f} MB; at most {MOST_BYTES / 1e6:.1f} are kept of one item: "
            "raise stride, lower height, or cut the source into windows",
        )


def _packed(
    item: Item, number: int, stride: int, metres: NDArray[np.floating[Any]], K: NDArray[np.float64] | None
) -> dict[str, NDArray[Any]]:
    """The arrays of one output view."""
    position, shown = item.selection()[number]
    index = item.scene.views[position].index
    places = [int(np.flatnonzero(shown == frame)[0]) for frame in _chosen(item, stride)[number]]
    with np.errstate(over="ignore"):
        arrays: dict[str, NDArray[Any]] = {f"depth_{number:02d}": metres.astype(np.float16)}
    arrays[f"frames_{number:02d}"] = np.array(places, np.int64)
    arrays[f"size_{number:02d}"] = np.array([index.width, index.height], np.int64)
    return arrays if K is None else {**arrays, f"K_{number:02d}": K}


def _npz_names(media: MediaRef, candidate: Candidate) -> list[str]:
    """Where a view's depth may lie, the first that is there."""
    first = PurePosixPath(media.files[0].path)
    names = [candidate.candidate_id]
    if media.kind == "video":
        names.insert(0, str(first.with_suffix("")))
    elif media.kind == "images" and first.parent.name:  # a chunk's name is that of many scenes, and so is the input folder's own
        names.insert(0, str(first.parent))
    return list(dict.fromkeys(f"{name}.npz" for name in names))


def _kubric(media: MediaRef) -> tuple[str, str]:
    """The camera file of a view in `scn00000/frames_p0_v4`, which lies beside that folder, and the folder."""
    folder = PurePosixPath(media.files[0].path).parent
    return str(folder.parent / f"{folder.parent.name}_{folder.name.removeprefix('frames_')}.json"), str(folder)


def _stamp(path: Path) -> tuple[int, int] | str:
    """Size and time of a plain file, or why there is none."""
    try:
        about = path.stat()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}{' of a link' if os.path.islink(path) else ''}"
    return (about.st_size, about.st_mtime_ns) if stat.S_ISREG(about.st_mode) else "no file"
