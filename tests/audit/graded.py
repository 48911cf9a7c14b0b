"""Stages whose scores are drawn from the item's name: every way that a row can go through tiers, samplers, errors and nulls."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from schemas.frames import Scene
from schemas.verdict import CandidateError, Reason
from stages.fingerprint import Fingerprint
from stages.media import Media
from stages.stage import Child, Findings, Item, Sampler, Scorer, Tier, limit


def draw(name: str, what: str) -> float:
    """From 0 to 1, the same for the same names."""
    return int.from_bytes(sha256(f"{name}/{what}".encode()).digest()[:4], "big") / 2**32


def drawn(item: Item, stage: str, scores: tuple[str, ...], errors: float) -> dict[str, float | None]:
    """A score of each name; one in eight is not computed, one in sixteen is not a number. Some items cannot be examined."""
    name = f"{item.sample_id}/{stage}"
    if draw(name, "error") < errors:
        raise CandidateError(Reason.E_TRUNCATED, f"{stage} cannot look at it")
    found: dict[str, float | None] = {}
    for score in scores:
        luck = draw(name, f"{score} luck")
        found[score] = None if luck < 1 / 8 else float("nan") if luck < 3 / 16 else draw(name, score)
    return found


class Cheap(Scorer):
    name = "cheap"
    version = 1
    tier = Tier.HEADER
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        errors: float = 0.1
        min_width: float | None = limit("width", ">=", Reason.LOW_RESOLUTION)
        min_height: float | None = limit("height", ">=", Reason.LOW_RESOLUTION)
        max_fps: float | None = limit("fps", "<=", Reason.HIGH_FPS)

    def score(self, item: Item, media: Media) -> Findings:
        return Findings(drawn(item, self.name, ("width", "height", "fps"), self.config.errors))


class Seen(Scorer):
    name = "seen"
    version = 1
    tier = Tier.PIXELS
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        errors: float = 0.1
        min_brightness: float | None = limit("brightness", ">=", Reason.UNDEREXPOSED)
        max_brightness: float | None = limit("brightness", "<=", Reason.OVEREXPOSED)
        max_dark_fraction: float | None = limit("dark_fraction", "<=", Reason.UNDEREXPOSED)

    def score(self, item: Item, media: Media) -> Findings:
        return Findings(drawn(item, self.name, ("brightness", "dark_fraction"), self.config.errors))


class Sharp(Scorer):
    """A second one of its tier."""

    name = "sharp"
    version = 1
    tier = Tier.PIXELS
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        errors: float = 0.1
        min_sharpness: float | None = limit("sharpness", ">=", Reason.BLURRED)

    def score(self, item: Item, media: Media) -> Findings:
        return Findings(drawn(item, self.name, ("sharpness",), self.config.errors))


class Dear(Scorer):
    name = "dear"
    version = 1
    tier = Tier.MODELS
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        errors: float = 0.1
        max_camera_motion: float | None = limit("camera_motion", "<=", Reason.CAMERA_MOVES)
        min_lines: float | None = limit("n_lines", ">=", Reason.FEW_LINES)

    def score(self, item: Item, media: Media) -> Findings:
        return Findings(drawn(item, self.name, ("camera_motion", "n_lines"), self.config.errors))


class Cut(Sampler):
    """Up to three children. Some it refuses itself, for the reason that its limit gives too, or that a scorer gives."""

    name = "cut"
    version = 1
    needs = frozenset({"video"})
    provides = frozenset({"view_group"})

    @dataclass(frozen=True)
    class Config:
        max_time_error_ms: float | None = limit("time_error_ms", "<=", Reason.UNEVEN_FRAME_RATE)

    def sample(self, scene: Scene, seed: int, media: Media) -> list[Child]:
        name = scene.candidate.key
        if draw(name, "broken") < 0.1:
            raise CandidateError(Reason.E_CAMERA, "nothing can be cut from it")
        return [self._child(f"{name}/{number}", number) for number in range(int(draw(name, "children") * 4))]

    def _child(self, name: str, number: int) -> Child:
        refused = {0: (Reason.UNEVEN_FRAME_RATE,), 1: (Reason.UNDEREXPOSED, Reason.UNEVEN_FRAME_RATE), 2: (Reason.BOUNDARY,)}
        scores = {"time_error_ms": draw(name, "time")}
        reasons = refused.get(int(draw(name, "refused") * 12), ())
        return Child(f"c{number}", "view_group", (0,), (np.arange(1),), None, ("v",), scores, reasons=reasons)


class Print(Fingerprint):
    """Fingerprints of which many are equal, and some near."""

    def score(self, item: Item, media: Media) -> Findings:
        name = item.sample_id
        base = sha256(f"{int(draw(name, 'look') * 12)}".encode()).digest()[:8]
        near = int.from_bytes(base, "big") ^ (1 << int(draw(name, "bits") * 8)) * (draw(name, "near") < 0.5)
        content = sha256(f"{int(draw(name, 'bytes') * 40)}".encode()).hexdigest()[:32]
        return Findings(fields={"fingerprint": {"content": content, "views": 1, "hashes": None if draw(name, "flat") < 0.4 else [near]}})
