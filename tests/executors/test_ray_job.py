"""`ray job submit` as the README shows it, against a head that this test starts and ends, and nothing but that."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from tests.executors.heads import end_session, free_ports

ROOT = Path(__file__).parents[2]


@dataclass
class Head:
    """A Ray head on loopback and the environment in which it was started."""

    address: str
    environment: Mapping[str, str]

    def submit(self, *entrypoint: str) -> "subprocess.CompletedProcess[str]":
        command = ["ray", "job", "submit", "--address", self.address, "--working-dir", ".", "--", *entrypoint]
        return subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: Ray puts sockets below it, whose names have at most 107 bytes
    port, dashboard, agent, client = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # The README's `export`, and the environment's python first on the path, as in an activated one.
    environment |= {"RAY_AUTH_MODE": "disabled", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2", "--object-store-memory=200000000"]
    command += [f"--temp-dir={folder}", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    log = folder / "head.log"
    with log.open("wb") as out, subprocess.Popen(command, env=environment, start_new_session=True, stdout=out, stderr=out) as process:
        try:
            address = f"http://127.0.0.1:{dashboard}"
            wait_for_dashboard(address, process, log)
            yield Head(address, environment)
        finally:
            end_session(process)
    shutil.rmtree(folder, ignore_errors=True)


def wait_for_dashboard(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    ends_at = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{address}/api/version", timeout=5):
                return
        except OSError:
            assert process.poll() is None and time.monotonic() < ends_at, log.read_text()
            time.sleep(0.3)


def write_clip(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(60, 200, (128, 192, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
        for shift in range(30):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 3 * shift, axis=1).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def shards(output: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (output / "shards").iterdir()}


def test_a_submitted_job_curates_as_the_same_command_does_here(head: Head, tmp_path: Path) -> None:
    footage = tmp_path / "clips"
    footage.mkdir()
    for seed in range(5):
        write_clip(footage / f"c{seed}.mp4", seed)
    (footage / "broken.mp4").write_bytes(b"not a video")
    command = ["python", "-m", "pipeline.curate", "smoke", "--input", f"clips={footage}", "--error-budget", "0.5"]

    submitted = head.submit(*command, "--executor", "ray", "--output", str(tmp_path / "job"))
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "5 kept, 0 rejected, 1 error" in submitted.stdout

    here = [sys.executable, *command[1:], "--executor", "process", "--workers", "1", "--output", str(tmp_path / "here")]
    subprocess.run(here, cwd=ROOT, check=True, timeout=200)
    assert shards(tmp_path / "job") == shards(tmp_path / "here") != {}
    assert not (Path(head.environment["HOME"]) / ".ray" / "auth_token").exists()


def test_the_upload_holds_the_code_and_nothing_else_and_failure_is_seen(head: Head) -> None:
    listing = "import os; print('FILES', *sorted(os.listdir('.')), 'MEDIA', *sorted(os.listdir('stages/media'))); raise SystemExit(3)"
    submitted = head.submit("python", "-c", listing)
    assert submitted.returncode != 0
    files, media = next(line for line in submitted.stdout.splitlines() if line.startswith("FILES")).split(" MEDIA ")
    assert {"pipeline", "stages", "schemas", "requirements.lock"} <= set(files.split())
    assert {".git", ".venv", "tests"}.isdisjoint(files.split())
    assert "reader.py" in media.split()
