"""From what the stages found to a row of the manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.store import stable_hash
from schemas.candidate import Candidate
from schemas.frames import Scene
from schemas.manifest import SAMPLES
from schemas.scores import SCORES
from schemas.verdict import CandidateError, Reason, status_of
from stages.perception.weights import Weights
from stages.stage import Child, ItemKind

# Columns of a unit's part beside those of `samples`: what packing and reruns need. Dropped when tables are compacted.
PART = pa.schema(
    [
        *SAMPLES,
        pa.field("members", pa.string()),  # JSON list of pipeline.payload.Member, null where nothing is to be packed
        pa.field("payload_key", pa.string()),
        pa.field("features", pa.string()),  # JSON of step results, on source rows
        # What tells twins (pipeline.duplicates): a digest of the files, and hashes of frames; null where no stage takes it.
        pa.field("fingerprint", pa.struct([("content", pa.string()), ("views", pa.int32()), ("hashes", pa.list_(pa.uint64()))])),
    ]
)


@dataclass
class Row:
    """One candidate on its way to its row."""

    sample_id: str
    candidate: Candidate
    kind: ItemKind
    parent_id: str | None = None
    is_sample: bool = True
    n_children: int = 0
    scores: dict[str, float | None] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)
    error_message: str | None = None
    stage: str | None = None
    stopped_at: str | None = None
    attempts: int = 1
    step_keys: dict[str, str] = field(default_factory=dict)
    members: str | None = None
    payload_key: str | None = None
    features: str | None = None
    plain: dict[str, Any] | None = None  # of a child: what its sampler proposed
    arrays: dict[str, str] = field(default_factory=dict)  # stem -> npz in base64: what stages found, to be packed
    weights: dict[str, Weights] = field(default_factory=dict)  # that touched it, by name

    @property
    def child(self) -> Child | None:
        return None if self.plain is None else child_from_plain(self.plain)

    def identity(self) -> str:
        """Of what scorers look at: the scene as this ingest loads it, and for a child all that its sampler said of it.

        Its suffix is left out: a sampler that merely numbers its children anew costs no step.
        """
        plain = None if self.plain is None else {name: value for name, value in self.plain.items() if name != "suffix"}
        return stable_hash([self.step_keys["ingest"], plain])

    @property
    def clean(self) -> bool:
        return not self.reasons

    def reject(self, reasons: "list[Reason] | tuple[Reason, ...]") -> None:
        self.reasons += [reason for reason in reasons if reason not in self.reasons]

    def fail(self, error: CandidateError, stage: str) -> None:
        """Record an error or a skip. What was computed before stays; nothing after it runs."""
        self.reject([error.reason])
        self.error_message, self.stage = plain_text(error.message)[:500], stage

    def add(self, scores: Mapping[str, float | None], fields: Mapping[str, Any]) -> None:
        self.scores.update(scores)
        for name, value in fields.items():
            if name == "notes":
                value = {**self.fields.get("notes", {}), **value}
            self.fields[name] = value

    def touched_by(self, weights: Sequence[Weights]) -> None:
        self.weights.update({each.name: each for each in weights})

    def record(self, license: str | None, unit: str) -> dict[str, Any]:
        """The row as the part's schema wants it."""
        candidate, notes = self.candidate, self.fields.get("notes", {})
        return {
            "sample_id": self.sample_id,
            "parent_id": self.parent_id,
            "source": candidate.source,
            "candidate_id": candidate.candidate_id,
            "kind": self.kind,
            "is_source": self.parent_id is None,
            "is_sample": self.is_sample,
            "n_children": self.n_children,
            "status": str(status_of(self.reasons)),
            "reasons": [str(reason) for reason in self.reasons],
            "error_message": self.error_message,
            "stage": self.stage,
            "stopped_at": self.stopped_at,
            "attempts": self.attempts,
            "split": self.fields.get("split", candidate.split),
            "license": license,
            "has_text": bool(self.fields.get("caption")),
            "media": [file.path for view in candidate.views for file in view.media.files[:1]],
            "view_ids": self.fields.get("view_ids", [view.view_id for view in candidate.views]),
            **{name: self.fields.get(name) for name in _MEASURED},
            "scores": {name: self.scores.get(name) for name in SCORES},
            "notes": sorted((plain_text(name), plain_text(text)) for name, text in notes.items()) or None,
            "weights": [self.weights[name].plain() for name in sorted(self.weights)] or None,
            "step_keys": sorted(self.step_keys.items()) or None,
            "shard": None,
            "content_sha256": None,
            "unit": unit,
            "members": self.members,
            "payload_key": self.payload_key,
            "features": self.features,
            "fingerprint": self.fields.get("fingerprint"),
        }


def plain_text(text: str) -> str:
    """Text that UTF-8 can hold: hostile JSON and odd file names bring lone surrogates, which Parquet refuses."""
    return text.encode("utf-8", "backslashreplace").decode()


_MEASURED = ("frame_index", "pts_ns", "width", "height", "n_frames", "fps", "angle_bins", "pairs")


def scene_fields(scene: Scene) -> dict[str, Any]:
    """JSON-ready columns of a loaded scene: the smallest size, rate and length over its views."""
    views = scene.views
    return {
        "view_ids": [view.view_id for view in views],
        "width": min(view.index.width for view in views),
        "height": min(view.index.height for view in views),
        "n_frames": min(len(view.index) for view in views),
        "fps": min(float(view.index.fps) for view in views),
        "notes": dict(scene.notes),
    }


def child_to_plain(child: Child, scene: Scene) -> dict[str, Any]:
    """A child as JSON, with the time of every frame it takes, so that its row needs no second look at the media."""
    taken = list(zip(child.views, child.frames, strict=True))
    return {
        "suffix": child.suffix,
        "kind": child.kind,
        "views": list(child.views),
        "frames": [[int(i) for i in frames] for frames in child.frames],
        "cameras": None if child.cameras is None else [[int(i) for i in entries] for entries in child.cameras],
        "view_names": list(child.view_names),
        "scores": dict(child.scores),
        "fields": dict(child.fields),
        "reasons": [str(reason) for reason in child.reasons],
        "pts_ns": [[int(t) for t in scene.views[view].index.pts_ns[frames]] for view, frames in taken],
        "sizes": [[scene.views[view].index.width, scene.views[view].index.height] for view in child.views],
    }


def child_from_plain(plain: Mapping[str, Any]) -> Child:
    cameras = plain["cameras"]
    return Child(
        suffix=plain["suffix"],
        kind=plain["kind"],
        views=tuple(plain["views"]),
        frames=tuple(np.asarray(frames, np.int64) for frames in plain["frames"]),
        cameras=None if cameras is None else tuple(np.asarray(entries, np.int64) for entries in cameras),
        view_names=tuple(plain["view_names"]),
        scores=plain["scores"],
        fields=plain["fields"],
        reasons=tuple(Reason(reason) for reason in plain["reasons"]),
    )


def child_fields(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a child's row."""
    pts, frames, sizes = plain["pts_ns"], plain["frames"], plain["sizes"]
    span_ns = pts[0][-1] - pts[0][0] if pts and len(pts[0]) > 1 else 0
    return {
        **plain["fields"],
        "view_ids": plain["view_names"],
        "frame_index": frames or None,
        "pts_ns": pts or None,
        "width": min((size[0] for size in sizes), default=None),
        "height": min((size[1] for size in sizes), default=None),
        "n_frames": len(frames[0]) if frames else None,
        "fps": 1e9 * (len(pts[0]) - 1) / span_ns if span_ns else None,
    }
