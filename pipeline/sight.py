"""What every machine of a run must see, so that none writes into, or reads from, a folder of its own under the same name.

A node without the mount would write its parts where nobody looks, and blame candidates for files that it does not have.
So each task first looks for what the driver saw (`executors.Task.sees`): a mark of this run in the output folder, and
some of the footage of each input. Object stores are the same for everybody and need none of this.
"""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.store import TEMPORARY
from schemas.candidate import Candidate

_WITNESSES = 8  # of an input: while one of them is there, files that are gone are the footage's affair


@contextmanager
def marked(output: object, roots: Mapping[str, object], found: Mapping[str, Sequence[Candidate]]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Groups of paths, one at least of each to be seen by whoever works for this run. The mark is gone after the block.

    output, roots: folders, or URLs, which are left out. The mark of a killed run is swept with its other temporary files.
    """
    inputs = tuple(_witnesses(Path(str(root)), found[name]) for name, root in roots.items() if "://" not in str(root))
    if not isinstance(output, Path):
        yield inputs
        return
    mark = output / "plan" / f"{TEMPORARY}{secrets.token_hex(8)}-run"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield ((str(mark),), *inputs)
    finally:
        mark.unlink(missing_ok=True)


def _witnesses(root: Path, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Files of candidates from all over the list that are there now; the input itself where none are, as in archives."""
    chosen = candidates[:: -(-len(candidates) // _WITNESSES) or 1]
    files = [str(root / view.media.files[0].path) for each in chosen for view in each.views[:1] if view.media.files]
    return tuple(path for path in files if os.path.exists(path)) or (str(root),)
