"""Tables and numbers for a terminal."""

import math
from collections.abc import Sequence
from typing import Any


def text_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns side by side; numbers to the right, text to the left."""
    cells = [[format_cell(value) for value in row] for row in rows]
    widths = [max(len(str(name)), *(len(row[i]) for row in cells)) if cells else len(str(name)) for i, name in enumerate(header)]
    right = [bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(header))]
    lines = [[str(name) for name in header], ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width) for cell, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def format_cell(value: Any) -> str:
    """One value on one line: null as "-", control characters escaped so that no file name can drive the terminal."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return format_number(value)
    text = str(value)
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def format_number(value: float | None) -> str:
    """At most four significant digits, without an exponent for everyday sizes: 0.05, 12.34, 1234, 4.3e-05."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if 1000 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2g}"


def human_bytes(count: float) -> str:
    """Decimal units: 1.5 MB is 1,500,000 bytes."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable: the last unit returns")
