"""The same run on Ray Train workers. They find each other through Ray; everything else is `start`, as without Ray."""

import logging
from pathlib import Path
from typing import Any

from pipeline.executors.ray import connect
from pipeline.training.checkpoint import Checkpoint, at
from pipeline.training.errors import TrainingError
from pipeline.training.settings import TrainSettings, from_plain
from pipeline.training.start import RAY, start
from schemas.typed import RecipeError, to_plain


def launch(settings: TrainSettings, resume: Checkpoint | None) -> None:
    """Train on `settings.ray_workers` workers of the cluster: the one that RAY_ADDRESS or a Ray job names, else a local one.

    Paths must mean the same on every node. Raises TrainingError with the first worker's message.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ours = connect(None)
    try:
        gpus = _gpus(settings, ray.cluster_resources().get("GPU", 0))
        resources = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"settings": to_plain(settings), "resume": str(resume.folder) if resume else None},
            scaling_config=ScalingConfig(num_workers=settings.ray_workers, use_gpu=bool(gpus), resources_per_worker=resources),
            run_config=RunConfig(  # type: ignore[call-arg]  # typed as Ray Train's first version
                name="train",
                storage_path=str(Path(settings.output) / RAY),
                failure_config=FailureConfig(max_failures=0),
                worker_runtime_env={"env_vars": {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}},  # else every line comes twice
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise _told(error) from error
    finally:
        if ours:
            ray.shutdown()


def _worker(config: dict[str, Any]) -> None:
    """What every worker runs. Ray has set RANK, WORLD_SIZE and the process group."""
    logging.getLogger("pipeline").setLevel(logging.INFO)
    settings = from_plain(config["settings"], "settings")
    try:
        start(settings, at(Path(config["resume"])) if config["resume"] else None)
    except ValueError as error:  # what a person can set right; its class may need packages that the driver lacks
        raise TrainingError(str(error)) from None


def _gpus(settings: TrainSettings, there: float) -> float:
    """GPUs of one worker. Raises RecipeError for what no cluster could give."""
    if settings.device == "cpu":
        return 0.0
    wanted = settings.ray_gpus if settings.ray_gpus is not None else 1.0 if there else 0.0
    if settings.device == "cuda" and not wanted:
        raise RecipeError("--device cuda with --launcher ray: the cluster has no GPU; name what a worker takes with --ray-gpus")
    return wanted


def _told(error: Exception) -> TrainingError:
    """A worker's own message where it is ours, else all that Ray says."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for rank in sorted(failures):
        cause: BaseException | None = failures[rank]
        while cause is not None:
            if isinstance(cause, TrainingError):
                return TrainingError(str(cause))
            cause = getattr(cause, "cause", None) or cause.__cause__
    return TrainingError(f"Ray Train failed: {error}")
