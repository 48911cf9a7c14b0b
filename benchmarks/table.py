"""One shape for every benchmark's result: ours, the baseline, their ratio, and the limit that was set for it."""

import os
import platform
from collections.abc import Sequence


def print_table(rows: Sequence[tuple[str, str, str, str, float, float]]) -> None:
    """Rows of (what, ours, baseline's name, baseline, ratio, least ratio) as Markdown."""
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print("| what | ours | baseline | | ratio | at least | |")
    print("|---|---|---|---|---|---|---|")
    for what, ours, name, baseline, ratio, least in rows:
        print(f"| {what} | {ours} | {name} | {baseline} | {ratio:.2f} | {least:.2f} | {'met' if ratio >= least else 'MISSED'} |")
