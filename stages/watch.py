"""Several Watchers over one decode: each in a thread of its own, all fed from a single pass over the item's frames."""

import sys
from collections.abc import Iterator, MutableMapping, Sequence
from queue import Queue
from threading import Condition, Lock, Thread
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stages.media import Media
from stages.stage import Findings, Item, Look, Shown, Watcher

T = TypeVar("T")

DECODE = "decode"
# Pictures that wait for a Watcher: as many as these bytes hold, and two at least. One that computes at length over its first frame
# stops the decoder, and with it everyone else, only when these are full.
_AHEAD = 2
_AHEAD_BYTES = 48 << 20  # eight of 1080p


def watch(
    watchers: Sequence[Watcher], item: Item, media: Media, seconds: MutableMapping[str, float] | None = None
) -> list[Findings | Exception]:
    """What each Watcher found, or the exception that it raised; the others go on. An exception of the decoder is everyone's.

    seconds: gets what each Watcher computed for added under its name, and under DECODE what all of them waited for frames.
    """
    clock: MutableMapping[str, float] = {} if seconds is None else seconds
    seats = [_Seat(watcher, item, clock) for watcher in watchers]
    try:
        for seat in seats:
            seat.thread.start()
        for shown, takers in _timed(_pass(seats, item, media), DECODE, clock):
            for seat in takers:
                seat.give(shown[seat])
        failure: Exception | None = None
    except Exception as error:
        failure = error
    except BaseException as error:
        _end(seats, RuntimeError(f"stopped by {type(error).__name__}"))
        raise
    _end(seats, failure)
    return [seat.outcome for seat in seats]


class _Seat:
    """One Watcher: the frames it wants, the queue they come through, and what became of it."""

    def __init__(self, watcher: Watcher, item: Item, clock: MutableMapping[str, float]) -> None:
        self._clock, self._waited = clock, 0.0
        self.outcome: Findings | Exception = RuntimeError("not run")
        self.looks: list[Look] = []
        self.left = False  # it has returned or raised: it wants no more frames
        self._queue: Queue[Shown | Exception | None] = Queue()
        self._room = _Room()
        self.thread = Thread(target=self._run, args=(watcher, item), name=f"look-{watcher.name}", daemon=True)
        started = perf_counter()
        try:
            self.looks = watcher.wants(item)
            watcher.prepare()
        except Exception as error:
            self._refused: Exception | None = error
        else:
            self._refused = None
        _add(clock, watcher.name, perf_counter() - started)

    def give(self, shown: Shown | Exception | None) -> None:
        """Waits for room; an exception, or None for the end, always has it."""
        if isinstance(shown, Shown):
            self._room.take(shown.pixels.nbytes)
        self._queue.put(shown)

    def _next(self) -> Shown | Exception | None:
        shown = self._queue.get()
        if isinstance(shown, Shown):
            self._room.free(shown.pixels.nbytes)
        return shown

    def _run(self, watcher: Watcher, item: Item) -> None:
        started = perf_counter()
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(torch.get_num_threads())  # OpenMP counts for each thread anew, and bits depend on how many compute
        try:
            if self._refused is not None:
                raise self._refused
            self.outcome = watcher.look(item, self._frames())
        except Exception as error:
            self.outcome = error
        except BaseException as error:  # what Rust code panics with, or SystemExit: the others and the feeder go on all the same
            self.outcome = RuntimeError(f"{type(error).__name__}: {error}")
        self.left = True
        _add(self._clock, watcher.name, perf_counter() - started - self._waited)
        while self._next() is not None:  # what was on its way: the feeder must never wait for one that has left
            pass

    def _frames(self) -> Iterator[Shown]:
        while (shown := self._awaited()) is not None:
            if isinstance(shown, Exception):
                self._queue.put(None)
                raise shown
            yield shown
        self._queue.put(None)  # for whoever asks again

    def _awaited(self) -> Shown | Exception | None:
        started = perf_counter()
        shown = self._next()
        self._waited += perf_counter() - started
        return shown


class _Room:
    """How many pictures may wait, counted in both ways."""

    def __init__(self) -> None:
        self._count = self._bytes = 0
        self._changed = Condition()

    def take(self, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._count < _AHEAD or self._bytes + size <= _AHEAD_BYTES)
            self._count, self._bytes = self._count + 1, self._bytes + size

    def free(self, size: int) -> None:
        with self._changed:
            self._count, self._bytes = self._count - 1, self._bytes - size
            self._changed.notify()


_adding = Lock()


def _add(clock: MutableMapping[str, float], name: str, seconds: float) -> None:
    with _adding:  # several threads add to one mapping
        clock[name] = clock.get(name, 0.0) + seconds


def _timed(values: Iterator[T], name: str, clock: MutableMapping[str, float]) -> Iterator[T]:
    """values, and the time that their making takes."""
    while True:
        started = perf_counter()
        value = next(values, None)
        _add(clock, name, perf_counter() - started)
        if value is None:
            return
        yield value


def _end(seats: Sequence[_Seat], failure: Exception | None) -> None:
    for seat in seats:
        if failure is not None:
            seat.give(failure)
        seat.give(None)
    for seat in seats:
        if seat.thread.ident is not None:  # else it never started, and what stopped it is to be told
            seat.thread.join()


def _pass(seats: Sequence[_Seat], item: Item, media: Media) -> Iterator[tuple[dict[_Seat, Shown], list[_Seat]]]:
    """Every wanted frame of every view, in order, with those who want it; ends early when nobody is left."""
    for number, (position, _) in enumerate(item.selection()):
        looks = {seat: look for seat in seats for look in seat.looks if look.view == number and len(look.frames) and not seat.left}
        if not looks:
            continue
        view = item.scene.views[position]
        sizes = list(dict.fromkeys(look.size for look in looks.values()))
        wanted = np.unique(np.concatenate([look.frames for look in looks.values()]))
        sets = {seat: frozenset(look.frames.tolist()) for seat, look in looks.items()}
        for frame, pictures in zip(wanted.tolist(), media.stream(view.media, view.index, wanted, sizes), strict=True):
            takers = [seat for seat in looks if not seat.left and frame in sets[seat]]
            # Copies: a picture is part of an array of many, which would stay as long as one of them waits somewhere.
            taken = {size: _read_only(pictures[sizes.index(size)]) for size in dict.fromkeys(looks[seat].size for seat in takers)}
            yield {seat: Shown(number, frame, taken[looks[seat].size]) for seat in takers}, takers
            if all(seat.left for seat in looks):
                break


def _read_only(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    copied = pixels.copy()
    copied.flags.writeable = False
    return copied
