"""A dataset of nothing and a stage that does nothing: what is left is the framework."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath

import numpy as np

from schemas.candidate import Candidate, MediaRef, View
from schemas.frames import FrameIndex, Scene, SceneView
from stages.ingest import Ingest
from stages.ingest.clips import Clips
from stages.media import Media
from stages.stage import Findings, Item, Scorer, Tier
from stages.storage import Tree

_PTS = np.arange(25)


class Nothing(Ingest):
    """`count` candidates that share one small file."""

    format = "nothing"
    provides = frozenset({"video"})

    @dataclass(frozen=True)
    class Options:
        count: int = 1000

    def discover(self, tree: Tree) -> Iterator[Candidate]:
        views = (View("clip", MediaRef("video", tuple(tree.identify([PurePosixPath("clip.mp4")])))),)
        for number in range(self.options.count):
            yield Candidate("nothing", f"{number:07d}", "video", views)

    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        return _unopened(candidate)


class Files(Clips):
    """A folder of clips, found as `clips` finds them; what is in the files is not looked at."""

    format = "files"

    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        return _unopened(candidate)


def _unopened(candidate: Candidate) -> Scene:
    [view] = candidate.views
    return Scene(candidate, (SceneView(view.view_id, view.media, FrameIndex(_PTS, _PTS, Fraction(1, 25), 64, 48, Fraction(25), "none")),))


class NoOp(Scorer):
    name = "noop"
    version = 1
    tier = Tier.HEADER
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        pass

    def score(self, item: Item, media: Media) -> Findings:
        return Findings()
