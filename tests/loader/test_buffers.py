"""Memory that workers lend is used again, and never while anything still shows it."""

from multiprocessing import Pipe

import pytest
import torch

from pipeline.loader.buffers import Borrower, Lender


@pytest.fixture
def both():
    returned, give_back = Pipe(duplex=False)
    yield Lender(returned), Borrower(give_back)
    returned.close()
    give_back.close()


def lend(lender, borrower, value, shape=(4, 5)):
    array, lent = lender.array(shape)
    array[:] = value
    return borrower.tensor(lent), lent


def test_memory_is_used_again_once_it_is_let_go_of(both):
    numbers, fresh = [], 0
    for value in range(20):
        tensor, lent = lend(*both, value)
        assert tensor.shape == (4, 5) and torch.equal(tensor, torch.full((4, 5), value, dtype=torch.uint8))
        numbers.append(lent.number)
        fresh += lent.memory is not None
    assert set(numbers) == {0, 1} and fresh == 2  # the last one is still held while the next is filled


@pytest.mark.parametrize(
    "keep", [lambda t: t, lambda t: t[1:, 2], lambda t: t.permute(1, 0), lambda t: t.view(-1)[3:], lambda t: t.numpy()]
)
def test_whatever_still_shows_it_keeps_it(both, keep):
    kept = [keep(lend(*both, value)[0]) for value in range(6)]
    assert [set(torch.as_tensor(each).flatten().tolist()) for each in kept] == [{value} for value in range(6)]
    del kept
    assert lend(*both, 9)[1].memory is None


def test_a_smaller_array_takes_the_smallest_buffer_that_holds_it(both):
    large, first = lend(*both, 1, (100,))
    small, second = lend(*both, 2, (10,))
    del large, small
    held, lent = lend(*both, 3, (2, 4))
    assert lent.number == second.number and held.shape == (2, 4)
    assert lend(*both, 4, (11,))[1].number == first.number
    assert lend(*both, 5, (101,))[1].memory is not None


def test_what_is_left_after_the_run_stays_readable():
    returned, give_back = Pipe(duplex=False)
    tensor, _ = lend(Lender(returned), Borrower(give_back), 7)
    returned.close()
    give_back.close()
    assert tensor.unique().tolist() == [7]
    del tensor
