"""One sample: its views decoded, encoded, and packed beside the cameras that fit them."""

import io
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding.settings import Encoding
from pipeline.payload import Bytes
from schemas.typed import object_from_json
from schemas.verdict import CandidateError, Reason

if TYPE_CHECKING:
    from pipeline.bases.base import Base
    from pipeline.loader.catalog import Catalog
    from pipeline.loader.fetch import Store
    from pipeline.loader.sample import Sample

T = TypeVar("T")


class Reading:
    """One sample on its way in. Its methods are called in one thread: members are fetched with the first view."""

    def __init__(self, catalog: "Catalog", store: "Store", i: int, encoding: Encoding) -> None:
        self.sample_id, self.view_ids = catalog.sample_id(i), catalog.view_ids(i)
        self.positions = encoding.positions(1 if catalog.kind(i) == "multiview_images" else encoding.frames)
        self.size = encoding.size
        self._store, self._members = store, catalog.members(i)
        self._data: dict[str, bytes] | None = None

    def view(self, number: int) -> "Sample":
        """One view's pictures and, where the sample has cameras, its cameras. Raises ReadError, StorageError."""
        from pipeline.loader.sample import CAMERAS, Wanted, read_sample

        wanted = Wanted((number,), self.positions, self.size, cameras=CAMERAS in self._members)
        return read_sample(self.sample_id, self.view_ids, wanted, self.members)

    @property
    def members(self) -> dict[str, bytes]:
        if self._data is None:
            names = list(self._members)
            self._data = dict(zip(names, self._store.fetch([self._members[name] for name in names]), strict=True))
        return self._data


def ahead(calls: Iterable[Callable[[], T]], depth: int) -> Generator[Future[T], None, None]:
    """The calls' futures in order, `depth` of them made beforehand, in one thread: decoding goes on while a GPU encodes."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for call in calls:
                waiting.append(pool.submit(call))
                if len(waiting) > depth:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for future in waiting:
                future.cancel()


class Encoder:
    """What the base makes of pictures and texts, as float16 arrays."""

    def __init__(self, base: "Base") -> None:
        self._base = base

    def latents(self, frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Frames [F,H,W,3] to [C,f,h,w]. Raises CandidateError for what float16 cannot hold."""
        import torch

        from pipeline.bases.pictures import from_uint8

        with torch.no_grad():
            video = from_uint8(torch.from_numpy(frames).permute(3, 0, 1, 2)[None].to(self._base.device))  # the codec casts to its own
            return _half(self._base.encode(video)[0], "the latents")

    def text(self, text: str) -> NDArray[np.float16]:
        """[L,D]."""
        import torch

        with torch.no_grad():
            return _half(self._base.embed([text])[0], "the text's embedding")


def _half(tensor: Any, what: str) -> NDArray[np.float16]:
    """A torch tensor as float16."""
    values: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    if not (np.abs(values) <= np.finfo(np.float16).max).all():
        raise CandidateError(Reason.E_STAGE, f"{what}: NaN, or beyond what float16 holds; try --precision no")
    return values.astype(np.float16)


class Packing:
    """An encoded sample while its views come in, one after the other."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._latents: list[NDArray[np.float16]] = []
        self._cameras: list[tuple[NDArray, NDArray]] = []

    def add(self, sample: "Sample", latents: NDArray[np.float16]) -> None:
        self._latents.append(latents)
        if sample.c2w is not None and sample.K is not None:
            self._cameras.append((sample.c2w[0], sample.K[0]))

    def members(self, reading: Reading, text: NDArray[np.float16]) -> list[Bytes]:
        """Every member, sorted by name."""
        source = reading.members
        made = [Bytes(f"view{view:02d}_latent.npz", npz(latent=each)) for view, each in enumerate(self._latents)]
        made.append(Bytes("text.npz", npz(text=text)))
        made += [Bytes("caption.txt", source["caption.txt"])] if "caption.txt" in source else []
        made += [Bytes("cameras.npz", self._camera_member(source["cameras.npz"]))] if self._cameras else []
        made.append(Bytes("meta.json", self._meta(source.get("meta.json", b"{}"), reading.positions)))
        return sorted(made, key=lambda member: member.name)

    def _camera_member(self, source: bytes) -> bytes:
        """Of the encoded frames, numbered from 0; K in pixels of the picture that was encoded. The rest as it was."""
        with np.load(io.BytesIO(source), allow_pickle=False) as stored:
            distortion, metric = stored["distortion"], stored["metric"]
        views, frames = len(self._cameras), len(self._cameras[0][0])
        return npz(
            c2w=np.stack([c2w for c2w, _ in self._cameras]),
            K=np.stack([K for _, K in self._cameras]),
            frame=np.tile(np.arange(frames, dtype=np.int64), (views, 1)),
            size=np.tile(np.array(self._encoding.size[::-1], np.int64), (views, 1)),
            distortion=distortion,
            metric=metric,
        )

    def _meta(self, source: bytes, positions: list[int]) -> bytes:
        """As it was, each view's size, rate and frames those of what was encoded."""
        meta = object_from_json(source)
        for view in meta.get("views", []):
            view["height"], view["width"] = self._encoding.size
            view["fps"] = view["fps"] / self._encoding.frame_stride if view.get("fps") else None
            view["frame_index"] = taken(view.get("frame_index"), positions) or positions
            view["pts_ns"] = taken(view.get("pts_ns"), positions)
        return (json.dumps(meta, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def taken(values: list[int] | None, positions: list[int]) -> list[int] | None:
    """The values at the positions; None where there are none."""
    return None if values is None else [values[position] for position in positions]


def npz(**arrays: NDArray[Any]) -> bytes:
    """An uncompressed npz; NumPy stamps its members with a fixed date, so equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
