"""Selections: which rows other limits would keep, kept under a name, and the limits that say so.

`DIR/selections/NAME.parquet` has one row for every row of the manifest, `NAME.json` beside it the limits, the recipe that they
make, and the identity of the manifest that was asked. `audit what-if --write NAME` makes both; training reads the first, and
`curate --selection NAME` runs the recipe with the limits of the second, so that what a selection keeps gets packed.
"""

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import file_digest, sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.binding import shipped_recipes, source_of
from pipeline.location import Location
from pipeline.store import names, open_file, read_json, size_of, stable_hash, write_json, write_table
from schemas.recipe import Recipe, SourceSpec
from schemas.typed import build, nearest
from stages.stage import Stage

SELECTION_VERSION = 1
FOLDER = "selections"

SELECTION = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("was", pa.string(), nullable=False),  # its status in the manifest
        pa.field("status", pa.string(), nullable=False),  # kept | rejected | error | skipped | unknown | gone
        pa.field("reasons", pa.list_(pa.string()), nullable=False),  # where the status is unknown, those that are certain
        pa.field("stopped_at", pa.string()),  # as in the manifest
        pa.field("needs", pa.string()),  # of what is unknown: the stage that has to run, or "ranking"
        pa.field("is_sample", pa.bool_(), nullable=False),
        pa.field("stored", pa.bool_(), nullable=False),  # whether it lies in a shard
    ],
    metadata={"parallax.table": "selection", "parallax.version": str(SELECTION_VERSION)},
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_OFF = ("", "off", "none", "null")


class SelectionError(ValueError):
    """Limits or a selection that cannot be used. The message says what, what is allowed, and what to do."""


@dataclass(frozen=True)
class Setting:
    """One limit of one source's stage, as it shall be. None switches it off."""

    source: str
    stage: str  # the stage's own name
    key: str
    value: float | None

    def __str__(self) -> str:
        return f"{self.source}.{self.stage}.{self.key}={'off' if self.value is None else repr(self.value)}"


def parse_settings(given: Sequence[str], recipe: Recipe) -> list[Setting]:
    """`[SOURCE.]stage.key=value`, each for its source or, without one, for every source that has the stage. The last one given counts.

    value: a number, or `off`. Raises SelectionError.
    """
    bound = {name: source_of(recipe, name).stages for name in recipe.sources}
    found: dict[tuple[str, str, str], Setting] = {}
    for text in given:
        for each in _parse(text, bound):
            found[each.source, each.stage, each.key] = each
    return list(found.values())


def _parse(text: str, bound: Mapping[str, Sequence[Stage]]) -> Iterator[Setting]:
    left, equals, value = text.partition("=")
    *source, stage, key = left.rsplit(".", 2) if "." in left else ("", "")
    if not equals or not stage or not key:
        raise SelectionError(f"--set takes [SOURCE.]stage.key=value, such as quality.min_sharpness=30, got {text!r}")
    if source and source[0] not in bound:
        raise SelectionError(f"--set {text}: no source {source[0]!r}{nearest(source[0], bound)}; sources: {_list(bound)}")
    within = [(name, each) for name, stages in bound.items() if name in (source or bound) for each in stages]
    own = [(name, each) for name, each in within if each.name == stage]
    if not own:
        names = {each.name for _, each in within}
        raise SelectionError(f"--set {text}: no stage {stage!r}{nearest(stage, names)}; stages: {_list(names)}")
    for name, each in own:
        _check_key(text, each, key)
        yield Setting(name, stage, key, _number(text, value))


def _check_key(text: str, stage: Stage, key: str) -> None:
    limits = [each.name for each in fields(stage.config) if "limit" in each.metadata]
    if key in limits:
        return
    allowed = f"limits of {stage.name!r}: {_list(limits)}"
    if hasattr(stage.config, key):
        raise SelectionError(
            f"--set {text}: {key!r} is no limit: it changes what {stage.name!r} computes, so only a run can tell; "
            f"change the recipe and run pipeline.curate; {allowed}"
        )
    raise SelectionError(f"--set {text}: {stage.name!r} has no limit {key!r}{nearest(key, limits)}; {allowed}")


def _number(text: str, value: str) -> float | None:
    if value.strip().lower() in _OFF:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SelectionError(f"--set {text}: {value!r} is neither a finite number nor 'off'")
    return number


def _list(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"


def with_limits(recipe: Recipe, settings: Sequence[Setting]) -> Recipe:
    """The recipe with these limits. Raises SelectionError for what is not in it, RecipeError for a value that a stage refuses."""
    sources = dict(recipe.sources)
    for each in settings:
        if each.source not in sources:
            raise SelectionError(f"the recipe {recipe.name!r} has no source {each.source!r}, for which the selection sets {each}")
        sources[each.source] = _with_limit(sources[each.source], source_of(recipe, each.source).stages, each)
    return replace(recipe, sources=sources)


def _with_limit(spec: SourceSpec, stages: Sequence[Stage], setting: Setting) -> SourceSpec:
    at = next((i for i, stage in enumerate(stages) if stage.name == setting.stage), None)
    if at is None:
        raise SelectionError(f"the source {setting.source!r} has no stage {setting.stage!r}, for which the selection sets {setting}")
    changed = replace(spec.stages[at], settings={**spec.stages[at].settings, setting.key: setting.value})
    return replace(spec, stages=(*spec.stages[:at], changed, *spec.stages[at + 1 :]))


def manifest_identity(output: Location) -> str:
    """Digest over the bytes of the table `samples`: any other row, score or verdict makes it another."""
    digest = sha256()
    folder = output / "manifest" / "samples"
    for name in names(folder, ".parquet"):
        digest.update(f"{name}\0{file_sha256(folder / name)}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Location) -> str:
    with open_file(path) as file:
        return file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


@dataclass(frozen=True)
class Selection:
    """What NAME.json says.

    manifest: identity of the manifest that was asked. recipe: as `pipeline.binding.resolved` gives it, with the settings applied.
    rows_sha256: of NAME.parquet.
    """

    name: str
    settings: tuple[Setting, ...]
    manifest: str
    recipe: Mapping[str, Any]
    counts: Mapping[str, Any]
    rows_sha256: str

    @property
    def digest(self) -> str:
        """Of the limits and of what they were asked of; not of the name."""
        return stable_hash([self.manifest, self.recipe])


def check_name(output: Location, name: str) -> None:
    """Raises SelectionError for a name that is no plain file name, or that a list of the user's own has."""
    if not _NAME.fullmatch(name):
        raise SelectionError(f"a selection's name is up to 100 of A-Z a-z 0-9 _ . - and begins with a letter or digit, got {name!r}")
    if size_of(output / FOLDER / f"{name}.txt") is not None:
        raise SelectionError(f"{output / FOLDER / name}.txt is a list of sample ids by that name; choose another name")


def write_selection(
    output: Location, name: str, settings: Sequence[Setting], recipe: Mapping[str, Any], rows: pa.Table, counts: Any
) -> Location:
    """Both files, the JSON last. rows: with the schema SELECTION. recipe: resolved. Returns the path of the rows."""
    check_name(output, name)
    path = output / FOLDER / f"{name}.parquet"
    identity = manifest_identity(output)
    write_table(path, rows)
    selection = Selection(name, tuple(settings), identity, recipe, counts, file_sha256(path))
    document = {"selection_version": SELECTION_VERSION, **asdict(selection), "digest": selection.digest}
    write_json(path.with_suffix(".json"), document)
    return path


def read_selection(output: Location, name: str) -> Selection:
    """Raises SelectionError where there is none, saying what there is."""
    path = output / FOLDER / f"{name}.json"
    there = [each.removesuffix(".json") for each in names(output / FOLDER, ".json")]
    if name not in there:
        hint = nearest(name, there) if there else "; there is none: python -m pipeline.audit what-if DIR --set ... --write NAME makes one"
        raise SelectionError(f"{path}: no such selection{hint}")
    try:
        document = read_json(path)
        settings = tuple(build(Setting, each, "settings") for each in document["settings"])
        found = Selection(name, settings, *(document[each] for each in ("manifest", "recipe", "counts", "rows_sha256")))
        texts, mappings = (found.manifest, found.rows_sha256), (found.recipe, found.counts)
        if not all(isinstance(each, str) for each in texts) or not all(isinstance(each, Mapping) for each in mappings):
            raise TypeError("manifest and rows_sha256 must be texts, recipe and counts mappings")
        return found
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SelectionError(f"{path}: cannot be read ({type(error).__name__}: {error}); write the selection again") from None


def check_for_run(selection: Selection, output: Location, recipe: Mapping[str, Any]) -> None:
    """May `curate --selection` go ahead? recipe: resolved, with the selection's limits.

    Raises SelectionError where the manifest is not the one that was asked, unless it is this selection's own run that changed it (or
    was broken off); and where the recipe and its sources are not those that made the manifest.
    """
    if differences := list(recipe_differences(selection.recipe, recipe)):
        listed = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise SelectionError(
            f"the selection {selection.name!r} was made of another recipe than this command gives: {listed}; "
            f"give the recipe, the inputs and the --seed that made {output}"
        )
    try:
        digest = read_json(output / "run.json").get("selection", {}).get("digest")
    except (OSError, ValueError, AttributeError) as error:
        raise SelectionError(f"{output / 'run.json'}: cannot be read ({error}); run without --selection first") from None
    if digest == selection.digest:
        return
    if manifest_identity(output) != selection.manifest:
        settings = " ".join(f"--set {shlex.quote(str(each))}" for each in selection.settings)
        raise SelectionError(
            f"the manifest in {output} has changed since the selection {selection.name!r} was written; ask again: "
            f"python -m pipeline.audit what-if {output} {settings} --write {selection.name}"
        )


def recipe_differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Leaf by leaf: "sources.clips.stages[quality].min_sharpness: 20.0, now 30.0"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            place = f"{where}.{name}" if where else str(name)
            if name not in old:
                yield f"{place}: only now, {new[name]!r}"
            elif name not in new:
                yield f"{place}: no longer there"
            else:
                yield from recipe_differences(old[name], new[name], place)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from recipe_differences(before, after, f"{where}[{number}]")
    elif old != new:
        yield f"{where}: {old!r}, now {new!r}"


def kept_ids(data: bytes) -> pa.Array:
    """The ids of the samples that a selection keeps, from the bytes of its rows. Raises pa.ArrowInvalid, KeyError."""
    rows = pq.read_table(pa.BufferReader(data), columns=["sample_id", "status", "is_sample"])
    return rows.filter(pc.and_(pc.equal(rows["status"], "kept"), rows["is_sample"]))["sample_id"].combine_chunks()


def packing_command(location: str, run: Mapping[str, Any], name: str) -> str:
    """What packs the payload of a selection that was not stored."""
    recipe = str(run.get("recipe", {}).get("name", "RECIPE"))
    inputs = [f"--input {shlex.quote(f'{source}={path}')}" for source, path in run.get("inputs", {}).items()]
    recipe = recipe if recipe in shipped_recipes() else "RECIPE"
    return " ".join(["python -m pipeline.curate", recipe, *inputs, "--output", shlex.quote(location), "--selection", name])
