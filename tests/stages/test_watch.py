"""Watchers: frames as asked for, one decode for all of them, and one that fails costs the others nothing."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Event
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.frames import Scene
from schemas.typed import RecipeError
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from stages.stage import Findings, Item, Look, Shown, Watcher
from stages.watch import watch

MakeClip = Callable[..., Scene]
FRAMES = 40


@dataclass(frozen=True)
class Config:
    frames: tuple[int, ...] = tuple(range(FRAMES))
    size: tuple[int, int] | None = None
    take: int = FRAMES
    fail: bool = False


@dataclass
class Seen:
    frames: list[int] = field(default_factory=list)
    pixels: list[NDArray[np.uint8]] = field(default_factory=list)


class Mean(Watcher):
    """The mean of every frame."""

    name = "mean"
    version = 1
    needs = frozenset({"video"})
    Config = Config

    def __init__(self, **settings: Any) -> None:
        super().__init__(Config(**settings))
        self.seen = Seen()

    def wants(self, item: Item) -> list[Look]:
        return [Look(0, np.array(self.config.frames, np.int64), self.config.size)]

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        for _ in range(self.config.take):
            shown = next(frames, None)
            if shown is None:
                break
            self.seen.frames.append(shown.frame)
            self.seen.pixels.append(shown.pixels)
        if self.config.fail:
            raise CandidateError(Reason.E_STAGE, "told to fail")
        return Findings({"n_frames": len(self.seen.frames)})


@pytest.fixture
def clip(make_clip: MakeClip) -> Scene:
    """Frame i has luma 5 i + 20."""
    return make_clip([np.full((48, 64), 5 * i + 20, np.uint8) for i in range(FRAMES)])


def item(scene: Scene) -> Item:
    return Item("key", "video", scene)


def test_each_sees_the_frames_it_asked_for_at_its_size(clip: Scene, media: Media) -> None:
    every, some, small = Mean(), Mean(frames=(3, 4, 30)), Mean(frames=(0, 39), size=(16, 12))
    found = watch([every, some, small], item(clip), media)
    assert [each.scores["n_frames"] for each in found] == [40, 3, 2]
    for each, shape in ((every, (48, 64, 3)), (some, (48, 64, 3)), (small, (12, 16, 3))):
        assert each.seen.frames == list(each.config.frames)
        for frame, pixels in zip(each.seen.frames, each.seen.pixels, strict=True):
            assert pixels.shape == shape and abs(pixels.mean() - (5 * frame + 20)) < 3


def test_alone_it_sees_the_same_pixels(clip: Scene, media: Media) -> None:
    """Else a stage's result would depend on what else a recipe asks for."""
    alone, beside = Mean(size=(20, 16)), Mean(size=(20, 16))
    alone.score(item(clip), media)
    watch([Mean(), beside, Mean(frames=(7,), size=(30, 30))], item(clip), media)
    assert np.array_equal(alone.seen.pixels, beside.seen.pixels)


def test_one_decode_serves_all_and_is_not_begun_anew(clip: Scene, media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.media._CHUNK_BYTES", 5 * 3 * 48 * 64)  # five frames at a time
    begun = media.run("tests.stages.test_watch:passes_begun")
    watch([Mean(), Mean(frames=(2, 3))], item(clip), media)
    assert media.run("tests.stages.test_watch:passes_begun") == begun + 1


def passes_begun() -> int:
    """Runs in the sandbox: counts from its first call on."""
    from stages.media import requests

    if not hasattr(requests, "_begun"):
        whole = requests._at_sizes
        requests._begun = 0  # type: ignore[attr-defined]

        def counting(*arguments: Any) -> Any:
            requests._begun += 1  # type: ignore[attr-defined]
            return whole(*arguments)

        requests._at_sizes = counting
    return int(requests._begun)  # type: ignore[attr-defined]


def test_one_that_fails_or_leaves_costs_the_others_nothing(clip: Scene, media: Media) -> None:
    failing, early, whole = Mean(fail=True, take=2), Mean(take=1), Mean()
    found = watch([failing, early, whole], item(clip), media)
    assert isinstance(found[0], CandidateError) and found[0].reason == Reason.E_STAGE
    assert [each.scores["n_frames"] for each in found[1:]] == [1, 40]


def test_even_one_that_ends_by_no_exception_costs_the_others_nothing(clip: Scene, media: Media) -> None:
    """SystemExit, or what Rust code panics with."""

    class Leaving(Mean):
        def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
            raise SystemExit(3)

    found = watch([Leaving(), Mean()], item(clip), media)
    assert isinstance(found[0], RuntimeError) and "SystemExit" in str(found[0])
    assert isinstance(found[1], Findings) and found[1].scores["n_frames"] == 40


def test_frames_that_cannot_be_decoded_are_everyones_error(clip: Scene, media: Media) -> None:
    [path] = media.local(clip.views[0].media.files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = watch([Mean(), Mean(frames=(39,))], item(clip), media)
    assert all(isinstance(each, CandidateError) for each in found), found


def test_a_frame_that_is_not_there_is_the_watchers_bug(clip: Scene, media: Media) -> None:
    found = watch([Mean(frames=(FRAMES,))], item(clip), media)
    assert isinstance(found[0], IndexError)


class Loader(Mean):
    """Notes who computes while it loads."""

    computing: ClassVar[list[str]] = []
    while_loading: ClassVar[list[int]] = []

    def prepare(self) -> None:
        self.while_loading.append(len(self.computing))

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        self.computing.append(self.name)
        return super().look(item, frames)


def test_nobody_computes_while_another_loads(clip: Scene, media: Media) -> None:
    watch([Loader(), Loader(), Loader()], item(clip), media)
    assert Loader.while_loading == [0, 0, 0] and len(Loader.computing) == 3


class Unloadable(Mean):
    def prepare(self) -> None:
        raise RecipeError("no such device")


def test_a_model_that_cannot_be_loaded_costs_the_others_nothing(clip: Scene, media: Media) -> None:
    refused, found = watch([Unloadable(), Mean()], item(clip), media)
    assert isinstance(refused, RecipeError) and isinstance(found, Findings) and found.scores["n_frames"] == FRAMES


class Painter(Mean):
    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        next(frames).pixels[:] = 0
        return Findings()


def test_a_frame_that_others_see_cannot_be_written_to(clip: Scene, media: Media) -> None:
    painted, found = watch([Painter(), Mean()], item(clip), media)
    assert isinstance(painted, ValueError) and isinstance(found, Findings)


class Ponderer(Mean):
    """Thinks about its first frame until another has seen the 30th."""

    def __init__(self, seen: Event) -> None:
        super().__init__()
        self.other = seen

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        next(frames)
        return Findings({"n_frames": float(self.other.wait(20))})


class Reader(Mean):
    def __init__(self, seen: Event) -> None:
        super().__init__()
        self.there = seen

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        for shown in frames:
            if shown.frame == 30:
                self.there.set()
        return Findings()


def test_one_that_computes_at_length_over_a_small_first_frame_stops_nobody(clip: Scene, media: Media) -> None:
    there = Event()
    found, _ = watch([Ponderer(there), Reader(there)], item(clip), media)
    assert isinstance(found, Findings) and found.scores == {"n_frames": 1.0}


def test_pictures_that_wait_are_bounded(clip: Scene, media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.watch._AHEAD_BYTES", 0)
    given: list[int] = []

    def counted(*arguments: Any, **more: Any) -> Iterator[Any]:
        for number, pictures in enumerate(Media.stream(media, *arguments, **more)):
            given.append(number)
            yield pictures

    class Waiting(Mean):
        def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
            next(frames)
            time.sleep(0.5)  # ample for the feeder to run ahead
            waiting = len(given)
            for _ in frames:
                pass
            return Findings({"n_frames": waiting})

    class Counted:
        stream = staticmethod(counted)

    [found] = watch([Waiting()], item(clip), Counted())  # type: ignore[list-item]
    assert isinstance(found, Findings) and 2 <= (found.scores["n_frames"] or 0) <= 4 and len(given) == FRAMES


class Slow(Mean):
    def prepare(self) -> None:
        time.sleep(0.2)

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        for _ in frames:
            time.sleep(0.01)
        return Findings()


def test_what_each_took_is_its_own_and_waiting_is_nobodys(clip: Scene, media: Media) -> None:
    class Quick(Mean):
        name = "quick"

    seconds: dict[str, float] = {}
    watch([Slow(), Quick()], item(clip), media, seconds)
    assert set(seconds) == {"mean", "quick", "decode"} and all(each >= 0 for each in seconds.values())
    assert seconds["mean"] >= 0.2 + 0.01 * FRAMES and seconds["quick"] < seconds["mean"]
