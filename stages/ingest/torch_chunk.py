"""What discovery needs to know of a RealEstate10K `.torch` chunk. Runs inside the media sandbox: a chunk is an untrusted file."""

import importlib.util
from typing import Any

from stages.media.chunks import _load as load_chunk

INSTALL_HINT = (
    "reading RealEstate10K .torch chunks needs torch: pip install 'parallax-curation[perception]', or give trajectories and videos"
)


def torch_is_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


def list_scenes(path: str) -> list[tuple[str, str]]:
    """(key, url) of every scene in the chunk at `path`, in its order; "" where a scene does not say.

    A scene that lacks more is still listed, so that it has its own row; loading it says what is wrong. Raises
    CandidateError(E_OPEN, E_TRUNCATED, E_IO) for what is no chunk.
    """
    return [(_text(scene, "key"), _text(scene, "url")) for scene in load_chunk(path)]


def _text(scene: Any, name: str) -> str:
    value = scene.get(name) if isinstance(scene, dict) else None
    return value if isinstance(value, str) else ""
