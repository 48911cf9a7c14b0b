"""One unit of work: its candidates through the stages, its rows and members committed together.

Runs on a worker of any executor. Nothing of it depends on where, when or beside what it runs.
"""

import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from pipeline.binding import Source
from pipeline.examine import Examiner
from pipeline.executors import Task
from pipeline.location import Location
from pipeline.parts import DamagedPart, MemberStore, part_path, parts_folder, write_part
from pipeline.steps import StepStore
from pipeline.store import make_folder, stable_hash
from schemas.candidate import Candidate
from schemas.recipe import MediaLimits
from schemas.typed import RecipeError
from schemas.verdict import PROVISIONAL, STORAGE, Reason
from stages.media import Media
from stages.stage import Tier
from stages.storage import Tree

UNIT_VERSION = 1  # raise it when parts written before can no longer be taken as they are

# A unit's deadline. All ours, and generous: they are there for what hangs, not for what is slow.
_LEAST_SECONDS = 600.0  # for the unit, and for each of its candidates
_MODEL_SECONDS = 3600.0  # more for each stage with a model, once: it loads, and may look at few frames for minutes each
_FRAME_SECONDS = 0.1  # more for each frame and stage, reading and packing counted as stages ...
_MODEL_FRAME_SECONDS = 1.0  # ... and this much where the stage has a model
_STORAGE_PAUSES_S = (1.0, 4.0, 15.0)  # ours: before candidates are looked at again that storage failed
_FRAME_BYTES = 10_000  # of a video's file, for each frame: how many there are is not known before a worker has opened it


@dataclass(frozen=True)
class Unit:
    """A unit as planned: the scheduler's Work. Picklable."""

    name: str  # "u000012"
    source: Source
    root: Tree
    output: Location
    candidates: Sequence[Candidate]  # a tuple where it runs; on the driver they are on disk (pipeline.found)
    captions: Mapping[str, str] = field(default_factory=dict)
    earlier: tuple[str, ...] = ()  # keys of the parts of this unit that are there
    marked: tuple[str, ...] = ()  # of these, where storage failed for a candidate
    again: frozenset[Reason] = STORAGE  # errors that are looked at again where an earlier run ended in them

    @cached_property
    def key(self) -> str:
        """16 hex digits: what the unit's result depends on."""
        return stable_hash(self.key_parts())[:16]

    @property
    def n_items(self) -> int:
        return len(self.candidates)

    def key_parts(self) -> dict[str, Any]:
        """Stored with the part, so that `--explain` can say what changed."""
        return {
            "unit_version": UNIT_VERSION,
            "source": self.source.key_parts,
            "candidates": {candidate.candidate_id: self.identity(candidate) for candidate in self.candidates},
            "captions": {candidate.candidate_id: candidate.caption for candidate in self.candidates} | dict(self.captions),
        }

    def identity(self, candidate: Candidate) -> str:
        """The candidate's, and that of what stages read beside its own files."""
        beside = {stage.name: found for stage in self.source.stages if (found := stage.inputs(candidate))}
        return stable_hash([candidate.identity(), beside]) if beside else candidate.identity()

    def task(self, items: range | None, excluded: Mapping[int, tuple[Reason, str]]) -> Task:
        """The whole unit with its commit (items None), or a trial of some of its candidates."""
        candidates = self.candidates if items is None else self.candidates[items.start : items.stop]
        return Task(
            key=self.name if items is None else f"{self.name}[{items.start}:{items.stop}]",
            function="pipeline.unit:run_unit",
            payload={"unit": self, "key": self.key, "items": items, "excluded": dict(excluded)},
            timeout_s=_LEAST_SECONDS + _MODEL_SECONDS * self._models + sum(map(self._seconds, candidates)),
        )

    def _seconds(self, candidate: Candidate) -> float:
        """What one candidate may take: more than a slow one needs, since a unit that is stopped in good health is lost time.

        Above what the sandbox's own limit lets single calls take: that limit names the file, this one only the unit. Long footage
        takes many calls, and a model's own time no limit bounds but this, so it grows with the frames and the models.
        """
        steps = len(self.source.stages) + 2
        least = max(_LEAST_SECONDS, 1.5 * self.source.media.timeout_s * (len(candidate.views) + 1) * steps)
        return least + _frames(candidate) * (_FRAME_SECONDS * steps + _MODEL_FRAME_SECONDS * self._models)

    @property
    def _models(self) -> int:
        return sum(stage.tier is Tier.MODELS or bool(stage.weights()) for stage in self.source.stages)


def _frames(candidate: Candidate) -> float:
    """About how many frames the candidate's views hold together."""
    media = [view.media for view in candidate.views]
    return sum(len(each.files) if each.kind == "images" else sum(file.size for file in each.files) / _FRAME_BYTES for each in media)


def run_unit(payload: dict[str, Any]) -> dict[str, Any]:
    """Returns {"counts": {status: n}} of samples, and of sources that came to nothing, for the progress line."""
    unit: Unit = replace(payload["unit"], source=worker_source(payload["unit"].source))
    if unit.key != payload["key"]:
        raise RecipeError(
            f"{unit.name} is not on {socket.gethostname()} what it was where the run was started: weights, versions of stages, or files "
            "that stages read beside the footage differ, or have changed since; give every node the same, and run the command again"
        )
    items: range | None = payload["items"]
    excluded: dict[int, tuple[Reason, str]] = dict(payload["excluded"])
    started_ns = time.time_ns()
    store, members = StepStore(again=unit.again), MemberStore(unit.output, unit.name, unit.key)
    excluded = {**_remembered(unit, members, store), **excluded}
    media = worker_media(unit.root, unit.source.media)
    examiner = Examiner(unit.source, unit.root, media, store, unit.name, members, unit.captions)
    try:
        with _one_thread(unit.source):
            if items is not None:
                for position in items:
                    _examine(examiner, unit.candidates[position], excluded.get(position))
                return {}
            rows, unread = _examine_all(unit, examiner, excluded)
        _commit(unit, examiner, rows, excluded, started_ns, unread)
    finally:
        members.abandon()
    return {"counts": dict(Counter(row["status"] for row in rows if row["is_sample"] or row["status"] != "kept"))}


def _examine_all(unit: Unit, examiner: Examiner, excluded: Mapping[int, tuple[Reason, str]]) -> tuple[list[dict[str, Any]], bool]:
    """Every candidate's rows. Those that storage failed are looked at again after a pause, as it may be well again: what lasts is E_IO.

    Returns whether anything of it lasts, too.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    left = list(range(unit.n_items))
    for pause_s in (0.0, *_STORAGE_PAUSES_S):
        time.sleep(pause_s)
        failed = []
        for position in left:
            found[position] = _examine(examiner, unit.candidates[position], excluded.get(position))
            if examiner.storage_failed:
                failed.append(position)
        left = failed
        if not left:
            break
    return [row for position in range(unit.n_items) for row in found[position]], bool(left)


def _examine(examiner: Examiner, candidate: Candidate, excluded: tuple[Reason, str] | None) -> list[dict[str, Any]]:
    return examiner.examine(candidate) if excluded is None else examiner.exclude(candidate, *excluded)


@contextmanager
def _one_thread(source: Source) -> Iterator[None]:
    """torch's models compute in one thread, whichever executor it is: more of them sum in another order, which changes bits."""
    if find_spec("torch") is None or not any(stage.weights() for stage in source.stages):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _remembered(unit: Unit, members: MemberStore, store: StepStore) -> dict[int, tuple[Reason, str]]:
    """Learn from the unit's earlier parts. Returns the candidates that killed their worker under the same settings."""
    excluded: dict[int, tuple[Reason, str]] = {}
    compute = unit.source.compute_hash
    for key in unit.earlier:
        try:
            meta = members.learn(part_path(unit.output, unit.name, key), store, UNIT_VERSION)
        except DamagedPart:
            continue
        if meta is None or meta["compute_hash"] != compute:
            continue
        for position, candidate in enumerate(unit.candidates):
            known = meta["excluded"].get(unit.identity(candidate))
            if known and known[0] not in unit.again:
                excluded[position] = (Reason(known[0]), known[1])
    return excluded


def _commit(
    unit: Unit,
    examiner: Examiner,
    rows: list[dict[str, Any]],
    excluded: Mapping[int, tuple[Reason, str]],
    started_ns: int,
    unread: bool,
) -> None:
    make_folder(parts_folder(unit.output))
    meta = {
        "tar": examiner.parts.commit(),
        "compute_hash": unit.source.compute_hash,
        "excluded": {unit.identity(unit.candidates[i]): [str(reason), message] for i, (reason, message) in excluded.items()},
        "unread": unread,
        "provisional": sum(bool(PROVISIONAL & {Reason(reason) for reason in row["reasons"]}) for row in rows),
        "key_parts": unit.key_parts(),
        "units_row": {
            "unit": unit.name,
            "source": unit.source.name,
            "unit_key": unit.key,
            "n_candidates": unit.n_items,
            "n_rows": len(rows),
            "host": socket.gethostname(),
            "started_ns": started_ns,
            "ended_ns": time.time_ns(),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "seconds": dict(sorted(examiner.seconds.items())),
            "steps_computed": examiner.store.computed,
            "steps_reused": examiner.store.reused,
        },
    }
    write_part(unit.output, unit.name, unit.key, rows, meta)


_sources: dict[tuple[int, str], dict[str, Source]] = {}


def worker_source(source: Source) -> Source:
    """This process's own of a source: its stages load their models once, its weights are looked for once, for all units of a run."""
    key = (os.getpid(), source.run)
    if key not in _sources:  # an earlier run's: its checkpoints may be others by now
        _sources.clear()
        _sources[key] = {}
    return _sources[key].setdefault(source.name, source)


_media: dict[tuple[int, Tree, MediaLimits], Media] = {}


def worker_media(root: Tree, limits: MediaLimits) -> Media:
    """This process's Media for an input folder: its decoder child is started once and serves all units."""
    key = (os.getpid(), root, limits)
    if key not in _media:
        for old in _media.values():
            old.close()
        _media.clear()
        _media[key] = Media(root, limits)
    return _media[key]
