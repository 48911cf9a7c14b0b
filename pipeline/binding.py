"""A recipe bound to what is installed: every name found, every setting typed, every need provided for.

Refuses before anything runs: an unknown name points to its nearest neighbour, an impossible value says what is
allowed, and a stage whose inputs nothing provides is named with what is missing.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import yaml

from pipeline.payload import PAYLOAD_VERSION
from pipeline.store import stable_hash
from schemas.recipe import Encode, MediaLimits, Recipe, SourceSpec, parse_recipe
from schemas.scores import SCORES
from schemas.typed import RecipeError, build, nearest, to_plain
from stages.ingest import Ingest, ingests
from stages.perception.weights import Weights, find
from stages.registry import stages
from stages.stage import Limit, Sampler, Scorer, Stage

_T = TypeVar("_T")

MAX_RECIPE_BYTES = 1 << 20  # a shipped one has 3 kB
# What PyYAML says of a text that is none, and what its constructors of dates and numbers stumble over.
_NO_YAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, eq=False)
class Source:
    """One source of a recipe, ready to run. Picklable: workers get it whole."""

    name: str
    spec: SourceSpec
    media: MediaLimits
    seed: int
    keep_rejected: str
    accept_noncommercial: bool = False
    run: str = field(default_factory=lambda: uuid4().hex)  # what the sources of one binding share, and their copies in workers

    @cached_property
    def ingest(self) -> Ingest:
        where = f"recipe.sources.{self.name}"
        found = _find(self.spec.ingest, ingests(), Ingest, f"{where}.ingest", "layout")
        return found(build(found.Options, self.spec.options, f"{where}.options"))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        where, known, made = f"recipe.sources.{self.name}.stages", stages(), []
        for i, spec in enumerate(self.spec.stages):
            found = _find(spec.name, known, Stage, f"{where}[{i}]", "stage")
            made.append(found(build(found.Config, spec.settings, f"{where}[{i}].{spec.name}"), self.accept_noncommercial))
        return tuple(made)

    @property
    def sampler(self) -> Sampler | None:
        return next((stage for stage in self.stages if isinstance(stage, Sampler)), None)

    def __getstate__(self) -> dict[str, Any]:
        """Without the stages: they may hold models, and a worker makes its own."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def weights_of(self, stage: Stage) -> tuple[Weights, ...]:
        """The checkpoints that a stage's results depend on. Raises WeightsError for one that is not there or not accepted."""
        if stage not in self._weights:
            accept = self.accept_noncommercial
            self._weights[stage] = tuple(find(name, path, accept_noncommercial=accept) for name, path in stage.weights())
        return self._weights[stage]

    @cached_property
    def _weights(self) -> dict[Stage, tuple[Weights, ...]]:
        return {}

    def settings_of(self, stage: Stage) -> dict[str, Any]:
        """What a stage's results depend on beside its version and what it looks at."""
        settings = stage.compute_settings()
        digests = [weights.sha256 for weights in self.weights_of(stage)]
        return {**settings, "weights": digests} if digests else settings

    def limits(self) -> list[tuple[str, Limit]]:
        return [(stage.name, limit) for stage in self.stages for limit in stage.limits()]

    @cached_property
    def key_parts(self) -> Mapping[str, Any]:
        """Everything about this source that its units' results depend on, apart from the candidates themselves.

        It looks for weights, and is asked for with every unit: once is enough, since a source keeps the weights that it found.
        """
        return {
            "ingest": self.ingest_key(),
            "license": self.spec.license,
            "splits": to_plain(self.spec.splits),
            "payload": {"version": PAYLOAD_VERSION, **to_plain(self.spec.payload)},
            "exhaustive": self.spec.exhaustive,
            "keep_rejected": self.keep_rejected,
            "seed": self.seed,
            "media": to_plain(self.media),
            "stages": [
                {
                    "name": class_name(stage),
                    "version": stage.version,
                    "settings": self.settings_of(stage),
                    "limits": {limit.key: limit.value for limit in stage.limits()},
                }
                for stage in self.stages
            ],
        }

    def ingest_key(self) -> dict[str, Any]:
        """What the ingest's results depend on: which one, its version, and its options with their defaults filled in."""
        return {"name": class_name(self.ingest), "version": self.ingest.version, "options": to_plain(self.ingest.options)}

    @cached_property
    def compute_hash(self) -> str:
        """Of everything but decisions: what a candidate that killed its worker is remembered under."""
        parts = self.key_parts
        return stable_hash({**parts, "stages": [{**each, "limits": None} for each in parts["stages"]]})


def class_name(found: Ingest | Stage) -> str:
    """Shipped ones by their name in recipes, a user's own by module and class: two of them may share a name."""
    kind = type(found)
    name = found.format if isinstance(found, Ingest) else found.name
    return name if kind.__module__.startswith("stages.") else f"{kind.__module__}:{kind.__qualname__}"


def _find(name: str, known: Mapping[str, type[_T]], base: Any, where: str, what: str) -> type[_T]:
    """A shipped class by its name, or one of the user's own as "module:Class"."""
    if ":" not in name:
        if name not in known:
            raise RecipeError(f"{where}: unknown {what} {name!r}{nearest(name, known)}; your own goes by 'module:Class'")
        return known[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: of what is no module's name at all
        raise RecipeError(f"{where}: no {what} {name!r}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise RecipeError(f"{where}: {name!r} is no {what}; it must be a class derived from {base.__module__}.{base.__name__}")
    return found


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files("pipeline"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or any by path. Raises RecipeError."""
    shipped = shipped_recipes()
    path = shipped.get(name_or_path) or Path(name_or_path)
    if not path.is_file():
        raise RecipeError(f"no recipe {name_or_path!r}: neither a file nor one of the shipped recipes{nearest(name_or_path, shipped)}")
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path} has {path.stat().st_size} bytes; a recipe has at most {MAX_RECIPE_BYTES}")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except _NO_YAML as error:
        raise RecipeError(f"{path}: not readable as YAML: {str(error)[:1000] or type(error).__name__}") from None
    return parse_recipe(document)


def bind(recipe: Recipe, seed: int | None = None, accept_noncommercial: bool = False) -> dict[str, Source]:
    """Every source of the recipe, checked. `seed` overrides the recipe's; weights are accepted where recipe or caller says so."""
    accept = recipe.accept_noncommercial or accept_noncommercial
    run = uuid4().hex
    bound = {name: replace(source_of(recipe, name, seed, accept), run=run) for name in recipe.sources}
    for source in bound.values():
        _check(source)
    return bound


def source_of(recipe: Recipe, name: str, seed: int | None = None, accept_noncommercial: bool = False) -> Source:
    """One source, as it is written: nothing is looked for, neither stages nor weights."""
    return Source(
        name, recipe.sources[name], recipe.media, recipe.seed if seed is None else seed, recipe.keep_rejected, accept_noncommercial
    )


def _check(source: Source) -> None:
    where = f"recipe.sources.{source.name}"
    names = [stage.name for stage in source.stages]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"{where}.stages: {twice!r} stands there twice; its scores and members go by its name, so once is all")
    packing = [stage for stage in source.stages if stage.packs is not None]
    for stage in packing:
        if (other := next(each for each in packing if each.packs == stage.packs)) is not stage:
            raise RecipeError(f"{where}.stages: {other.name!r} and {stage.name!r} both pack {stage.packs}.npz; a source takes one of them")
    available = set(source.ingest.provides)
    previous: Stage | None = None
    for i, stage in enumerate(source.stages):
        _check_weights(source, stage, f"{where}.stages[{i}]")
        missing = stage.needs - available
        if missing:
            raise RecipeError(
                f"{where}.stages[{i}]: {stage.name!r} needs {_names(missing)}, which nothing before it provides; "
                f"available here: {_names(available)}{_who_provides(missing)}"
            )
        if previous is not None and stage.tier < previous.tier:
            raise RecipeError(
                f"{where}.stages[{i}]: {stage.name!r} ({stage.tier.name.lower()} tier) stands after {previous.name!r} "
                f"({previous.tier.name.lower()} tier); order stages from cheap to dear"
            )
        if isinstance(stage, Sampler) and any(isinstance(each, Sampler) for each in source.stages[:i]):
            raise RecipeError(f"{where}.stages[{i}]: a source takes one sampler, {stage.name!r} is the second")
        if not isinstance(stage, Sampler | Scorer):
            raise TypeError(f"{type(stage).__name__} must be a Sampler or a Scorer")
        available |= stage.provides
        previous = stage
    if "window" in available and not isinstance(source.spec.payload.video, Encode):
        raise RecipeError(
            f"{where}.payload.video: windows start at any frame, so they cannot be copied; give encoder settings, e.g. "
            "'payload: {video: {codec: h264, crf: 14}}'"
        )
    _check_ranking(source, where)


def _check_weights(source: Source, stage: Stage, where: str) -> None:
    try:
        stage.check()
        source.weights_of(stage)
    except RecipeError as error:
        raise RecipeError(f"{where}: {stage.name!r} cannot run: {error}") from None


def _check_ranking(source: Source, where: str) -> None:
    target, by = source.spec.target_count, source.spec.best_by
    if (target is None) != (by is None):
        raise RecipeError(f"{where}: target_count and best_by go together, got target_count={target!r}, best_by={by!r}")
    if by is not None and by.removeprefix("-") not in SCORES:
        raise RecipeError(f"{where}.best_by: unknown score {by!r}{nearest(by.removeprefix('-'), SCORES)}")


def _who_provides(missing: "set[str] | frozenset[str]") -> str:
    providers = [name for name, stage in stages().items() if stage.provides & missing]
    if providers:
        return f"; put {' or '.join(map(repr, providers))} before it"
    layouts = [name for name, ingest in ingests().items() if missing <= ingest.provides]
    return f"; of the layouts, {', '.join(map(repr, layouts))} would do" if layouts else ""


def _names(names: "set[str] | frozenset[str]") -> str:
    return ", ".join(sorted(names)) or "nothing"


def resolved(recipe: Recipe, names: Mapping[str, Source]) -> dict[str, Any]:
    """The recipe as it ran: defaults filled in, only the sources that took part."""
    plain = to_plain(recipe)
    plain["sources"] = {name: to_plain(source.spec) for name, source in names.items()}
    for name, source in names.items():
        plain["sources"][name]["stages"] = [
            {spec.name: to_plain(stage.config)} for spec, stage in zip(source.spec.stages, source.stages, strict=True)
        ]
        plain["sources"][name]["options"] = to_plain(source.ingest.options)
        plain["seed"] = source.seed
        plain["accept_noncommercial"] = source.accept_noncommercial
    return plain
