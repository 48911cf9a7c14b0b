"""The report: one HTML file that needs nothing else, drawn from an output folder."""

from pipeline.store import Location, write_bytes


def write_report(directory: Location, output: Location | None = None) -> Location:
    """Draw DIR/report/index.html (or `output`) and return its path.

    The same folder and the same footage give the same bytes. Raises OutputError when `directory` is no output folder of
    pipeline.curate; footage that is missing or broken only costs its thumbnails.
    """
    from pipeline.auditing.folder import OutputFolder
    from pipeline.report.page import render

    path = output if output is not None else directory / "report" / "index.html"
    write_bytes(path, render(OutputFolder(directory)).encode("utf-8", "backslashreplace"))
    return path
