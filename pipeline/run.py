"""A curation run from recipe to report: discover, plan, units, shards, tables, run.json.

Resuming is running again: what is done is listed, subtracted, and the rest is done.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pipeline.binding import Source, resolved
from pipeline.executors import Executor, Outcome
from pipeline.found import Found
from pipeline.location import Location, together
from pipeline.parts import AGAIN, list_parts, mark, parts_folder, read_meta
from pipeline.plan import append_plan, check_sources, discover, extend_plan, make_units, read_plan, unused_captions
from pipeline.progress import Progress
from pipeline.provenance import code_version, lock_sha256, version
from pipeline.scheduler import run as schedule
from pipeline.shards import Shard, ShardPlan, is_packed, plan_shards
from pipeline.sight import marked
from pipeline.store import names, remove, stable_hash, sweep, write_json
from pipeline.tables import Harvest, Totals, unit_part, write_tables
from pipeline.unit import Unit
from schemas.recipe import Recipe
from schemas.verdict import PROVISIONAL
from stages.storage import Tree

# What this program writes, and nothing else: a stranger's file in the output folder is not ours to remove.
_PART = re.compile(rf"u\d{{6,}}-[0-9a-f]{{16}}(-[0-9a-f]{{8}}\.tar|\.parquet({re.escape(AGAIN)})?)|shard-.*\.jsonl?|\.tmp-.*")
_SHARD = re.compile(r".*-\d{6,}-[0-9a-f]{8}\.tar|\.tmp-.*")

_NOTES = 100  # losses that are told: a run that has more of them has said enough


@dataclass
class Settings:
    """What the command line asks of a run."""

    recipe: Recipe
    sources: Mapping[str, Source]  # those with an input
    roots: Mapping[str, Tree]
    output: Location
    captions: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    retry_errors: bool = False
    error_budget: float = 0.05
    selection: Mapping[str, str] | None = None  # whose limits the recipe has: its name and digest


@dataclass
class Prepared:
    """What is to be done, before anything is written."""

    found: dict[str, Found]
    units: list[Unit]
    pending: list[Unit]
    new_plan: list[Any]
    gone: int
    unused_captions: int


@dataclass
class Result:
    """How the run ended. state: done | interrupted | failed."""

    state: str
    totals: Totals | None = None
    failures: list[str] = field(default_factory=list)
    over_budget: bool = False
    shards: int = 0
    shard_bytes: int = 0


def prepare(settings: Settings, progress: Progress) -> Prepared:
    """Discover and plan. Writes nothing. Raises PlanError, FileNotFoundError or ValueError for a usage error."""
    planned = read_plan(settings.output)
    found = {}
    for name, source in settings.sources.items():
        held = {candidate for each in planned if each.source == name for candidate in each.candidates}
        found[name] = discover(source, settings.roots[name], settings.limit, held, settings.captions, partial(progress.discovered, name))
        settings.roots[name].forget()
    check_sources(planned, found, settings.limit)
    new = extend_plan(planned, found, settings.recipe.units.size)
    earlier = list_parts(settings.output)
    units, gone = make_units([*planned, *new], found, settings.sources, settings.roots, settings.output, settings.captions, earlier)
    pending = _pending(units, settings)
    prepared = Prepared(found, units, pending, new, gone, unused_captions(settings.captions, found))
    for candidates in found.values():
        candidates.forget_ids()  # units are formed
    return prepared


def _pending(units: Sequence[Unit], settings: Settings) -> list[Unit]:
    """Units that are not done, and those that are looked at again: where storage failed; by wish, all with provisional errors."""
    pending = {unit.name for unit in units if unit.key not in unit.earlier or unit.key in unit.marked}
    if not settings.retry_errors:
        return [unit for unit in units if unit.name in pending]
    done = [unit for unit in units if unit.name not in pending]
    provisional = together(lambda unit: read_meta(unit_part(unit))["provisional"], done, settings.output)
    pending |= {unit.name for unit, count in zip(done, provisional, strict=True) if count}
    return [replace(unit, again=PROVISIONAL) for unit in units if unit.name in pending]


def execute(settings: Settings, prepared: Prepared, executor: Executor, stop: threading.Event, progress: Progress) -> Result:
    """Do it. The output folder is consistent at every moment, and the same call goes on where it was ended."""
    output = settings.output
    append_plan(output, prepared.new_plan)
    prepared.new_plan = []  # it names every candidate
    _write_run(settings, prepared, Result("running"))
    feed = _Feed(settings, prepared)
    with marked(output, settings.roots, prepared.found) as sees:
        run_works = partial(schedule, executor, on_lost=_note_losses(progress), stop=stop, sees=sees)
        result = _run_units(prepared, feed, run_works, stop, progress)
        if result.state == "done":
            result = _pack_and_publish(settings, prepared, feed.rest(), run_works, stop, progress)
    _write_run(settings, prepared, result)
    return result


class _Feed:
    """The works of a run: pending units, and between them the shards that finished units have made certain.

    Packing early keeps the disk busy while units compute. Sources that are ranked, and shuffled shards, have to wait
    for the last unit.
    """

    def __init__(self, settings: Settings, prepared: Prepared) -> None:
        self._prepared = prepared
        self._done = {unit.name for unit in prepared.units} - {unit.name for unit in prepared.pending}
        early = settings.recipe.shards.order == "plan"
        self._early = {name for name, source in settings.sources.items() if early and source.spec.target_count is None}
        self.harvest = Harvest(settings.sources)
        self._plan = ShardPlan(settings.recipe.shards, settings.output, settings.roots, self.harvest.kept)

    def done(self, unit: Unit) -> None:
        self._done.add(unit.name)

    def works(self) -> Iterator[Unit | Shard]:
        for unit in self._prepared.pending:
            yield from self._certain()
            yield unit

    def _certain(self) -> Iterator[Shard]:
        units = self._prepared.units
        first = last = self.harvest.units
        while last < len(units) and units[last].name in self._done:
            last += 1
        for sample in self.harvest.take(units[first:last]):
            shard = self._plan.add(sample) if sample.source in self._early else None
            if shard is not None and not is_packed(shard):
                yield shard

    def rest(self) -> Harvest:
        """The harvest of all units, once all are done."""
        for _ in self.harvest.take(self._prepared.units[self.harvest.units :]):
            pass  # which shards they complete is asked when all are planned
        return self.harvest


def _run_units(prepared: Prepared, feed: _Feed, run_works: Callable[..., Any], stop: threading.Event, progress: Progress) -> Result:
    failures: list[str] = []

    def on_done(work: Unit | Shard, value: Mapping[str, Any], attempts: int) -> None:
        if isinstance(work, Shard):
            return  # its record is found when the shards are counted
        feed.done(work)
        progress.unit_done(value["counts"], work.n_items)

    progress.start_units(sum(unit.n_items for unit in prepared.pending), sum(unit.n_items for unit in prepared.units))
    run_works(feed.works(), on_done=on_done, on_failed=_collect(failures, progress))
    progress.finish()
    if stop.is_set():
        return Result("interrupted", failures=failures)
    if failures:
        return Result("failed", failures=failures)
    return Result("done")


def _collect(failures: list[str], progress: Progress) -> Callable[[Any, Outcome], None]:
    def on_failed(work: Any, outcome: Outcome) -> None:
        failures.append(f"{outcome.key}: {outcome.state}: {_last_line(outcome)}")
        progress.note(failures[-1])

    return on_failed


def _note_losses(progress: Progress) -> Callable[[Any, Outcome], None]:
    """Say once of every node or store what became of a work there, that the run goes on without it."""
    said: set[str] = set()

    def on_lost(work: Any, outcome: Outcome) -> None:
        what = _last_line(outcome)[:400]
        if what not in said and len(said) < _NOTES:
            said.add(what)
            progress.note(f"{outcome.key} runs again: {what}")

    return on_lost


def _last_line(outcome: Outcome) -> str:
    return (outcome.message.strip().splitlines() or ["no message"])[-1]


def _pack_and_publish(
    settings: Settings, prepared: Prepared, harvest: Harvest, run_works: Callable[..., Any], stop: threading.Event, progress: Progress
) -> Result:
    overruled = harvest.settle()
    seed = next(iter(settings.sources.values())).seed
    shards = plan_shards(harvest.kept, overruled, settings.recipe.shards, seed, settings.output, settings.roots)
    failures: list[str] = []

    def on_done(work: Shard, value: Mapping[str, Any], attempts: int) -> None:
        progress.shard_done(value["bytes"])

    packed = together(is_packed, shards, settings.output)
    missing = [shard for shard, done in zip(shards, packed, strict=True) if not done]
    progress.start_shards(len(missing), len(shards))
    run_works(iter(missing), on_done=on_done, on_failed=_collect(failures, progress))
    progress.finish()
    if stop.is_set():
        return Result("interrupted", failures=failures)
    if failures:
        return Result("failed", failures=failures)
    totals = write_tables(settings.output, prepared.units, shards, harvest.kept, overruled)
    _discard_outdated(settings.output, prepared.units, shards, harvest)
    over_budget = totals.errors > settings.error_budget * totals.judged
    return Result("done", totals, [], over_budget, len(shards), totals.shard_bytes)


def _discard_outdated(output: Location, units: Sequence[Unit], shards: Sequence[Shard], harvest: Harvest) -> None:
    """Remove what the published manifest no longer names. Only now: until here it was what a killed run would resume from."""
    parts = {unit_part(unit).name for unit in units}
    marks = {f"{name}{AGAIN}" for name in harvest.unread}
    for name in sorted(marks.difference(names(parts_folder(output), AGAIN))):  # a worker that was lost may have written its part late
        mark(parts_folder(output) / name.removesuffix(AGAIN))
    keep = parts | marks | {shard.record_path.name for shard in shards} | harvest.tars
    _remove_but(parts_folder(output), _PART, keep)
    _remove_but(output / "shards", _SHARD, {shard.name for shard in shards})
    for name in ("", "parts", "shards", "plan", "manifest/samples", "manifest/shards", "manifest/units"):
        sweep(output / name if name else output)


def _remove_but(folder: Location, ours: re.Pattern[str], keep: set[str]) -> None:
    for name in names(folder):
        if name not in keep and ours.fullmatch(name) and not (folder / name).is_symlink():
            remove(folder / name)


def _write_run(settings: Settings, prepared: Prepared, result: Result) -> None:
    """run.json: what was asked, with what, and how it came out. No clock, no host: those are in the units table."""
    plain = resolved(settings.recipe, settings.sources)
    totals = result.totals
    document: dict[str, Any] = {
        "parallax_version": version(),
        "code_version": code_version(),
        "lock_sha256": lock_sha256(),
        "state": result.state,
        "failures": sorted(result.failures),
        "recipe": plain,
        "recipe_sha256": stable_hash(plain),
        "seed": plain["seed"],
        "inputs": {name: str(root) for name, root in settings.roots.items()},
        "limit": settings.limit,
        "units": len(prepared.units),
        "candidates": {name: len(candidates) for name, candidates in prepared.found.items()},
        "captions": {"given": len(settings.captions), "without_sample": prepared.unused_captions},
        "limits": {
            name: [
                {"stage": stage, "key": each.key, "score": each.score, "op": each.op, "value": each.value, "reason": str(each.reason)}
                for stage, each in source.limits()
            ]
            for name, source in settings.sources.items()
        },
    }
    if settings.selection is not None:
        document["selection"] = dict(settings.selection)
    if totals is not None:
        document |= {
            "counts": {name: dict(totals.counts[name]) for name in settings.sources},
            "reasons": {name: dict(totals.reasons[name]) for name in settings.sources},
            "text": {name: {"with": totals.text[name]["with"], "without": totals.text[name]["without"]} for name in settings.sources},
            "error_budget": {
                "limit": settings.error_budget,
                "errors": totals.errors,
                "judged": totals.judged,
                "exceeded": result.over_budget,
            },
            "shards": {"count": result.shards, "bytes": result.shard_bytes},
        }
    write_json(settings.output / "run.json", document)
