"""A reading process that the system kills ends the run, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(true, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes through /proc")
def test_a_killed_worker_ends_the_run_with_what_to_do(shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "pipeline.train",
        "syncammaster",
        f"--data={shards}",
        f"--output={output}",
        "--base=tiny",
        "--frames=3",
    ]
    command += ["--mix=multiview_video=0.5,singleview_video=0.5", "--curriculum=none", "--precision=no", "--device=cpu", "--steps=100000"]
    command += ["--batch=2", "--workers=2", "--validate-every=0", "--checkpoint-every=1", "--keep=1", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) as run:
        try:
            until(lambda: list(output.glob("checkpoints/step-*/state.json")) or run.poll() is not None, 300)
            workers = children(run.pid)
            assert len(workers) == 2
            os.kill(workers[1], signal.SIGKILL)
            said = run.communicate(timeout=120)[1]
        finally:
            run.kill()
    assert run.returncode == 1
    [line] = [each for each in said.splitlines() if each.startswith("train: ")]
    assert "a reading process died (signal 9), most likely for want of memory: fewer --workers" in line
    [checkpoint] = (output / "checkpoints").glob("step-*")
    assert f"{checkpoint}; go on with the same command and --resume latest" in line
    assert "Traceback" not in said
    until(lambda: all(ended(worker) for worker in workers), 60)
