"""An encoding run: what is done is listed and subtracted, the rest is done shard by shard, the manifest comes last."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.encoding.sample import Encoder, npz
from pipeline.encoding.settings import NULL_TEXT
from pipeline.encoding.shard import STAGE, Failure, Folder, encode_shard
from pipeline.encoding.source import ShardWork
from pipeline.progress import Progress
from pipeline.provenance import code_version, version
from pipeline.store import remove, sweep, write_bytes, write_json, write_table
from schemas.manifest import SAMPLES, SHARDS, UNITS
from schemas.typed import to_plain
from schemas.verdict import Reason, Status

if TYPE_CHECKING:
    from pipeline.bases.base import Base

_UNITS_PER_FILE = 64
_OURS = re.compile(r"u\d{6,}-[0-9a-f]{16}\.(parquet|tar)|.*-[0-9a-f]{8}\.tar|\.tmp-.*")


@dataclass
class Result:
    """Counts over the finished folder. failures: by sample id."""

    samples: int = 0
    shards: int = 0
    bytes: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)


def pending(folder: Folder, works: Sequence[ShardWork], retry_errors: bool) -> list[ShardWork]:
    """Shards that are not there yet, and with retry_errors those that miss a sample by an error."""
    left = []
    for work in works:
        record = folder.record(work)
        if record is None or (retry_errors and Status.ERROR in pq.read_table(folder.part(work), columns=["status"])["status"].to_pylist()):
            left.append(work)
    return left


def run(
    folder: Folder,
    works: Sequence[ShardWork],
    left: Sequence[ShardWork],
    base: "Base",
    about: Mapping[str, Any],
    source_run: Mapping[str, Any],
    progress: Progress,
) -> Result:
    """Encode what is left and publish the folder. about: where the samples came from, for run.json.

    Raises StorageError, OSError or MemoryError; finished shards stay, and the same call goes on after them.
    """
    from pipeline.loader.fetch import Store

    encoder, store = Encoder(base), Store(folder.catalog.location)
    folder.output.mkdir(parents=True, exist_ok=True)
    _write_run(folder, "running", about, source_run, None)
    write_bytes(folder.output / NULL_TEXT, npz(text=encoder.text("")))
    progress.start_units(sum(len(work.samples) for work in left), sum(len(work.samples) for work in works))
    try:
        for work in left:
            encode_shard(folder, work, encoder, store, _reporter(progress))
    finally:
        store.close()
        progress.finish()
    result = _write_tables(folder, works)
    _write_run(folder, "done", about, source_run, result)
    return result


def _reporter(progress: Progress) -> Callable[[Failure | None, str], None]:
    def sample_done(failure: Failure | None, sample_id: str) -> None:
        if failure is not None:
            progress.note(f"warning: {sample_id} is left out: {failure.reason}: {failure.message}")
        status = "kept" if failure is None else "error" if failure.reason.startswith("E_") else "rejected"
        progress.unit_done({status: 1}, 1)

    return sample_done


def _write_tables(folder: Folder, works: Sequence[ShardWork]) -> Result:
    result, manifest = Result(), folder.output / "manifest"
    kept: defaultdict[str, set[str]] = defaultdict(set)
    for number, start in enumerate(range(0, len(works), _UNITS_PER_FILE)):
        some = works[start : start + _UNITS_PER_FILE]
        records = [record for work in some if (record := folder.record(work)) is not None]
        shards = [record["shard"] for record in records if record["shard"] is not None]
        units = [{**record["unit"], "seconds": list(record["unit"]["seconds"].items())} for record in records]
        rows = pa.concat_tables([pq.read_table(folder.part(work)) for work in some]).cast(SAMPLES)
        _count(result, rows, shards)
        name = f"part-{number:05d}.parquet"
        write_table(manifest / "shards" / name, pa.Table.from_pylist(shards, schema=SHARDS))
        write_table(manifest / "samples" / name, rows.replace_schema_metadata(SAMPLES.metadata))
        write_table(manifest / "units" / name, pa.Table.from_pylist(units, schema=UNITS))
        kept["shards"].update(shard["shard"] for shard in shards)
        kept["parts"].update(folder.part(work).name for work in some)
        for table in ("samples", "shards", "units"):
            kept[f"manifest/{table}"].add(name)
    _discard_outdated(folder.output, kept)
    return result


def _count(result: Result, rows: pa.Table, shards: Sequence[Mapping[str, Any]]) -> None:
    result.shards += len(shards)
    result.bytes += sum(shard["bytes"] for shard in shards)
    result.samples += sum(shard["n_samples"] for shard in shards)
    for row in rows.select(["sample_id", "stage", "reasons", "error_message"]).to_pylist():
        if row["stage"] == STAGE:
            result.failures[row["sample_id"]] = Failure(Reason(row["reasons"][0]), row["error_message"])


def _discard_outdated(output: Path, kept: Mapping[str, set[str]]) -> None:
    """What an earlier run with other settings left, now that the manifest no longer names it."""
    for name, keep in kept.items():
        folder = output / name
        sweep(folder)
        for path in folder.iterdir() if folder.is_dir() else ():
            ours = _OURS.fullmatch(path.name) or (name.startswith("manifest") and path.name.startswith("part-"))
            if ours and path.name not in keep and path.is_file() and not path.is_symlink():
                remove(path)
    sweep(output)


def _write_run(folder: Folder, state: str, about: Mapping[str, Any], source_run: Mapping[str, Any], result: Result | None) -> None:
    """run.json: the input's own, what it was made of and how, and how it came out. No clock, no host."""
    document = {name: value for name, value in source_run.items() if name not in ("counts", "reasons", "text", "error_budget", "shards")}
    document |= {
        "parallax_version": version(),
        "code_version": code_version(),
        "state": state,
        "failures": [],
        "encoding": to_plain(folder.encoding),
        "encoded_from": {**about, "digest": folder.catalog.digest, "code_version": source_run.get("code_version")},
    }
    if result is not None:
        document["shards"] = {"count": result.shards, "bytes": result.bytes}
        document["left_out"] = dict(sorted(Counter(str(failure.reason) for failure in result.failures.values()).items()))
    write_json(folder.output / "run.json", document)
