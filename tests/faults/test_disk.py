"""A disk that fills up, or can only be read, while a run goes on: real file systems, mounted where nobody else sees them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.curate import DONE, FAILED, main
from tests.engine import toy
from tests.engine.storm import digest

ROOT = Path(__file__).resolve().parents[2]
_UNSHARE = next(
    (
        command
        for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"])
        if shutil.which("unshare")
        and subprocess.run([*command, "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode == 0
    ),
    None,
)
pytestmark = pytest.mark.skipif(
    _UNSHARE is None, reason="needs the right to mount a tmpfs in a name space of its own (root, or unshare -r)"
)

# The command with less patience: two attempts at a work that storage failed, without the minutes between eight of them.
_CURATE = """
import sys
from functools import partial
from pipeline import run, scheduler
from pipeline.curate import main
run.schedule = partial(scheduler.run, policy=scheduler.Policy(attempts_lost=2, backoff_s=0.05))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """The command, what it comes to where there is room, and how many bytes that is."""
    work = tmp_path_factory.mktemp("numbers")
    footage = toy.make_numbers(work / "in", 16, payload=30_000)
    recipe = toy.recipe(work, touchy={"max_brightness": 0.012, "fail": [2], "sleep_s": 0.03}, unit=4, target_mb=0.1)
    command = [str(recipe), f"--input=numbers={footage}", "--quiet", "--no-report", "--error-budget=1"]
    assert main([*command, f"--output={work / 'out'}", "--executor=inline"]) == DONE
    pages = sum(-(-path.stat().st_size // 4096) * 4096 for path in (work / "out").rglob("*") if path.is_file())
    return command, digest(work / "out"), pages


def _in_a_mount(folder: Path, script: str, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """sh's script with a name space of mounts of its own; $CURATE runs the command into $DIR."""
    folder.mkdir()
    (folder.parent / "curate.py").write_text(_CURATE)
    shell = "\n".join([*(f"{name}='{value}'" for name, value in variables.items()), f"DIR='{folder}'", 'curate() { "$@"; }', script])
    start = [*(_UNSHARE or ()), "sh", "-c", shell, "sh", sys.executable, str(folder.parent / "curate.py"), *command, f"--output={folder}"]
    return subprocess.run(
        start, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}, capture_output=True, text=True
    )


def _resumed(tmp_path: Path) -> tuple[str, list[str]]:
    """Digest of what the script copied out at its end, and what was left half-written."""
    kept = tmp_path / "kept"
    assert json.loads((kept / "run.json").read_text())["state"] == "done"
    return digest(kept), [path.name for path in kept.rglob(".tmp-*")]


@pytest.mark.parametrize(("share", "executor"), [(0.05, "inline"), (0.5, "process"), (0.93, "inline")])
def test_a_full_disk_blames_nobody_and_the_same_command_finishes(tmp_path, numbers, share, executor):
    command, expected, size = numbers
    script = """
mount -t tmpfs -o size=$ROOM none "$DIR" || exit 90
curate "$@"; echo "status $?"
mount -o remount,size=64m "$DIR" || exit 91
curate "$@"; echo "status $?"
cp -r "$DIR" "$KEPT"
"""
    room = str(int(size * share) // 4096 * 4096)
    ended = _in_a_mount(
        tmp_path / "out", script, [*command, f"--executor={executor}", "--workers=2"], ROOM=room, KEPT=str(tmp_path / "kept")
    )
    assert [line for line in ended.stdout.splitlines() if line.startswith("status")] == [f"status {FAILED}", f"status {DONE}"], ended.stderr
    assert "No space left on device" in ended.stderr and "run the same command to resume" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert _resumed(tmp_path) == (expected, [])


def test_an_output_that_turns_read_only_blames_nobody_and_the_same_command_finishes(tmp_path, numbers):
    command, expected, _ = numbers
    script = """
mount -t tmpfs -o size=64m none "$DIR" || exit 90
( n=0; while [ $n -lt 2000 ] && ! ls "$DIR"/parts/u*.parquet >/dev/null 2>&1; do n=$((n + 1)); sleep 0.01; done
  n=0; while ! mount -o remount,ro "$DIR" 2>/dev/null && [ $n -lt 2000 ]; do n=$((n + 1)); sleep 0.003; done ) &
curate "$@"; echo "status $?"
wait
mount -o remount,rw "$DIR" || exit 91
curate "$@"; echo "status $?"
cp -r "$DIR" "$KEPT"
"""
    ended = _in_a_mount(tmp_path / "out", script, [*command, "--executor=process", "--workers=2"], KEPT=str(tmp_path / "kept"))
    assert [line for line in ended.stdout.splitlines() if line.startswith("status")] == [f"status {FAILED}", f"status {DONE}"], ended.stderr
    assert "Read-only file system" in ended.stderr and "Traceback" not in ended.stderr
    assert _resumed(tmp_path) == (expected, [])


def test_an_output_that_can_only_be_read_is_said_at_once(tmp_path, numbers):
    command, _, _ = numbers
    script = """
mount -t tmpfs -o ro none "$DIR" || exit 90
curate "$@"; echo "status $?"
ls -A "$DIR"
"""
    ended = _in_a_mount(tmp_path / "out", script, [*command, "--executor=process"])
    assert ended.stdout.splitlines() == [f"status {FAILED}"], ended.stderr
    assert "Read-only file system" in ended.stderr and "Traceback" not in ended.stderr
