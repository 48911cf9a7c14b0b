"""The order of training: which samples fill which slots of which step. A pure function of (selection, seed, step).

The kind of a step is drawn with the mix's shares. The samples of a kind are drawn without replacement, epoch after epoch; the n-th
draw of a kind is position n mod N in the permutation of epoch n div N. What `multiview_video` may draw changes with the phase of
the curriculum, so its count begins anew there. Ranks take slots in turn; none of it depends on their number.
"""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.loader.batch import KINDS, Kind
from pipeline.loader.catalog import Catalog
from pipeline.loader.draw import Draw
from pipeline.loader.seeded import below, bits, key_of, permutation, uniform
from pipeline.loader.settings import LoaderSettings, Phase
from pipeline.loader.views import choose_frames, choose_views, eligible, partners, phase_at

# Ours. A block is a run of neighbours in one shard; the samples of WINDOW blocks are mixed. 16 x 8: a step of 32 samples takes four
# neighbours from each of eight places, so that ranges can be joined and a batch is still not one scene.
BLOCK = 16
WINDOW = 8
MAX_ATTEMPTS = 16  # substitutes for one slot before the data, not the sample, is at fault
_KEPT_EPOCHS = 8  # permutations remembered per pool


class OrderError(RuntimeError):
    """The data cannot fill a slot. The message names samples and what to do."""


def block_shuffle(shards: NDArray[np.int32], key: int, block: int = BLOCK, window: int = WINDOW) -> NDArray[np.int64]:
    """A permutation of 0..n-1 that keeps neighbours near each other.

    shards [n] ascending: the shard of each sample, in the order of their offsets. Runs of at most `block` samples of one shard are
    shuffled among each other (where they begin differs from epoch to epoch with the key); then the samples within every `window`
    consecutive runs.
    """
    n = len(shards)
    begins = np.r_[True, shards[1:] != shards[:-1]][:n]
    within = np.arange(n) - np.maximum.accumulate(np.where(begins, np.arange(n), 0))
    run = np.cumsum(begins | ((within + below(key_of(key, "shift"), block)) % block == 0)) - 1
    rank = np.empty(int(run[-1]) + 1 if n else 0, np.int64)
    rank[permutation(key_of(key, "runs"), len(rank))] = np.arange(len(rank))
    # The window's number above 40 random bits: one sort does both; ties, should there be any, keep their order.
    places = (rank[run] // window).astype(np.uint64) << np.uint64(40)
    return np.argsort(places | (bits(key_of(key, "samples"), np.arange(n)) >> np.uint64(24)), kind="stable")


class _Pool:
    """The eligible samples of a kind in a phase, and their order epoch by epoch."""

    def __init__(self, catalog: Catalog, samples: NDArray[np.int64], key: int) -> None:
        self.samples = samples
        self._shards, self._key = catalog.shards[samples], key
        self._epochs: OrderedDict[int, NDArray[np.int32]] = OrderedDict()

    def at(self, n: int) -> int:
        """The sample of the n-th draw."""
        epoch, position = divmod(n, len(self.samples))
        if epoch not in self._epochs:
            self._epochs[epoch] = block_shuffle(self._shards, key_of(self._key, epoch)).astype(np.int32)
            if len(self._epochs) > _KEPT_EPOCHS:
                self._epochs.popitem(last=False)
        return int(self.samples[self._epochs[epoch][position]])


class Order:
    """Draws of every step. Holds no state that a draw depends on: what it remembers it could compute again."""

    def __init__(self, catalog: Catalog, settings: LoaderSettings) -> None:
        self._catalog, self._settings = catalog, settings
        self._key = key_of("order", catalog.digest, settings.seed)
        shares = np.array([settings.share(kind) for kind in KINDS])
        self._edges = np.cumsum(shares) / shares.sum()
        self._edges[np.flatnonzero(shares)[-1] :] = 1.0  # rounding must not reach past the last kind that has a share
        self._counts = np.zeros((len(KINDS), 1), np.int64)  # [kind, step]: steps of the kind before the step
        self._pools: dict[tuple[Kind, int | None], _Pool] = {}

    def kind_at(self, step: int) -> Kind:
        """The kind of every sample of the step, on all ranks."""
        return KINDS[int(self._kinds(np.array([step]))[0])]

    def draws(self, step: int, rank: int = 0, world: int = 1) -> list[Draw]:
        """This rank's slots of the step, ascending: those with slot % world == rank. Raises OrderError where no sample is eligible."""
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}; ranks go from 0 to {world - 1}")
        return [self._draw(step, slot, 0, self._drawn(step, slot)) for slot in range(rank, self._settings.batch, world)]

    def redraw(self, draw: Draw) -> Draw:
        """What fills the slot instead of a draw that could not be read: attempt + 1, of the same kind and phase, another sample
        than all before it in this slot while there is one. Raises OrderError, naming the samples, after MAX_ATTEMPTS.
        """
        tried = [self._drawn(draw.step, draw.slot)]
        for attempt in range(1, min(draw.attempt, MAX_ATTEMPTS) + 1):
            tried.append(self._substitute(draw, attempt, tried))
        if draw.attempt >= MAX_ATTEMPTS:
            names = ", ".join(self._catalog.sample_id(i) for i in dict.fromkeys(tried))
            raise OrderError(
                f"step {draw.step}, slot {draw.slot}: {len(tried)} draws in a row could not be read: {names}; "
                f"check the folder with `python -m pipeline.audit verify {self._catalog.location}`"
            )
        return self._draw(draw.step, draw.slot, draw.attempt + 1, self._substitute(draw, draw.attempt + 1, tried))

    def _kinds(self, steps: NDArray[np.int64]) -> NDArray[np.int8]:
        return np.searchsorted(self._edges, uniform(key_of(self._key, "kind"), steps), side="right").astype(np.int8)

    def _earlier(self, kind: Kind, begin: int, step: int) -> int:
        """How many of the steps begin..step-1 are of the kind."""
        if step >= self._counts.shape[1]:
            size = max(4096, 1 << (step + 1).bit_length())
            each = self._kinds(np.arange(size)) == np.arange(len(KINDS))[:, None]
            self._counts = np.concatenate([np.zeros((len(KINDS), 1), np.int64), np.cumsum(each, axis=1)], axis=1)
        row = self._counts[KINDS.index(kind)]
        return int(row[step] - row[begin])

    def _phase(self, kind: Kind, step: int) -> int | None:
        return phase_at(self._settings, step) if kind == "multiview_video" else None

    def _pool(self, kind: Kind, number: int | None) -> _Pool:
        if (kind, number) not in self._pools:
            phase = None if number is None else self._settings.curriculum[number]
            samples = eligible(self._catalog, self._settings, kind, phase)
            if len(samples) == 0:
                raise OrderError(f"{self._catalog.location}: no sample can fill a step of {_describe(kind, self._settings, phase)}")
            self._pools[kind, number] = _Pool(self._catalog, samples, key_of(self._key, "pool", kind, str(number)))
        return self._pools[kind, number]

    def _drawn(self, step: int, slot: int) -> int:
        """The sample of a slot's first attempt."""
        kind = self.kind_at(step)
        number = self._phase(kind, step)
        begin = 0 if number is None else self._settings.curriculum[number].start
        return self._pool(kind, number).at(self._earlier(kind, begin, step) * self._settings.batch + slot)

    def _substitute(self, draw: Draw, attempt: int, tried: list[int]) -> int:
        """A seeded sample that is none of `tried`; of those but the last where all were tried, since other views may be readable."""
        samples = self._pool(draw.kind, self._phase(draw.kind, draw.step)).samples
        if len(samples) == 1:
            return int(samples[0])
        avoid = np.unique(tried) if len(set(tried)) < len(samples) else np.array(tried[-1:])
        place = below(key_of(self._key, "substitute", draw.step, draw.slot, attempt), len(samples) - len(avoid))
        for taken in np.searchsorted(samples, avoid).tolist():
            place += place >= taken
        return int(samples[place])

    def _draw(self, step: int, slot: int, attempt: int, sample: int) -> Draw:
        settings, catalog = self._settings, self._catalog
        kind = self.kind_at(step)
        number = self._phase(kind, step)
        key = key_of(self._key, "draw", step, slot, attempt)
        if number is None:
            allowed = ~np.eye(int(catalog.n_views[sample]), dtype=bool)
        else:
            allowed = partners(catalog.angle(sample), settings.curriculum[number])
        views = choose_views(allowed, settings.views_of(kind), settings.first_view, key_of(key, "views"))
        frames, stride = settings.frames_of(kind), settings.frame_stride
        if settings.payload == "latents":
            chosen = tuple(range(frames))  # what was encoded is read whole
        else:
            chosen = choose_frames(int(catalog.frames[sample]), frames, stride, key_of(key, "frames"))
        return Draw(step=step, slot=slot, attempt=attempt, kind=kind, sample=sample, views=views, frames=chosen)


def _describe(kind: Kind, settings: LoaderSettings, phase: Phase | None) -> str:
    angles = "" if phase is None else f", view pairs at {phase.low:g}-{phase.high:g} degrees"
    every = f", every {settings.frame_stride}." if settings.frame_stride > 1 else ""
    return f"{kind} (views: {settings.views_of(kind)}, frames: {settings.frames_of(kind)}{every}{angles})"
