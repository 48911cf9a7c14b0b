"""The folder that is read: its rows, found one by one, and how its shards become units of work."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.loader.manifest import CatalogError, Manifest
from schemas.manifest import SAMPLES

if TYPE_CHECKING:
    from pipeline.loader.catalog import Catalog


@dataclass(frozen=True)
class ShardWork:
    """One input shard, or what was chosen of it: one unit, one output shard.

    samples: positions in the catalog, in the order of the shard. parents: ids of source rows that this unit carries along, each
    with the first of its children.
    """

    unit: str
    shard: str
    samples: tuple[int, ...]
    parents: tuple[str, ...]


class Rows:
    """Rows of the chosen samples and of the sources they came from; one file of the manifest is in memory at a time."""

    def __init__(self, location: str, catalog: "Catalog") -> None:
        import fsspec

        manifest = Manifest(location)
        self._fs = fsspec.core.url_to_fs(location)[0]
        self._parts = manifest.parts("samples")
        self._at: dict[str, tuple[int, int]] = {}
        self._loaded: tuple[int, pa.Table] = (-1, SAMPLES.empty_table())
        parents: dict[str, str | None] = {}
        ids = pa.array([catalog.sample_id(i) for i in range(len(catalog))], pa.string())
        for part in range(len(self._parts)):
            table = self._read(part, ["sample_id", "parent_id"])
            for row, (key, parent) in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
                self._at[key], parents[key] = (part, row), parent
        self.parents = {key: parent for key in ids.to_pylist() if (parent := parents[key]) is not None}
        wanted = {*ids.to_pylist(), *self.parents.values()}
        self._at = {key: at for key, at in self._at.items() if key in wanted}

    def of(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The rows by id. Ids of one shard lie in few files, next to each other."""
        found: dict[str, dict[str, Any]] = {}
        for part in sorted({self._at[key][0] for key in ids}):
            keys = [key for key in ids if self._at[key][0] == part]
            if self._loaded[0] != part:
                self._loaded = part, self._read(part, SAMPLES.names)
            rows = self._loaded[1].take(pa.array([self._at[key][1] for key in keys])).to_pylist()
            found |= dict(zip(keys, rows, strict=True))
        return found

    def _read(self, part: int, columns: Sequence[str]) -> pa.Table:
        try:
            with self._fs.open(self._parts[part], "rb") as stream:
                return pq.read_table(stream, columns=list(columns))
        except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError) as error:
            raise CatalogError(f"{self._parts[part]}: cannot be read ({error})") from None


def works(catalog: "Catalog", rows: Rows, limit: int | None) -> list[ShardWork]:
    """The chosen samples by shard, in the catalog's order; `limit` takes the first so many."""
    by_shard: dict[str, list[int]] = {}
    for i in range(len(catalog) if limit is None else min(limit, len(catalog))):
        shard = next(iter(catalog.members(i).values())).shard
        by_shard.setdefault(shard, []).append(i)
    chosen = {catalog.sample_id(i) for samples in by_shard.values() for i in samples}
    carried: set[str] = set(chosen)
    made = []
    for number, (shard, samples) in enumerate(by_shard.items()):
        parents = [rows.parents[key] for i in samples if (key := catalog.sample_id(i)) in rows.parents]
        new = tuple(key for key in dict.fromkeys(parents) if key not in carried)
        carried.update(new)
        made.append(ShardWork(f"u{number:06d}", shard, tuple(samples), new))
    return made


def children_of(catalog: "Catalog", rows: Rows, chosen: Sequence[ShardWork]) -> Mapping[str, int]:
    """How many of the chosen samples name each source as their parent."""
    keys = (catalog.sample_id(i) for work in chosen for i in work.samples)
    return Counter(rows.parents[key] for key in keys if key in rows.parents)
