"""Batches for training, step by step, the same for any number of workers, ranks and micro-batches.

What a step reads is decided by `Order` from the manifest; here it is only read. Worker w of W prepares steps w, w + W, ...,
each with its own `Store`; PyTorch's DataLoader takes from the workers in turn, so steps come out in order.
"""

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipeline.loader.batch import KINDS, Batch
from pipeline.loader.buffers import Borrower, Lender, Lent
from pipeline.loader.catalog import Catalog, Member
from pipeline.loader.draw import Draw
from pipeline.loader.fetch import Counters, ReadError, StorageError, Store, is_remote
from pipeline.loader.order import Order, OrderError
from pipeline.loader.sample import Sample, Wanted, needed, picture_size, read_sample
from pipeline.loader.settings import LoaderSettings
from pipeline.loader.workers import WorkerDied, leave_signals_to_the_parent, watched

_log = logging.getLogger(__name__)

_LARGE = 10**9  # bytes of a step of which a worker prepares no second one ahead


class LoaderError(Exception):
    """Training cannot go on with this data. The message says what to do."""


class Loader:
    """An endless iterable: one list of micro-batches a step, this rank's share of it, from `step` on.

    micro_batch: samples of a micro-batch at most; None for one batch a step. workers: processes that read and decode ahead;
    0 does it in this process. Each worker holds up to `steps_held` steps in shared memory.
    A sample that cannot be read is replaced by the next in order for its slot, logged as a warning, named in `Batch.skipped`
    and counted in `skipped`. counters: bytes and requests of the steps handed out so far.
    Raises while iterating: LoaderError, OrderError (no sample can fill a step), StorageError.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: LoaderSettings,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        step: int = 0,
        micro_batch: int | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}; with world {world} it must be 0 to {world - 1}")
        if workers < 0 or (micro_batch is not None and micro_batch < 1):
            raise ValueError(f"workers is {workers} (at least 0), micro_batch is {micro_batch} (at least 1)")
        if settings.payload == "latents" and catalog.encoding is None:
            raise LoaderError(
                f'{catalog.location} holds no latents (no "encoding" in its run.json); '
                "write them with pipeline.encode_latents, or set payload to frames"
            )
        self.skipped = 0
        self.counters = Counters()
        self._catalog, self._settings = catalog, settings
        self._workers, self._step = workers, step
        self._rank, self._world, self._micro_batch = rank, world, micro_batch

    def __iter__(self) -> Iterator[list[Batch]]:
        steps = _Steps(self._catalog, self._settings, self._rank, self._world, self._micro_batch, self._step)
        for step, batches, counters in _prepared(steps, self._workers):
            self._step = step + 1
            self.counters += counters
            for batch in batches:
                for skipped in batch.skipped:
                    self.skipped += 1
                    _log.warning("step %d: skipped %s (%d so far)", batch.step, skipped, self.skipped)
            yield batches

    def state(self) -> dict[str, int]:
        """Three integers that say what comes next: the selection, the seed, and the step after the last one handed out."""
        return {"selection": int(self._catalog.digest[:15], 16), "seed": self._settings.seed, "step": self._step}

    @staticmethod
    def read(catalog: Catalog, settings: LoaderSettings, draws: Sequence[Draw]) -> Batch:
        """The draws (of one step and kind) as one batch, nothing replaced. Raises ReadError naming the sample; StorageError."""
        store = Store(catalog.location)
        try:
            wanted = [needed(catalog, settings, draw) for draw in draws]
            data = iter(store.fetch([member for members in wanted for member in members]))
            batch = _Filling(catalog, settings, draws, None)
            for slot, (draw, members) in enumerate(zip(draws, wanted, strict=True)):
                batch.fill(slot, draw, members, [next(data) for _ in members])
            return batch.finished([])
        finally:
            store.close()


def step_bytes(settings: LoaderSettings, world: int = 1) -> int:
    """Bytes of the pictures of one rank's share of the largest step; 0 where latents are read, which are small."""
    if settings.payload == "latents":
        return 0
    height, width = settings.size
    most = max(settings.views_of(kind) * settings.frames_of(kind) for kind in KINDS if settings.share(kind))
    return -(-settings.batch // world) * most * height * width * 3


def steps_ahead(settings: LoaderSettings, world: int = 1) -> int:
    """Steps that a worker prepares ahead: 2, or 1 where a step takes more than a gigabyte. What is read stays the same."""
    return 1 if step_bytes(settings, world) > _LARGE else 2


def steps_held(settings: LoaderSettings, world: int = 1) -> int:
    """Steps for which a worker keeps memory: those ahead, and the one that is trained on."""
    return steps_ahead(settings, world) + 1


@dataclass
class _Prepared:
    """What a worker hands over for one step: batches without their pictures, and where those lie."""

    step: int
    batches: list[Batch]
    lent: list[Lent | None]
    counters: Counters


class _Steps(IterableDataset):
    """The steps of one worker. An error that ends the run is its last item: it comes over without a worker's traceback.

    returned: for each worker, what the training process has let go of; none where there are no workers.
    """

    def __init__(self, catalog: Catalog, settings: LoaderSettings, rank: int, world: int, micro_batch: int | None, first: int) -> None:
        self.location = catalog.location
        self.ahead = steps_ahead(settings, world)
        self.returned: list[Connection] = []
        self._catalog, self._settings = catalog, settings
        self._rank, self._world, self._micro_batch, self._first = rank, world, micro_batch, first

    def __iter__(self) -> Iterator[_Prepared | Exception]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        reader = _Reader(self._catalog, self._settings, Lender(self.returned[number]) if worker else None)
        try:
            for step in count(self._first + number, workers):
                draws = reader.order.draws(step, self._rank, self._world)
                yield reader.prepare(step, draws, self._micro_batch)
        except (LoaderError, OrderError, StorageError) as error:
            yield error
        finally:
            reader.store.close()


def _prepared(steps: _Steps, workers: int) -> Iterator[tuple[int, list[Batch], Counters]]:
    """(step, batches, counters), in order. Raises what ended a worker."""
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(workers)]
    borrowers = [Borrower(give_back) for _, give_back in pipes]
    steps.returned = [returned for returned, _ in pipes]
    try:
        for number, item in enumerate(_items(steps, workers)):
            if isinstance(item, Exception):
                raise item
            for batch, lent in zip(item.batches, item.lent, strict=True):
                if lent is not None:
                    batch.video = _planes(borrowers[number % workers].tensor(lent))
            yield item.step, item.batches, item.counters
    finally:
        for returned, give_back in pipes:
            returned.close()
            give_back.close()


def _items(steps: _Steps, workers: int) -> Iterator[_Prepared | Exception]:
    if workers == 0:
        yield from steps
        return
    loader: DataLoader[Any] = DataLoader(
        steps,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=steps.ahead,
        multiprocessing_context=worker_context(steps.location),
        collate_fn=_as_it_is,
        worker_init_fn=_begin,
        generator=torch.Generator(),  # else every start would draw a number from PyTorch's global stream
    )
    try:
        yield from watched(lambda: iter(loader))
    except WorkerDied as died:
        raise LoaderError(str(died)) from None


def _begin(worker: int) -> None:
    # Not the place to set OpenCV's threads: in a fork it waits for ever for the parent's, which are not there.
    leave_signals_to_the_parent()


def worker_context(location: str) -> BaseContext | None:
    """How workers are started: None for PyTorch's default, which is to fork on Linux; of a clean process for remote storage.

    A fork shares the parent's epoll handle, and what fsspec tidies up in the child then ends the parent's own connections.
    """
    if not is_remote(location):
        return None
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # PyTorch is imported once, not by each worker
    return context


def _as_it_is(item: Any) -> Any:
    return item


class _Reader:
    """Reads the draws of one step: all members with one fetch, then sample by sample."""

    def __init__(self, catalog: Catalog, settings: LoaderSettings, lender: Lender | None) -> None:
        self.store = Store(catalog.location)
        self.order = Order(catalog, settings)
        self._catalog, self._settings, self._lender = catalog, settings, lender

    def prepare(self, step: int, draws: Sequence[Draw], micro_batch: int | None) -> _Prepared:
        self.store.counters = Counters()
        data = dict(zip(draws, self._fetch(draws), strict=True))
        size = micro_batch or max(1, len(draws))
        made = [self._batch(draws[start : start + size], data) for start in range(0, len(draws), size)]
        return _Prepared(step, [batch for batch, _ in made], [lent for _, lent in made], self.store.counters)

    def _batch(self, draws: Sequence[Draw], data: dict[Draw, "_Fetched"]) -> tuple[Batch, Lent | None]:
        batch, skipped = _Filling(self._catalog, self._settings, draws, self._lender), []
        for slot, draw in enumerate(draws):
            fetched = data.pop(draw)
            while True:
                try:
                    batch.fill(slot, draw, *_sound(fetched))
                    break
                except ReadError as error:
                    skipped.append(f"{self._catalog.sample_id(draw.sample)}: {error}")
                try:
                    draw = self.order.redraw(draw)
                except OrderError as error:
                    raise LoaderError(f"{error}; the last: {skipped[-1]}") from error
                [fetched] = self._fetch([draw])
        return batch.finished(skipped), batch.lent

    def _fetch(self, draws: Sequence[Draw]) -> list["_Fetched"]:
        """What each draw needs, or why it cannot be had; one call to the store for all of it."""
        wanted = [self._needed(draw) for draw in draws]
        data = iter(self.store.fetch_each([member for members in wanted if not isinstance(members, ReadError) for member in members]))
        return [(members, []) if isinstance(members, ReadError) else (members, [next(data) for _ in members]) for members in wanted]

    def _needed(self, draw: Draw) -> list[Member] | ReadError:
        try:
            return needed(self._catalog, self._settings, draw)
        except ReadError as error:
            return error


_Fetched = tuple[list[Member] | ReadError, list[bytes | ReadError]]


def _sound(fetched: _Fetched) -> tuple[list[Member], list[bytes]]:
    """Members and their bytes. Raises the ReadError that stands in place of any."""
    members, data = fetched
    if isinstance(members, ReadError):
        raise members
    for each in data:
        if isinstance(each, ReadError):
            raise each
    return members, [each for each in data if isinstance(each, bytes)]


class _Filling:
    """A batch while its slots are filled. Pictures are decoded to where they stay: into a lender's memory in a worker."""

    def __init__(self, catalog: Catalog, settings: LoaderSettings, draws: Sequence[Draw], lender: Lender | None) -> None:
        self.lent: Lent | None = None
        self._catalog, self._settings = catalog, settings
        self._step, self._kind = draws[0].step, draws[0].kind
        self._slots = [draw.slot for draw in draws]
        self._samples: list[Sample] = []
        self._size = picture_size(catalog, settings)
        self._out: NDArray[np.uint8] | None = None
        if settings.payload == "frames":
            shape = (len(draws), len(draws[0].views), len(draws[0].frames), *self._size, 3)
            if lender is None:
                self._out = np.empty(shape, np.uint8)
            else:
                self._out, self.lent = lender.array(shape)

    def fill(self, slot: int, draw: Draw, members: Sequence[Member], data: Sequence[bytes]) -> None:
        """Slots in order; one that failed may be filled again. Raises ReadError."""
        out = None if self._out is None else self._out[slot]
        by_name = {member.name: each for member, each in zip(members, data, strict=True)}
        catalog, wanted = self._catalog, Wanted.of(self._catalog, self._settings, draw)
        sample = read_sample(catalog.sample_id(draw.sample), catalog.view_ids(draw.sample), wanted, by_name, out)
        if self._samples and sample.shapes() != self._samples[0].shapes():
            raise LoaderError(
                f"{sample.sample_id}: latents and text are {sample.shapes()}, those of {self._samples[0].sample_id} are "
                f"{self._samples[0].shapes()}; one folder must hold one size: run pipeline.encode_latents again"
            )
        self._samples.append(sample)

    def finished(self, skipped: list[str]) -> Batch:
        samples = self._samples
        c2w = [sample.c2w for sample in samples if sample.c2w is not None]
        K = [sample.K for sample in samples if sample.K is not None]
        latents = [sample.latents for sample in samples if sample.latents is not None]
        text = [sample.text for sample in samples if sample.text is not None]
        return Batch(
            step=self._step,
            kind=self._kind,
            slots=self._slots,
            sample_ids=[sample.sample_id for sample in samples],
            view_ids=[sample.view_ids for sample in samples],
            captions=[sample.caption for sample in samples],
            metric=[sample.metric for sample in samples],
            c2w=np.stack(c2w) if c2w else None,
            K=np.stack(K) if K else None,
            size=self._size,
            video=None if self._out is None or self.lent is not None else _planes(torch.from_numpy(self._out)),
            latents=torch.from_numpy(np.stack(latents)).float() if latents else None,
            text=torch.from_numpy(np.stack(text)).float() if text else None,
            skipped=skipped,
        )


def _planes(video: torch.Tensor) -> torch.Tensor:
    """[B,V,F,H,W,3] as [B,V,3,F,H,W], a view: colours are torn apart where the numbers become floating point, not here."""
    return video.permute(0, 1, 5, 2, 3, 4)
