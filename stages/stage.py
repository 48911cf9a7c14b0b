"""What a stage is. Two kinds: a Sampler turns a scene into children, a Scorer attaches numbers to an item.

Stages are pure: same item, same settings, same result. They never write files, and they report trouble with one item
by raising CandidateError. Decisions are not theirs: a Scorer computes, and `decide` compares with the limits that its
Config declares, so that a changed limit recomputes nothing.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.candidate import Candidate
from schemas.frames import FrameIndex, Scene
from schemas.scores import SCORES
from schemas.typed import to_plain
from schemas.verdict import Reason
from stages.media import Media

ItemKind = Literal["multiview", "posed_video", "video", "view_group", "window"]


class Tier(IntEnum):
    """Cost tiers. All stages of a tier run; a failure in one tier stops the later ones."""

    HEADER = 0
    PIXELS = 1
    MODELS = 2


@dataclass(frozen=True, eq=False)
class Child:
    """What a Sampler proposes. With `reasons` it is refused, and becomes a row all the same."""

    suffix: str  # unique within the parent, appended to its key: "g0003", "w0012"
    kind: ItemKind
    views: tuple[int, ...]  # positions in scene.views, one per output view (the same view may come several times)
    frames: tuple[NDArray[np.int64], ...]  # per output view: frame positions in that view's index
    cameras: tuple[NDArray[np.int64], ...] | None  # per output view: entries of its camera track; None without cameras
    view_names: tuple[str, ...]  # the names of the output views
    scores: Mapping[str, float] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)  # columns of the manifest: pairs, angle_bins, split, notes
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, eq=False)
class Item:
    """What a Scorer looks at: a whole scene (child is None) or one child of it."""

    sample_id: str
    kind: ItemKind
    scene: Scene
    child: Child | None = None

    def selection(self) -> list[tuple[int, NDArray[np.int64]]]:
        """(view position, frame positions) of every output view; a whole scene has all frames of all views."""
        if self.child is not None:
            return list(zip(self.child.views, self.child.frames, strict=True))
        return [(i, np.arange(len(view.index))) for i, view in enumerate(self.scene.views)]


@dataclass(frozen=True)
class Findings:
    """What a Scorer found. JSON-ready: stored under the step key and reused as long as the key stands."""

    scores: Mapping[str, float | None] = field(default_factory=dict)  # names of schemas.scores
    fields: Mapping[str, Any] = field(default_factory=dict)  # columns of the manifest: pairs, angle_bins, notes
    # What a kept sample packs beside its views: stem -> arrays of the member STEM.npz (no objects; small: they are stored for
    # rejected samples too).
    members: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)


def placement(default: Any) -> Any:
    """A Config field that says where or how fast to compute, not what: no part of the step key."""
    return dataclasses.field(default=default, metadata={"placement": True})


def limit(score: str, op: Literal[">=", "<="], reason: Reason, default: float | None = None) -> Any:
    """A Config field that is a limit: keep only where `score op value`. None switches it off.

    Limits are not part of the step key: they decide, they do not compute.
    """
    if score not in SCORES:
        raise ValueError(f"{score!r} is not in schemas.scores.SCORES")
    return dataclasses.field(default=default, metadata={"limit": (score, op, reason)})


@dataclass(frozen=True)
class Limit:
    """A limit as set by a recipe; the report draws it, what-if changes it."""

    key: str  # the Config field
    score: str
    op: Literal[">=", "<="]
    value: float
    reason: Reason

    def violated(self, score: float | None) -> bool:
        """Whether the score lies outside. NaN does; None (not computed) does not: there is nothing to judge."""
        if score is None:
            return False
        return not (score >= self.value if self.op == ">=" else score <= self.value)


class Stage(ABC):
    """Common face of Samplers and Scorers."""

    name: ClassVar[str]  # in recipes
    version: ClassVar[int]  # raise it when results change: it is part of the step key
    tier: ClassVar[Tier]
    needs: ClassVar[frozenset[str]]  # of: "video", "cameras", "synchronized", "masks", "view_group", "window"
    provides: ClassVar[frozenset[str]] = frozenset()
    packs: ClassVar[str | None] = None  # stem of its member; those of further views add to it: "motion01"
    Config: ClassVar[type]

    def __init__(self, config: Any, accept_noncommercial: bool = False) -> None:
        self.config = config
        self.accept_noncommercial = accept_noncommercial  # of weights: what the recipe, or the command, says

    def weights(self) -> tuple[tuple[str, str | None], ...]:
        """The checkpoints that results depend on: (name in stages.perception.weights, the user's own file or None). None by default."""
        return ()

    def check(self) -> None:  # noqa: B027
        """Raises RecipeError for settings that can never work here. Called once, before a run."""

    def unused(self) -> frozenset[str]:
        """Settings that say nothing to the model that the Config chooses: no part of the step key. None by default."""
        return frozenset()

    def inputs(self, candidate: Candidate) -> str:
        """A digest of files beside the candidate's own that this stage reads for it, names, sizes and times will do: part of this
        candidate's step keys and of no other's. What is missing or broken is part of it too: that is for the stage to say when it runs,
        so nothing is raised here. Empty, by default, where there are none."""
        return ""

    def limits(self) -> list[Limit]:
        """The limits that the recipe switched on, in the order of the Config."""
        found = []
        for each in dataclasses.fields(self.config):
            declared, value = each.metadata.get("limit"), getattr(self.config, each.name)
            if declared is not None and value is not None:
                found.append(Limit(each.name, declared[0], declared[1], float(value), declared[2]))
        return found

    def compute_settings(self) -> dict[str, Any]:
        """The settings that results depend on: the Config without limits, placement and what is unused. Part of the step key."""
        computing = [each.name for each in dataclasses.fields(self.config) if not {"limit", "placement"} & set(each.metadata)]
        return {name: to_plain(getattr(self.config, name)) for name in computing if name not in self.unused()}

    def decide(self, scores: Mapping[str, float | None]) -> list[Reason]:
        """Every limit that the scores violate, in the order of the Config."""
        return list(dict.fromkeys(each.reason for each in self.limits() if each.violated(scores.get(each.score))))


class Sampler(Stage):
    """Turns a scene into children, from headers, cameras or a look at the frames. Stands first whatever it costs."""

    tier = Tier.HEADER

    @abstractmethod
    def sample(self, scene: Scene, seed: int, media: Media) -> list[Child]:
        """Children in a fixed order. The seed is the recipe's mixed with the candidate's identity."""


class Scorer(Stage):
    """Attaches numbers to an item."""

    @abstractmethod
    def score(self, item: Item, media: Media) -> Findings:
        """Compute; do not decide. Raises CandidateError where the item cannot be examined."""


@dataclass(frozen=True, eq=False)
class Look:
    """Frames that a Watcher wants of one output view. size: (width, height) they are scaled to; None for the source's own."""

    view: int  # position in `item.selection()`
    frames: NDArray[np.int64]  # positions in that view's index, strictly ascending
    size: tuple[int, int] | None = None


def scaled_down(index: FrameIndex, height: int | None) -> tuple[int, int] | None:
    """A Look's size: frames scaled down to that height, or None, as they are, where they are no higher."""
    return None if height is None or index.height <= height else (max(1, round(index.width * height / index.height)), height)


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame as a Watcher sees it. pixels [H,W,3] uint8 RGB: read-only, for others look at them too."""

    view: int
    frame: int
    pixels: NDArray[np.uint8]


class Watcher(Scorer):
    """A Scorer that looks at frames one after another. All Watchers of a source share one decode of an item."""

    tier = Tier.MODELS

    @abstractmethod
    def wants(self, item: Item) -> list[Look]:
        """At most one Look for each view, views ascending."""

    def prepare(self) -> None:
        """Load what `look` computes with. Called before every item while no other Watcher computes, so that what a library sets for the
        whole process while it loads troubles nobody. Raises RecipeError, WeightsError."""

    @abstractmethod
    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        """Compute from the frames that were asked for: view by view, frame by frame. Runs in a thread beside other Watchers', one
        item at a time; it need not take all frames. Raises CandidateError where the item cannot be examined."""

    def score(self, item: Item, media: Media) -> Findings:
        from stages.watch import watch

        [found] = watch([self], item, media)
        if isinstance(found, BaseException):
            raise found
        return found
