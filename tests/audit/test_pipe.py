"""`audit ... | head`: a reader that has seen enough is no error."""

import os
import subprocess
import sys

import pytest

from tests.audit.fabricate import Fabricated


@pytest.mark.parametrize("arguments", [["summary"], ["sql", "SELECT * FROM samples", "--csv"]], ids=lambda given: given[0])
def test_a_closed_pipe_ends_the_command_quietly(intact: Fabricated, arguments: list[str]) -> None:
    verb, *rest = arguments
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "pipeline.audit", verb, str(intact.path), *rest]
        ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")
