"""Everything that touches media bytes: verified frame indices, exact reads, encoding; all of it in a process that may die.

`Media` is the only public name that other layers need. It holds no decoder: every call goes to one child process under
wall-clock and memory limits (`stages.media.sandbox`), so a file that crashes, hangs or eats memory costs one candidate.
Importing this package imports neither av nor cv2 nor torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.candidate import MediaFile, MediaRef
from schemas.frames import FrameIndex
from schemas.recipe import Encode, MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media.paths import Located
from stages.media.sandbox import Sandbox, SandboxError
from stages.storage import Tree
from stages.storage.cache import named

__all__ = ["Media", "SandboxError"]

_CHUNK_BYTES = 32 << 20  # of pictures that `stream` takes from the child at once ...
_CHUNK_FRAMES = 256  # ... and no more frames ...
_CHUNK_SHARE = 0.25  # ... and none that it does not begin to decode by this share of the timeout
_VIEWS_A_CALL = 12  # views indexed in one call: enough to save the way there and back, few enough for one timeout


class Media:
    """Reads and encodes the media of one input; a Path is a folder of this machine. One per worker process; usable as a context manager.

    The decoding child starts with the first call and is replaced whenever it died. Errors about the media are
    CandidateError with one of E_OPEN, E_NO_VIDEO, E_TRUNCATED, E_TOO_BIG, E_PTS (the file's fault, permanent),
    E_CRASH (it killed the decoder), E_TIMEOUT, E_OOM, E_IO (provisional) or E_UNSAFE_PATH (refused unopened: the path is
    absolute, leaves the root through ".." or a link, or is no plain file). An exception of a function that runs in the
    child and is none of these arrives as SandboxError with the child's traceback: a bug of ours.

    Frames of a MediaRef with a `lens` are undistorted at full size before anything else is made of them, whoever asks.
    """

    def __init__(self, tree: Tree | Path, limits: MediaLimits) -> None:
        self.tree = tree if isinstance(tree, Tree) else Tree(tree)
        self.limits = limits
        self._sandbox = Sandbox(limits)
        self._passes = count()

    def local(self, files: Sequence[MediaFile]) -> list[Path]:
        """Where plain files of the input can be read on this machine, until the next `release`: as `Tree.local`, under the limits."""
        return self.tree.local(files, self.limits.max_fetch_mb << 20)

    def release(self) -> None:
        """The candidate is done: what was fetched for it may leave this machine."""
        self.tree.release()

    def index(self, ref: MediaRef) -> FrameIndex:
        """The verified frame index of `ref`. Header caps are checked before anything is decoded."""
        return FrameIndex(**self._call("stages.media.requests:index", ref, None))

    def indices(self, refs: Sequence[MediaRef]) -> list[FrameIndex]:
        """The verified frame indices of several views, in few calls. An error's message begins with the view's file."""
        found: list[FrameIndex] = []
        for start in range(0, len(refs), _VIEWS_A_CALL):
            some = refs[start : start + _VIEWS_A_CALL]
            located = [self._located(ref) for ref in some]
            try:
                found += [FrameIndex(**each) for each in self._ask("stages.media.requests:indices", located, self.limits)]
            except CandidateError as error:
                if error.reason not in (Reason.E_TIMEOUT, Reason.E_CRASH, Reason.E_OOM):
                    raise
                found += [self._named_index(ref) for ref in some]  # one by one: the one that did it is to be named
        return found

    def _named_index(self, ref: MediaRef) -> FrameIndex:
        try:
            return self.index(ref)
        except CandidateError as error:
            raise CandidateError(error.reason, f"{ref.files[0].path}: {error.message}") from error

    def frames(
        self, ref: MediaRef, index: FrameIndex, wanted: Sequence[int] | NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """[n,H,W,3] uint8 RGB frames in the order asked; an index may come several times.

        wanted: positions in `index`, 0 <= position < len(index), else IndexError. size: (width, height) as shown, scaled in
        the same pass as the colour conversion; None keeps the source's. Display rotation is applied.
        """
        positions = _positions(wanted, len(index))
        frames: NDArray[np.uint8] = self._call("stages.media.requests:frames", ref, positions, index, positions, size)
        return frames

    def stream(
        self,
        ref: MediaRef,
        index: FrameIndex,
        wanted: Sequence[int] | NDArray[np.int64],
        sizes: Sequence[tuple[int, int] | None] = (None,),
    ) -> Iterator[list[NDArray[np.uint8]]]:
        """The frames at strictly ascending positions, one after another, decoded once and in bounded memory.

        Each comes as a list of [H,W,3] uint8 RGB, one for each of `sizes`: (width, height), or None for the source's own.
        However long all of them take, it is the decoding of a single frame that must not take longer than `media.timeout_s`.
        Any other call ends the pass in the child; asked for more, this begins another at the next frame. So a stream that is
        left early keeps its file open no longer than until the next call.
        """
        positions = _positions(wanted, len(index), ascending=True)
        if (np.diff(positions) == 0).any():
            raise ValueError("stream gives each frame once")
        pixels = sum(width * height for width, height in ((size or (index.width, index.height)) for size in sizes))
        step = min(_CHUNK_FRAMES, max(1, _CHUNK_BYTES // max(1, 3 * pixels)))
        seconds = _CHUNK_SHARE * self.limits.timeout_s
        number, done, in_vain, located = next(self._passes), 0, 0, self._located(ref, positions)
        arrays: Any = None

        def chunk(anew: Any) -> Any:
            return self._ask("stages.media.requests:chunk", number, step, seconds, anew, spare_s=seconds)

        while done < len(positions):
            arrays = None if arrays is None else chunk(None)
            if arrays is None:
                arrays = chunk((_of(located, positions[done:]), self.limits, index, positions[done:], list(sizes)))
            frames = list(zip(*arrays, strict=True))
            in_vain = 0 if frames else in_vain + 1
            if len(frames) > len(positions) - done or in_vain > 2 * len(index):  # a call decodes a frame, for at most two passes
                raise CandidateError(Reason.E_CRASH, f"the decoder gave {len(frames)} frames of the next {len(positions) - done}")
            for pictures in frames:
                yield list(pictures)
            done += len(frames)

    def map_frames(
        self,
        ref: MediaRef,
        index: FrameIndex,
        wanted: Sequence[int] | NDArray[np.int64] | None,
        function: str,
        *,
        size: tuple[int, int] | None = None,
        gray: bool = False,
        **settings: Any,
    ) -> Any:
        """Run `function` ("module:callable", importable in the child) over an iterator of frames, inside the sandbox.

        It is called as function(frames, **settings); frames are [H,W,3] RGB, or [H,W] full-range luma (0..255) if `gray`,
        uint8, its own to keep or change. wanted: None for every frame, else positions in ascending order (repeats allowed,
        descending is ValueError). Returns what the function returns: None, numbers, str, bytes, Fraction, numpy arrays, and
        lists, tuples and dicts of these.
        """
        chosen = None if wanted is None else _positions(wanted, len(index), ascending=True)
        return self._call("stages.media.requests:map_frames", ref, chosen, index, chosen, function, size, gray, settings)

    def encode(
        self,
        ref: MediaRef,
        index: FrameIndex,
        wanted: Sequence[int] | NDArray[np.int64] | None,
        encode: Encode,
        rate: Fraction | None = None,
    ) -> bytes:
        """The chosen frames (None: all; else strictly ascending) as a deterministic mp4.

        Frames keep their own times relative to the first, which is at 0; with `rate` frame i is at i / rate instead.
        The picture has the size that `encoded_size(index, encode)` of stages.media.writer gives.
        """
        chosen = None if wanted is None else _positions(wanted, len(index), ascending=True)
        if chosen is not None and (len(chosen) == 0 or (np.diff(chosen) <= 0).any()):
            raise ValueError("encode takes at least one frame, each once, in ascending order")
        data: bytes = self._call("stages.media.requests:encode", ref, chosen, index, chosen, encode, rate)
        return data

    def image(self, ref: MediaRef, index: FrameIndex, frame: int, format: Literal["jpg", "png"] = "jpg", quality: int = 95) -> bytes:
        """One frame as an encoded picture: the source's own bytes where it already is a picture of that format and has no lens.

        quality: JPEG's, 1..100; PNG is lossless and ignores it.
        """
        positions = _positions([frame], len(index))
        data: bytes = self._call("stages.media.requests:image", ref, positions, index, int(positions[0]), format, quality)
        return data

    def run(self, function: str, *args: Any) -> Any:
        """function(*args) in the sandbox, under the same limits; see `map_frames` for what it may return."""
        return self._ask(function, *args)

    def _ask(self, function: str, *args: Any, spare_s: float = 0.0) -> Any:
        try:
            return self._sandbox.call(function, *args, spare_s=spare_s)
        except CandidateError as error:
            raise CandidateError(error.reason, named(error.message)) from error

    def close(self) -> None:
        """End the child. Idempotent; a later call would start a new one."""
        self._sandbox.close()

    def __enter__(self) -> "Media":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _call(self, function: str, ref: MediaRef, needed: NDArray[np.int64] | None, *args: Any) -> Any:
        return self._ask(function, self._located(ref, needed), self.limits, *args)

    def _located(self, ref: MediaRef, needed: NDArray[np.int64] | None = None) -> Located:
        """needed: positions of frames; None for all, and for their times. Only the files that hold them are looked for."""
        chosen = list(range(len(ref.files))) if needed is None or ref.kind != "images" else np.unique(needed).tolist()
        found = self.local([ref.files[position] for position in chosen])
        paths = {position: str(path) for position, path in zip(chosen, found, strict=True)}
        return Located(ref.kind, paths, ref.item, ref.pts_ns if needed is None else (), ref.files[0].path if ref.files else "", ref.lens)


def _of(located: Located, needed: NDArray[np.int64]) -> Located:
    """The same with no more files than hold these frames."""
    if located.kind != "images":
        return located
    return replace(located, paths={position: located.paths[position] for position in needed.tolist()})


def _positions(wanted: Sequence[int] | NDArray[np.int64], length: int, ascending: bool = False) -> NDArray[np.int64]:
    positions = np.asarray(wanted, np.int64).reshape(-1)
    outside = positions[(positions < 0) | (positions >= length)]
    if len(outside):
        raise IndexError(f"frame {int(outside[0])} was asked for; this view has {length}, numbered from 0")
    if ascending and (np.diff(positions) < 0).any():
        raise ValueError("frames must be asked for in ascending order here")
    return positions
