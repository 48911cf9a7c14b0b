"""What every process of the distributed tests runs: each of several trainings whole, and in two parts."""

import os
from pathlib import Path


def work(rank: int, world: int, ports: list[int], trainings: dict[str, dict]) -> None:
    """trainings: settings by output folder. ports: one for every start of a job, three for each training."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    meeting = iter(ports)
    for output, options in trainings.items():
        for folder, steps in ((Path(output) / "whole", 4), (Path(output) / "parts", 2), (Path(output) / "parts", 4)):
            os.environ["MASTER_PORT"] = str(next(meeting))
            _train(folder, steps, options)


def _train(folder: Path, steps: int, options: dict) -> None:
    from accelerate.state import AcceleratorState

    from pipeline.training import checkpoint
    from pipeline.training.loop import run
    from tests.training.toy import ToyLoader, ToyMethod, settings_for, toy_batch

    settings = settings_for(folder, steps=steps, **options)
    held = toy_batch(0, [0]) if settings.validate_every else None
    run(
        settings, ToyMethod(), lambda rank, world, step: ToyLoader(settings, rank, world, step), resume=checkpoint.latest(folder), held=held
    )
    AcceleratorState._reset_state(reset_partial_state=True)
