"""A short pass of the fuzz run, the same examples every time; `python -m benchmarks.fuzz` takes fresh ones for as long as it is told."""

from importlib.util import find_spec

import pytest

from tests.fuzz.all import targets
from tests.fuzz.run import Outcome, run_examples
from tests.fuzz.target import Target

_QUICK = 12  # examples; those that start a decoder or write a folder take fewer


@pytest.fixture(scope="module")
def by_name() -> dict[str, Target]:
    return {target.name: target for target in targets()}


NAMES = (
    *("recipe yaml", "recipe document", "captions", "metadata.csv", "plan", "selection json", "--set", "a name in a page", "names"),
    *("rig json", "SynCamVideo json", "transforms.json", "Kubric-4D json", "Qualisys xml", "COLMAP text", "trajectory txt"),
    *("any camera file, drawn", "any camera file, viewpoints"),
    *("data set rig", "data set syncamvideo-v1", "data set syncamvideo-v2", "data set realestate10k", "data set dl3dv"),
    *("data set kubric4d", "data set davis", "data set clips", "members of archives", "data set in an archive"),
    *(
        "video header",
        "picture",
        "video, sandboxed",
        "footage in the loader",
        "the sandbox's answer",
        "mask png",
        "depth npz",
        "depth tiff",
    ),
    *("a sample's members", "RealEstate10K .torch", "checkpoint"),
    *("output, before training", "output, audit verify", "output, audit show", "output, audit sql", "output, audit diff"),
    *("output, audit what-if", "output, report"),
)


_OF_TORCH = {"RealEstate10K .torch", "checkpoint"}


def test_every_target_is_run(by_name: dict[str, Target]) -> None:
    assert set(by_name) == set(NAMES) - (_OF_TORCH if find_spec("torch") is None else set())


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_declared_comes_out_and_nothing_is_written(name: str, by_name: dict[str, Target]) -> None:
    if name in _OF_TORCH:
        pytest.importorskip("torch", reason="needs torch")
    outcome = Outcome()
    target = by_name[name]
    run_examples(target, 5 if target.sandbox or target.write is not None else _QUICK, None, outcome)
    assert outcome.examples
