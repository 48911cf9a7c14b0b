"""Why units run again, and what a run would do: for --explain and --dry-run."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.parts import part_path, read_meta
from pipeline.run import Prepared, Settings
from pipeline.unit import Unit

_SHOWN = 20


def explain(prepared: Prepared) -> list[str]:
    """One line for every unit that has to run, grouped: which part of its key is new, or which errors are looked at again."""
    reasons: dict[str, list[str]] = {}
    for unit in prepared.pending:
        for line in _why(unit):
            reasons.setdefault(line, []).append(unit.name)
    lines = [f"{len(prepared.units) - len(prepared.pending)} units are done"]
    for line, names in reasons.items():
        lines.append(f"{_listed(names)}: {line}")
    return lines


def _why(unit: Unit) -> list[str]:
    if unit.key in unit.marked:
        return ["storage failed (E_IO), looked at again"]
    return ["ended in provisional errors, looked at again"] if unit.key in unit.earlier else _differences(unit)


def _differences(unit: Unit) -> list[str]:
    if not unit.earlier:
        return ["never run"]
    nearest: list[str] | None = None
    for key in unit.earlier:
        old = read_meta(part_path(unit.output, unit.name, key))["key_parts"]
        found = list(_compare("", old, unit.key_parts()))
        if nearest is None or len(found) < len(nearest):
            nearest = found
    assert nearest is not None
    return nearest


def _compare(where: str, old: Any, new: Any) -> Iterable[str]:
    """Leaf by leaf. A changed limit says that nothing is computed for it."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from _compare(f"{where}.{name}" if where else name, old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            name = after.get("name", number) if isinstance(after, Mapping) else number
            yield from _compare(f"{where}[{name}]", before, after)
    elif old != new:
        yield _describe(where, old, new)


def _describe(where: str, old: Any, new: Any) -> str:
    if where.startswith("candidates."):
        name = where.removeprefix("candidates.")
        if old is None:
            return f"the candidate {name!r} is new in this unit"
        return f"the candidate {name!r} is no longer in the input" if new is None else f"the files of {name!r} changed"
    free = " (decision only: nothing is computed for it)" if ".limits." in where else ""
    return f"{where} changed from {old!r} to {new!r}{free}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} units)"


def describe_plan(settings: Settings, prepared: Prepared) -> list[str]:
    """What --dry-run prints."""
    pending = {unit.name for unit in prepared.pending}
    lines = [f"recipe {settings.recipe.name!r}, seed {next(iter(settings.sources.values())).seed}, output {settings.output}"]
    for name, source in settings.sources.items():
        units = [unit for unit in prepared.units if unit.source.name == name]
        todo = [unit for unit in units if unit.name in pending]
        broken = sum(candidate.error is not None for candidate in prepared.found[name])
        lines.append(
            f"{name} ({source.spec.ingest}, {settings.roots[name]}): {len(prepared.found[name])} candidates"
            f"{f', {broken} already in error or skipped' if broken else ''}; {len(todo)} of {len(units)} units to run"
        )
        for stage in source.stages:
            limits = ", ".join(f"{limit.key} {limit.value:g}" for limit in stage.limits())
            lines.append(f"  {stage.name} v{stage.version}, {stage.tier.name.lower()} tier{f': {limits}' if limits else ''}")
        if source.spec.target_count is not None:
            lines.append(f"  best {source.spec.target_count} by {source.spec.best_by}")
    if prepared.gone:
        lines.append(f"{prepared.gone} candidates of the plan are no longer in the input; they would leave the manifest")
    if prepared.unused_captions:
        lines.append(f"{prepared.unused_captions} captions name no sample")
    lines += [f"candidate in error: {each.candidate_id}: {each.error[0]}: {each.error[1]}" for each in _broken(prepared)[:_SHOWN]]
    return [*lines, "dry run: nothing was written"]


def _broken(prepared: Prepared) -> list[Any]:
    return [candidate for candidates in prepared.found.values() for candidate in candidates if candidate.error is not None]
