"""Fingerprints of short films: what re-encoding keeps, what another film does not, and what identical bytes are."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.studio.video import write_mp4
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import Scene, SceneView
from schemas.recipe import Encode
from stages.fingerprint import Fingerprint, FingerprintConfig, picture_hash
from stages.media import Media
from stages.stage import Child, Item

Film = NDArray[np.uint8]
Take = Callable[..., dict]


def film(seed: int, frames: int = 24, size: tuple[int, int] = (160, 96)) -> Film:
    """[T,H,W,3]: blobs of grey that drift over a plain background."""
    rng = np.random.default_rng(seed)
    width, height = size
    coarse = cv2.resize(rng.uniform(20, 230, (6, 9)).astype(np.float32), (width + 2 * frames, height), interpolation=cv2.INTER_CUBIC)
    grey = np.clip(coarse, 0, 240).astype(np.uint8)
    return np.stack([np.repeat(grey[:, t : t + width, None], 3, axis=2) for t in range(frames)])


def scene_of(media: Media, *names: str) -> Scene:
    views = []
    for name in names:
        status = (Path(media.tree.location) / name).stat()
        ref = MediaRef("video", (MediaFile(name, status.st_size, status.st_mtime_ns),))
        views.append(SceneView(name.replace(".", "-"), ref, media.index(ref)))
    listed = tuple(View(view.view_id, view.media) for view in views)
    return Scene(Candidate("clips", names[0], "multiview" if len(names) > 1 else "video", listed), tuple(views))


@pytest.fixture
def take(media: Media) -> Take:
    """take("a.mp4", ...) is the fingerprint of these views together."""

    def score(*names: str, child: Child | None = None, **config: object) -> dict:
        stage = Fingerprint(FingerprintConfig(**config))
        found: dict = stage.score(Item(names[0], "video", scene_of(media, *names), child), media).fields["fingerprint"]
        return found

    return score


def distance(a: dict, b: dict) -> float:
    assert len(a["hashes"]) == len(b["hashes"])
    return float(np.mean([(x ^ y).bit_count() for x, y in zip(a["hashes"], b["hashes"], strict=True)]))


def test_changed_copies_are_near_and_other_films_far(clip_folder: Path, media: Media, take: Take):
    pixels = film(1)
    rate = Fraction(24)
    write_mp4(clip_folder / "plain.mp4", pixels, rate)
    half = np.stack([cv2.resize(frame, (80, 48), interpolation=cv2.INTER_AREA) for frame in pixels])
    write_mp4(clip_folder / "half.mp4", half, rate)
    write_mp4(clip_folder / "bright.mp4", np.minimum(pixels.astype(int) + 13, 255).astype(np.uint8), rate)
    write_mp4(clip_folder / "trimmed.mp4", pixels[2:], rate)
    scene = scene_of(media, "plain.mp4")
    (clip_folder / "coarse.mp4").write_bytes(media.encode(scene.views[0].media, scene.views[0].index, None, Encode(crf=35)))
    write_mp4(clip_folder / "other.mp4", film(2), rate)
    plain, limit = take("plain.mp4"), FingerprintConfig().max_distance
    assert limit is not None and len(plain["hashes"]) == 8 and plain["views"] == 1
    for name in ("half", "bright", "trimmed", "coarse"):
        assert distance(plain, take(f"{name}.mp4")) <= limit, name
        assert take(f"{name}.mp4")["content"] != plain["content"]
    assert distance(plain, take("other.mp4")) > 2 * limit


def test_content_is_of_the_bytes_and_of_the_frames_taken_from_them(clip_folder: Path, take: Take):
    write_mp4(clip_folder / "one.mp4", film(3), Fraction(24))
    (clip_folder / "copy.mp4").write_bytes((clip_folder / "one.mp4").read_bytes())

    def window(first: int) -> Child:
        return Child(f"w{first}", "window", (0,), (np.arange(first, first + 4),), None, ("v",))

    assert take("one.mp4") == take("copy.mp4")
    assert take("one.mp4", child=window(0)) == take("copy.mp4", child=window(0))
    contents = {take("one.mp4", child=child)["content"] for child in (None, window(0), window(8))}
    assert len(contents) == 3


def test_views_share_the_hashes_in_their_order(clip_folder: Path, take: Take):
    for seed in (4, 5):
        write_mp4(clip_folder / f"cam{seed}.mp4", film(seed), Fraction(24))
    both, swapped = take("cam4.mp4", "cam5.mp4"), take("cam5.mp4", "cam4.mp4")
    assert both["views"] == 2 and len(both["hashes"]) == 8
    assert both["hashes"][:4] == swapped["hashes"][4:] and distance(both, swapped) > 2 * 8
    assert both["content"] != swapped["content"]
    assert len(take("cam4.mp4", frames=3)["hashes"]) == 3


def test_where_there_is_nothing_to_see_only_bytes_are_compared(clip_folder: Path, take: Take):
    black = np.zeros((24, 96, 160, 3), np.uint8)
    write_mp4(clip_folder / "black.mp4", black, Fraction(24))
    assert take("black.mp4")["hashes"] is None and len(take("black.mp4")["content"]) == 32
    fade = film(6)
    fade[:8] = 0
    write_mp4(clip_folder / "fade.mp4", fade, Fraction(24))
    assert len(take("fade.mp4")["hashes"]) == 8, "a black beginning does not hide the rest"


def test_a_hash_is_the_signs_of_the_lowest_frequencies():
    """A single cosine is a single bit: of row and column that it has in the DCT."""
    x = (np.arange(32) + 0.5) / 32
    wave = np.cos(np.pi * 3 * x)[:, None] * np.cos(np.pi * 2 * x)[None]
    assert picture_hash(np.rint(128 + 60 * wave).astype(np.uint8)) == 1 << (63 - (3 * 8 + 2))
    assert picture_hash(np.full((32, 32), 200, np.uint8)) == 0
    noise = np.random.default_rng(0).normal(128, 0.4, (32, 32))
    assert picture_hash(np.rint(noise).astype(np.uint8)) == 0, "noise in a flat picture says nothing"


def test_what_is_turned_away_is_no_part_of_the_key():
    keys = [Fingerprint(FingerprintConfig(*each)).compute_settings() for each in ((True, 4.0), (False, None), (True, 9.0))]
    assert keys == [{"frames": 8}] * 3
    assert Fingerprint(FingerprintConfig(frames=4)).compute_settings() == {"frames": 4}
