"""What the report shows of one source, column by column out of the manifest."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline.auditing.folder import OutputFolder
from schemas.scores import SCORES
from schemas.verdict import Status
from stages.stage import Limit

_COLUMNS = ["sample_id", "status", "reasons", "scores", "is_source", "is_sample", "has_text", "shard", "angle_bins"]
ANGLE_KINDS = {"parallax_deg": "parallax angle", "axis_deg": "angle between optical axes", "rotation_deg": "relative rotation"}


@dataclass(frozen=True, eq=False)
class SourceData:
    """One source's rows as arrays of the same length N, and the limits that the run applied to it."""

    name: str
    sample_ids: list[str]
    status: NDArray[np.str_]  # [N]
    judged: NDArray[np.bool_]  # [N] not a source that was only sampled from
    reasons: list[list[str]]
    scores: dict[str, NDArray[np.float64]]  # [N] each, NaN where not computed; only scores with data
    limits: tuple[Limit, ...]
    found: int  # candidates that ingest found
    packed: int  # samples in shards
    with_text: int  # of those
    angle_bins: Counter[str]  # of the packed samples
    pair_angles: NDArray[np.float64]  # [P] degrees, the median over frames of every pair of every kept row
    angle_kind: str  # which angle that is; "" without pairs

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.status == str(Status.KEPT)

    def status_counts(self) -> dict[str, int]:
        """Rows per status, of those judged."""
        return {str(status): int((self.judged & (self.status == str(status))).sum()) for status in Status}

    def reason_counts(self) -> dict[str, int]:
        """Rows per reason, most frequent first; a row with several counts under each."""
        counted = Counter(reason for reasons in self.reasons for reason in reasons)
        return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))

    def with_reason(self, reason: str) -> NDArray[np.int64]:
        """Positions of the rows that have this reason, in table order."""
        return np.array([i for i, reasons in enumerate(self.reasons) if reason in reasons], np.int64)


def load_source(output: OutputFolder, name: str) -> SourceData:
    """Everything the report shows of the source `name`. Raises OutputError when a table cannot be read."""
    table = output.table("samples", _COLUMNS, ds.field("source") == name)
    packed = table.filter(pc.is_valid(table["shard"]))
    status = np.array(table["status"].to_pylist(), dtype=np.str_)
    angles, kind = _pair_angles(output, name)
    return SourceData(
        name=name,
        sample_ids=table["sample_id"].to_pylist(),
        status=status,
        judged=np.array(table["is_sample"].to_pylist(), bool) | (status != str(Status.KEPT)),
        reasons=table["reasons"].to_pylist(),
        scores=_scores(table),
        limits=tuple(output.limits(name)),
        found=pc.sum(table["is_source"]).as_py() or 0,
        packed=packed.num_rows,
        with_text=pc.sum(packed["has_text"]).as_py() or 0,
        angle_bins=Counter(pc.list_flatten(packed["angle_bins"]).to_pylist()),
        pair_angles=angles,
        angle_kind=kind,
    )


def load_rows(output: OutputFolder, sample_ids: list[str]) -> dict[str, dict[str, Any]]:
    """Whole rows by sample_id, for the few samples that are shown."""
    rows = output.table("samples", where=ds.field("sample_id").isin(pa.array(sample_ids, pa.string()))).to_pylist()
    return {row["sample_id"]: row for row in rows}


def _scores(table: pa.Table) -> dict[str, NDArray[np.float64]]:
    found = {}
    for name in SCORES:
        column = pc.struct_field(table["scores"], name)
        if column.null_count < len(column):
            found[name] = column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def _pair_angles(output: OutputFolder, name: str) -> tuple[NDArray[np.float64], str]:
    """Parallax where a scene centre is known for the source, else the angle between the optical axes."""
    where = (ds.field("source") == name) & (ds.field("status") == str(Status.KEPT))
    pairs = pc.list_flatten(output.table("samples", ["pairs"], where)["pairs"])
    for kind, label in ANGLE_KINDS.items():
        medians = pc.struct_field(pairs, [kind, "median"]).drop_null()
        if len(medians):
            return np.asarray(medians.to_numpy(), np.float64), label
    return np.zeros(0), ""
