"""Mappings from YAML to frozen dataclasses, checked at birth.

Every message says what, the value, what is allowed, and where it stands.
"""

import dataclasses
import difflib
import json
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxlong, _SHOWN.maxother = 4, 200, 60, 200
_SHOWN.maxdict = _SHOWN.maxlist = _SHOWN.maxtuple = _SHOWN.maxset = 10


class RecipeError(ValueError):
    """A recipe that cannot be run as written. The message names the place in the recipe."""


def shown(value: Any) -> str:
    """`repr`, which ends, however deep and long the value: YAML's aliases write thousands of millions of entries in a few lines."""
    return _SHOWN.repr(value)


def from_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What a file that anybody may have written holds. pairs: makes an object of its entries. Raises ValueError for what is no JSON, and
    for what is nested deeper than Python follows."""
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def object_from_json(text: str | bytes) -> dict[str, Any]:
    """The same of a file that holds one object. Raises ValueError."""
    document = from_json(text)
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, got {type(document).__name__}")
    return document


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
        raise RecipeError(f"{where}: expected a mapping, got {shown(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise RecipeError(f"{where}: unknown key {shown(key)}{nearest(str(key)[:200], fields)}")
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
            hint_text = nearest(value[:200], map(str, arguments)) if isinstance(value, str) else ""
            raise RecipeError(f"{where}: {shown(value)} is not one of {', '.join(map(repr, arguments))}{hint_text}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{where}: expected a list, got {shown(value)}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], each, f"{where}[{i}]", metadata) for i, each in enumerate(value))
        if len(value) != len(arguments):
            raise RecipeError(f"{where}: expected {len(arguments)} values, got {shown(value)}")
        pairs = enumerate(zip(arguments, value, strict=True))
        return tuple(_convert(argument, each, f"{where}[{i}]", metadata) for i, (argument, each) in pairs)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected a mapping, got {shown(value)}")
        return {str(key): _convert(arguments[1], each, f"{where}.{key}", metadata) for key, each in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    return _scalar(hint, value, where, metadata)


def _scalar(hint: Any, value: Any, where: str, metadata: Mapping[str, Any]) -> Any:
    if hint is Any:
        return value
    accepted: Any = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where}: expected {hint.__name__}, got {shown(value)}")
    if hint in (int, float):
        low, high = metadata.get("low"), metadata.get("high")
        try:
            number = hint(value)
            within = number == number and (low is None or number >= low) and (high is None or number <= high)
        except OverflowError:  # an integer beyond floating point
            within = False
        if not within:
            span = f"at least {low}" if high is None else f"at most {high}" if low is None else f"from {low} to {high}"
            raise RecipeError(f"{where}: {shown(value)} is out of range; it must be {span}")
        return number
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
