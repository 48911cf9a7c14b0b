"""What is fuzzed: a parser, its inputs, and the exceptions that it declares. Everything else that comes out of it is a failure."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from schemas.camera import ROTATION_TOLERANCE, CameraTrack
from schemas.frames import Scene
from schemas.verdict import CandidateError, Reason
from tests.fuzz.guard import MEMORY_MB, watching

MAX_SIDE = 65536  # pixels


@dataclass(frozen=True, eq=False)
class Target:
    """run(value, folder): parses one input, and says what became of it in a word or two; the folder is its own, and empty.

    write(value, folder): makes the folder beforehand, unwatched. refusals: what the parser declares to raise. sandbox: whether it reads
    media in the sandbox. share: of the time or the examples, 1 for a quick one.
    """

    name: str
    inputs: SearchStrategy[Any]
    run: Callable[[Any, Path], str | None]
    refusals: tuple[type[Exception], ...] = (CandidateError,)
    write: Callable[[Any, Path], None] | None = None
    sandbox: bool = False
    memory_mb: int | None = MEMORY_MB
    share: float = 1.0

    def try_one(self, value: Any, around: Path) -> str:
        """The outcome of one input. around: a folder that nothing else uses."""
        folder = around / "input"
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir()
        if self.write is not None:
            self.write(value, folder)
        try:
            with watching(folder, self.sandbox, self.memory_mb):
                return self.run(value, folder) or "taken"
        except self.refusals as refused:
            if isinstance(refused, CandidateError):
                assert refused.message.strip(), "an error without a message"
                check_text(refused.message)  # it goes into a table
                assert refused.reason not in (Reason.E_IO, Reason.E_STAGE), f"{refused}: the input's fault, not storage's nor ours"
                return str(refused.reason)
            if type(refused) not in self.refusals:
                raise  # a kind of ValueError that nobody declared
            assert str(refused).strip(), "an error without a message"
            if type(refused) is ValueError:  # one of ours names the file or the folder
                names = {str(folder), *(path.name for path in folder.rglob("*"))}
                assert any(name in str(refused) for name in names), f"whose error is this? {refused}"
            return type(refused).__name__


def check_text(*texts: str) -> None:
    """That UTF-8 can hold it."""
    for text in texts:
        assert not any("\ud800" <= char <= "\udfff" for char in text), ascii(text)[:200]


def write_file(name: str) -> Callable[[bytes, Path], None]:
    """The input as the one file `name` of the folder."""

    def write(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)

    return write


def check_track(track: CameraTrack) -> None:
    """What every reader of cameras promises, told without its own checks."""
    assert len(track) > 0
    assert np.isfinite(track.c2w).all() and np.isfinite(track.K).all()
    R = track.c2w[:, :3, :3]
    assert np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max() <= ROTATION_TOLERANCE * 1.01
    assert (np.linalg.det(R) > 0).all() and (track.c2w[:, 3] == [0, 0, 0, 1]).all()
    assert (track.K[:, 0, 0] > 0).all() and (track.K[:, 1, 1] > 0).all()
    for side in (track.width, track.height):
        assert isinstance(side, int) and 0 < side <= MAX_SIDE, side
    assert all(math.isfinite(each) for each in track.distortion), track.distortion
    for vector in (track.up, track.centre):
        assert vector is None or all(math.isfinite(each) for each in vector), vector


def check_scene(scene: Scene) -> None:
    for view in scene.views:
        assert len(view.index) > 0 and 0 < view.index.width <= MAX_SIDE and 0 < view.index.height <= MAX_SIDE
        assert (np.diff(view.index.pts) > 0).all()
        if view.cameras is not None:
            check_track(view.cameras)
            assert view.camera_frames is not None and len(view.camera_frames) == len(view.cameras)
            assert view.camera_frames.min() >= 0 and view.camera_frames.max() < len(view.index)
    for name, note in scene.notes.items():
        check_text(name, note)
