"""Mappings from YAML to frozen dataclasses, checked at birth.

Every message says what, the value, what is allowed, and where it stands.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


class RecipeError(ValueError):
    """A recipe that cannot be run as written. The message names the place in the recipe."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" where something allowed is near, else the whole list of what is allowed."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed: {', '.join(allowed) or 'nothing'}"


def bounded(default: Any = dataclasses.MISSING, *, low: float | None = None, high: float | None = None, **metadata: Any) -> Any:
    """A dataclass field whose number must lie in [low, high]; `None` passes where the type allows it."""
    metadata |= {"low": low, "high": high}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(cls: type[T], values: Any, where: str) -> T:
    """Make the dataclass `cls` from a mapping, strictly: unknown keys, wrong types and values out of range are refused.

    where: the place in the recipe, e.g. "sources.clips.stages[0].quality". Raises RecipeError.
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise RecipeError(f"{where}: unknown key {key!r}{nearest(str(key), fields)}")
    hints = typing.get_type_hints(cls)
    made = {}
    for name, field in fields.items():
        if name in values:
            made[name] = _convert(hints[name], values[name], f"{where}.{name}", field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{where}: the key {name!r} is required")
    try:
        return cls(**made)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str, metadata: Mapping[str, Any]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        rest = [argument for argument in arguments if argument is not type(None)]
        for argument in rest[:-1]:
            try:
                return _convert(argument, value, where, metadata)
            except RecipeError:
                continue
        return _convert(rest[-1], value, where, metadata)
    if origin is Literal:
        if value not in arguments:
            hint_text = nearest(value, map(str, arguments)) if isinstance(value, str) else ""
            raise RecipeError(f"{where}: {value!r} is not one of {', '.join(map(repr, arguments))}{hint_text}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{where}: expected a list, got {value!r}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], each, f"{where}[{i}]", metadata) for i, each in enumerate(value))
        if len(value) != len(arguments):
            raise RecipeError(f"{where}: expected {len(arguments)} values, got {value!r}")
        pairs = enumerate(zip(arguments, value, strict=True))
        return tuple(_convert(argument, each, f"{where}[{i}]", metadata) for i, (argument, each) in pairs)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected a mapping, got {value!r}")
        return {str(key): _convert(arguments[1], each, f"{where}.{key}", metadata) for key, each in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    return _scalar(hint, value, where, metadata)


def _scalar(hint: Any, value: Any, where: str, metadata: Mapping[str, Any]) -> Any:
    if hint is Any:
        return value
    accepted: Any = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where}: expected {hint.__name__}, got {value!r}")
    if hint in (int, float):
        low, high = metadata.get("low"), metadata.get("high")
        if math.isnan(value) or not ((low is None or value >= low) and (high is None or value <= high)):
            span = f"at least {low}" if high is None else f"at most {high}" if low is None else f"from {low} to {high}"
            raise RecipeError(f"{where}: {value!r} is out of range; it must be {span}")
        return hint(value)
    return value


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and enums to what JSON and YAML can hold; the inverse of `build` up to defaults."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(each) for each in value]
    return value
