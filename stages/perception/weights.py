"""The registry of checkpoints: where each comes from, what it weighs, under which licence, and how it is found on this machine.

`find` never downloads. A user's own file wins; else what `python -m pipeline.weights fetch` put into the cache counts, or what an
installed package brings along.
"""

import contextlib
import json
import os
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from schemas.typed import RecipeError, nearest
from stages.perception.checkpoints import CHECKPOINTS, Checkpoint

__all__ = ["CHECKPOINTS", "Checkpoint", "Weights", "WeightsError", "cache", "digest_of", "find"]


class WeightsError(RecipeError):
    """A checkpoint that is not there, not accepted, or not what it should be. The message says what to do."""


@dataclass(frozen=True)
class Weights:
    """A checkpoint that was found. sha256 in hex."""

    name: str
    path: Path
    sha256: str
    license: str
    noncommercial: bool

    def plain(self) -> dict[str, str | bool]:
        """As the manifest has it: where it lay says nothing."""
        return {"name": self.name, "sha256": self.sha256, "license": self.license, "noncommercial": self.noncommercial}


def cache() -> Path:
    """Where fetched checkpoints lie: PARALLAX_WEIGHTS, or a folder of the user's cache."""
    return Path(os.environ.get("PARALLAX_WEIGHTS") or Path.home() / ".cache" / "parallax" / "weights")


def find(name: str, path: str | None = None, *, accept_noncommercial: bool = False) -> Weights:
    """The checkpoint of that name; path: the user's own file instead of the cache's. Raises WeightsError."""
    if name not in CHECKPOINTS:
        raise WeightsError(f"no checkpoint {name!r}{nearest(name, CHECKPOINTS)}")
    known = CHECKPOINTS[name]
    if known.noncommercial and not accept_noncommercial:
        raise WeightsError(
            f"{name} is licensed {known.license}, which forbids commercial use; where that is fine, give --accept-noncommercial, "
            "or set accept_noncommercial: true in the recipe"
        )
    file = Path(path) if path is not None else cache() / known.file
    if not file.is_file():
        raise WeightsError(f"{name}: there is no {file}; fetch it with: python -m pipeline.weights fetch {name}")
    return Weights(name, file, digest_of(file), known.license, known.noncommercial)


def digest_of(file: Path) -> str:
    """Hex sha256; remembered in the cache as long as the file's size and time stay what they were."""
    file = file.resolve()
    about = file.stat()
    seen = {"path": str(file), "size": about.st_size, "mtime_ns": about.st_mtime_ns}
    memory = cache() / "digests" / f"{sha256(str(file).encode()).hexdigest()[:16]}.json"
    try:
        known = json.loads(memory.read_text("utf-8"))
        if {name: known[name] for name in seen} == seen:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with file.open("rb") as opened:
        digest = file_digest(opened, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, no more
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_name(f"{memory.name}.{os.getpid()}")
        temporary.write_text(json.dumps({**seen, "sha256": digest}), "utf-8")
        temporary.replace(memory)
    return digest
