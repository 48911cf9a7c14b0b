"""A dataset of numbers and a stage that misbehaves on request: what the engine is tested with.

Its root holds one small file a candidate: `<name>.txt` with the candidate's number. The stage looks up its orders for
a candidate in `Touchy.Config`.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import FrameIndex, Scene, SceneView
from schemas.typed import RecipeError
from schemas.verdict import CandidateError, Reason
from stages.ingest import Ingest
from stages.media import Media
from stages.perception.loaded import loaded
from stages.stage import Child, Findings, Item, Sampler, Scorer, Tier, limit, placement
from stages.storage import Tree

if TYPE_CHECKING:
    import pytest


def make_numbers(root: Path, count: int, payload: int = 300) -> Path:
    """`count` candidates whose files differ in content and length."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = root / f"n{number:05d}.txt"
        path.write_bytes(f"{number}\n".encode() + bytes([number % 251]) * (payload + number % 7))
        os.utime(path, ns=(1_700_000_000_000_000_000 + number, 1_700_000_000_000_000_000 + number))
    return root


def refuse(patch: "pytest.MonkeyPatch", name: str, pauses: tuple[float, ...] = ()) -> None:
    """Storage fails for this file, for as long as the patch lasts; so long are the pauses before a unit looks again."""
    read = Tree.read

    def failing(self: Tree, file: MediaFile, most: int) -> bytes:
        if file.path == name:
            raise CandidateError(Reason.E_IO, "storage failed")
        return read(self, file, most)

    patch.setattr(Tree, "read", failing)
    patch.setattr("pipeline.unit._STORAGE_PAUSES_S", pauses)


class Numbers(Ingest):
    format = "numbers"
    provides = frozenset({"video"})

    @dataclass(frozen=True)
    class Options:
        pass

    def discover(self, tree: Tree) -> Iterator[Candidate]:
        root = Path(tree.location)
        for path in sorted(root.glob("*.txt")):
            status = path.stat()
            file = MediaFile(path.name, status.st_size, status.st_mtime_ns)
            yield Candidate("numbers", path.stem, "video", (View("v", MediaRef("video", (file,))),), caption=f"number {path.stem}")

    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        number = int(tree.read(candidate.views[0].media.files[0], 100).split(b"\n")[0])
        pts = np.arange(number % 5 + 3)
        index = FrameIndex(pts, pts, Fraction(1, 25), 64, 48, Fraction(25), "toy")
        return Scene(candidate, (SceneView("v", candidate.views[0].media, index),))


class Touchy(Scorer):
    """brightness = number / 1000, after doing to itself what its settings say."""

    name = "touchy"
    version = 1
    tier = Tier.PIXELS
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        kill: tuple[int, ...] = ()
        hang: tuple[int, ...] = ()
        fail: tuple[int, ...] = ()
        bug: tuple[int, ...] = ()
        hungry: tuple[int, ...] = ()
        timeout: tuple[int, ...] = ()
        sleep_s: float = 0.0
        needs: str = ""  # a package that must be there, in truth a file
        log: str = ""  # a file that gets a line for every candidate that was computed
        max_brightness: float | None = limit("brightness", "<=", Reason.OVEREXPOSED)

    def score(self, item: Item, media: Media) -> Findings:
        number = int(item.scene.candidate.candidate_id.lstrip("n"))
        if self.config.needs and not Path(self.config.needs).exists():
            raise RecipeError("this stage needs the package toys; install it with: uv pip install toys")
        if self.config.log:
            with Path(self.config.log).open("a") as log:
                log.write(f"{number}\n")
        if self.config.sleep_s:
            time.sleep(self.config.sleep_s)
        if number in self.config.kill:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number in self.config.hang:
            time.sleep(3600)
        if number in self.config.hungry:
            raise MemoryError("20 GiB")
        if number in self.config.bug:
            raise ZeroDivisionError(f"{number} / 0")
        if number in self.config.fail:
            raise CandidateError(Reason.E_TRUNCATED, f"number {number} is cut short")
        if number in self.config.timeout:
            raise CandidateError(Reason.E_TIMEOUT, f"number {number} took too long")
        return Findings({"brightness": number / 1000})


class Modelled(Scorer):
    """brightness = number / 1000, by a model. Notes every load, and every candidate, with the process."""

    name = "modelled"
    version = 1
    tier = Tier.MODELS
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        weights: str = placement("")  # a file that stands for GlueStick's
        log: str = placement("")

    def weights(self) -> tuple[tuple[str, str | None], ...]:
        return (("gluestick", self.config.weights),) if self.config.weights else ()

    def score(self, item: Item, media: Media) -> Findings:
        model = loaded("modelled", (self.config.weights, self.config.log), self._load)
        self._note(f"computes {item.scene.candidate.source}")
        return Findings({"brightness": model(item.scene.candidate)})

    def _load(self) -> Callable[[Candidate], float]:
        self._note("loads -")
        return lambda candidate: int(candidate.candidate_id.lstrip("n")) / 1000

    def _note(self, what: str) -> None:
        if self.config.log:
            with Path(self.config.log).open("a") as log:
                log.write(f"{os.getpid()} {what}\n")


class Slices(Sampler):
    """Two children of every candidate, the second refused for odd frame counts."""

    name = "slices"
    version = 1
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        pass

    def sample(self, scene: Scene, seed: int, media: Media) -> list[Child]:
        frames = np.arange(len(scene.views[0].index))
        refused = (Reason.BOUNDARY,) if len(frames) % 2 else ()
        return [
            Child("s0", "window", (0,), (frames[:1],), None, ("v",), {"stride": 1.0}),
            Child("s1", "window", (0,), (frames[1:2],), None, ("v",), {"stride": 1.0}, reasons=refused),
        ]


def recipe(tmp: Path, *, touchy: dict | None = None, unit: int = 5, target_mb: float = 0.01, **source: object) -> Path:
    """A recipe file over the toy dataset."""
    import yaml

    path = tmp / "recipe.yaml"
    document = {
        "name": "toy",
        "units": {"size": unit},
        "shards": {"target_mb": target_mb},
        "sources": {
            "numbers": {
                "ingest": "tests.engine.toy:Numbers",
                "license": "CC0-1.0",
                "stages": [{"tests.engine.toy:Touchy": touchy or {}}],
                **source,
            }
        },
    }
    path.write_text(yaml.safe_dump(document))
    return path
