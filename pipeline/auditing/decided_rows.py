"""The rows of a manifest decided again, all at once.

Rows are not decided one by one: those of which a changed limit says something else than before are grouped by what decides them
(their state, and which limits their scores violate), and each group is decided once.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.auditing.children import own_reasons
from pipeline.auditing.folder import OutputError, OutputFolder, refuse_nulls
from pipeline.auditing.redecide import (
    GONE,
    PAYLOAD,
    RANKING,
    SAMPLER,
    UNKNOWN,
    Chain,
    Outcome,
    OwnReasonsNeeded,
    State,
    Test,
    decide,
    test_of,
)
from pipeline.location import Location
from pipeline.store import parquet_source
from schemas.manifest import SAMPLES
from schemas.verdict import Reason, Status

Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]

OVER = str(Reason.OVER_TARGET_COUNT)
OVERRULED = (OVER, str(Reason.DUPLICATE), str(Reason.NEAR_DUPLICATE))  # by the run as a whole; their stages kept such rows
DICTIONARIES = ["source", "status", "stage", "stopped_at"]
STATE = [*DICTIONARIES, "is_source", "is_sample", "reasons"]


def read_columns(output: OutputFolder, columns: Sequence[str]) -> pa.Table:
    """Leaf columns of `samples`, of all rows in their order, scores as "scores.NAME". Raises OutputError."""
    where = output.path / "manifest" / "samples"

    def read(path: Location) -> pa.Table:
        with pq.ParquetFile(parquet_source(path), read_dictionary=DICTIONARIES) as file:
            return file.read(columns=list(columns), use_threads=False).flatten()

    try:
        with ThreadPoolExecutor() as pool:
            tables = list(pool.map(read, output.parts("samples")))
        if not tables:
            raise OutputError(f"{where}: holds no table yet; run pipeline.curate to the end")
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        table.validate(full=True)
        refuse_nulls(table, SAMPLES)
    except KeyError as error:  # of read_dictionary
        raise OutputError(f"{where}: has no column {error.args[0]!r}; curate again with this version") from None
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"{where}: cannot be read ({error})") from None
    if missing := [name for name in columns if name not in table.column_names]:
        raise OutputError(f"{where}: has no column {', '.join(missing)}; curate again with this version")
    if "status" in columns:
        found = {name for chunk in table["status"].chunks for name in chunk.dictionary.to_pylist()}
        if odd := found - set(map(str, Status)):
            raise OutputError(f"{where}: has the status {min(odd)!r:.80}, which no run writes; one of {', '.join(Status)} was expected")
    return table


class DecidedRows:
    """What becomes of every row. table: STATE, and what the chains need, by `read_columns`.

    outcome [N] int64: position in `outcomes`, -1 for a row of which nothing changes.
    """

    def __init__(self, output: OutputFolder, table: pa.Table) -> None:
        self._output, self._table = output, table
        self.outcome: Codes = np.full(len(table), -1, np.int64)
        self.outcomes: list[Outcome] = []
        self._numbers: dict[Outcome, int] = {}
        self._violated: dict[Test, Mask] = {}
        self._is_source, self._is_sample = (_mask(self.column(name)) for name in ("is_source", "is_sample"))

    def of_source(self, name: str) -> Mask:
        return _mask(pc.equal(self.column("source"), name))

    def decide(self, chain: Chain, mine: Mask) -> None:
        """The rows of one source (mine [N]) that go this way."""
        rows = mine if chain.role == "whole" else mine & (self._is_source if chain.role == "source" else ~self._is_source)
        affected = np.flatnonzero(rows & self._affected(chain))
        if len(affected):
            self._decide_groups(chain, affected)

    def orphan(self, mine: Mask) -> None:
        """Children of what would no longer be sampled from would not be there."""
        ended = mine & self._is_source & self.becomes(Status.REJECTED)
        parents = self.column("sample_id").filter(pa.array(ended))
        children = mine & ~self._is_source & _mask(pc.is_in(self.column("parent_id"), parents))
        self.outcome[children] = self.add(Outcome(GONE))

    def refuse_unstorable(self, mine: Mask) -> None:
        """A rejected sample whose payload could not be made is no sample by being kept: it would be an error, which one is not stored."""
        rows = np.flatnonzero(mine & self._is_sample & self.becomes(Status.KEPT))
        if len(rows) == 0:
            return
        notes = read_columns(self._output, ["notes"])["notes"].combine_chunks().take(pa.array(rows))
        owner = np.repeat(np.arange(len(notes)), np.diff(notes.offsets.to_numpy()))
        failed = owner[np.flatnonzero(_mask(pc.equal(notes.keys, "payload")))]
        self.outcome[rows[failed]] = self.add(Outcome(UNKNOWN, needs=PAYLOAD))

    def rank(self, mine: Mask, best_by: str, target: int) -> None:
        """The best `target` by the score again. What is unknown may take a place or not: where that matters is unknown too."""
        over = mine & (self.outcome < 0) & self._has_reason(OVER)
        known = mine & self.kept_by_stages()
        unknown = mine & self.becomes(UNKNOWN)
        ranks, missing = self.ranks(best_by)
        best = self._best(known, ranks, target)
        if (unknown & ~self._is_sample).any():
            certain = np.zeros_like(known)  # nobody knows how many children there would be
        else:
            highest = np.where(unknown & missing, -np.inf, ranks)
            certain = self._best(known | unknown, highest, target)
        self.outcome[known & best & ~certain] = self.add(Outcome(UNKNOWN, needs=RANKING))
        self.outcome[known & certain & over] = self.add(Outcome(str(Status.KEPT)))
        self.outcome[known & ~best & ~over] = self.add(Outcome(str(Status.REJECTED), (OVER,)))

    def kept_by_stages(self) -> Mask:
        """Samples that no stage turns away, whatever the run as a whole does."""
        before = _mask(pc.equal(self.column("status"), str(Status.KEPT)))
        for reason in OVERRULED:
            before |= self._has_reason(reason)
        return self._is_sample & (self.becomes(Status.KEPT) | ((self.outcome < 0) & before))

    def ranks(self, best_by: str) -> tuple[NDArray[np.float64], Mask]:
        """[N] smaller is better, infinite where there is no number; and where no score was computed."""
        scores = self.column(f"scores.{best_by.removeprefix('-')}")
        ranks = pc.fill_null(scores, np.nan).to_numpy() * (1.0 if best_by.startswith("-") else -1.0)
        return np.where(np.isnan(ranks), np.inf, ranks), _mask(pc.is_null(scores))

    def settle(self, row: int, outcome: Outcome) -> None:
        """What the run as a whole says of a row that its stages keep."""
        has = tuple(self._table["reasons"][row].as_py())
        same = self.outcome[row] < 0 and has == outcome.reasons
        self.outcome[row] = -1 if same else self.add(outcome)

    def _best(self, among: Mask, ranks: NDArray[np.float64], target: int) -> Mask:
        """The `target` rows of least rank; of equal ones those whose ids come first."""
        if np.count_nonzero(among) <= target:
            return among
        last = np.partition(ranks[among], target - 1)[target - 1]
        best = among & (ranks < last)
        tied = np.flatnonzero(among & (ranks == last))
        ids = self.column("sample_id").take(pa.array(tied))
        order = pc.sort_indices(ids).to_numpy()
        best[tied[order[: target - np.count_nonzero(best)]]] = True
        return best

    def _affected(self, chain: Chain) -> Mask:
        """Rows of which some limit says another thing than before. All others go the way they went."""
        affected = np.zeros(len(self._table), bool)
        for step in chain.judged():
            old, new = ({limit.key: limit for limit in limits} for limits in (step.before, step.after))
            for key in {*old, *new}:
                said = np.zeros(len(self._table), bool)
                if old.get(key) != new.get(key):
                    for each in (old, new):
                        if key in each:
                            said ^= self._test(test_of(each[key]))
                    affected |= said
        return affected

    def _test(self, test: Test) -> Mask:
        """Rows whose score lies outside. A score that was not computed does not; NaN does."""
        if test not in self._violated:
            score, op, value = test
            inside = (pc.greater_equal if op == ">=" else pc.less_equal)(self.column(f"scores.{score}"), value)
            self._violated[test] = ~_mask(pc.fill_null(inside, True))
        return self._violated[test]

    def _decide_groups(self, chain: Chain, rows: Codes) -> None:
        tests = chain.tests()
        group, first = self._groups(tests, rows)
        code, doubtful = np.full(len(first), -1, np.int64), []
        for number, row in enumerate(rows[first].tolist()):
            try:
                code[number] = self._number(row, decide(chain, self._state(row), self._verdicts(tests, row)))
            except OwnReasonsNeeded:
                doubtful.append(number)
        self.outcome[rows] = code[group]
        if doubtful:
            self._ask_parts(chain, tests, rows[np.isin(group, doubtful)])

    def _groups(self, tests: Sequence[Test], rows: Codes) -> tuple[Codes, Codes]:
        """([M] the group of each row, [G] the position in `rows` of each group's first) by state and verdicts."""
        reasons = pc.binary_join(self.column("reasons").take(pa.array(rows)), "\t").dictionary_encode()
        parts = [(reasons.indices.to_numpy().astype(np.int64), len(reasons.dictionary))]
        for name in ("stage", "stopped_at"):
            column = self.column(name)
            parts.append((pc.fill_null(column.indices, len(column.dictionary)).to_numpy()[rows], len(column.dictionary) + 1))
        parts += [(self._test(test)[rows], 2) for test in tests]
        key, size = np.zeros(len(rows), np.int64), 1
        for codes, count in parts:
            if size * count >= 2**62:
                key, first = _compact(key)
                size = len(first)
            key, size = key * count + codes, size * count
        return _compact(key)

    def _ask_parts(self, chain: Chain, tests: Sequence[Test], rows: Codes) -> None:
        """Rows whose sampler may have refused them whatever the limits: the parts say, one by one."""
        known = own_reasons(self._output, chain.steps[0].name, self.column("sample_id").take(pa.array(rows)).to_pylist())
        for row, own in zip(rows.tolist(), known, strict=True):
            found = Outcome(UNKNOWN, needs=SAMPLER)
            if own is not None:
                found = decide(chain, self._state(row), self._verdicts(tests, row), own)
            self.outcome[row] = self._number(row, found)

    def _verdicts(self, tests: Sequence[Test], row: int) -> dict[Test, bool]:
        return {test: bool(self._test(test)[row]) for test in tests}

    def _state(self, row: int) -> State:
        reasons, stage, stopped_at = (self._table[name][row].as_py() for name in ("reasons", "stage", "stopped_at"))
        return State(tuple(reason for reason in reasons if reason not in OVERRULED), stage, stopped_at)

    def _number(self, row: int, outcome: Outcome) -> int:
        """The outcome's number, -1 where it is what the row has."""
        state = self._state(row)
        same = outcome.needs is None and (outcome.reasons, outcome.stopped_at) == (state.reasons, state.stopped_at)
        return -1 if same else self.add(outcome)

    def add(self, outcome: Outcome) -> int:
        if outcome not in self._numbers:
            self._numbers[outcome] = len(self.outcomes)
            self.outcomes.append(outcome)
        return self._numbers[outcome]

    def becomes(self, status: str) -> Mask:
        """Rows that change, and to this status."""
        wanted = np.array([*(each.status == status for each in self.outcomes), False])
        return np.asarray(wanted[self.outcome])  # -1 is the last one, False

    def _has_reason(self, reason: str) -> Mask:
        reasons = self.column("reasons")
        found = np.zeros(len(reasons), bool)
        found[pc.list_parent_indices(reasons).to_numpy()[_mask(pc.equal(pc.list_flatten(reasons), reason))]] = True
        return found

    def column(self, name: str) -> pa.Array:
        return self._table[name].chunk(0) if self._table[name].num_chunks else pa.array([], self._table[name].type)


def _mask(values: pa.Array) -> Mask:
    """Null counts as False."""
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), bool)


def _compact(key: Codes) -> tuple[Codes, Codes]:
    """([M] numbers from 0 for equal keys, [G] where each is first)."""
    encoded = pa.array(key).dictionary_encode()
    number = encoded.indices.to_numpy().astype(np.int64)
    first = np.empty(len(encoded.dictionary), np.int64)
    first[number[::-1]] = np.arange(len(key))[::-1]
    return number, first
