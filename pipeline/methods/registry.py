"""The methods by name. Each module offers `add_options(parser)`, `defaults(base_name)` and `build(base, options)`."""

from importlib import import_module
from types import ModuleType

from schemas.typed import nearest

METHODS: dict[str, str] = {
    "syncammaster": "pipeline.methods.syncammaster.training",
    "text_to_video": "pipeline.methods.text_to_video",
}


def method(name: str) -> ModuleType:
    """The module of a method. Raises ValueError for an unknown name."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}{nearest(name, METHODS)}")
    return import_module(METHODS[name])
