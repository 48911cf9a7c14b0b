"""A toy dataset, and a way to curate it and to read what came out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from pipeline.curate import main
from tests.engine import toy
from tests.engine.storm import digest


@dataclass
class Curated:
    """An output folder after `curate` ended with `code`."""

    path: Path
    code: int

    @property
    def rows(self) -> list[dict[str, Any]]:
        return ds.dataset(self.path / "manifest" / "samples").to_table().to_pylist()

    @property
    def by_id(self) -> dict[str, dict[str, Any]]:
        return {row["candidate_id"]: row for row in self.rows if row["is_source"]}

    @property
    def units(self) -> list[dict[str, Any]]:
        return ds.dataset(self.path / "manifest" / "units").to_table().to_pylist()

    @property
    def digest(self) -> str:
        return digest(self.path)


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    return toy.make_numbers(tmp_path / "in", 23)


@pytest.fixture
def curate(tmp_path: Path, footage: Path) -> Callable[..., Curated]:
    """curate(*arguments, output="out", touchy={...}, recipe settings...) runs the command on the toy dataset."""

    def run(*arguments: str, output: str = "out", executor: str = "inline", **settings: Any) -> Curated:
        recipe = toy.recipe(tmp_path, **settings)
        path = tmp_path / output
        code = main(
            [str(recipe), f"--input=numbers={footage}", f"--output={path}", f"--executor={executor}", "--quiet", "--no-report", *arguments]
        )
        return Curated(path, code)

    return run
