"""The guard and the runner themselves: what they let pass, no fuzzing finds."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import strategies as st

from schemas.verdict import CandidateError, Reason
from tests.fuzz.guard import Forbidden
from tests.fuzz.run import run_for
from tests.fuzz.target import Target


def _plants(folder: Path) -> None:
    """By a library written in C: no audit event tells of it."""
    cv2.imwrite(str(folder / "planted.png"), np.zeros((4, 4), np.uint8))


def _plants_beside(folder: Path) -> None:
    _plants(folder.parent)


def _hides_it(folder: Path) -> None:
    with suppress(BaseException):
        (folder / "planted").write_bytes(b"")


@pytest.mark.parametrize("does", [_plants, _plants_beside, _hides_it])
@pytest.mark.parametrize("refuses", [False, True])
def test_what_is_written_is_seen_of_inputs_taken_and_refused(does: Callable[[Path], None], refuses: bool, tmp_path: Path) -> None:
    def run(value: Any, folder: Path) -> None:
        does(folder)
        if refuses:
            raise CandidateError(Reason.E_OPEN, "broken")

    with pytest.raises(Forbidden, match="planted"):
        Target("writes", st.none(), run).try_one(None, tmp_path)


def test_a_failure_does_not_hide_the_next(tmp_path: Path) -> None:
    def run(value: int, folder: Path) -> None:
        if value % 2:
            raise KeyError("odd")
        if value % 4:
            raise IndexError("even")

    told = run_for(Target("fails", st.integers(0, 99), run), seconds=1.0, first_seed=0).failures
    assert sorted("KeyError" in each for each in told) == [False, True], told
