"""Tiny videos, and a way to load what was discovered."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from schemas.candidate import Candidate
from schemas.frames import Scene
from schemas.recipe import MediaLimits
from schemas.typed import build
from stages.ingest import ingests
from stages.ingest.base import Ingest
from stages.media import Media
from stages.storage import Tree


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """Write an mp4 of `frames` gray frames, each with its own brightness. `first` shifts all pts, in frames."""

    def make(path: Path, frames: int = 3, size: tuple[int, int] = (64, 48), fps: int = 30, first: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "30", "preset": "ultrafast", "bf": "0"})
            stream.width, stream.height, stream.pix_fmt = size[0], size[1], "yuv420p"
            stream.codec_context.time_base = Fraction(1, fps)
            for i in range(frames):
                frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 16 + 8 * i % 200, np.uint8), format="rgb24")
                frame.pts = first + i
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def ingest() -> Callable[..., Ingest]:
    """An ingest by its name, with options as a recipe gives them."""

    def make(name: str, **options: object) -> Ingest:
        cls = ingests()[name]
        return cls(build(cls.Options, options, "options"))

    return make


@pytest.fixture
def load() -> Iterator[Callable[[Ingest, Path, Candidate], Scene]]:
    """Load a discovered candidate; one sandbox for each root, kept over the test."""
    with ExitStack() as stack:
        open_media: dict[Path, Media] = {}

        def run(ingest: Ingest, root: Path, candidate: Candidate) -> Scene:
            assert candidate.error is None, candidate.error
            if root not in open_media:
                open_media[root] = stack.enter_context(Media(root, MediaLimits()))
            return ingest.load(Tree(root), candidate, open_media[root])

        yield run


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("PARALLAX_REAL_DATA")
    if not folder:
        pytest.skip("PARALLAX_REAL_DATA is not set: the real recordings are not here")
    return Path(folder)
