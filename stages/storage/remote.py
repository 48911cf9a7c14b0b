"""An input behind a URL of fsspec's: an object store, a web server that lists its folders, or an archive on one.

What lies in an object store is known from one recursive listing. A web server is asked folder by folder, for the links of its index
pages, and for the size and ETag of each file that a candidate names. Credentials come from the environment (AWS_*, FSSPEC_*); those that
stand in the URL are used, and shown nowhere.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from schemas.candidate import ARCHIVES, COMPRESSED, MediaFile
from schemas.verdict import CandidateError, Reason
from stages.storage.archives import safe_parts
from stages.storage.entry import Entry, Kind, Stamp
from stages.storage.paths import printable

ATTEMPTS = 4  # of ours; the client of a store has made several at each of them
FIRST_DELAY_S = 0.5  # before the second, doubled before each further one
CONCURRENT = 16  # requests at a time

# HTTP's. What a store once listed it may refuse for a while: an expired token, a clock that is off, a node without the role.
_GONE = frozenset({404, 410})
_REFUSED = frozenset({401, 403})
_PERMANENT = frozenset({405, 416, 451})  # asking again gives the same answer
_CHECKS = ("ETag", "etag", "e_tag", "md5Hash", "content_md5", "Content-MD5", "Digest")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "modified", "created")
_WEB = ("http", "https")
_IN_URL = re.compile(r"""(://)([^\s/'"?]*@)?([^\s'"?]*)(\?[^\s'"]*)?""")

T = TypeVar("T")


def is_url(location: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)", location) is not None


class _Gone(CandidateError):
    """The store answers, and has no such file."""


class RemoteStore:
    """Names are relative to the URL; "." is the URL itself, which may be a file (an archive). refused: objects that lie nowhere."""

    def __init__(self, url: str) -> None:
        import fsspec

        if "::" in url:
            what = f"URLs in URLs ('::') are not read, got {url.partition('::')[0]}::...; an archive is looked into as it is"
            raise ValueError(f"{what}, give its own URL")
        self.url, self.label = url, shown(url)
        parts = urlsplit(url)
        self._web = parts.scheme in _WEB
        try:
            # What another process wrote since must be seen: a run asks anew for each file that it reads.
            self._fs, base = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            how = "uv pip install -e '.[s3]'" if parts.scheme in ("s3", "s3a") else f"install what fsspec needs: {error}"
            raise ValueError(f"{self.label} cannot be read: {parts.scheme}:// needs a package that is not here; {how}") from None
        except ValueError as error:
            raise ValueError(f"{self.label} cannot be read: {self.hide(str(error))}") from None
        self._base = str(base) if self._web else str(base).rstrip("/")
        self.refused: list[tuple[str, tuple[Reason, str]]] = []
        self._stamps: dict[str, Stamp] = {}
        self._folders: dict[str, dict[str, bool]] | None = None  # folder -> name -> whether it is a folder
        self._pages: dict[str, dict[str, bool]] = {}  # the same of a web server, as far as it was asked

    def hide(self, text: str) -> str:
        """`text` without what the URL holds of credentials: user and password, and the query, which may be a signature. Clients write URLs
        in forms of their own, so of every URL these parts go."""
        parts = urlsplit(self.url)
        for secret in (parts.netloc.rpartition("@")[0], parts.query, parts.password or ""):
            for form in (secret, unquote(secret)):
                text = text.replace(form, "***") if form else text
        return _IN_URL.sub(lambda match: f"{match[1]}{'***@' if match[2] else ''}{match[3]}{'?***' if match[4] else ''}", text)

    def entries(self, folder: str) -> Iterator[Entry]:
        """What lies directly below. Raises OSError where the store does not answer."""
        for name, is_folder in (self._page(folder) if self._web else self._listing().get(folder, {})).items():
            yield Entry(name, is_folder)

    def kind(self, name: str) -> Kind | None:
        if self._web:
            return self._web_kind(name)
        folders = self._listing()
        return "folder" if name in folders else "file" if name in self._stamps else None

    def identify(self, names: Iterable[str]) -> list[MediaFile]:
        """Raises CandidateError for the first that has no identity: NO_FOOTAGE, E_UNSAFE_PATH, E_IO, E_OPEN."""
        wanted = list(names)
        for name in wanted:
            if name != "." and safe_parts(name)[1] is not None:
                raise CandidateError(Reason.E_UNSAFE_PATH, f"{name!r} is refused: paths are relative to the input, without '..'")
            if self.kind(name) != "file":
                raise CandidateError(Reason.NO_FOOTAGE, f"{name!r} is not in the input")
        missing = [name for name in dict.fromkeys(wanted) if name not in self._stamps]
        if missing:
            try:
                with ThreadPoolExecutor(CONCURRENT) as pool:
                    self._stamps.update(zip(missing, pool.map(self.stamp, missing), strict=True))
            except _Gone as gone:  # a page may name what is not there
                raise CandidateError(Reason.NO_FOOTAGE, gone.message) from None
        return [MediaFile(name, *self._stamps[name]) for name in wanted]

    def stamp(self, name: str) -> Stamp:
        """As it is now. Raises CandidateError (E_IO, E_OPEN)."""
        found = self._ask(name, lambda: self._fs.info(self._address(name)))
        if found.get("size") is None:
            raise CandidateError(Reason.E_OPEN, f"{name!r}: the server does not say how large it is; copy it to a disk or an object store")
        return _stamp(found)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Those bytes. Raises CandidateError (E_IO, E_OPEN)."""

        def ask() -> bytes:
            data = bytes(self._fs.cat_file(self._address(name), start=start, end=stop))
            if len(data) > stop - start:
                raise CandidateError(Reason.E_OPEN, f"{name!r}: the server takes no notice of byte ranges; copy it to a disk")
            if len(data) < stop - start:
                raise OSError(f"{stop - start} bytes were asked for, {len(data)} came")
            return data

        return self._ask(name, ask)

    def download(self, name: str, size: int, path: Path) -> None:
        """The whole of it into a file; no more than `size` bytes. Raises CandidateError (E_IO, E_OPEN)."""
        from fsspec.callbacks import Callback

        class Limit(Callback):  # type: ignore[misc]
            def relative_update(self, inc: int = 1) -> None:
                super().relative_update(inc)
                if self.value > size:
                    raise CandidateError(Reason.E_IO, f"{name!r} is longer than the {size} bytes that were listed; run again")

        def ask() -> None:
            self._fs.get_file(self._address(name), str(path), callback=Limit())
            if path.stat().st_size < size:
                raise OSError(f"{size} bytes were expected, {path.stat().st_size} came")

        self._ask(name, ask)

    def forget(self) -> None:
        """What was listed."""
        self._stamps, self._folders, self._pages = {}, None, {}

    def _address(self, name: str) -> str:
        """What fsspec calls it."""
        if name == ".":
            return self._base
        if not self._web:
            return f"{self._base}/{name}"
        parts = urlsplit(self._base)
        return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{quote(name)}", "", ""))

    def _ask(self, name: str, call: Callable[[], T]) -> T:
        """With further attempts after a pause, where another one may help."""
        name = self.label if name == "." else name
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except CandidateError:
                raise
            except Exception as error:  # each store's client has its own
                problem = self._permanent(name, error)
                if problem is None and attempt + 1 == ATTEMPTS:
                    said = f"storage failed for {name!r}, after {ATTEMPTS} attempts: {self._said(error)}; run again"
                    problem = CandidateError(Reason.E_IO, said)
                if problem is not None:
                    raise problem from None
                time.sleep(FIRST_DELAY_S * 2**attempt)
        raise AssertionError("the last attempt raises or returns")

    def _permanent(self, name: str, error: Exception) -> CandidateError | None:
        """What asking again would not mend. A web server's client says of every failure that the file is not there."""
        status = _status(error)
        if status in _GONE or (status is None and isinstance(error, FileNotFoundError) and not self._web):
            return _Gone(Reason.E_IO, f"{name!r} is no longer in the storage; run again")
        if status in _PERMANENT:  # before the others: s3fs says of 405, too, that permission is missing
            return CandidateError(Reason.E_OPEN, f"{name!r} cannot be read: {self._said(error)}; copy it to a disk or an object store")
        if status in _REFUSED or (isinstance(error, PermissionError) and status != 400):
            return CandidateError(Reason.E_IO, f"the storage refuses {name!r}: {self._said(error)}; see to the permissions and run again")
        return None

    def _said(self, error: Exception) -> str:
        return self.hide(f"{type(error).__name__}: {error}")[:200]  # a secret that is cut in two would not be known

    def _listed(self, call: Callable[[], T]) -> T:
        try:
            return self._ask(".", call)
        except CandidateError as problem:
            raise OSError(f"{self.label}: {problem.message}") from None

    def _listing(self) -> dict[str, dict[str, bool]]:
        if self._folders is None:
            found = self._listed(self._find)
            self._folders = {".": {}} if found else {}
            for address, info in found.items():
                name = str(address)[len(self._base) :].lstrip("/")
                if info.get("type") == "directory" or name.endswith("/"):
                    continue
                if not name:  # the URL is that of an object
                    self._folders, self._stamps = {}, {".": _stamp(info)}
                    break
                self._place(name, _stamp(info))
            for name in [name for name in self._stamps if name in self._folders]:
                self._refuse(name, "is refused: it is an object and a folder of others")
                del self._stamps[name]
        return self._folders

    def _find(self) -> dict[str, Any]:
        try:
            return dict(self._fs.find(self._base, detail=True))
        except FileNotFoundError:
            return {}

    def _place(self, name: str, stamp: Stamp) -> None:
        assert self._folders is not None
        parts, why = safe_parts(name)
        if why is not None:
            return self._refuse(name, why)
        self._stamps[name] = stamp
        inside = "."
        for i, part in enumerate(parts):
            is_folder = i + 1 < len(parts)
            self._folders[inside][part] = is_folder or self._folders[inside].get(part, False)
            if is_folder:
                inside = "/".join(parts[: i + 1])
                self._folders.setdefault(inside, {})

    def _refuse(self, name: str, why: str) -> None:
        self.refused.append((printable(name[:200].replace("\0", "\\0")), (Reason.E_UNSAFE_PATH, why)))

    def _page(self, folder: str) -> dict[str, bool]:
        """The links of a web server's page of a folder that lead directly below it."""
        if folder not in self._pages:
            parts = urlsplit(self._address(folder))
            page = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + "/", "", ""))
            links = self._listed(lambda: self._fs.ls(page, detail=False))
            found: dict[str, bool] = {}
            for link in sorted(map(str, links)):
                path = link.removeprefix(page)
                name = unquote(path.removesuffix("/"))
                if path != link and not {"?", "#"} & set(path) and "/" not in name and safe_parts(name) == ([name], None):
                    found[name] = path.endswith("/") or found.get(name, False)
            self._pages[folder] = found
        return self._pages[folder]

    def _web_kind(self, name: str) -> Kind | None:
        if name == ".":
            return "file" if urlsplit(self._base).path.lower().endswith((*ARCHIVES, *COMPRESSED)) else "folder"
        folder, _, last = name.rpartition("/")
        if folder and self._web_kind(folder) != "folder":
            return None
        is_folder = self._page(folder or ".").get(last)
        return None if is_folder is None else "folder" if is_folder else "file"


def shown(url: str) -> str:
    """A URL as it may be written down: without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _stamp(info: dict[str, Any]) -> Stamp:
    etag = next((str(info[name]).strip('"') for name in _CHECKS if info.get(name)), "")
    when = next((info[name] for name in _TIMES if info.get(name)), None)
    return Stamp(int(info.get("size") or 0), 0 if etag else _nanoseconds(when), etag)


def _nanoseconds(when: Any) -> int:
    if isinstance(when, str):
        try:
            when = parsedate_to_datetime(when)
        except ValueError:
            try:
                when = datetime.fromisoformat(when)
            except ValueError:
                return 0
    if isinstance(when, datetime):
        when = when.timestamp()
    return round(when * 1e9) if isinstance(when, int | float) else 0


def _status(error: BaseException) -> int | None:
    """HTTP's, where the store speaks it."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status := getattr(each, "status", None), int):
            return status
    return None
