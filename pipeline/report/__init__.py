"""The report: one HTML file that needs nothing else, drawn from an output folder."""

from hashlib import sha256

from pipeline.location import Location
from pipeline.provenance import code_version
from pipeline.store import names, read_bytes, read_range, size_of, write_bytes


def write_report(directory: Location, output: Location | None = None) -> Location:
    """Draw DIR/report/index.html (or `output`) and return its path. Its last line says what it was drawn from, if nothing was amiss.

    The same folder and the same footage give the same bytes. Raises OutputError when `directory` is no output folder of
    pipeline.curate; footage that is missing or broken only costs its thumbnails.
    """
    from pipeline.auditing.folder import OutputFolder
    from pipeline.report.page import render

    path = output if output is not None else _path(directory)
    page, complete = render(OutputFolder(directory))
    if complete:
        page += _last_line(directory)
    write_bytes(path, page.encode("utf-8", "backslashreplace"))
    return path


def drawn_already(directory: Location) -> Location | None:
    """The report's path, where this very code drew it from the very tables and run.json that are there, with every picture; else None."""
    path = _path(directory)
    size, line = size_of(path), _last_line(directory).encode()
    if not size or not line:
        return None
    return path if read_range(path, max(size - len(line), 0), len(line)) == line else None


def _path(directory: Location) -> Location:
    return directory / "report" / "index.html"


def _last_line(directory: Location) -> str:
    """The digest of run.json, of every table and of the code that draws; "" where no commit tells that.

    Whatever else the report shows lies in shards, which never change under their names.
    """
    code = code_version()
    if code.endswith("-dirty"):
        return ""
    digest = sha256(code.encode())
    run = ["run.json"] if size_of(directory / "run.json") is not None else []
    for name in [*run, *(f"manifest/{name}" for name in names(directory / "manifest", below=True))]:
        data = read_bytes(directory / name)
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return f"\n<!-- drawn from {digest.hexdigest()} -->\n"
