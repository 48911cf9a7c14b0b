"""What a kept sample packs.

Members: `viewNN.mp4` (source bytes, or re-encoded), `viewNN.jpg|png`, `cameras.npz`, `meta.json`, `caption.txt`, and the `*.npz`
that stages found.
Source bytes are not copied here: a member that is a source file stays a reference until its shard is written, so they
are read once and written once.
"""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tar import MAX_MEMBER
from schemas.camera import CameraTrack
from schemas.candidate import MediaFile
from schemas.frames import Scene, SceneView
from schemas.recipe import Encode, Payload
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from stages.stage import Item

PAYLOAD_VERSION = 1

# Containers that may keep their own suffix; anything else is packed as what it is, an unknown file of the source.
_SUFFIXES = {".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".ts"}


@dataclass(frozen=True)
class Member:
    """One file of a sample. Either a source file to copy (`file`), or bytes made by us, which lie in the unit's part."""

    name: str
    size: int
    file: MediaFile | None = None  # of the input
    sha256: str | None = None  # known for bytes made by us
    offset: int | None = None  # of those, in the part

    def plain(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if value is not None}
        return plain if self.file is None else {**plain, "file": self.file.plain()}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Member":
        """What `plain` gave."""
        return cls(**{**plain, "file": MediaFile.of(plain["file"])} if "file" in plain else plain)


@dataclass(frozen=True)
class Bytes:
    """A member made by us, before it lies in a part."""

    name: str
    data: bytes


def make_members(item: Item, payload: Payload, media: Media, meta: dict[str, Any], caption: str | None) -> list[Member | Bytes]:
    """Every member of the sample, sorted by name. `meta` is stored as meta.json beside what is added here."""
    members: list[Member | Bytes] = []
    tracks: list[tuple[CameraTrack, NDArray[np.int64]]] = []
    for number, (position, frames) in enumerate(item.selection()):
        view = item.scene.views[position]
        member, size = _view_member(f"view{number:02d}", view, None if item.child is None else frames, payload, media)
        members.append(member)
        track = _track(item, number, view)
        if track is not None:
            tracks.append((track[0].scaled(*size), track[1]))
    if tracks and len(tracks) == len(members):
        members.append(Bytes("cameras.npz", _cameras(tracks)))
    members.append(Bytes("meta.json", (json.dumps(meta, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n").encode()))
    if caption:
        members.append(Bytes("caption.txt", caption.encode()))
    return sorted(members, key=lambda member: member.name)


def _view_member(
    name: str, view: SceneView, frames: NDArray[np.int64] | None, payload: Payload, media: Media
) -> tuple[Member | Bytes, tuple[int, int]]:
    """One view's member and the size of its picture. frames None: the whole view."""
    size = (view.index.width, view.index.height)
    if frames is not None and len(frames) == 1:
        data = media.image(view.media, view.index, int(frames[0]), payload.image, payload.image_quality)
        return Bytes(f"{name}.{payload.image}", data), size
    if frames is None and view.media.kind == "video" and view.media.lens is None and payload.video == "copy":
        return _copied(name, view.media.files[0]), size
    from stages.media.writer import encoded_size

    # A sequence of images has no bytes of a video to copy, nor have undistorted frames: they are encoded with the default settings.
    encode = payload.video if isinstance(payload.video, Encode) else Encode()
    wanted = None if frames is None else [int(i) for i in frames]
    return Bytes(f"{name}.mp4", media.encode(view.media, view.index, wanted, encode)), encoded_size(view.index, encode)


def _copied(name: str, file: MediaFile) -> Member:
    if file.size > MAX_MEMBER:
        raise CandidateError(
            Reason.E_TOO_BIG, f"{file.path} has {file.size} bytes, a shard member may have {MAX_MEMBER}; re-encode it (payload.video)"
        )
    suffix = PurePosixPath(file.path).suffix.lower()
    return Member(f"{name}{suffix if suffix in _SUFFIXES else '.mp4'}", file.size, file)


def _track(item: Item, number: int, view: SceneView) -> tuple[CameraTrack, NDArray[np.int64]] | None:
    """The camera entries of one output view, and the packed frame that each belongs to."""
    if view.cameras is None or view.camera_frames is None:
        return None
    if item.child is None:
        return view.cameras, view.camera_frames
    if item.child.cameras is None:
        return None
    entries = item.child.cameras[number]
    return view.cameras.at(entries), np.arange(len(entries))


def _cameras(tracks: list[tuple[CameraTrack, NDArray[np.int64]]]) -> bytes:
    """npz: c2w [V,T,4,4], K [V,T,3,3], frame [V,T], size [V,2] (width, height), distortion [V,D], metric (bool).

    T is what all views share; `frame` is the frame of the packed media that the camera belongs to.
    """
    shortest = min(len(track) for track, _ in tracks)
    coefficients = max(len(track.distortion) for track, _ in tracks)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        c2w=np.stack([track.c2w[:shortest] for track, _ in tracks]),
        K=np.stack([track.K[:shortest] for track, _ in tracks]),
        frame=np.stack([frame[:shortest] for _, frame in tracks]).astype(np.int64),
        size=np.array([(track.width, track.height) for track, _ in tracks], np.int64),
        distortion=np.array([[*track.distortion, *[0.0] * (coefficients - len(track.distortion))] for track, _ in tracks]),
        metric=np.array([track.scale == "metres" for track, _ in tracks]),
    )
    return buffer.getvalue()


def members_to_plain(members: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, str]:
    """A stage's members as JSON: stem -> the npz, in base64."""
    plain = {}
    for stem, arrays in sorted(members.items()):
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **dict(sorted(arrays.items())))
        plain[stem] = base64.b64encode(buffer.getvalue()).decode()
    return plain


def members_from_plain(plain: Mapping[str, str]) -> list[Bytes]:
    return [Bytes(f"{stem}.npz", base64.b64decode(data)) for stem, data in sorted(plain.items())]


def describe(item: Item, row: dict[str, Any]) -> dict[str, Any]:
    """meta.json: what a reader of the shard alone needs to know. Holds nothing that a changed limit would change."""
    scene: Scene = item.scene
    views = []
    for number, (position, frames) in enumerate(item.selection()):
        view = scene.views[position]
        views.append(
            {
                "view_id": item.child.view_names[number] if item.child else view.view_id,
                "media": view.media.files[0].unpacked_path,
                "width": view.index.width,
                "height": view.index.height,
                "fps": float(view.index.fps),
                "codec": view.index.codec,
                "frame_index": [int(i) for i in frames] if item.child else None,
                "pts_ns": [int(t) for t in view.index.pts_ns[frames]] if item.child else None,
            }
        )
    kept = ("sample_id", "parent_id", "source", "candidate_id", "kind", "split", "license", "angle_bins", "pairs", "weights")
    return {**{name: row[name] for name in kept}, "notes": dict(row["notes"] or []), "views": views}


def content_digest(members: list[tuple[str, str]]) -> str:
    """Over (name, sha256) of a sample's members, sorted: the same content has the same digest in any shard."""
    return sha256("".join(f"{name}\0{digest}\n" for name, digest in sorted(members)).encode()).hexdigest()
