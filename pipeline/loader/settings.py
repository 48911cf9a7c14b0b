"""How training reads shards: what of each kind, in which mix, at which view angles. All of it enters the run's record."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.loader.batch import KINDS, Kind
from schemas.typed import bounded

PAPER_MIX: dict[str, float] = {"multiview_video": 0.6, "multiview_images": 0.2, "singleview_video": 0.2}


@dataclass(frozen=True)
class Phase:
    """From step `start` on, the pairs (view 0, any other view) of a multi-view video lie in [low, high] degrees."""

    start: int = bounded(low=0)
    low: float = bounded(low=0, high=180)
    high: float = bounded(low=0, high=180)

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"a phase's angles must ascend, got {self.low:g}-{self.high:g}")


PAPER_CURRICULUM = (Phase(0, 0.0, 60.0), Phase(10_000, 30.0, 90.0), Phase(20_000, 60.0, 120.0))


@dataclass(frozen=True)
class LoaderSettings:
    """batch: samples of a step over all ranks. views, frames, size (H, W): of a multi-view video; image groups give one frame
    of `views` views (or `image_views`), single-view clips one view. frame_stride: every n-th frame of the media.
    mix: shares of the kinds, drawn once per step, equal on all ranks; a kind without a share is not needed in the data.
    curriculum: empty for any angle. It applies to multi-view video (the paper narrows nothing else).
    first_view: which camera is view 0: "random", or "first" of the sample.
    payload: "frames" decodes video; "latents" reads what `pipeline.encode_latents` wrote.
    """

    batch: int = bounded(32, low=1)
    views: int = bounded(2, low=1, high=64)
    image_views: int | None = bounded(None, low=2, high=64)
    frames: int = bounded(81, low=1)
    frame_stride: int = bounded(1, low=1)
    size: tuple[int, int] = (384, 672)
    mix: dict[str, float] = field(default_factory=lambda: dict(PAPER_MIX))
    curriculum: tuple[Phase, ...] = PAPER_CURRICULUM
    first_view: Literal["random", "first"] = "random"
    payload: Literal["frames", "latents"] = "frames"
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, share in self.mix.items():
            if kind not in KINDS:
                raise ValueError(f"mix: unknown kind {kind!r}; allowed: {', '.join(KINDS)}")
            if not 0 <= share <= 1:
                raise ValueError(f"mix: the share of {kind} is {share!r}; shares lie in [0, 1]")
        if abs(sum(self.mix.values()) - 1) > 1e-6:
            raise ValueError(f"mix: the shares add up to {sum(self.mix.values()):g}; they must add up to 1")
        starts = [phase.start for phase in self.curriculum]
        if starts and (starts[0] != 0 or starts != sorted(set(starts))):
            raise ValueError(f"curriculum: phases must start at step 0 and ascend, got {starts}")

    def share(self, kind: Kind) -> float:
        return self.mix.get(kind, 0.0)

    def views_of(self, kind: Kind) -> int:
        if kind == "singleview_video":
            return 1
        return self.image_views or self.views if kind == "multiview_images" else self.views

    def frames_of(self, kind: Kind) -> int:
        return 1 if kind == "multiview_images" else self.frames
