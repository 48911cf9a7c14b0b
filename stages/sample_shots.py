"""Shots: single-view footage split at its cuts, so that no clip shows two scenes.

TransNetV2 finds the cuts (specs name no detector; the choice, the margin and the limits are ours).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from schemas.frames import Scene
from schemas.typed import bounded
from schemas.verdict import Reason
from stages.media import Media
from stages.perception.loaded import loaded
from stages.perception.results import Image
from stages.perception.transnet import HEIGHT, WIDTH, TransNet
from stages.perception.weights import find
from stages.sample_windows import clip_frames, split_of, window_of
from stages.stage import Child, Sampler, limit, placement

Positions = NDArray[np.int64]

WEIGHTS = "transnetv2"


@dataclass(frozen=True)
class ShotsConfig:
    """threshold: a frame is the last of its shot where TransNetV2 says so with more than this; frames of a slow transition
    that pass it belong to neither shot. margin: frames dropped on either side of each cut, because a cut may be found a frame
    early or late. max_frames: longer shots are cut into the fewest pieces that fit, of equal length up to one frame, so that no
    stub is left over; None leaves them whole. min_frames: shots, and pieces, that are shorter are refused; where it is at most half
    of max_frames, no piece is.

    test_fraction, split_seed, keep_official_split: as for windows; all shots of a video are on one side.
    weights: a file of your own instead of what the package brings along.
    """

    threshold: float = bounded(0.5, low=0.0, high=1.0)
    margin: int = bounded(1, low=0, high=1000)
    max_frames: int | None = bounded(None, low=2)
    min_frames: float | None = limit("shot_frames", ">=", Reason.TOO_SHORT, 25)
    test_fraction: float = bounded(0.2, low=0.0, high=1.0)
    split_seed: int = bounded(0, low=0)
    keep_official_split: bool = False
    weights: str | None = placement(None)
    device: str = placement("auto")


class Shots(Sampler):
    """One child for each shot, or piece of one; a clip without cuts is one child. Of several views a cut in any is a cut in all.

    A posed clip may be a stretch of a longer video; its shots lie between its first and last pose.
    """

    name = "shots"
    version = 1
    needs = frozenset({"video"})
    provides = frozenset({"window"})
    Config = ShotsConfig
    config: ShotsConfig

    def weights(self) -> tuple[tuple[str, str | None], ...]:
        return ((WEIGHTS, self.config.weights),)

    @cached_property
    def _model(self) -> TransNet:
        weights, device = find(WEIGHTS, self.config.weights, accept_noncommercial=self.accept_noncommercial), self.config.device
        return loaded("shots transnetv2", (weights, device), lambda: TransNet(weights.path, device=device))

    def sample(self, scene: Scene, seed: int, media: Media) -> list[Child]:
        clip = clip_frames(scene)
        views = [self._model.cuts(_frames(scene, view, clip, media)) for view in range(len(scene.views))]
        probabilities = np.max(views, axis=0)
        shots = shots_between(probabilities, self.config.threshold)
        children: list[Child] = []
        for number, shot in enumerate(shots):
            inner = range(shot.start + self.config.margin * (number > 0), shot.stop - self.config.margin * (number < len(shots) - 1))
            for piece in pieces(inner, self.config.max_frames):
                children.append(self._child(scene, len(children), clip.start + np.arange(piece.start, piece.stop), {}))
            if len(inner) == 0:
                why = f"{len(shot)} frames between two cuts, of which the margin of {self.config.margin} leaves none"
                children.append(self._child(scene, len(children), clip.start + np.arange(shot.start, shot.stop), {"shot": why}))
        return children

    def _child(self, scene: Scene, number: int, frames: Positions, notes: dict[str, str]) -> Child:
        """With a note, one that the margins leave nothing of: refused whatever the limit."""
        scores = {"shot_frames": 0.0 if notes else float(len(frames))}
        reasons = (Reason.TOO_SHORT,) if notes else ()
        return window_of(scene, f"s{number:04d}", frames, scores, split_of(scene.candidate, self.config), notes, reasons)


def _frames(scene: Scene, view: int, clip: range, media: Media) -> Iterator[Image]:
    shown = scene.views[view]
    return (pixels for [pixels] in media.stream(shown.media, shown.index, np.array(clip, np.int64), sizes=[(WIDTH, HEIGHT)]))


def shots_between(probabilities: NDArray[np.float32], threshold: float) -> list[range]:
    """The shots of T frames from how likely each is the last of its shot. Every shot has a frame at least.

    Of frames in a row above the threshold (a slow transition) the first is still its shot's last, and the next shot begins after
    the last, as TransNetV2's authors have it. A cut after the last frame of all separates nothing.
    """
    above = np.concatenate([[False], probabilities > threshold, [False]])
    begins = np.flatnonzero(above[1:-1] & ~above[:-2])  # the first of each run
    ends = np.flatnonzero(above[1:-1] & ~above[2:])  # and its last
    starts = [0, *(ends + 1).tolist()]
    stops = [*(begins + 1).tolist(), len(probabilities)]
    return [range(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


def pieces(shot: range, longest: int | None) -> list[range]:
    """The shot in the fewest pieces of at most `longest` frames, of equal length up to one frame; an empty one has none."""
    if len(shot) == 0:
        return []
    count = 1 if longest is None else -(-len(shot) // longest)
    bounds = [shot.start + len(shot) * i // count for i in range(count + 1)]
    return [range(bounds[i], bounds[i + 1]) for i in range(count)]
