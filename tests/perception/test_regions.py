"""The segmenter that needs no weights: patches of like colour, the same each time, and nothing where there is nothing."""

import cv2
import numpy as np
import pytest

from pipeline.studio.render import render
from stages.perception.regions import RegionSegmenter
from tests.perception.motion_clips import studio_clip


def shapes() -> tuple[np.ndarray, list[np.ndarray]]:
    """A picture of a disc and a box on grey, and their masks, the larger one first."""
    picture = np.full((120, 160, 3), 110, np.uint8)
    box, disc = np.zeros((120, 160), np.uint8), np.zeros((120, 160), np.uint8)
    cv2.rectangle(box, (10, 20), (70, 100), 1, -1)
    cv2.circle(disc, (115, 60), 25, 1, -1)
    picture[box > 0], picture[disc > 0] = (200, 60, 40), (40, 80, 210)
    noise = np.random.default_rng(0).normal(0, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), [box > 0, disc > 0]


@pytest.mark.parametrize("size", [(160, 120), (640, 480)])
def test_shapes_are_found_with_their_outline(size: tuple[int, int]) -> None:
    picture, truth = shapes()
    found = RegionSegmenter().masks(np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), np.uint8))
    areas = [each.pixels.sum() for each in found]
    assert areas == sorted(areas, reverse=True) and {each.score for each in found} == {1.0}
    for mask in truth:
        wanted = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        best = max((each.pixels & wanted).sum() / (each.pixels | wanted).sum() for each in found)
        assert best > 0.85


def test_regions_do_not_overlap() -> None:
    found = RegionSegmenter().masks(shapes()[0])
    assert np.sum([each.pixels for each in found], axis=0).max() == 1


def test_regions_of_a_studio_scene_keep_to_one_thing() -> None:
    """A person and a crate in one region could not be told apart by their motion."""
    clip = studio_clip(2)
    truth = render(clip.scene, 0.0, clip.c2w[0], clip.K[0], clip.size).instance
    found = RegionSegmenter().masks(next(clip.frames()))
    pure = [np.bincount(np.maximum(truth[each.pixels], 0)).max() / each.pixels.sum() for each in found]
    assert np.average(pure, weights=[each.pixels.sum() for each in found]) > 0.8


def test_one_colour_is_one_region() -> None:
    found = RegionSegmenter().masks(np.zeros((60, 80, 3), np.uint8))
    assert len(found) == 1 and found[0].pixels.all()


@pytest.mark.parametrize("shape", [(1, 1), (4, 300), (7, 7)])
def test_nothing_in_an_image_of_a_few_pixels(shape: tuple[int, int]) -> None:
    assert RegionSegmenter().masks(np.zeros((*shape, 3), np.uint8)) == []


def test_most_and_least_bound_what_comes_back() -> None:
    picture = np.random.default_rng(3).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    found = RegionSegmenter(most=5, least=0.01).masks(picture)
    assert len(found) <= 5 and all(each.pixels.mean() >= 0.0099 for each in found)


def test_the_same_image_gives_the_same_regions() -> None:
    picture = next(studio_clip(5).frames())
    one, two = ([each.pixels.tobytes() for each in RegionSegmenter().masks(picture)] for _ in range(2))
    assert one == two
