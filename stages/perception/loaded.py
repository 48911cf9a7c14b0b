"""The models that this process has loaded: each once, whichever source and stage asks for it."""

import os
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar, cast

T = TypeVar("T")

_models: dict[tuple[int, str, tuple[Hashable, ...]], Any] = {}
_lock = Lock()


def loaded(kind: str, settings: tuple[Hashable, ...], load: Callable[[], T]) -> T:
    """What `load` made when it was first called for this kind and these settings in this process.

    kind: the stage and the model, "lines gluestick": two stages do not share a model, which may hold state between frames. settings:
    all that `load` depends on: paths, sizes, device. An exception of `load` is not remembered.
    """
    key = (os.getpid(), kind, settings)  # a forked process must not compute with its parent's handles
    with _lock:  # one after another: libraries set flags for the whole process while they load
        if key not in _models:
            _models[key] = load()
        return cast(T, _models[key])
