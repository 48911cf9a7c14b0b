"""Ports for a Ray head, and its end: of all processes of its session, and of nothing else on the machine."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def session_members(leader: int) -> list[int]:
    """Live processes of the session that `leader` began; Ray's workers lead groups of their own, but stay in it."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                members.append(int(stat.parent.name))
    return members


def end_session(leader: "subprocess.Popen[bytes]") -> None:
    for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        for pid in session_members(leader.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        ends_at = time.monotonic() + seconds
        while session_members(leader.pid) and time.monotonic() < ends_at:
            leader.poll()
            time.sleep(0.1)
    leader.wait(10)
    assert session_members(leader.pid) == []
