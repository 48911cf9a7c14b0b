"""Recipes: which sources, which stages with which settings, and how the result is packed.

The shape is checked here; the stages' own settings are checked against their `Config` by `pipeline.plan`, because
this layer does not know the stages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.typed import RecipeError, bounded, build, shown

AngleKind = Literal["parallax", "axis", "rotation"]


@dataclass(frozen=True)
class MediaLimits:
    """Caps on what a media file may ask of us. Header caps are checked before anything is decoded."""

    timeout_s: float = bounded(60.0, low=0.1)  # wall clock for one call into the decoder
    memory_mb: int = bounded(4096, low=256)  # address space of the decoding process
    max_pixels: int = bounded(8192 * 8192, low=1)  # width times height
    max_frames: int = bounded(200_000, low=1)
    max_duration_s: float = bounded(7200.0, low=0.1)
    max_streams: int = bounded(16, low=1)
    max_fetch_mb: int = bounded(8192, low=1)  # of one file that lies in an archive or behind a URL


@dataclass(frozen=True)
class Encode:
    """Re-encode with H.264. Frames are chosen by index; every frame keeps its own time."""

    width: int | None = bounded(None, low=16, high=8192)  # None keeps the source's; one given keeps the aspect ratio
    height: int | None = bounded(None, low=16, high=8192)
    codec: Literal["h264", "h265"] = "h264"
    crf: int = bounded(14, low=0, high=51)
    gop: int = bounded(12, low=1, high=600)
    preset: Literal["ultrafast", "veryfast", "fast", "medium", "slow"] = "veryfast"


@dataclass(frozen=True)
class Payload:
    """What a kept sample's members hold.

    video: "copy" packs the source's bytes as they are; a mapping re-encodes. Samples that are a few frames out of a
    longer video (view groups) become images; windows become one short video each, which needs `video` to be a mapping,
    because a window that starts anywhere cannot be cut without re-encoding.
    """

    video: Literal["copy"] | Encode = "copy"
    image: Literal["jpg", "png"] = "jpg"
    image_quality: int = bounded(95, low=1, high=100)


@dataclass(frozen=True)
class StageSpec:
    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class SourceSpec:
    """One source of a recipe."""

    ingest: str  # the dataset's layout
    options: Mapping[str, Any] = field(default_factory=dict)  # of that ingest
    license: str | None = None
    splits: tuple[str, ...] | None = None  # None takes all
    stages: tuple[StageSpec, ...] = ()
    payload: Payload = field(default_factory=Payload)
    target_count: int | None = bounded(None, low=1)  # keep the best N ...
    best_by: str | None = None  # ... by this score, higher is better; "-name" where lower is better
    exhaustive: bool = False  # run later cost tiers even where an earlier one failed


@dataclass(frozen=True)
class Units:
    size: int = bounded(50, low=1, high=1000)  # candidates in one unit of work


@dataclass(frozen=True)
class Shards:
    target_mb: float = bounded(512.0, low=0.001)
    order: Literal["plan", "shuffle"] = "plan"  # shuffle: seeded, over all kept samples of a source and split


@dataclass(frozen=True)
class Recipe:
    name: str
    description: str = ""
    seed: int = bounded(0, low=0)
    units: Units = field(default_factory=Units)
    shards: Shards = field(default_factory=Shards)
    media: MediaLimits = field(default_factory=MediaLimits)
    keep_rejected: Literal["none", "features", "payload"] = "features"
    accept_noncommercial: bool = False  # weights whose licence forbids commercial use may be loaded
    sources: Mapping[str, SourceSpec] = field(default_factory=dict)


def parse_recipe(document: Any, where: str = "recipe") -> Recipe:
    """A recipe from its YAML document. Raises RecipeError that names the place and what is allowed."""
    if not isinstance(document, Mapping):
        raise RecipeError(f"{where}: a recipe is a mapping with the keys 'name' and 'sources', got {shown(document)}")
    document = dict(document)
    sources = document.pop("sources", None)
    if not isinstance(sources, Mapping) or not sources:
        raise RecipeError(f"{where}.sources: expected at least one source, got {shown(sources)}")
    recipe = build(Recipe, document, where)
    parsed = {str(name): _source(str(name), source, f"{where}.sources.{name}") for name, source in sources.items()}
    return Recipe(**{**vars(recipe), "sources": parsed})


def _source(name: str, document: Any, where: str) -> SourceSpec:
    if not isinstance(document, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {shown(document)}")
    document = {"ingest": name, **document}
    stages = document.pop("stages", [])
    if not isinstance(stages, list):
        raise RecipeError(f"{where}.stages: expected a list, got {shown(stages)}")
    source = build(SourceSpec, document, where)
    return SourceSpec(**{**vars(source), "stages": tuple(_stage(stage, f"{where}.stages[{i}]") for i, stage in enumerate(stages))})


def _stage(document: Any, where: str) -> StageSpec:
    """A stage is its name, or a mapping of its name to its settings."""
    if isinstance(document, str):
        return StageSpec(document, {})
    if isinstance(document, Mapping) and len(document) == 1:
        name, settings = next(iter(document.items()))
        if settings is None or isinstance(settings, Mapping):
            return StageSpec(str(name), dict(settings or {}))
    raise RecipeError(f"{where}: expected a stage's name or 'name: {{settings}}', got {shown(document)}")
