"""What a run says while it trains: a bar on a terminal and plain lines elsewhere, DIR/log.jsonl, DIR/tensorboard."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.store import write_bytes
from schemas.typed import from_json

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


class TrainLog:
    """Of the first rank; the others are given `folder=None` and stay silent.

    step: how many steps are done already. Entries beyond it, of a run that went on after its last checkpoint, are dropped.
    """

    def __init__(self, folder: Path | None, step: int, steps: int, quiet: bool = False) -> None:
        self._active, self._quiet = folder is not None, quiet or folder is None
        self._steps = steps
        self._bar: tqdm[Any] | None = None
        if folder is None:
            return
        self._path = folder / LOG
        _cut(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _board(folder / TENSORBOARD, step, self.note)
        if sys.stderr.isatty() and not quiet:
            self._bar = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True)

    def advance(self, loss: float) -> None:
        """One more step is done."""
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)

    def entry(self, step: int, entry: Mapping[str, Any]) -> None:
        """One line of the log; its numbers also go to TensorBoard, those of nested mappings as name/key."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step, **entry}, ensure_ascii=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in _scalars(entry):
                self._board.add_scalar(name, value, step)
            self._board.flush()
        if self._bar is None and "loss" in entry:
            rate = f", {entry['samples_per_s']:.2f} samples/s" if "samples_per_s" in entry else ""
            self.note(f"step {step}/{self._steps}: loss {entry['loss']:.4f}{rate}")

    def skipped(self, step: int, lines: Sequence[str]) -> None:
        """Samples that could not be read, by name: in the log all of them, on the screen the first few of a step."""
        if not self._active:
            return
        self.entry(step, {"skipped_samples": list(lines)})
        for line in lines[:5]:
            self.note(f"step {step}: skipped {line}")
        if len(lines) > 5:
            self.note(f"step {step}: and {len(lines) - 5} more, in {self._path}")

    def note(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if not self._active:
            return
        if self._bar is not None:
            self._bar.close()
        self._file.close()
        if self._board is not None:
            self._board.close()


def _cut(path: Path, step: int) -> None:
    """Keep the whole lines up to `step`; a killed run may have left half a line at the end."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if line.endswith(b"\n") and from_json(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_bytes(path, b"".join(kept))


def _board(folder: Path, step: int, note: Any) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        note("no TensorBoard log: tensorboard is not installed; fix: uv pip install tensorboard")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _scalars(entry: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + name, float(value)))
    return found
