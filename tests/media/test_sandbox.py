"""The child may crash, hang, eat memory or lose its parent; the next call is served all the same."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media import Media, SandboxError, wire


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Media]:
    with Media(tmp_path_factory.mktemp("root"), MediaLimits(timeout_s=2.0, memory_mb=256)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        ("ctypes:string_at", (0,), Reason.E_CRASH),  # SIGSEGV
        ("os:abort", (), Reason.E_CRASH),
        ("os:_exit", (0,), Reason.E_CRASH),
        ("time:sleep", (600,), Reason.E_TIMEOUT),
        ("itertools:count", (), None),
        ("collections:deque", (range(10**12), 0), Reason.E_TIMEOUT),  # busy in C
        ("numpy:ones", ((1 << 30,), "u1"), Reason.E_OOM),
        ("builtins:list", (range(10**9),), Reason.E_OOM),
    ],
)
def test_the_next_call_works(media: Media, function: str, args: tuple[object, ...], reason: Reason | None) -> None:
    first = media.run("os:getpid")
    if reason is None:  # an object that cannot travel is a bug of ours, and leaves the child alive
        with pytest.raises(SandboxError, match="cannot leave the sandbox"):
            media.run(function, *args)
        assert media.run("os:getpid") == first
        return
    with pytest.raises(CandidateError) as caught:
        media.run(function, *args)
    assert caught.value.reason == reason
    assert media.run("os:getpid") != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_killed_from_outside_during_a_call_is_no_blame(media: Media) -> None:
    pid = media.run("os:getpid")
    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.5); os.kill({pid}, 9)"])
    with pytest.raises(CandidateError) as caught:
        media.run("time:sleep", 30)
    killer.wait()
    assert caught.value.reason == Reason.E_OOM


def test_killed_between_calls_goes_unnoticed(media: Media) -> None:
    os.kill(media.run("os:getpid"), signal.SIGKILL)
    time.sleep(0.2)
    assert media.run("builtins:len", [1, 2, 3]) == 3


def test_a_bug_arrives_with_its_traceback(media: Media) -> None:
    with pytest.raises(SandboxError, match="JSONDecodeError"):
        media.run("json:loads", "{")


def test_terminal_and_scheduler_signals_are_the_parents(media: Media) -> None:
    pid = media.run("os:getpid")
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert media.run("os:getpid") == pid


def test_close_ends_the_child_and_is_idempotent(tmp_path: Path) -> None:
    media = Media(tmp_path, MediaLimits())
    pid = media.run("os:getpid")
    media.close()
    media.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, schemas.recipe, stages.media as m\n"
        "media = m.Media(pathlib.Path('.'), schemas.recipe.MediaLimits())\n"
        "print(media.run('os:getpid'), flush=True)\n"
        "media.run('time:sleep', 60)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while _alive(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


VALUES = [
    None,
    True,
    -(2**70),
    0.1,
    float("inf"),
    "two\nlines \udcff",
    b"\x00\xff",
    [1, (2.5, "x"), {}],
    {"a": 1, 3: [b""], ("k", 1): None},
    Fraction(30000, 1001),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back_as_they_were(media: Media, value: object) -> None:
    back = media.run("copy:copy", value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3).T, np.zeros((0, 4), np.int32), np.array(5, np.uint8), np.array([True, False])]
)
def test_arrays_come_back_as_they_were(media: Media, array: np.ndarray) -> None:
    back = media.run("copy:copy", array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert (back == array).all()
    assert back.flags.writeable


def test_nan_comes_back(media: Media) -> None:
    assert np.isnan(media.run("copy:copy", float("nan")))


@pytest.mark.parametrize(
    "header",
    [
        b'{"value": {"array": [0, "O", [1]]}, "buffers": [8]}',
        b'{"value": {"array": [0, "<f8", [2]]}, "buffers": [8]}',
        b'{"value": 1, "buffers": [99999999]}',
        b'{"value": {"pickle": "x"}, "buffers": []}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_taken_over_child_can_say_nothing_harmful(header: bytes) -> None:
    """Objects, overlong buffers, unknown tags and nonsense are refused, not interpreted."""
    stream = bytearray(len(header).to_bytes(4, "little") + header + bytes(16))

    def receive(size: int) -> bytearray:
        piece = bytearray(stream[:size])
        del stream[:size]
        return piece

    with pytest.raises(wire.WireError):
        wire.unpack(receive, max_bytes=1000)
