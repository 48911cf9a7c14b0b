"""Sample keys and candidate identities."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.candidate import MAX_KEY, Candidate, MediaFile, MediaRef, View, parse_key, sample_key

names = st.text(min_size=1, max_size=12)


@given(names, names)
def test_keys_are_plain_and_give_the_name_back(source: str, name: str) -> None:
    try:
        (source + name).encode("utf-8")
    except UnicodeEncodeError:
        return  # lone surrogates other than the file system's are no names
    key = sample_key(source, name)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", key)
    assert len(key) <= MAX_KEY
    if "_h" not in key[-18:-16]:
        assert parse_key(key) == f"{source}/{name}"


def test_keys_that_look_alike_stay_apart() -> None:
    alike = ["a_b", "a/b", "a__b", "a.b", "a-b", "a_-b", "a_x2eb", "a b", "A_b", "ä"]
    assert len({sample_key("s", name) for name in alike}) == len(alike)
    assert all(parse_key(sample_key("s", name)) == f"s/{name}" for name in alike)


def test_long_names_keep_their_head_and_stay_apart() -> None:
    first, second = sample_key("source", "x" * 300 + "1"), sample_key("source", "x" * 300 + "2")
    assert first != second and len(first) == len(second) <= MAX_KEY
    assert first.startswith("source_-xxx")
    with pytest.raises(ValueError, match=r"no reversible sample key"):
        parse_key(first)


@pytest.mark.parametrize("foreign", ["a.b", "a_b", "a_", "a b"])
def test_foreign_keys_are_refused(foreign: str) -> None:
    with pytest.raises(ValueError):
        parse_key(foreign)


def test_empty_names_are_refused() -> None:
    with pytest.raises(ValueError):
        sample_key("source", "")


def test_identity_follows_everything_that_a_result_depends_on() -> None:
    file = MediaFile("a/b.mp4", 10, 20)
    one = Candidate("s", "c", "video", (View("v", MediaRef("video", (file,))),), sidecars={"cameras": MediaFile("c.json", 1, 2)})
    changed = [
        replace(one, candidate_id="d"),
        replace(one, split="train"),
        replace(one, attrs={"x": 1}),
        replace(one, sidecars={"cameras": MediaFile("c.json", 1, 3)}),
        replace(one, views=(View("w", MediaRef("video", (file,))),)),
        replace(one, views=(View("v", MediaRef("video", (replace(file, mtime_ns=21),))),)),
        replace(one, views=(View("v", MediaRef("torch_chunk", (file,), item=1)),)),
    ]
    assert len({each.identity() for each in [one, *changed]}) == len(changed) + 1
    assert one.identity() == replace(one).identity()
    assert replace(one, caption="a dog").identity() == one.identity(), "a text changes no score"


def test_files_are_each_named_once() -> None:
    file, cameras = MediaFile("a.mp4", 1, 1), MediaFile("c.json", 1, 1)
    ref = MediaRef("video", (file,))
    candidate = Candidate("s", "c", "multiview", (View("v", ref), View("w", ref)), sidecars={"a": cameras, "b": cameras})
    assert candidate.files() == (file, cameras)
