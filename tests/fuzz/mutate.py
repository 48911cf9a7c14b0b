"""Strategies: valid documents with a few things wrong, and plain bytes."""

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

_NUMBERS = (
    "0",
    "-1",
    "1",
    "0.0",
    "-0.0",
    "1e308",
    "-1e308",
    "1e154",
    "1e-320",
    "1e999",
    "NaN",
    "-Infinity",
    "9" * 20,
    "9" * 400,
    "9" * 5000,
)
NASTY = (
    "", " ", "\0", "\ud800", "\udcff", "\u202e", "\u2028", "\ufeff", "</script><script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "../../etc/passwd", "/etc/passwd", "..", ".", "C:\\x", "a\\..\\..\\b", "a/b", "${x}", "%s%n", "{0}", "-rf", "é" * 300, "x" * 5000,
    "1" * 5000, "01", "+1", "1_0", "٣", "NaN", "inf", "true", "null", "frame0", "\r\n", "a\tb", "<!--", "<!DOCTYPE x>", "😀",
)  # fmt: skip
_RAW = (
    *_NUMBERS, "null", "true", "[]", "{}", "[[]]", '""', "[" * 60 + "]" * 60, "[" * 100_000, "[" * 900 + "]" * 900,
    '{"a":' * 960 + "1" + "}" * 960,
    '{"a":1,"a":2}', "[1,2,3]", "[[1,2],[3]]", "[1" + ",1" * 3000 + "]",
)  # fmt: skip
_SIZES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**62, 2**63 - 1, 2**64 - 1)

texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=12), st.characters(codec=None).map(str))


@st.composite
def mutated(draw: DrawFn, seeds: Sequence[bytes], pieces: Sequence[bytes] = ()) -> bytes:
    """One of the seeds after a few changes; now and then bytes of no origin. pieces: what the format knows, to be put anywhere."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.integers(0, 7))
        at = draw(st.integers(0, len(data)))
        if kind == 0:
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == 3 and pieces:
            piece = draw(st.sampled_from(pieces))
            data[at : at + draw(st.sampled_from((0, len(piece))))] = piece
        elif kind == 4:
            number = draw(st.sampled_from(_SIZES)).to_bytes(8, draw(st.sampled_from(("little", "big"))))
            width = draw(st.sampled_from((1, 2, 4, 8)))
            piece = number[:width] if number[-1] == 0 or width == 8 else number[-width:]
            data[at : at + width] = piece
        elif kind == 5:
            other = draw(st.sampled_from(seeds))
            data[at:] = other[draw(st.integers(0, len(other))) :]
        elif kind == 6:
            data[at:at] = bytes(data[at : at + draw(st.integers(1, 64))]) * draw(st.integers(1, 50))
        else:
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
    return bytes(data)


@st.composite
def mutated_text(draw: DrawFn, seeds: Sequence[str], separators: str = " ") -> bytes:
    """Words and lines of a seed replaced, dropped and repeated; then, now and then, its bytes changed."""
    lines = draw(st.sampled_from(seeds)).split("\n")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines) - 1)) if lines else 0
        kind = draw(st.integers(0, 5))
        if not lines or kind == 0:
            lines.insert(at, draw(texts))
        elif kind == 1:
            del lines[at]
        elif kind == 2:
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        else:
            separator = draw(st.sampled_from(separators))
            words = lines[at].split(separator)
            place = draw(st.integers(0, len(words) - 1))
            words[place : place + draw(st.integers(0, 1))] = [draw(st.one_of(st.sampled_from(_NUMBERS), texts))]
            lines[at] = separator.join(words)
    data = draw(st.sampled_from(("\n", "\n", "\r\n"))).join(lines).encode("utf-8", "surrogatepass")
    return draw(mutated([data])) if draw(st.integers(0, 7)) == 0 else data


@st.composite
def mutated_json(draw: DrawFn, seeds: Sequence[Any]) -> bytes:
    """A document with parts replaced by what they must not be, dropped, moved, named otherwise; as text, duplicate keys included."""
    document = copy.deepcopy(draw(st.sampled_from(seeds)))
    raw: list[str] = []

    def odd() -> Any:
        if draw(st.booleans()):
            return draw(texts)
        raw.append(draw(st.sampled_from(_RAW)))
        return f"@raw{len(raw) - 1}@"

    for _ in range(draw(st.integers(0, 3))):
        parent, key = _place(draw, document)
        if parent is None:
            document = odd()
            continue
        kind = draw(st.integers(0, 6))
        if kind <= 2:
            parent[key] = odd()
        elif kind == 3:
            del parent[key]
        elif kind == 4 and isinstance(parent, dict):
            parent[draw(texts)] = parent.pop(key)
        elif kind == 5 and isinstance(parent[key], int | float):
            parent[key] = parent[key] * draw(st.sampled_from((-1, 0, 2, 1e9, 1e300, 10**30, 1 + 1e-6)))
        elif isinstance(parent, list):
            parent += [copy.deepcopy(parent[key])] * draw(st.sampled_from((1, 1, 3, 500)))
        else:
            other, name = _place(draw, document)
            parent[draw(texts)] = copy.deepcopy(parent[key] if other is None else other[name])
    text = json.dumps(document)
    for number, piece in enumerate(raw):
        text = text.replace(f'"@raw{number}@"', piece)
    data = text.encode()
    return draw(mutated([data])) if draw(st.integers(0, 9)) == 0 else data


def _place(draw: DrawFn, document: Any) -> tuple[Any, Any]:
    """A container somewhere in the document and a key of it; (None, None) for the document itself."""
    parent, key, at = None, None, document
    while isinstance(at, dict | list) and at and (parent is None or draw(st.integers(0, 3))):
        if parent is None and draw(st.integers(0, 19)) == 0:
            break
        parent, key = at, draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
        at = at[key]
    return parent, key
