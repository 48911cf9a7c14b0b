"""What travels back from the decoding child: a JSON header and raw buffers.

Never pickle in this direction: a decoder that a hostile file took over must not be able to run code in its parent.

A message is 4 bytes of header length, the header, then the buffers one after the other. The header is
{"value": encoded value, "buffers": [bytes, ...]}. Encoded values: None, bool, int, float and str stand for themselves,
lists for lists; everything else is an object with one tag.
"""

import json
import math
import struct
from collections.abc import Callable
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np

from schemas.typed import from_json

_LENGTH = struct.Struct("<I")
_MAX_HEADER = 64 << 20

Buffer = bytes | bytearray | memoryview


class WireError(Exception):
    """A message that is not in the format, or promises more than the limit."""


def pack(value: Any) -> list[Buffer]:
    """`value` as the pieces of one message, arrays without a copy. Raises TypeError for what cannot travel."""
    buffers: list[Buffer] = []
    encoded = _encode(value, buffers)
    header = json.dumps({"value": encoded, "buffers": [len(buffer) for buffer in buffers]}).encode()
    return [_LENGTH.pack(len(header)), header, *buffers]


def unpack(receive: Callable[[int], bytearray], max_bytes: int) -> Any:
    """The value of one message; `receive(n)` returns exactly n bytes. Raises WireError."""
    (length,) = _LENGTH.unpack(receive(_LENGTH.size))
    if length > _MAX_HEADER:
        raise WireError(f"a header of {length} bytes")
    try:
        message = from_json(bytes(receive(length)))
        sizes = [int(size) for size in message["buffers"]]
        if min(sizes, default=0) < 0 or sum(sizes) > max_bytes:
            raise WireError(f"a message of {sum(sizes)} bytes, at most {max_bytes} are taken")
        return _decode(message["value"], [receive(size) for size in sizes])
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise WireError(f"malformed: {error}") from error


def _encode(value: Any, buffers: list[Buffer]) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return _encode(value.item(), buffers)
    if isinstance(value, list):
        return [_encode(each, buffers) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(each, buffers) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(key, buffers), _encode(each, buffers)] for key, each in value.items()]}
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, bytes | bytearray | memoryview):
        buffers.append(memoryview(value).cast("B"))
        return {"bytes": len(buffers) - 1}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        array = np.ascontiguousarray(value)
        buffers.append(array.reshape(-1).view(np.uint8).data)
        return {"array": [len(buffers) - 1, array.dtype.str, list(value.shape)]}
    raise TypeError(
        f"a {type(value).__module__}.{type(value).__qualname__} cannot leave the sandbox; "
        "return None, numbers, str, bytes, Fraction, numeric numpy arrays, or lists, tuples and dicts of these"
    )


def _decode(value: Any, buffers: list[bytearray]) -> Any:
    if isinstance(value, list):
        return [_decode(each, buffers) for each in value]
    if not isinstance(value, dict):
        return value
    [(tag, inner)] = value.items()
    if tag == "tuple":
        return tuple(_decode(each, buffers) for each in inner)
    if tag == "dict":
        return {_decode(key, buffers): _decode(each, buffers) for key, each in inner}
    if tag == "fraction":
        return Fraction(int(inner[0]), int(inner[1]))
    if tag == "bytes":
        return bytes(buffers[inner])
    if tag == "array":
        return _array(buffers[inner[0]], np.dtype(str(inner[1])), [int(size) for size in inner[2]])
    raise ValueError(f"unknown tag {tag!r}")


def _array(buffer: bytearray, dtype: np.dtype[Any], shape: list[int]) -> Any:
    if dtype.kind not in "biufc" or math.prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"{len(buffer)} bytes do not hold {shape} of {dtype}")
    return np.frombuffer(buffer, dtype).reshape(shape)
