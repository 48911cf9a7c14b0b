"""One sample: which of its members a draw needs, and what comes out of their bytes."""

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.loader.catalog import Catalog, Member
from pipeline.loader.draw import Draw
from pipeline.loader.fetch import ReadError
from pipeline.loader.frames import Footage, fit_intrinsics
from pipeline.loader.settings import LoaderSettings
from schemas.camera import Array, check_intrinsics, check_poses
from schemas.verdict import CandidateError

CAMERAS, CAPTION, TEXT = "cameras.npz", "caption.txt", "text.npz"


@dataclass(frozen=True)
class Wanted:
    """What is read of a sample. views: positions in the sample's view order; frames: positions in the packed media.

    size: (H, W). cameras: whether they are needed. latents: read those, and text embeddings, instead of pictures.
    """

    views: Sequence[int]
    frames: Sequence[int]
    size: tuple[int, int]
    cameras: bool
    latents: bool = False

    @staticmethod
    def of(catalog: Catalog, settings: LoaderSettings, draw: Draw) -> "Wanted":
        cameras = draw.kind != "singleview_video"  # of one view there is nothing to tell relative to view 0
        return Wanted(draw.views, draw.frames, picture_size(catalog, settings), cameras, settings.payload == "latents")


@dataclass(frozen=True)
class Sample:
    """One slot of a batch. video [V,F,H,W,3] uint8, or latents [V,C,f,h,w] float16 and text [L,D] float16.

    c2w [V,F,4,4] and K [V,F,3,3] in pixels of the H x W picture; None for single-view video, which needs none. metric: the
    translations of every view are metres.
    """

    sample_id: str
    view_ids: list[str]
    caption: str
    metric: bool
    c2w: Array | None
    K: Array | None
    video: NDArray[np.uint8] | None = None
    latents: NDArray[np.float16] | None = None
    text: NDArray[np.float16] | None = None

    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """Of the latents and the text; all samples of a batch must have the same."""
        return tuple(None if array is None else array.shape for array in (self.latents, self.text))


def needed(catalog: Catalog, settings: LoaderSettings, draw: Draw) -> list[Member]:
    """The members of a draw and no others. Raises ReadError where one is not in the manifest."""
    have, wanted = catalog.members(draw.sample), Wanted.of(catalog, settings, draw)
    names = [_view_member(have, view, wanted.latents) for view in wanted.views]
    names += [CAMERAS] if wanted.cameras else []
    names += [TEXT] if wanted.latents else []
    names += [CAPTION] if CAPTION in have else []
    for name in names:
        if name not in have:
            raise _missing(f"{catalog.sample_id(draw.sample)}.", name, have)
    return [have[name] for name in names]


def read_sample(
    sample_id: str, view_ids: Sequence[str], wanted: Wanted, members: Mapping[str, bytes], out: NDArray[np.uint8] | None = None
) -> Sample:
    """What is wanted of a sample, from its members by name. view_ids: of all its views. out [V,F,H,W,3]: for the pictures.

    Raises ReadError for a missing or damaged member, cameras that do not go with the views or frames, text that is no UTF-8.
    """
    where = f"{sample_id}."
    names = [_view_member(members, view, wanted.latents) for view in wanted.views]
    for name in [*names, *([CAMERAS] if wanted.cameras else []), *([TEXT] if wanted.latents else [])]:
        if name not in members:
            raise _missing(where, name, members)
    views = [(where + name, members[name]) for name in names]
    video = latents = text = c2w = K = sizes = None
    metric = False
    if wanted.latents:
        latents = _stacked([_array(data, "latent", name, 4) for name, data in views], where)
        text = _array(members[TEXT], "text", where + TEXT, 2)
    else:
        video, sizes = _pictures(views, wanted.frames, wanted.size, out)
    if wanted.cameras:
        cameras = _Cameras(members[CAMERAS], where + CAMERAS, len(view_ids))
        c2w, K, metric = cameras.chosen(wanted.views, wanted.frames, sizes, wanted.size)
    caption = _caption(members.get(CAPTION, b""), where + CAPTION)
    return Sample(sample_id, [view_ids[view] for view in wanted.views], caption, metric, c2w, K, video, latents, text)


def _view_member(have: Iterable[str], view: int, latents: bool) -> str:
    """The name of a view's member; of one that would be there, where there is none."""
    stem = f"view{view:02d}"
    if latents:
        return f"{stem}_latent.npz"
    return min((name for name in have if name.partition(".")[0] == stem), default=f"{stem}.mp4")


def _missing(where: str, name: str, have: Iterable[str]) -> ReadError:
    return ReadError(f"{where}{name}: there is no such member, only {', '.join(sorted(have))}; curate or encode the sample again")


def picture_size(catalog: Catalog, settings: LoaderSettings) -> tuple[int, int]:
    """(H, W) that the cameras' pixels belong to: that of the settings, or of what the latents were made from."""
    if settings.payload == "frames" or catalog.encoding is None:
        return settings.size
    height, width = catalog.encoding["size"]
    return int(height), int(width)


def _pictures(
    views: Sequence[tuple[str, bytes]], frames: Sequence[int], size: tuple[int, int], out: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """([V,F,H,W,3], (width, height) of each view's own picture)."""
    video = np.empty((len(views), len(frames), *size, 3), np.uint8) if out is None else out
    sizes = []
    for place, (name, data) in zip(video, views, strict=True):
        footage = Footage(data, name)
        footage.read(frames, size, place)
        sizes.append((footage.width, footage.height))
    return video, sizes


class _Cameras:
    """cameras.npz: c2w [V,T,4,4], K [V,T,3,3], frame [V,T] of the packed media, size [V,2] (width, height), metric [V]."""

    def __init__(self, data: bytes, where: str, views: int) -> None:
        self._where = where
        stored = _arrays(data, where, ("c2w", "K", "frame", "size", "metric"))
        self._c2w, self._K, self._frame, self._size, self._metric = stored
        count, entries = self._c2w.shape[:2] if self._c2w.ndim == 4 else (-1, -1)
        if count != views:
            raise ReadError(f"{where}: cameras of {max(count, 0)} views, but the sample has {views} views; curate the sample again")
        shapes = [(views, entries, 4, 4), (views, entries, 3, 3), (views, entries), (views, 2), (views,)]
        if entries == 0:
            raise ReadError(f"{where}: holds no cameras; curate the sample again")
        for name, array, shape in zip(("c2w", "K", "frame", "size", "metric"), stored, shapes, strict=True):
            if array.shape != shape:
                raise ReadError(f"{where}: {name} is {list(array.shape)}; to go with c2w it must be {list(shape)}")

    def chosen(
        self, views: Sequence[int], frames: Sequence[int], sizes: Sequence[tuple[int, int]] | None, size: tuple[int, int]
    ) -> tuple[Array, Array, bool]:
        """(c2w [v,F,4,4], K [v,F,3,3] for pictures of `size`, metric). sizes: of the pictures found, None where there are none."""
        c2w, K = [], []
        for i, view in enumerate(views):
            width, height = (int(value) for value in self._size[view])
            if sizes is not None and sizes[i] != (width, height):
                found = "x".join(map(str, sizes[i]))
                raise ReadError(
                    f"{self._where}: view {view} is for {width}x{height} pictures, but they are {found}; curate the sample again"
                )
            rows = self._rows(view, np.asarray(frames, np.int64))
            c2w.append(self._c2w[view][rows])
            K.append(fit_intrinsics(self._K[view][rows], width, height, size))
        poses, intrinsics = np.stack(c2w).astype(np.float64), np.stack(K).astype(np.float64)
        try:
            check_poses(poses.reshape(-1, 4, 4))
            check_intrinsics(intrinsics.reshape(-1, 3, 3), size[1], size[0])
        except CandidateError as error:
            raise ReadError(f"{self._where}: {error}") from error
        return poses, intrinsics, bool(self._metric[list(views)].all())

    def _rows(self, view: int, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each frame's camera stands."""
        order = np.argsort(self._frame[view], kind="stable")
        found = np.searchsorted(self._frame[view], frames, sorter=order)
        rows = order[np.minimum(found, len(order) - 1)]
        without = frames[self._frame[view][rows] != frames]
        if len(without):
            raise ReadError(f"{self._where}: frame {without[0]} of view {view} has no camera; {len(order)} frames have one")
        return np.asarray(rows, np.int64)


def _array(data: bytes, name: str, where: str, dimensions: int) -> NDArray[np.float16]:
    [array] = _arrays(data, where, (name,))
    if array.ndim != dimensions or array.dtype.kind != "f":
        raise ReadError(f"{where}: {name} must have {dimensions} dimensions of floating point, got {array.dtype} {list(array.shape)}")
    return array


def _stacked(latents: list[NDArray[np.float16]], where: str) -> NDArray[np.float16]:
    shapes = {latent.shape for latent in latents}
    if len(shapes) > 1:
        raise ReadError(f"{where}*: the views' latents differ in shape: {', '.join(map(str, sorted(shapes)))}; encode them again")
    return np.stack(latents)


def _arrays(data: bytes, where: str, names: Sequence[str]) -> list[NDArray]:
    """Arrays of an npz, never pickles. Raises ReadError for a damaged file or a missing array."""
    try:
        stored = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise ValueError("it is one array (npy), not named ones (npz)")
        with stored:
            return [stored[name] for name in names]
    except (ValueError, KeyError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ReadError(f"{where}: cannot be read: {error}") from error


def _caption(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ReadError(f"{where}: is not UTF-8: {error}") from error
