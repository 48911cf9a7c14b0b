"""The models of benchmarks.perception as Watchers: those of a whole process, and each by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from stages.detect_poses import DetectPoses, PosesConfig
from stages.filter_motion import MotionConfig, MotionFilter
from stages.match_lines import LinesConfig, MatchLines
from stages.perception.device import Precision, torch_device
from stages.perception.results import Image, Mask, Segmenter, Tracker
from stages.stage import Findings, Item, Look, Shown, Watcher

PASSES = ("masks", "tracks", "lines", "poses")


@dataclass(frozen=True)
class Setup:
    """What every process is told. files: checkpoints by their names in the registry."""

    folder: Path
    clips: tuple[str, ...]
    files: dict[str, Path]
    sam: str = "vit_h"
    cotracker: str = "offline"
    device: str = "auto"
    precision: Precision = "fp32"
    frames: int = 48
    points_per_side: int = 32
    points: int = 576 + 150
    streams: bool = False

    def motion(self) -> MotionConfig:
        return MotionConfig(
            masks=cast(Any, f"sam-{self.sam.replace('_', '-')}"),
            tracker=cast(Any, f"cotracker3-{self.cotracker}"),
            frames=self.frames,
            max_masks=1,  # a bound for CoTracker's memory is computed from it
            background_points=self.points,
            points_per_side=self.points_per_side,
            sam=str(self.files[f"sam-{self.sam.replace('_', '-')}"]),
            cotracker=str(self.files[f"cotracker3-{self.cotracker}"]),
            precision=self.precision,
            device=self.device,
        )

    def lines(self) -> LinesConfig:
        own, front = str(self.files["gluestick"]), str(self.files["superpoint"])
        return LinesConfig(model="gluestick", gluestick=own, superpoint=front, precision=self.precision, device=self.device)

    def poses(self) -> PosesConfig:
        files = (str(self.files["dwpose-det"]), str(self.files["dwpose-pose"]))
        return PosesConfig(model="dwpose", whole_picture=True, weights=files, device=dwpose_device(self.device))


def dwpose_device(device: str) -> str:
    """Where onnxruntime can compute; a GPU that only torch can use is left to torch."""
    import onnxruntime

    return device if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"


class Motion(MotionFilter):
    """The stage, and where its passes hand each other the masks."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup.motion(), accept_noncommercial=True)
        self.setup = setup

    def stored(self, item: Item) -> Path:
        """Where the masks of a clip lie between the passes."""
        return self.setup.folder / "masks" / f"{item.sample_id}.npz"


class MasksPass(Motion):
    """Segment Anything alone: the masks of the first frame, written to a file."""

    def models(self) -> tuple[Segmenter, Tracker]:
        if self._models is None:
            self._models = self.segmenter(), cast(Tracker, None)
        return self._models

    def wants(self, item: Item) -> list[Look]:
        return [replace(look, frames=look.frames[:1]) for look in super().wants(item)]

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        first = next(frames).pixels
        masks = self.models()[0].masks(first)
        pixels = np.packbits(np.array([mask.pixels for mask in masks], np.bool_).reshape(len(masks), *first.shape[:2]), axis=-1)
        path = self.stored(item)
        path.parent.mkdir(exist_ok=True)
        whole = path.with_suffix(".part.npz")
        np.savez(whole, pixels=pixels, width=first.shape[1], scores=np.array([mask.score for mask in masks]))
        whole.replace(path)  # another process may be reading
        return Findings()


class Given:
    """A segmenter that has been asked before."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            pixels = np.unpackbits(file["pixels"], axis=-1, count=int(file["width"])).astype(np.bool_)
            self._masks = [Mask(each, float(score)) for each, score in zip(pixels, file["scores"], strict=True)]

    def masks(self, image: Image) -> list[Mask]:
        return self._masks


class TracksPass(Motion):
    """CoTracker alone: what the stage does after the masks."""

    def models(self) -> tuple[Segmenter, Tracker]:
        if self._models is None:
            self._models = cast(Segmenter, None), self.tracker()
        return self._models

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        self._models = Given(self.stored(item)), self.models()[1]
        return super().look(item, frames)


class Decode(Watcher):
    """Nothing but the frames that the others want."""

    name = "decode"

    def __init__(self, others: Sequence[Watcher]) -> None:
        super().__init__(None)
        self.others = others

    def wants(self, item: Item) -> list[Look]:
        looks = [look for other in self.others for look in other.wants(item)]
        return [Look(0, np.unique(np.concatenate([look.frames for look in looks])), looks[0].size)]

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        return Findings({"n_frames": float(sum(1 for _ in frames))})


class OwnStream(Watcher):
    """Another Watcher, whose kernels go to a CUDA stream of its own; on a CPU the same."""

    def __init__(self, inner: Watcher, device: str) -> None:
        super().__init__(inner.config)
        self.name, self.inner, self.device = inner.name, inner, device  # type: ignore[misc]

    def wants(self, item: Item) -> list[Look]:
        return self.inner.wants(item)

    def prepare(self) -> None:
        self.inner.prepare()

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        import torch

        place = torch_device(self.device)
        with torch.cuda.stream(torch.cuda.Stream(place) if place.type == "cuda" else None):
            return self.inner.look(item, frames)


def watchers(setup: Setup, names: Sequence[str]) -> list[Watcher]:
    """Those of a process that has the models of these names; the masks and the tracks of one process are the stage."""
    made: list[Watcher] = []
    if {"masks", "tracks"} <= set(names):
        made.append(Motion(setup))
    else:
        made += [kind(setup) for name, kind in (("masks", MasksPass), ("tracks", TracksPass)) if name in names]
    if "lines" in names:
        made.append(MatchLines(setup.lines(), accept_noncommercial=True))
    if "poses" in names:
        made.append(DetectPoses(setup.poses(), accept_noncommercial=True))
    if setup.streams:
        made = [OwnStream(each, setup.device) for each in made]
    return made if "decode" not in names else [Decode(made)]
