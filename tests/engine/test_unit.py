"""What units share in a worker, and how long one may take."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.binding import Source, bind
from pipeline.curate import DONE, main
from pipeline.unit import Unit, run_unit
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.recipe import parse_recipe
from schemas.typed import RecipeError
from stages.perception import weights
from stages.storage import Tree
from tests.engine import toy


def recipe(sources: dict[str, list[Any]], **more: Any) -> dict[str, Any]:
    """A recipe over toy datasets: the stages of each source."""
    listed = {name: {"ingest": "tests.engine.toy:Numbers", "license": "CC0-1.0", "stages": stages} for name, stages in sources.items()}
    return {"name": "toy", "units": {"size": 4}, "sources": listed, **more}


def modelled(**settings: Any) -> list[Any]:
    return [{"tests.engine.toy:Modelled": settings}]


def source_with(stages: list[Any], **more: Any) -> Source:
    return bind(parse_recipe(recipe({"numbers": stages}, **more)))["numbers"]


def units_of(source: Source, root: Path, output: Path, size: int = 5) -> list[Unit]:
    found = list(source.ingest.discover(Tree(root)))
    parts = [tuple(found[start : start + size]) for start in range(0, len(found), size)]
    return [Unit(f"u{i:06d}", source, Tree(root), output, part) for i, part in enumerate(parts)]


def sent(unit: Unit) -> dict[str, Any]:
    """The payload of the unit's task, as it arrives in another process."""
    payload: dict[str, Any] = pickle.loads(pickle.dumps(unit.task(None, {}).payload))
    return payload


def test_a_source_looks_for_weights_and_makes_its_key_once_a_process(tmp_path: Path, footage: Path, monkeypatch) -> None:
    file = tmp_path / "net.tar"
    file.write_bytes(b"weights")
    found, keyed, find, settings = [], [], weights.find, toy.Modelled.compute_settings
    monkeypatch.setattr("pipeline.binding.find", lambda *args, **more: found.append(args) or find(*args, **more))
    monkeypatch.setattr(toy.Modelled, "compute_settings", lambda self: keyed.append(self) or settings(self))
    units = units_of(source_with(modelled(weights=str(file))), footage, tmp_path / "out")
    assert len({unit.key for unit in units}) == 5
    assert (len(found), len(keyed)) == (1, 1), "where the run was started, however many units it has"
    found.clear(), keyed.clear()
    for unit in units:
        run_unit(sent(unit))
    assert (len(found), len(keyed)) == (1, 1 + 23), "in a worker; the settings once more for the step key of every candidate"
    assert len(list((tmp_path / "out" / "parts").glob("*.parquet"))) == 5


def test_a_worker_with_other_weights_refuses_the_unit(tmp_path: Path, footage: Path) -> None:
    """Else rows would say that they were made with what the machine has on which the run was started."""
    file = tmp_path / "net.tar"
    file.write_bytes(b"weights")
    [unit, *_] = units_of(source_with(modelled(weights=str(file))), footage, tmp_path / "out")
    payload = sent(unit)
    file.write_bytes(b"other weights")
    with pytest.raises(RecipeError, match=r"u000000 is not on .* what it was where the run was started: weights"):
        run_unit(payload)
    [unit, *_] = units_of(source_with(modelled(weights=str(file))), footage, tmp_path / "out")
    assert run_unit(sent(unit))["counts"] == {"kept": 5}, "a run that is started now takes the new ones, in the same process"


@pytest.mark.parametrize("executor", ["inline", "process", "ray"])
def test_sources_with_the_same_settings_share_a_model(executor: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if executor == "ray":
        request.getfixturevalue("ray_cluster")
    log, file, path = tmp_path / "log", tmp_path / "net.tar", tmp_path / "recipe.yaml"
    file.write_bytes(b"weights")
    stages = modelled(weights=str(file), log=str(log))
    path.write_text(yaml.safe_dump(recipe({"one": stages, "two": stages})))
    inputs = [f"--input={name}={toy.make_numbers(tmp_path / name, 8)}" for name in ("one", "two")]
    options = [f"--executor={executor}", "--workers=1", "--quiet", "--no-report"]
    assert main([str(path), *inputs, f"--output={tmp_path / 'out'}", *options]) == DONE
    noted = [tuple(line.split()) for line in log.read_text().splitlines()]
    loads = Counter(process for process, what, _ in noted if what == "loads")
    computing = Counter((process, source) for process, what, source in noted if what == "computes")
    assert loads == dict.fromkeys({process for process, _ in computing}, 1)
    assert sum(computing.values()) == 16
    if executor != "ray":  # which may take another process for the same worker
        assert len(loads) == 1 and sorted(source for _, source in computing) == ["one", "two"]


def footage_of(megabytes: float, pictures: int = 0) -> Candidate:
    files = [MediaFile(f"{i}.jpg", 0, 0) for i in range(pictures)] or [MediaFile("a.mp4", round(megabytes * 1e6), 0)]
    return Candidate("numbers", "a", "video", (View("v", MediaRef("images" if pictures else "video", tuple(files))),))


def seconds(stages: list[Any], *candidates: Candidate, items: range | None = None) -> float:
    found = Unit("u000000", source_with(stages), Path("in"), Path("out"), candidates).task(items, {}).timeout_s
    assert found is not None
    return found


def test_a_deadline_leaves_time_for_models_and_for_long_footage() -> None:
    pixels = ["tests.engine.toy:Touchy"]
    hour, clip = footage_of(900), footage_of(1)  # an hour at 2 Mbit/s; seconds
    assert seconds(modelled(), hour) > 25 * 3600 * 0.5, "a model that takes half a second for each of 25 frames a second"
    assert seconds(modelled(), footage_of(0, pictures=90_000)) > 25 * 3600 * 0.5, "pictures are counted, whatever their size"
    assert seconds(modelled(), clip) > 1800, "one that takes minutes for each of the few frames that it looks at"
    assert seconds(pixels, clip) < 1800, "what hangs without a model is found sooner"
    assert seconds(pixels, hour) > 3600, "decoded no faster than it is shown"


def test_the_deadline_of_a_unit_is_shared_out_among_its_candidates() -> None:
    candidates = [footage_of(size) for size in (1, 900, 40)]
    parts = [seconds(modelled(), *candidates, items=range(i, i + 1)) for i in range(3)]
    assert parts[1] > parts[2] > parts[0]
    alone = seconds(modelled())
    assert seconds(modelled(), *candidates) - alone == pytest.approx(sum(part - alone for part in parts)), "models load once"
    assert seconds(modelled()) > 0, "a unit whose candidates are gone has a part to write all the same"
