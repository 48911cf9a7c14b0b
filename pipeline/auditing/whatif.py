"""What if the limits were others? Every row decided again from the scores that the manifest stores; no footage is looked at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.auditing.decided_rows import STATE, Codes, DecidedRows, read_columns
from pipeline.auditing.folder import OutputError, OutputFolder
from pipeline.auditing.redecide import Chain, Outcome, chains
from pipeline.auditing.twins import settle
from pipeline.binding import Source, resolved, source_of
from pipeline.duplicates import settings_of
from pipeline.selection import SELECTION, SelectionError, Setting, parse_settings, with_limits
from schemas.recipe import Recipe, parse_recipe


@dataclass(frozen=True, eq=False)
class Answer:
    """What would become of every row.

    table: the manifest's rows, the columns that were needed, scores as "scores.NAME".
    outcome [N] int64: position in `outcomes`, -1 for a row of which nothing changes.
    """

    settings: tuple[Setting, ...]
    changes: tuple[dict[str, Any], ...]  # each limit that is another: source, stage, key, score, op, before, after, reason
    recipe: dict[str, Any]  # with the new limits, resolved
    table: pa.Table
    outcome: Codes
    outcomes: tuple[Outcome, ...]


def what_if(output: OutputFolder, given: Sequence[str], *, full: bool = False) -> Answer:
    """The answer for limits given as `[SOURCE.]stage.key=value`. full: with the columns that a selection stores.

    Raises SelectionError for limits that cannot be asked about, RecipeError for values that a stage refuses, OutputError.
    """
    recipe = _recipe(output)
    settings = parse_settings(given, recipe)
    wanted = with_limits(recipe, settings)
    before, after = _sources(recipe), _sources(wanted)
    asked = {name: _Asked.of(name, before[name], after[name]) for name in before}
    changed = {name: each for name, each in asked.items() if any(chain.changed() for chain in each.chains)}
    looking = {name: each.source for name, each in asked.items() if each.looks_for_twins}
    settled = looking if looking.keys() & changed.keys() else {}
    table = read_columns(output, _columns([each for name, each in asked.items() if name in changed or name in settled], full))
    rows = DecidedRows(output, table)
    for each in changed.values():
        each.decide(rows)
    if settled:
        settle(output, rows, settled)
    changes = tuple(change for each in changed.values() for change in each.changes())
    return Answer(tuple(settings), changes, resolved(wanted, after), table, rows.outcome, tuple(rows.outcomes))


def selected(answer: Answer) -> pa.Table:
    """The rows of the selection: the schema of pipeline.selection. Needs an answer that was asked for in full."""
    table, outcomes, code = answer.table, answer.outcomes, answer.outcome
    pool = np.where(code < 0, np.arange(len(code)), len(code) + code)

    def column(name: str, values: list[Any]) -> pa.Array:
        kind = SELECTION.field(name).type
        old = table["status" if name == "was" else name].combine_chunks().cast(kind)
        return pa.concat_arrays([old, pa.array(values, kind)]).take(pa.array(pool))

    needs = pa.array([None, *(each.needs for each in outcomes)], pa.string()).take(pa.array(code + 1))
    columns = {
        "sample_id": table["sample_id"],
        "source": table["source"].cast(pa.string()),
        "was": table["status"].cast(pa.string()),
        "status": column("status", [each.status for each in outcomes]),
        "reasons": column("reasons", [list(each.reasons) for each in outcomes]),
        "stopped_at": column("stopped_at", [each.stopped_at for each in outcomes]),
        "needs": needs,
        "is_sample": table["is_sample"],
        "stored": pc.is_valid(table["shard"]),
    }
    return pa.table(columns, schema=SELECTION)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A source, as it was and as it shall be."""

    name: str
    source: Source
    chains: tuple[Chain, ...]

    @classmethod
    def of(cls, name: str, before: Source, after: Source) -> "_Asked":
        for old, new in zip(before.stages, after.stages, strict=True):
            if old.compute_settings() != new.compute_settings():
                raise SelectionError(
                    f"{name}.{old.name}: its limits steer what it looks for, so other limits find other samples, which only a run can "
                    "tell; change the recipe and run pipeline.curate into another --output, then compare: audit diff"
                )
        sampler = before.sampler
        return cls(name, before, chains(before.stages, after.stages, sampler.name if sampler else None, before.spec.exhaustive))

    @property
    def looks_for_twins(self) -> bool:
        return settings_of(self.source) is not None

    def decide(self, rows: DecidedRows) -> None:
        mine, spec = rows.of_source(self.name), self.source.spec
        for chain in self.chains:
            if chain.changed():
                rows.decide(chain, mine)
        if len(self.chains) > 1 and self.chains[0].changed():
            rows.orphan(mine)
        if self.source.keep_rejected == "payload":
            rows.refuse_unstorable(mine)
        if spec.best_by is not None and spec.target_count is not None and not self.looks_for_twins:
            rows.rank(mine, spec.best_by, spec.target_count)

    def changes(self) -> Iterable[dict[str, Any]]:
        steps = {step.name: step for chain in self.chains for step in chain.steps}
        for step in steps.values():
            old, new = ({limit.key: limit for limit in limits} for limits in (step.before, step.after))
            for key in dict.fromkeys([*old, *new]):
                limit = new.get(key) or old[key]
                values = [each[key].value if key in each else None for each in (old, new)]
                if values[0] != values[1]:
                    yield {
                        "source": self.name,
                        "stage": step.name,
                        "key": key,
                        "score": limit.score,
                        "op": limit.op,
                        "reason": str(limit.reason),
                        "before": values[0],
                        "after": values[1],
                    }


def _recipe(output: OutputFolder) -> Recipe:
    run = output.run
    if "recipe" not in run or "encoded_from" in run:
        raise OutputError(f"{output.path}: run.json holds no recipe of pipeline.curate; give the --output folder of such a run")
    if run.get("state") != "done":
        raise SelectionError(
            f"{output.path}: its last run is {run.get('state')!r}, so the limits in run.json need not be those that decided the rows; "
            "run the same command again until it is done"
        )
    return parse_recipe(run["recipe"], f"{output.path / 'run.json'}: recipe")


def _sources(recipe: Recipe) -> dict[str, Source]:
    return {name: source_of(recipe, name, None, recipe.accept_noncommercial) for name in recipe.sources}


def _columns(changed: Iterable[_Asked], full: bool) -> list[str]:
    """Leaf columns of `samples` that the answer needs."""
    columns = [*STATE, *(["sample_id", "shard"] if full else [])]
    for each in changed:
        tests = [test for chain in each.chains for test in chain.tests()]
        columns += [f"scores.{score}" for score, _, _ in tests]
        if (best_by := each.source.spec.best_by) is not None:
            columns += ["sample_id", f"scores.{best_by.removeprefix('-')}"]
        if len(each.chains) > 1 or each.looks_for_twins:
            columns += ["sample_id", "parent_id"]
    return list(dict.fromkeys(columns))
