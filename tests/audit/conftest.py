import shutil
from pathlib import Path

import pytest

from pipeline.payload import Bytes
from tests.audit.fabricate import Fabricated, make_output


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Fabricated:
    """A sound output folder that no test may change."""
    return make_output(tmp_path_factory.mktemp("audit"))


@pytest.fixture
def folder(intact: Fabricated, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(intact.path, tmp_path / "out"))


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's files hold no frames to pack; what is packed is not what this is about."""
    monkeypatch.setattr("pipeline.payload._view_member", lambda name, *_: (Bytes(f"{name}.png", b"picture"), (64, 48)))
