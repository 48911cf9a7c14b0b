"""What discovery needs to know of a RealEstate10K `.torch` chunk. Runs inside the media sandbox: a chunk is an untrusted file."""

import importlib.util
import struct
from typing import Any

from schemas.verdict import CandidateError, Reason
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
    try:
        scenes = load_chunk(path)
    except (IndexError, AttributeError, TypeError, AssertionError, struct.error) as error:
        # torch's restricted unpickler stumbles over arbitrary bytes in ways of its own
        raise CandidateError(Reason.E_OPEN, f"not a .torch chunk: {type(error).__name__}: {error}") from None
    return [(_text(scene, "key"), _text(scene, "url")) for scene in scenes]


def _text(scene: Any, name: str) -> str:
    value = scene.get(name) if isinstance(scene, dict) else None
    return value if isinstance(value, str) else ""
