"""The report: one HTML file that needs nothing else, drawn from an output folder."""

from pathlib import Path


def write_report(directory: Path, output: Path | None = None) -> Path:
    """Draw DIR/report/index.html (or `output`) and return its path.

    The same folder and the same footage give the same bytes. Raises OutputError when `directory` is no output folder of
    pipeline.curate; footage that is missing or broken only costs its thumbnails.
    """
    from pipeline.auditing.folder import OutputFolder
    from pipeline.report.page import render
    from pipeline.store import write_bytes

    path = output if output is not None else directory / "report" / "index.html"
    write_bytes(path, render(OutputFolder(directory)).encode("utf-8", "backslashreplace"))
    return path
