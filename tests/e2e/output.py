"""What came out of a run, read with other people's code: pyarrow, the webdataset reader, PyAV, OpenCV."""

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow.dataset as ds
import webdataset as wds
import yaml

from pipeline.audit import main as audit
from pipeline.curate import main as curate

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Output:
    """An output folder, and the exit code of the command that made it."""

    path: Path
    code: int

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return ds.dataset(self.path / "manifest" / "samples").to_table().to_pylist()

    @cached_property
    def samples(self) -> dict[str, dict[str, Any]]:
        """Every sample of every shard by its key, as a trainer reads it."""
        shards = sorted(str(path) for path in (self.path / "shards").iterdir())
        return {sample["__key__"]: sample for sample in wds.WebDataset(shards, shardshuffle=False, empty_check=False)}

    @property
    def run(self) -> dict[str, Any]:
        return json.loads((self.path / "run.json").read_text())

    def of(self, source: str, *, status: str | None = None, is_source: bool | None = None) -> list[dict[str, Any]]:
        return [
            row
            for row in self.rows
            if row["source"] == source and status in (None, row["status"]) and is_source in (None, row["is_source"])
        ]

    def verdicts(self, source: str) -> dict[str, str]:
        """candidate_id -> status and reasons, as one string, of what the ingest found."""
        return {row["candidate_id"]: " ".join([row["status"], *row["reasons"]]) for row in self.of(source, is_source=True)}

    def page(self) -> str:
        return (self.path / "report" / "index.html").read_text(encoding="utf-8")


def run(recipe: Path | str, inputs: dict[str, Path], output: Path, *more: str) -> Output:
    """The command in this process; its executor's workers are processes of their own."""
    arguments = [str(recipe), *(f"--input={name}={path}" for name, path in inputs.items()), f"--output={output}", "--quiet", *more]
    return Output(output, curate(arguments))


def run_apart(recipe: Path | str, inputs: dict[str, Path], output: Path, cwd: Path, *more: str) -> Output:
    """The command as a user starts it."""
    arguments = [str(recipe), *(f"--input={name}={path}" for name, path in inputs.items()), f"--output={output}", *more]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.curate", *arguments], cwd=cwd, env={**_environment()}, capture_output=True, text=True, timeout=280
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Output(output, done.returncode)


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def intact(output: Path) -> bool:
    return audit(["verify", str(output), "--quiet"]) == 0


def write_recipe(path: Path, sources: dict[str, Any], **more: Any) -> Path:
    path.write_text(yaml.safe_dump({"name": path.stem, "units": {"size": 3}, "shards": {"target_mb": 0.5}, **more, "sources": sources}))
    return path


def decoded(source: Path | bytes) -> tuple[np.ndarray, list[int]]:
    """[N,H,W,3] RGB of all frames in the order they are shown, and their times in nanoseconds."""
    with av.open(str(source) if isinstance(source, Path) else io.BytesIO(source)) as container:
        frames = sorted(container.decode(video=0), key=lambda frame: frame.pts)
        times = [round(frame.pts * frame.time_base * 1_000_000_000) for frame in frames]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), times


def picture(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def nearest_frame(image: np.ndarray, frames: np.ndarray) -> tuple[int, float]:
    """Which of the frames [N,H,W,3] looks most like the image, and by how many grey levels it differs on average."""
    differences = [float(np.abs(image.astype(np.int16) - frame).mean()) for frame in frames]
    best = int(np.argmin(differences))
    return best, differences[best]


def cameras(sample: dict[str, Any]) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(sample["cameras.npz"]), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def tree(folder: Path, without: Path | None = None) -> dict[str, str]:
    """Everything below the folder: what it is, and for plain files what is in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if without is not None and (path == without or without in path.parents):
            continue
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file" if path.is_file() else "special"
        found[str(path.relative_to(folder))] = kind + (" " + sha256(path.read_bytes()).hexdigest() if kind == "file" else "")
    return found
