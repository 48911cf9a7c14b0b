"""Pictures from a worker to the training process without a copy, in shared memory that is used again.

New shared memory costs a page fault for every 4 KiB on both sides, a quarter of what decoding into it costs. So a worker keeps what
it has allocated, and writes to it again once the training process has let go of the last tensor that shows it.
"""

import contextlib
import math
import struct
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch
from numpy.typing import NDArray

_NUMBER = struct.Struct("<I")


@dataclass(frozen=True)
class Lent:
    """An array that goes from worker to training process: the first bytes of a buffer. memory: the first time it is lent."""

    number: int
    shape: tuple[int, ...]
    memory: torch.Tensor | None


class Lender:
    """The buffers of one worker. returned: where the borrower says what it has let go of."""

    def __init__(self, returned: Connection) -> None:
        self._returned = returned
        self._buffers: list[torch.Tensor] = []
        self._free: set[int] = set()

    def array(self, shape: Sequence[int]) -> tuple[NDArray[np.uint8], Lent]:
        """An uninitialised uint8 array, and what to send for it."""
        size = math.prod(shape)
        while self._returned.poll():
            self._free.add(_NUMBER.unpack(self._returned.recv_bytes())[0])
        fitting = [number for number in self._free if len(self._buffers[number]) >= size]
        if fitting:
            number, memory = min(fitting, key=lambda number: len(self._buffers[number])), None
            self._free.remove(number)
        else:
            number, memory = len(self._buffers), torch.from_numpy(np.empty(size, np.uint8)).share_memory_()
            self._buffers.append(memory)
        return self._buffers[number].numpy()[:size].reshape(shape), Lent(number, tuple(shape), memory)


class Borrower:
    """What one worker has lent to this process."""

    def __init__(self, give_back: Connection) -> None:
        self._give_back = give_back
        self._known: dict[int, NDArray[np.uint8]] = {}

    def tensor(self, lent: Lent) -> torch.Tensor:
        """The tensor. Its memory goes back when neither it nor anything that shares its storage is left."""
        if lent.memory is not None:
            self._known[lent.number] = lent.memory.numpy()
        shown = self._known[lent.number][: math.prod(lent.shape)].reshape(lent.shape)
        weakref.finalize(shown, _return, self._give_back, lent.number).atexit = False
        return torch.from_numpy(shown)  # the storage holds `shown`


def _return(connection: Connection, number: int) -> None:
    """One small write, hence whole without a lock: the garbage collector may call this in the middle of another."""
    with contextlib.suppress(OSError):  # the worker has ended, or the run has
        connection.send_bytes(_NUMBER.pack(number))
