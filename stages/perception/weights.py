"""How a checkpoint is found on this machine, and proven to be the one that it says.

`find` never downloads. A user's own file or folder wins; then what `python -m pipeline.weights fetch` put into the cache counts, then
what an installed package brings along, then the hub's own cache. Where the checkpoint is code, the installed package of that name comes
last, whatever its version: the digest of its files says which it was. `stages.perception.checkpoints` is the table, `fetch` the download.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from schemas.typed import RecipeError, from_json, nearest
from stages.perception.checkpoints import CHECKPOINTS, GROUPS, Checkpoint, Hub, Wheel

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "Weights",
    "WeightsError",
    "accepted",
    "cache",
    "digest_of",
    "expected",
    "find",
    "located",
    "proven",
]


class WeightsError(RecipeError):
    """A checkpoint that is not there, not accepted, or not what it should be. The message says what to do."""


@dataclass(frozen=True)
class Weights:
    """A checkpoint that was found: a file or a folder. sha256 in hex."""

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


def accepted(name: str, accept_noncommercial: bool) -> Checkpoint:
    """What the table says of it. Raises WeightsError for a name that it does not have, or a licence that nobody accepted."""
    if name not in CHECKPOINTS:
        raise WeightsError(f"no checkpoint {name!r}{nearest(name, CHECKPOINTS)}")
    known = CHECKPOINTS[name]
    if known.noncommercial and not accept_noncommercial:
        raise WeightsError(
            f"{name} is licensed {known.license}, which forbids commercial use; where that is fine, give --accept-noncommercial, "
            "or set accept_noncommercial: true in the recipe"
        )
    return known


def find(name: str, path: str | None = None, *, accept_noncommercial: bool = False) -> Weights:
    """The checkpoint of that name; path: the user's own file or folder instead. Nothing is downloaded.

    path wins and may hold any bytes (its digest travels with the results), as may an installed package that is a checkpoint itself;
    elsewhere they must be the known ones, or those that the first fetch recorded. A folder may be given for what it holds under its
    usual name: the file, or the package. Raises WeightsError.
    """
    known = accepted(name, accept_noncommercial)
    if path is not None:
        return proven(known, _own(known, Path(path).expanduser()))
    found = located(known)
    if found is None:
        package = _package(known)
        if package is None:
            raise WeightsError(f"{name} is not on this machine; {_how(known)}")
        return proven(known, package)
    weights = proven(known, found)
    wanted = expected(known)
    if wanted is not None and weights.sha256 != wanted:
        raise WeightsError(f"{name}: {found} has the sha256 {weights.sha256} instead of {wanted}; fetch it again: {_fetch(known)}")
    return weights


def located(known: Checkpoint) -> Path | None:
    """Where it lies: in the cache, in an installed package, in the hub's cache; None where it is in none. Reads no big file,
    except to see that an installed package brings the version that the table knows."""
    ours = cache() / known.file
    if _whole(ours, known):
        return ours
    if isinstance(known.source, Wheel):
        return _installed(known, known.source)
    if isinstance(known.source, Hub):
        return _in_hub_cache(known.source)
    return None


def proven(known: Checkpoint, path: Path) -> Weights:
    """That checkpoint, as it lies there, with its digest."""
    return Weights(known.name, path, digest_of(path, known.files), known.license, known.noncommercial)


def expected(known: Checkpoint) -> str | None:
    """The sha256 that the table knows, or else the one that the first fetch recorded; None before that."""
    if known.sha256 is not None:
        return known.sha256
    try:
        return record_of(known).read_text("utf-8").split()[0]
    except (OSError, IndexError):
        return None


def record_of(known: Checkpoint) -> Path:
    """The file that remembers the digest of the first fetch, in the form of `sha256sum`."""
    ours = cache() / known.file
    return ours.with_name(f"{ours.name}.sha256")


def digest_of(path: Path, files: Sequence[str] = (), *, again: bool = False) -> str:
    """Hex sha256 of a file; remembered in the cache as long as the file's size and time stay what they were, unless asked again.

    Of a folder: that of the lines "<sha256>  <path>" of its files, sorted by path, as `sha256sum` prints them. files: those that
    count, where all are there, and with them what loaders take on their own where it lies beside them: other .json (a processor's, an
    adapter's) and .safetensors (a hub's snapshot may also hold a README); else every file but what Python and the hub leave behind.
    """
    if not path.is_dir():
        return _file_digest(path.resolve(), again)
    if files and all((path / name).is_file() for name in files):
        beside = {each.name for each in path.iterdir() if each.suffix in (".json", ".safetensors") and each.is_file()}
        names = sorted({*files, *beside})
    else:
        names = sorted(_contents(path))
    lines = (f"{_file_digest((path / name).resolve(), again)}  {name}\n" for name in names)
    return sha256("".join(lines).encode()).hexdigest()


def _file_digest(file: Path, again: bool) -> str:
    about = file.stat()
    seen = {"path": str(file), "size": about.st_size, "mtime_ns": about.st_mtime_ns}
    memory = cache() / "digests" / f"{sha256(str(file).encode()).hexdigest()[:16]}.json"
    if not again:
        try:
            known = from_json(memory.read_text("utf-8"))
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


def _contents(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        left_behind = "__pycache__" in name.parts or any(part.startswith(".") for part in name.parts)
        if file.is_file() and not left_behind:
            yield name.as_posix()


def _whole(path: Path, known: Checkpoint) -> bool:
    if not known.is_folder:
        return path.is_file()
    return path.is_dir() and all((path / name).is_file() for name in known.files)


def _own(known: Checkpoint, path: Path) -> Path:
    inside = path / Path(known.file).name
    within = inside.is_dir() if known.package else path.is_dir() and not known.is_folder
    found = inside if within else path
    if not found.exists():
        raise WeightsError(f"{known.name}: there is no {found}; give the path of your own, or leave it out: {_how(known)}")
    return found


def _installed(known: Checkpoint, source: Wheel) -> Path | None:
    """The installed package's own file; one of another version is passed over, since its bytes are not the known ones."""
    try:
        path = Path(str(distribution(source.distribution).locate_file(source.member)))
    except PackageNotFoundError:
        return None
    if not _whole(path, known) or (known.sha256 is not None and digest_of(path) != known.sha256):
        return None
    return path


def _package(known: Checkpoint) -> Path | None:
    """The folder that Python would import it from. Not asked of sys.modules: another source may have loaded one from elsewhere."""
    if known.package is None:
        return None
    for finder in sys.meta_path:
        spec = finder.find_spec(known.package, None)
        if spec is not None:  # without an __init__.py any folder of that name would be one
            return Path(spec.origin).parent if spec.origin and Path(spec.origin).name == "__init__.py" else None
    return None


def _in_hub_cache(source: Hub) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    for revision in dict.fromkeys((source.revision, "main")):  # who fetched it otherwise has what was newest then
        found = [try_to_load_from_cache(source.repository, file, revision=revision) for file in source.files]
        paths = [Path(path) for path in found if isinstance(path, str)]
        if len(paths) == len(found):
            return paths[0] if len(paths) == 1 else paths[0].parent
    return None


def _fetch(known: Checkpoint) -> str:
    together = next((group for group, names in GROUPS.items() if known.name in names), known.name)
    return f"python -m pipeline.weights fetch {together}{' --accept-noncommercial' if known.noncommercial else ''}"


def _how(known: Checkpoint) -> str:
    if known.source is None:
        return "name your own file in the recipe"
    install = "" if known.package is None else f"; or install the package {known.package}, or name a folder of it in the recipe"
    return f"fetch it with: {_fetch(known)}{install}"
