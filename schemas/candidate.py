"""What ingest finds before any pixel is read: files, their identity, and how they form a candidate."""

import re
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

from schemas.camera import Lens
from schemas.verdict import Reason

CandidateKind = Literal["multiview", "posed_video", "video"]
MediaKind = Literal["video", "images", "torch_chunk"]

# USTAR holds 100 bytes of name without a folder: 70 for a candidate's key, 18 for a child's suffix, and 12 for the member
# (".view00.mp4", ".cameras.npz").
MAX_KEY = 70
MAX_SUFFIX = 16
CHILD = "_-"  # joins names, and a child's suffix to its parent's key

# Archives that are seen as folders, and packed ones that no member can be read from without all that is before it.
ARCHIVES = (".zip", ".tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

_PLAIN = re.compile(r"[A-Za-z0-9-]")
_ODD = re.compile(r"[^A-Za-z0-9-]")
_ESCAPED = re.compile(r"__|_-|_x([0-9a-f]{2})|([A-Za-z0-9-])|(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Packed:
    """Where a member lies in its archive, so that whoever reads it need not read the archive's index.

    The `span` bytes from `offset` on hold it. method 0: stored, 8: deflate. crc: of the bytes when unpacked; None for a member of
    a tar, whose span is the bytes themselves (a zip's begins with the member's own header).
    """

    archive: str  # its path below the root; "." where the input itself is the archive
    archive_size: int  # bytes
    offset: int
    span: int
    stored: int  # bytes, as packed
    method: int = 0
    crc: int | None = None


@dataclass(frozen=True, slots=True)
class MediaFile:
    """One file below the input's root. What is here is its identity: a change of any of it recomputes what used the file.

    On a disk size and mtime say whether it is the same, on an object store size and ETag (mtime_ns is 0 where there is one). A
    member of an archive has the archive's mtime and ETag.
    """

    path: str  # relative to the root, POSIX separators; an archive is a folder of it
    size: int  # bytes
    mtime_ns: int
    etag: str = ""
    packed: Packed | None = None

    @property
    def unpacked_path(self) -> str:
        """What its path would be if the archive were a folder beside it, called without its suffix."""
        if self.packed is None or self.packed.archive == ".":
            return self.path
        return without_suffix(self.packed.archive) + self.path[len(self.packed.archive) :]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        known = {"path": self.path, "size": self.size, "mtime_ns": self.mtime_ns}
        return known | ({"etag": self.etag} if self.etag else {}) | ({"packed": asdict(self.packed)} if self.packed else {})

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "MediaFile":
        """What `plain` gave."""
        packed = plain.get("packed")
        return cls(plain["path"], plain["size"], plain["mtime_ns"], plain.get("etag", ""), None if packed is None else Packed(**packed))


@dataclass(frozen=True, slots=True)
class MediaRef:
    """Where a view's frames come from.

    video:       one file, frames in presentation order.
    images:      one file per frame, in time order; `pts_ns` gives the times.
    torch_chunk: a RealEstate10K `.torch` chunk; `item` is the scene's position in its list.
    lens: what distorts the pictures; given, every read of them is undistorted (stages/media/lens.py).
    """

    kind: MediaKind
    files: tuple[MediaFile, ...]
    item: int = 0
    pts_ns: tuple[int, ...] = ()
    lens: Lens | None = None


@dataclass(frozen=True, slots=True)
class View:
    view_id: str  # the source's own name, e.g. "cam01"
    media: MediaRef


@dataclass(frozen=True)
class Candidate:
    """One thing the dataset offers: a multi-camera scene, a posed clip, or a plain clip.

    Made by discovery, which lists and stats but opens no media. `sidecars` names further files the ingest needs
    to load it (cameras, trajectories). `error` holds what discovery itself found wrong with it.
    """

    source: str  # the source's name in the recipe
    candidate_id: str  # unique within the source; the source's own naming, may hold slashes and dots
    kind: CandidateKind
    views: tuple[View, ...]
    sidecars: Mapping[str, MediaFile] = field(default_factory=dict)
    caption: str | None = None
    split: str | None = None  # as the dataset publishes it: "train", "test", "val", or None
    attrs: Mapping[str, str | int | float] = field(default_factory=dict)  # what this ingest's `load` wants to remember
    error: tuple[Reason, str] | None = None

    @property
    def key(self) -> str:
        """The sample key of the candidate itself; children append to it."""
        return sample_key(self.source, self.candidate_id)

    def files(self) -> tuple[MediaFile, ...]:
        """Every file that the candidate's result depends on, media first, each once."""
        found = [file for view in self.views for file in view.media.files] + list(self.sidecars.values())
        return tuple(dict.fromkeys(found))

    def identity(self) -> str:
        """Hex digest of everything discovery knows but the text: same identity, same recipe, same code, same scores."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        return sha256(repr(_canonical(self)).encode()).hexdigest()


def _canonical(candidate: Candidate) -> tuple[object, ...]:
    return (
        candidate.source,
        candidate.candidate_id,
        candidate.kind,
        [
            (view.view_id, view.media.kind, view.media.item, view.media.pts_ns, [_file(file) for file in view.media.files])
            + ((view.media.lens,) if view.media.lens else ())
            for view in candidate.views
        ],
        sorted((name, _file(file)) for name, file in candidate.sidecars.items()),
        candidate.split,
        sorted(candidate.attrs.items()),
        candidate.error and (str(candidate.error[0]), candidate.error[1]),
    )


def _file(file: MediaFile) -> tuple[Any, ...]:
    known = (file.path, file.size, file.mtime_ns)
    return known if not file.etag and file.packed is None else (*known, file.etag, file.packed and astuple(file.packed))


def without_suffix(name: str) -> str:
    """The name of an archive without what says that it is one; any other name as it is."""
    suffix = next((each for each in (*COMPRESSED, *ARCHIVES) if name.lower().endswith(each)), "")
    return name[: len(name) - len(suffix)]


def sample_key(*names: str) -> str:
    """Join names into a sample key of `[A-Za-z0-9_-]+`, at most MAX_KEY long.

    "/" joins the names. Letters, digits and "-" stay; "_" becomes "__", "/" becomes "_-", any other byte "_x" and two
    hex digits, so `parse_key` gives the names back. A key that would be too long for a tar header keeps its head and
    ends in "_h" and 16 hex digits of its hash; the manifest's `candidate_id` holds the full name then.
    """
    if not names or not all(names):
        raise ValueError(f"a sample key needs non-empty names, got {names!r}")
    name = "/".join(names)
    key = _ODD.sub(_escape, name)
    if len(key) <= MAX_KEY:
        return key
    digest = sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    head = key[: MAX_KEY - 18].rstrip("_")
    return f"{head}_h{digest}"


def child_key(parent: str, suffix: str) -> str:
    """The key of a child: its parent's and the suffix that its sampler gave it, of at most MAX_SUFFIX letters and digits."""
    if not (0 < len(suffix) <= MAX_SUFFIX and all(_PLAIN.fullmatch(char) for char in suffix)):
        raise ValueError(f"a child's suffix has 1 to {MAX_SUFFIX} letters, digits and '-', got {suffix!r}")
    return f"{parent}{CHILD}{suffix}"


def _escape(odd: re.Match[str]) -> str:
    char = odd[0]
    return {"_": "__", "/": "_-"}.get(char) or "".join(f"_x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def parse_key(key: str) -> str:
    """The name that `sample_key` escaped. Raises ValueError for a shortened or foreign key."""
    out = bytearray()
    for match in _ESCAPED.finditer(key):
        if match.group(3) is not None:
            raise ValueError(f"{key!r} is no reversible sample key: {match.group(3)!r} at {match.start()} is not an escape")
        if match.group(1) is not None:
            out.append(int(match.group(1), 16))
        else:
            out += {"__": b"_", "_-": b"/"}.get(match.group(0), match.group(0).encode())
    return out.decode("utf-8", "surrogateescape")
