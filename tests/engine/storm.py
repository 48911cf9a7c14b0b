"""Kills a curation at every commit step, resumes it, and reports what the output came to.

Run as `python -m tests.engine.storm WORK` in a process of its own: it forks, which a test process that holds a Ray
cluster must not do. Prints one JSON line: {"reference": digest, "steps": n, "digests": [digest after resuming, ...]}.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.curate import main as curate
from tests.engine.toy import make_numbers, recipe


def digest(output: Path) -> str:
    """Of every shard and of the samples and shards tables: names and bytes. The units table holds clocks."""
    total = sha256()
    for folder in ("shards", "manifest/samples", "manifest/shards"):
        for path in sorted((output / folder).iterdir()):
            total.update(f"{folder}/{path.name}\0".encode() + sha256(path.read_bytes()).digest())
    return total.hexdigest()


def run(arguments: list[str], kill_at: int | None) -> tuple[int, int]:
    """Curate in a forked child that kills itself before its `kill_at`-th commit step. Returns (status, steps)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        steps = 0

        def counting(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, counting(getattr(os, name)))
        code = curate(arguments)
        os.write(writer, str(steps).encode())
        os._exit(code)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        steps = int(pipe.read() or 0)
    return status, steps


def main(work: Path) -> None:
    footage = make_numbers(work / "in", 11)
    plain = recipe(work, touchy={"max_brightness": 0.008, "fail": [2]}, unit=4, target_mb=0.004)
    arguments = [str(plain), f"--input=numbers={footage}", "--executor=inline", "--quiet", "--no-report", "--error-budget=1"]
    assert curate([*arguments, f"--output={work / 'warm'}"]) == 0  # so that no child spends its time importing
    status, steps = run([*arguments, f"--output={work / 'reference'}"], None)
    assert status == 0, status
    digests = []
    for step in range(1, steps + 1):
        output = work / "killed"
        shutil.rmtree(output, ignore_errors=True)
        status, _ = run([*arguments, f"--output={output}"], step)
        assert os.WIFSIGNALED(status), f"step {step} was never reached"
        status, _ = run([*arguments, f"--output={output}"], None)
        assert status == 0, f"resuming after step {step} ended with {status}"
        leftovers = [path.name for path in output.rglob(".tmp-*")]
        assert not leftovers, f"step {step} left {leftovers}"
        digests.append(digest(output))
    print(json.dumps({"reference": digest(work / "reference"), "steps": steps, "digests": digests}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
