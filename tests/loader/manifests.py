"""Manifests without footage: what the loader decides from the tables alone, with angles known in advance."""

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.manifest import SAMPLES, SHARDS
from schemas.scores import SCORES


@dataclass
class Made:
    """One row. angles: degrees between views (i, j); others are unknown. other: any further column."""

    id: str
    views: int = 1
    frames: int | None = 60
    text: bool = True
    split: str | None = None
    shard: int | None = 0
    angles: dict[tuple[int, int], float] = field(default_factory=dict)
    kind_of_angle: str = "parallax"
    other: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [f"cam{i:02d}" for i in range(self.views)]


def circle(id: str, azimuths: list[float], **columns: Any) -> Made:
    """Cameras on a level circle: the angle between two is the difference of their azimuths."""
    pairs = {(i, j): abs((azimuths[j] - azimuths[i] + 180) % 360 - 180) for i in range(len(azimuths)) for j in range(i + 1, len(azimuths))}
    return Made(id, views=len(azimuths), angles=pairs, **columns)


def mixed(videos: int = 40, images: int = 30, clips: int = 20) -> list[Made]:
    """Every kind, in four shards; each video has ten cameras at random azimuths, so that it can serve every phase."""
    rng = np.random.default_rng(7)
    made = [circle(f"scene{i:03d}", rng.uniform(0, 180, 10).tolist(), shard=i // 25) for i in range(videos)]
    made += [circle(f"group{i:03d}", [0, 10, 20, 30], frames=1, shard=2) for i in range(images)]
    return made + [Made(f"clip{i:03d}", shard=3) for i in range(clips)]


def write_manifest(folder: Path, samples: list[Made], parts: int = 1) -> Path:
    """The `samples` and `shards` tables; rows in the order given, members of a shard too."""
    rows = [_row(each) for each in samples]
    shards = [_shard(number, samples) for number in sorted({each.shard for each in samples if each.shard is not None})]
    for name, schema, table in (("samples", SAMPLES, rows), ("shards", SHARDS, shards)):
        (folder / "manifest" / name).mkdir(parents=True)
        for part in range(parts):
            piece = pa.Table.from_pylist(table[part::parts], schema=schema)
            pq.write_table(piece, folder / "manifest" / name / f"part-{part:05d}.parquet")
    return folder


def _row(made: Made) -> dict[str, Any]:
    def spread(value: float) -> dict[str, float]:
        return {"min": 0.0, "median": value / 2, "max": value}

    names = made.names
    row = dict.fromkeys(SAMPLES.names) | {
        "sample_id": made.id,
        "source": "made",
        "candidate_id": made.id,
        "kind": "multiview",
        "is_source": True,
        "is_sample": True,
        "n_children": 0,
        "status": "kept",
        "reasons": [],
        "attempts": 1,
        "split": made.split,
        "has_text": made.text,
        "media": [],
        "view_ids": names,
        "n_frames": made.frames,
        "pairs": [{"a": names[a], "b": names[b], f"{made.kind_of_angle}_deg": spread(angle)} for (a, b), angle in made.angles.items()],
        "scores": dict.fromkeys(SCORES),
        "shard": None if made.shard is None else _name(made.shard),
        "content_sha256": sha256(made.id.encode()).hexdigest(),
        "unit": "u000000",
    }
    return row | made.other


def _name(shard: int) -> str:
    return f"made-all-{shard:06d}-01234567.tar"


def _shard(number: int, samples: list[Made]) -> dict[str, Any]:
    members, offset = [], 512
    own = [each for each in samples if each.shard == number]
    for each in own:
        suffix = "jpg" if each.frames == 1 else "mp4"
        for name in sorted(["meta.json", *(f"view{i:02d}.{suffix}" for i in range(each.views))]):
            members.append({"sample_id": each.id, "name": name, "offset": offset, "size": 100, "sha256": "0" * 64})
            offset += 1024
    plain = {"source": "made", "split": None, "bytes": offset, "sha256": "0" * 64, "n_samples": len(own)}
    return {"shard": _name(number), "members": members, **plain}
