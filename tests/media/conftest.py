"""Media made once a session, and a Media below any folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.candidate import MediaFile, MediaRef
from schemas.recipe import MediaLimits
from stages.media import Media
from tests.media import torture


@pytest.fixture(scope="session")
def torture_set(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torture.Footage]:
    return torture.footage(tmp_path_factory.mktemp("torture"))


@pytest.fixture(scope="session")
def plain(torture_set: dict[str, torture.Footage]) -> Path:
    """90 frames at 30 fps with B-frames; frame i shows the number i."""
    return torture_set["b_frames.mp4"].path


@pytest.fixture(scope="module")
def open_media() -> Iterator[Callable[..., Media]]:
    """Media below a folder, closed after the module."""
    opened: dict[tuple[Path, MediaLimits], Media] = {}

    def at(folder: Path, **limits: float) -> Media:
        key = (folder, MediaLimits(**limits))  # type: ignore[arg-type]
        return opened.setdefault(key, Media(*key))

    yield at
    for media in opened.values():
        media.close()


@pytest.fixture(scope="session")
def video_ref() -> Callable[[str], MediaRef]:
    return lambda name: MediaRef("video", (MediaFile(name, 0, 0),))
