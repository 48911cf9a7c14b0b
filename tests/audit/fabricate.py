"""An output folder made without the engine: real tars, real Parquet, real media, numbers known in advance."""

import io
import json
import tarfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store import stable_hash
from schemas.candidate import sample_key
from schemas.manifest import SAMPLES, SHARDS, UNITS
from schemas.scores import SCORES
from schemas.verdict import Reason, status_of

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>.mp4'
LIMITS = {
    "clips": [
        {"stage": "quality", "key": "min_sharpness", "score": "sharpness", "op": ">=", "value": 60.0, "reason": "blurred"},
        {"stage": "header", "key": "min_duration_s", "score": "duration_s", "op": ">=", "value": 1.0, "reason": "too_short"},
        {"stage": "header", "key": "max_duration_s", "score": "duration_s", "op": "<=", "value": 9.0, "reason": "too_long"},
    ],
    "scenes": [],
    "groups": [{"stage": "view_groups", "key": "min_overlap", "score": "overlap", "op": ">=", "value": 0.55, "reason": "low_overlap"}],
}


def small_video(seed: int, frames: int = 9, width: int = 160, height: int = 90) -> bytes:
    """An mp4 of a drifting pattern, another for each seed."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(seed)
    picture = cv2.resize(rng.integers(0, 255, (9, 16, 3), np.uint8), (width * 2, height), interpolation=cv2.INTER_CUBIC)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            view = np.ascontiguousarray(picture[:, i * 4 : i * 4 + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def small_jpeg(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    picture = cv2.resize(rng.integers(0, 255, (9, 16, 3), np.uint8), (160, 90), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", picture)[1].tobytes()


@dataclass
class Fabricated:
    """The folder, the input folder of `clips`, and the rows as they were meant."""

    path: Path
    footage: Path
    rows: list[dict[str, Any]]

    def of(self, source: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["source"] == source]


@dataclass
class _Maker:
    rows: list[dict[str, Any]] = field(default_factory=list)
    members: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)

    def add(self, source: str, candidate: str, kind: str, *, reasons: tuple[str, ...] = (), **columns: Any) -> dict[str, Any]:
        suffix = columns.pop("suffix", None)
        members = columns.pop("members", None)
        scores = columns.pop("scores", {})
        row = dict.fromkeys(SAMPLES.names)
        row |= {
            "sample_id": sample_key(source, candidate, *([suffix] if suffix else [])),
            "source": source,
            "candidate_id": candidate,
            "kind": kind,
            "is_source": suffix is None,
            "is_sample": True,
            "n_children": 0,
            "status": str(status_of([Reason(reason) for reason in reasons])),
            "reasons": list(reasons),
            "attempts": 1,
            "has_text": False,
            "media": [],
            "view_ids": ["view00"],
            "step_keys": [("header", "0" * 32)],
            "scores": {name: scores.get(name) for name in SCORES},
            "unit": f"u-{source}",
        }
        row |= columns
        self.rows.append(row)
        if members is not None:
            self.members[row["sample_id"]] = sorted([*members, ("meta.json", json.dumps({"sample_id": row["sample_id"]}).encode())])
        return row


def make_output(folder: Path, clips: int = 24) -> Fabricated:
    """DIR = folder/out and the footage of `clips` in folder/footage. Three sources: clips, scenes (multi-view), groups."""
    output, footage = folder / "out", folder / "footage"
    footage.mkdir(parents=True)
    maker = _Maker()
    _clips(maker, footage, clips)
    _scenes(maker)
    _groups(maker)
    shards = _write_shards(output, maker)
    _write_tables(output, maker, shards)
    _write_run(output, maker, footage)
    return Fabricated(output, footage, maker.rows)


def _clips(maker: _Maker, footage: Path, count: int) -> None:
    """Sharpness 20, 30, 40 ...: those below 60 are blurred; one too short, one broken, one with a hostile name."""
    for i in range(count):
        name, video = f"walk {i:03d}.mp4", small_video(i)
        (footage / name).write_bytes(video)
        sharpness, duration = 20.0 + 10.0 * i, 0.5 if i == 7 else 2.0 + 0.25 * i
        reasons = [reason for reason, bad in (("blurred", sharpness < 60), ("too_short", duration < 1.0)) if bad]
        members = None if reasons else [("view00.mp4", video), *([("caption.txt", b"a walk")] if i % 2 else [])]
        maker.add(
            "clips",
            name,
            "video",
            reasons=tuple(reasons),
            media=[name],
            has_text=bool(i % 2),
            width=160,
            height=90,
            n_frames=9,
            fps=10.0,
            scores={"sharpness": sharpness, "duration_s": duration, "fps": 10.0, "width": 160.0},
            members=members,
            license="CC0",
        )
    (footage / "broken.mp4").write_bytes(small_video(1)[:400])
    maker.add(
        "clips", "broken.mp4", "video", reasons=("E_TRUNCATED",), media=["broken.mp4"], error_message="ends at byte 400", stage="ingest"
    )
    maker.add("clips", HOSTILE, "video", reasons=("E_OPEN",), media=[HOSTILE], error_message=f"no media: {HOSTILE}", stage="ingest")


def _scenes(maker: _Maker) -> None:
    """Three scenes of six views; all pairs at known angles; no input folder is left of them."""
    for scene in range(3):
        views = [f"cam{i:02d}" for i in range(6)]
        pairs = [
            {"a": a, "b": b, "axis_deg": {"min": 0.0, "median": 20.0 * (j - i), "max": 100.0}, "overlap": 0.5}
            for i, a in enumerate(views)
            for j, b in enumerate(views)
            if i < j
        ]
        members = [(f"view{i:02d}.mp4", small_video(100 + scene * 10 + i)) for i in range(6)]
        maker.add(
            "scenes",
            f"scene{scene}",
            "multiview",
            view_ids=views,
            media=[f"scene{scene}/{view}.mp4" for view in views],
            pairs=pairs,
            angle_bins=["0-60", "30-90", "60-120"],
            notes=[("angle", "axis")],
            scores={"n_views": 6.0, "angle_deg": 100.0},
            members=members,
            width=160,
            height=90,
            n_frames=9,
            fps=10.0,
        )
    maker.add("scenes", "scene3", "multiview", reasons=("camera_only",), view_ids=["cam00"], is_sample=True)


def _groups(maker: _Maker) -> None:
    """One posed video with eight groups of four frames; overlap 0.30, 0.36 ... : those below 0.55 are refused."""
    parent = maker.add("groups", "train/abc", "posed_video", is_sample=False, n_children=9, media=["train/abc.mp4"], split="train")
    for i in range(8):
        overlap = 0.30 + 0.06 * i
        reasons = ("low_overlap",) if overlap < 0.55 else ()
        frames = [[10 * i], [10 * i + 20], [10 * i + 40], [10 * i + 60]]
        maker.add(
            "groups",
            "train/abc",
            "view_group",
            suffix=f"g{i:04d}",
            parent_id=parent["sample_id"],
            reasons=reasons,
            view_ids=[f"frame{each[0]}" for each in frames],
            frame_index=frames,
            pts_ns=[[each[0] * 100_000_000] for each in frames],
            media=["train/abc.mp4"],
            angle_bins=["0-60"],
            split="train",
            scores={"overlap": overlap, "angle_deg": 5.0 * i},
            members=None if reasons else [(f"view{k:02d}.jpg", small_jpeg(i * 4 + k)) for k in range(4)],
        )
    maker.add(
        "groups",
        "train/abc",
        "view_group",
        suffix="g0008",
        parent_id=parent["sample_id"],
        reasons=("no_such_angle",),
        view_ids=[],
        split="train",
    )


def _write_shards(output: Path, maker: _Maker) -> list[dict[str, Any]]:
    by_source: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in maker.rows:
        if row["sample_id"] in maker.members:
            by_source[row["source"]].append(row)
    (output / "shards").mkdir(parents=True)
    shards = []
    for source, rows in by_source.items():
        for number, start in enumerate(range(0, len(rows), 8)):
            shards.append(_write_shard(output, f"{source}-train-{number:06d}-0123abcd.tar", rows[start : start + 8], maker))
    return shards


def _write_shard(output: Path, name: str, rows: list[dict[str, Any]], maker: _Maker) -> dict[str, Any]:
    path, members = output / "shards" / name, []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for row in rows:
            for member, data in maker.members[row["sample_id"]]:
                entry = tarfile.TarInfo(f"{row['sample_id']}.{member}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    with tarfile.open(path) as archive:
        for entry in archive:
            key, _, member = entry.name.partition(".")
            digest = sha256(archive.extractfile(entry).read()).hexdigest()
            members.append({"sample_id": key, "name": member, "offset": entry.offset_data, "size": entry.size, "sha256": digest})
    for row in rows:
        own = sorted((each["name"], each["sha256"]) for each in members if each["sample_id"] == row["sample_id"])
        row["shard"] = name
        row["content_sha256"] = sha256("".join(f"{member}\0{digest}\n" for member, digest in own).encode()).hexdigest()
    data = path.read_bytes()
    return {
        "shard": name,
        "source": rows[0]["source"],
        "split": rows[0]["split"],
        "bytes": len(data),
        "sha256": sha256(data).hexdigest(),
        "n_samples": len(rows),
        "members": members,
    }


def _write_tables(output: Path, maker: _Maker, shards: list[dict[str, Any]]) -> None:
    counts = Counter(row["unit"] for row in maker.rows)
    units = [
        dict.fromkeys(UNITS.names, 0) | {"unit": unit, "source": unit[2:], "unit_key": "k", "host": "h", "n_rows": rows, "seconds": []}
        for unit, rows in counts.items()
    ]
    write_table(output, "samples", maker.rows)
    write_table(output, "shards", shards)
    write_table(output, "units", units)


def write_table(output: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Replace a table by these rows, in one part."""
    schema = {"samples": SAMPLES, "shards": SHARDS, "units": UNITS}[name]
    folder = output / "manifest" / name
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.iterdir():
        part.unlink()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "part-00000.parquet")


def read_table(output: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(output / "manifest" / name / "part-00000.parquet").to_pylist()


def _write_run(output: Path, maker: _Maker, footage: Path) -> None:
    errors = sum(row["status"] == "error" and row["is_source"] for row in maker.rows)
    candidates = sum(row["is_source"] for row in maker.rows)
    run = {
        "parallax_version": "0.1.0",
        "state": "done",
        "seed": 0,
        "code_version": "git:0123",
        "lock_sha256": "cd" * 32,
        "recipe": {
            "name": "fabricated",
            "description": "Three sources made by the tests",
            "sources": {
                "clips": {"ingest": "clips", "license": "CC0", "stages": []},
                "scenes": {"ingest": "syncamvideo", "stages": []},
                "groups": {"ingest": "realestate10k", "stages": []},
            },
        },
        "inputs": {"clips": str(footage), "scenes": str(footage / "gone"), "groups": str(footage / "gone")},
        "limits": LIMITS,
        "error_budget": {"limit": 0.05, "errors": errors, "judged": candidates, "exceeded": errors > 0.05 * candidates},
    }
    run["recipe_sha256"] = stable_hash(run["recipe"])
    (output / "run.json").write_text(json.dumps(run))
