"""One input shard to one output shard: its samples encoded in their order, then its rows, which say that it is done."""

import json
import os
import re
import resource
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.encoding.sample import Encoder, Packing, Reading, ahead, taken
from pipeline.encoding.settings import Encoding
from pipeline.encoding.source import Rows, ShardWork
from pipeline.exhausted import is_out_of_memory
from pipeline.payload import Bytes, content_digest
from pipeline.rows import plain_text
from pipeline.store import atomic_file, stable_hash, sync_folder, write_table
from pipeline.tar import TarWriter
from schemas.manifest import SAMPLES
from schemas.verdict import CandidateError, Reason, status_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pipeline.loader.catalog import Catalog
    from pipeline.loader.fetch import Store
    from pipeline.loader.sample import Sample

STAGE = "encode_latents"
_AHEAD = 2  # views decoded beforehand
_PACK_HASH = re.compile(r"-[0-9a-f]{8}$")


@dataclass(frozen=True)
class Folder:
    """The two folders of a run and what all shards share. children: of each source row, how many of its samples were chosen."""

    catalog: "Catalog"
    rows: Rows
    children: Mapping[str, int]
    encoding: Encoding
    output: Path
    _keys: dict[str, str] = field(default_factory=dict)

    def part(self, work: ShardWork) -> Path:
        return self.output / "parts" / f"{work.unit}-{self.key(work)[:16]}.parquet"

    def key(self, work: ShardWork) -> str:
        """Of everything that the shard's bytes depend on."""
        if work.unit not in self._keys:
            rows = self.rows.of([self.catalog.sample_id(i) for i in work.samples])
            content = [[key, row["content_sha256"]] for key, row in rows.items()]
            children = [[key, self.children.get(key, 0)] for key in (*work.parents, *rows)]
            self._keys[work.unit] = stable_hash([self.encoding.key, work.unit, work.shard, content, children])
        return self._keys[work.unit]

    def record(self, work: ShardWork) -> dict[str, Any] | None:
        """What a finished shard said of itself; None if it still has to be encoded."""
        path = self.part(work)
        if not path.is_file():
            return None
        record: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"parallax.encoded"])
        shard = record["shard"]
        return record if shard is None or (self.output / "shards" / shard["shard"]).is_file() else None


@dataclass(frozen=True)
class Failure:
    """Why a sample is not in the new shard."""

    reason: Reason
    message: str


def too_short(catalog: "Catalog", i: int, encoding: Encoding) -> Failure | None:
    """Every video is encoded at one length; what is shorter is left out. View groups have one frame."""
    frames = catalog.n_frames(i)
    if catalog.kind(i) == "multiview_images" or (frames is not None and frames >= encoding.span):
        return None
    return Failure(Reason.TOO_SHORT, f"{frames} frames; {encoding.frames}, every {encoding.frame_stride}., reach over {encoding.span}")


def encode_shard(
    folder: Folder, work: ShardWork, encoder: Encoder, store: "Store", sample_done: Callable[[Failure | None, str], None]
) -> dict[str, Any]:
    """Write the shard and its part; returns the record. A sample that cannot be encoded becomes a row with its reason.

    Raises StorageError, OSError when the output cannot be written, and what `is_out_of_memory` knows: those are no sample's fault.
    """
    started = time.time_ns()
    members: list[dict[str, Any]] = []
    failures: dict[str, Failure] = {}
    waiting = folder.part(work).with_suffix(".tar")
    with atomic_file(waiting) as file:
        tar = TarWriter(file)
        for sample_id, found in _samples(folder, work, encoder, store):
            if isinstance(found, Failure):
                failures[sample_id] = found
            for member in found if isinstance(found, list) else ():
                offset, digest = tar.add(f"{sample_id}.{member.name}", len(member.data), [member.data])
                where = {"offset": offset, "size": len(member.data), "sha256": digest}
                members.append({"sample_id": sample_id, "name": member.name, **where})
            sample_done(failures.get(sample_id), sample_id)
        digest = tar.finish()
    shard = _publish(folder, work, waiting, tar.size, digest, members)
    rows = _rows(folder, work, shard, failures)
    record = {"shard": shard, "unit": _unit(folder, work, len(rows), started)}
    schema = SAMPLES.with_metadata({"parallax.encoded": json.dumps(record, sort_keys=True)})
    write_table(folder.part(work), pa.Table.from_pylist(rows, schema=schema))
    return record


def _samples(folder: Folder, work: ShardWork, encoder: Encoder, store: "Store") -> Iterator[tuple[str, list[Bytes] | Failure]]:
    """Every sample of the shard with its members, or why it has none."""
    from pipeline.loader.fetch import ReadError

    catalog, encoding = folder.catalog, folder.encoding
    short = {i: failure for i in work.samples if (failure := too_short(catalog, i, encoding)) is not None}
    begun: deque[Reading] = deque()  # at most a few: a sample's bytes go with it

    def calls() -> "Iterator[Callable[[], Sample]]":
        for i in work.samples:
            if i not in short:
                begun.append(reading := Reading(catalog, store, i, encoding))
                yield from (partial(reading.view, view) for view in range(len(reading.view_ids)))

    with closing(ahead(calls(), _AHEAD)) as views:
        for i in work.samples:
            if i in short:
                yield catalog.sample_id(i), short[i]
                continue
            decoded = islice(views, len(catalog.view_ids(i)))
            found: list[Bytes] | Failure
            try:
                found = _encode(begun, decoded, encoder, encoding)
            except (ReadError, CandidateError, ValueError) as error:
                found = _failure(error)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                height, width = encoding.size
                raise MemoryError(f"{catalog.sample_id(i)}: {encoding.frames} frames of {height}x{width} do not fit: {error}") from error
            for rest in decoded:
                rest.cancel()
            begun.popleft()
            yield catalog.sample_id(i), found


def _encode(begun: "deque[Reading]", decoded: "Iterator[Future[Sample]]", encoder: Encoder, encoding: Encoding) -> list[Bytes]:
    """The members of the sample that was begun first, from its views as they come in."""
    packing, caption = Packing(encoding), ""
    for future in decoded:
        sample = future.result()
        assert sample.video is not None, "pictures were asked for"
        packing.add(sample, encoder.latents(sample.video[0]))
        caption = sample.caption
    return packing.members(begun[0], encoder.text(caption))


def _failure(error: Exception) -> Failure:
    from pipeline.loader.fetch import ReadError

    if isinstance(error, CandidateError):
        return Failure(error.reason, error.message)
    if isinstance(error, ReadError):
        return Failure(Reason.E_CAMERA if ".cameras.npz" in str(error) else Reason.E_TRUNCATED, str(error))
    return Failure(Reason.E_STAGE, f"{type(error).__name__}: {error}")


def _publish(
    folder: Folder, work: ShardWork, waiting: Path, size: int, digest: str, members: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Move the tar to its place; its name holds its hash, so no shard is ever replaced by another of its name. The row, if any."""
    if not members:
        waiting.unlink()
        return None
    row = folder.rows.of([members[0]["sample_id"]])[members[0]["sample_id"]]
    stem = _PACK_HASH.sub("", work.shard.removesuffix(".tar").replace("/", "-"))
    name = f"{stem}-{digest[:8]}.tar"
    (folder.output / "shards").mkdir(exist_ok=True)
    os.replace(waiting, folder.output / "shards" / name)
    sync_folder(folder.output / "shards")
    return {
        "shard": name,
        "source": row["source"],
        "split": row["split"],
        "bytes": size,
        "sha256": digest,
        "n_samples": len({member["sample_id"] for member in members}),
        "members": members,
    }


def _rows(folder: Folder, work: ShardWork, shard: Mapping[str, Any] | None, failures: Mapping[str, Failure]) -> list[dict[str, Any]]:
    """The input's rows as they were, but for what encoding changed; before each source's first sample the source's own row."""
    catalog, encoding = folder.catalog, folder.encoding
    contents: dict[str, list[tuple[str, str]]] = {}
    for member in shard["members"] if shard else ():
        contents.setdefault(member["sample_id"], []).append((member["name"], member["sha256"]))
    found = folder.rows.of([*work.parents, *(catalog.sample_id(i) for i in work.samples)])
    for parent in work.parents:
        found[parent] |= {"is_sample": False, "shard": None, "content_sha256": None}
    for i in work.samples:
        row = found[catalog.sample_id(i)]
        failure = failures.get(row["sample_id"])
        digest = content_digest(contents[row["sample_id"]]) if failure is None else None
        row |= {"shard": shard["shard"] if shard and failure is None else None, "content_sha256": digest}
        row["step_keys"] = sorted([*(row["step_keys"] or []), (STAGE, encoding.key[:32])])
        row |= _encoded(row, catalog, i, encoding) if failure is None else _failed(row, failure)
    for row in found.values():
        row |= {"unit": work.unit, "n_children": folder.children.get(row["sample_id"], 0)}
    return list(found.values())


def _encoded(row: Mapping[str, Any], catalog: "Catalog", i: int, encoding: Encoding) -> dict[str, Any]:
    """Columns that say which frames, at which size, lie in the shard now."""
    positions = encoding.positions(1 if catalog.kind(i) == "multiview_images" else encoding.frames)
    views = len(row["view_ids"])
    frames, pts = row["frame_index"], row["pts_ns"]
    return {
        "frame_index": [taken(each, positions) for each in frames] if frames else [positions] * views,
        "pts_ns": [taken(each, positions) for each in pts] if pts else None,
        "height": encoding.size[0],
        "width": encoding.size[1],
        "n_frames": len(positions),
        "fps": None if row["fps"] is None else row["fps"] / encoding.frame_stride,
    }


def _failed(row: Mapping[str, Any], failure: Failure) -> dict[str, Any]:
    return {
        "status": str(status_of([failure.reason])),
        "reasons": [str(failure.reason)],
        "error_message": plain_text(failure.message)[:500],
        "stage": STAGE,
    }


def _unit(folder: Folder, work: ShardWork, rows: int, started: int) -> dict[str, Any]:
    ended = time.time_ns()
    row = folder.rows.of([folder.catalog.sample_id(work.samples[0])])
    return {
        "unit": work.unit,
        "source": next(iter(row.values()))["source"],
        "unit_key": folder.key(work),
        "n_candidates": len(work.samples),
        "n_rows": rows,
        "host": socket.gethostname(),
        "started_ns": started,
        "ended_ns": ended,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "seconds": {STAGE: (ended - started) / 1e9},
        "steps_computed": len(work.samples),
        "steps_reused": 0,
    }
