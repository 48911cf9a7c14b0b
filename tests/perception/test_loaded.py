"""Models of a process: once each, and a failure is not remembered."""

from itertools import count
from threading import Thread

import pytest

from stages.perception.loaded import loaded


def test_one_model_for_one_kind_and_settings() -> None:
    number = count()
    first = loaded("test a", ("x.pth", 3), lambda: next(number))
    assert loaded("test a", ("x.pth", 3), lambda: next(number)) == first
    assert len({first, loaded("test b", ("x.pth", 3), lambda: next(number)), loaded("test a", ("x.pth", 4), lambda: next(number))}) == 3


def test_a_failure_is_tried_again() -> None:
    def fail() -> int:
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        loaded("test c", (), fail)
    assert loaded("test c", (), lambda: 7) == 7


def test_threads_that_ask_at_once_get_the_same_model() -> None:
    got: list[object] = []
    threads = [Thread(target=lambda: got.append(loaded("test d", (), object))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(set(map(id, got))) == 1
