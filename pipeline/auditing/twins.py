"""Twins when limits are others: what is kept decides which sample is whose twin, so the run's own search is done again.

Fingerprints lie in DIR/parts, not in the manifest. Where one is missing, or where a sample that is unknown might be a twin or have one,
nothing is said of the samples that the stages keep: they are unknown too.
"""

from collections.abc import Mapping
from itertools import groupby

import numpy as np
import pyarrow as pa

from pipeline.auditing.decided_rows import DecidedRows
from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.redecide import TWINS, UNKNOWN, Outcome
from pipeline.binding import Source
from pipeline.duplicates import Printed
from pipeline.parts import open_part, part_path
from pipeline.tables import Harvest
from schemas.verdict import Status


def settle(output: OutputFolder, rows: DecidedRows, sources: Mapping[str, Source]) -> None:
    """Decide again which samples of these sources, all that look for twins, the run as a whole turns away, ranking included."""
    mine = np.logical_or.reduce([rows.of_source(name) for name in sources])
    known = np.flatnonzero(mine & rows.kept_by_stages())
    ids = rows.column("sample_id").take(pa.array(known)).to_pylist()
    names = rows.column("source").take(pa.array(known)).to_pylist()
    printed = _fingerprints(output)
    ranked = [name for name, source in sources.items() if source.spec.best_by is not None]
    # run.json does not hold the order of sources, which decides between the best of two of them.
    if len(ranked) > 1 or (mine & rows.becomes(UNKNOWN)).any() or any(each not in printed for each in ids):
        rows.outcome[known] = rows.add(Outcome(UNKNOWN, needs=TWINS))
        return
    ranks = {name: rows.ranks(sources[name].spec.best_by or "")[0] for name in ranked}
    harvest = Harvest(sources)
    for name, group in groupby(zip(known.tolist(), ids, names, strict=True), key=lambda each: each[2]):
        mine_of = [(sample_id, float(ranks[name][row]) if name in ranks else 0.0, printed[sample_id]) for row, sample_id, _ in group]
        harvest.offer(name, mine_of)
    overruled = harvest.settle()
    for row, sample_id in zip(known.tolist(), ids, strict=True):
        why = overruled.get(sample_id)
        rows.settle(row, Outcome(str(Status.KEPT)) if why is None else Outcome(str(Status.REJECTED), (str(why.reason),)))


def _fingerprints(output: OutputFolder) -> dict[str, Printed]:
    """Of every sample that DIR/parts has one of."""
    found: dict[str, Printed] = {}
    for unit in output.table("units", ["unit", "unit_key"]).to_pylist():
        try:
            part = open_part(part_path(output.path, unit["unit"], unit["unit_key"]))
            rows = part.read(columns=["sample_id", "parent_id", "fingerprint"]).to_pylist()
        except (OSError, pa.ArrowException):
            continue
        found |= {row["sample_id"]: Printed.of(row) for row in rows if row.get("fingerprint") is not None}
    return found
