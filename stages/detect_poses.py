"""Skeletons of the people in a clip, linked from frame to frame: the second condition of FCVG (specs/fcvg.md 1.3 and 3).

FCVG takes the skeletons of the first and the last frame and interpolates between them; those of frames between say who is who.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schemas.typed import bounded
from schemas.verdict import Reason
from stages.perception.checkpoints import GROUPS
from stages.perception.linking import LinkedPeople, link
from stages.perception.loaded import loaded
from stages.perception.results import People, PoseDetector
from stages.perception.weights import Weights, find
from stages.stage import Findings, Item, Look, Shown, Watcher, limit, placement

# Names in the registry of checkpoints, in the order of the models' arguments.
HOLISTIC, DWPOSE = GROUPS["mediapipe"], GROUPS["dwpose"]
# Ours: packed of one clip, in people, and in frames times people (16 MiB). A crowd that passes by would fill the manifest.
MOST_PEOPLE, MOST_SKELETONS = 32, 12_500


@dataclass(frozen=True)
class PosesConfig:
    """model: "holistic" (MediaPipe's networks, on the CPU, for people and cameras as they come) or "dwpose" (the paper's).

    stride: every so manieth frame is looked at, and the last. height: pixels that frames are scaled to; None for their own.
    levels: of "holistic": how small people may be; each level more halves their least size. The detector then looks at 1, 4, 25, 123
    squares of a 16:9 picture.
    whole_picture: of "dwpose": a picture in which nobody is found counts as one person, as in DWPose.
    weights: files of your own instead of the registry's, in the order that `weights fetch` names them: detector and pose of "dwpose";
    detector, body, hand and face of "holistic".
    device, batch: of "dwpose"; threads: of "holistic".
    """

    model: Literal["holistic", "dwpose"] = "holistic"
    stride: int = bounded(4, low=1, high=100_000)
    height: int | None = bounded(None, low=64, high=8192)
    levels: int = bounded(2, low=0, high=5)
    whole_picture: bool = False
    weights: tuple[str, ...] = placement(())
    device: str = placement("auto")
    batch: int = bounded(8, low=1, high=1024)
    threads: int = placement(1)
    min_people: float | None = limit("n_people", ">=", Reason.FEW_PEOPLE)

    def __post_init__(self) -> None:
        names = HOLISTIC if self.model == "holistic" else DWPOSE
        if self.weights and len(self.weights) != len(names):
            raise ValueError(f"weights: {len(self.weights)} files; {self.model!r} takes {len(names)}: {', '.join(names)}")
        if self.threads < 1:
            raise ValueError(f"threads: {self.threads} is out of range; it must be at least 1")


class DetectPoses(Watcher):
    """n_people: who is in the first and in the last frame; pose_score: the mean over the body points found. Of the first view.

    The member `poses`: keypoints [F,P,134,2] float32 in pixels of the source, scores [F,P,134] float16 (0: not found, or not there),
    ids [P] int64, frame [F] int64: which of the packed frames; size [2] int32: width and height of the source.
    """

    name = packs = "poses"
    version = 1
    needs = frozenset({"video"})
    Config = PosesConfig
    config: PosesConfig
    detector: PoseDetector  # since `prepare`

    def weights(self) -> tuple[tuple[str, str | None], ...]:
        names = HOLISTIC if self.config.model == "holistic" else DWPOSE
        return tuple(zip(names, self.config.weights or (None,) * len(names), strict=True))

    def unused(self) -> frozenset[str]:
        return frozenset({"whole_picture", "batch"} if self.config.model == "holistic" else {"levels"})

    def prepare(self) -> None:
        chosen = self.config
        settings: tuple[Hashable, ...] = (chosen.levels, chosen.threads)
        if chosen.model == "dwpose":
            settings = (chosen.device, chosen.batch, chosen.whole_picture)
        self.detector = loaded(f"poses {chosen.model}", (*self._found, *settings), self._load)

    def _load(self) -> PoseDetector:
        chosen = self.config
        if chosen.model == "dwpose":
            from stages.perception.dwpose import DWPose

            det, pose = (each.path for each in self._found)
            return DWPose(det, pose, device=chosen.device, batch=chosen.batch, whole_picture=chosen.whole_picture)
        from stages.perception.holistic import HolisticPose

        return HolisticPose(*(each.path for each in self._found), levels=chosen.levels, threads=chosen.threads)

    @cached_property
    def _found(self) -> tuple[Weights, ...]:
        return tuple(find(name, path, accept_noncommercial=self.accept_noncommercial) for name, path in self.weights())

    def wants(self, item: Item) -> list[Look]:
        view, frames = item.selection()[0]
        index = item.scene.views[view].index
        height = self.config.height
        size = None if height is None else (max(1, round(index.width * height / index.height)), height)
        return [Look(0, np.unique(frames[looked_at(len(frames), self.config.stride)]), size)]

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        view, packed = item.selection()[0]
        index = item.scene.views[view].index
        numbers: list[int] = []

        def found() -> Iterator[People]:
            at_once = self.config.batch if self.config.model == "dwpose" else 1
            while batch := list(islice(frames, at_once)):
                numbers.extend(shown.frame for shown in batch)
                for people, shown in zip(self.detector.people([shown.pixels for shown in batch]), batch, strict=True):
                    yield in_source(people, shown.pixels.shape, (index.width, index.height))

        linked = link(found(), MOST_PEOPLE, MOST_SKELETONS)
        first_place = {int(frame): place for place, frame in reversed(list(enumerate(packed.tolist())))}
        positions = np.array([first_place[number] for number in numbers], np.int64)
        size = np.array([index.width, index.height], np.int32)
        return Findings(summary(linked), members={"poses": {**packable(linked, positions), "size": size}})


def looked_at(count: int, stride: int) -> NDArray[np.int64]:
    """Positions among `count` frames: every stride-th, and the last."""
    return np.unique(np.append(np.arange(0, count, stride), max(0, count - 1)))[:count]


def in_source(people: People, shape: tuple[int, ...], size: tuple[int, int]) -> People:
    """Keypoints of a picture of that shape (H, W, 3) in pixels of a source of that size (width, height)."""
    scale = np.array([size[0] / shape[1], size[1] / shape[0]], np.float32)
    return People(people.keypoints * scale, people.scores)


def summary(linked: LinkedPeople) -> dict[str, float | None]:
    """n_people and pose_score; the latter is None where no body point was found."""
    return {"n_people": float(linked.through), "pose_score": linked.body_score}


def packable(linked: LinkedPeople, frames: NDArray[np.int64]) -> dict[str, NDArray]:
    """The member `poses`. frames [F]: positions of the frames that were looked at."""
    return {"keypoints": linked.keypoints, "scores": linked.scores.astype(np.float16), "ids": linked.ids, "frame": frames}
