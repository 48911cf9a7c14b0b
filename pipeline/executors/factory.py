"""From the name on the command line to the executor."""

from collections.abc import Callable

from pipeline.executors import Executor
from pipeline.executors.inline import InlineExecutor
from pipeline.executors.process import ProcessExecutor
from pipeline.executors.ray import RayExecutor

_MAKERS: dict[str, Callable[[int | None], Executor]] = {
    "inline": lambda _workers: InlineExecutor(),
    "process": ProcessExecutor,
    "ray": RayExecutor,  # imports ray when made, not before
}


def make_executor(name: str, workers: int | None = None) -> Executor:
    """The executor of that name with `workers` tasks at a time; `inline` always has one.

    None means every core this process may use for `process`, and every CPU of the cluster for `ray`. Raises ValueError
    for an unknown name or fewer than one worker, ImportError for `ray` where Ray is not installed, and ConnectionError
    where RAY_ADDRESS names a cluster that does not answer.
    """
    if name not in _MAKERS:
        raise ValueError(f"unknown executor {name!r}; allowed: {', '.join(_MAKERS)}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; allowed: 1 or more, or none given to use every core")
    return _MAKERS[name](workers)
