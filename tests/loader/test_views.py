"""Views lie within the angles, frames within the media; who is eligible is who can be drawn."""

import io
import tarfile

import numpy as np
import pytest

from pipeline.loader.batch import KINDS
from pipeline.loader.catalog import Catalog
from pipeline.loader.order import Order
from pipeline.loader.settings import PAPER_CURRICULUM, LoaderSettings, Phase
from pipeline.loader.views import choose_frames, choose_views, eligible, partners, phase_at
from tests.loader.manifests import Made, circle, write_manifest


def catalog_of(tmp_path, *samples: Made) -> Catalog:
    return Catalog.open(write_manifest(tmp_path, list(samples)))


@pytest.mark.parametrize(("step", "phase"), [(0, 0), (9_999, 0), (10_000, 1), (19_999, 1), (20_000, 2), (49_999, 2), (10**9, 2)])
def test_the_papers_phases_begin_at_10k_and_20k(step, phase):
    assert phase_at(LoaderSettings(), step) == phase
    assert [(each.low, each.high) for each in PAPER_CURRICULUM] == [(0, 60), (30, 90), (60, 120)]
    assert phase_at(LoaderSettings(curriculum=()), step) is None


def test_the_ends_of_a_phase_belong_to_it_and_unknown_angles_to_none():
    nan = np.nan
    angle = np.array([[0, 30, 90, nan], [30, 0, 29.9, 90.1], [90, 29.9, 0, 60], [nan, 90.1, 60, 0]], np.float32)
    allowed = partners(angle, Phase(0, 30, 90))
    assert {(int(a), int(b)) for a, b in np.argwhere(allowed)} == {(0, 1), (1, 0), (0, 2), (2, 0), (2, 3), (3, 2)}
    assert (partners(angle, None) == ~np.eye(4, dtype=bool)).all()
    assert not partners(angle, Phase(0, 0, 60)).diagonal().any()  # a view is no partner of its own


def test_views_are_all_choices_that_are_allowed_and_no_others():
    # view 0 sees 1 and 2; 1 sees 0; 2 sees 0 and 3; 3 sees 2: only 0 and 2 have two partners
    allowed = np.zeros((4, 4), bool)
    for a, b in ((0, 1), (0, 2), (2, 3)):
        allowed[a, b] = allowed[b, a] = True
    drawn = {choose_views(allowed, 3, "random", key) for key in range(200)}
    assert drawn == {(0, 1, 2), (0, 2, 1), (2, 0, 3), (2, 3, 0)}
    assert {choose_views(allowed, 2, "first", key) for key in range(50)} == {(0, 1), (0, 2)}
    assert {choose_views(allowed, 1, "random", key) for key in range(50)} == {(0,), (1,), (2,), (3,)}
    with pytest.raises(ValueError, match="4 views"):
        choose_views(allowed, 4, "random", 0)


def test_view_zero_is_uniform():
    allowed = ~np.eye(6, dtype=bool)
    pairs = np.array([choose_views(allowed, 2, "random", key) for key in range(6000)])
    counts = np.bincount(pairs[:, 0] * 6 + pairs[:, 1], minlength=36).reshape(6, 6)
    expected = 6000 / 30
    assert (((counts - expected) ** 2 / expected)[allowed]).sum() < 58.3  # chi-square, 29 degrees of freedom, p = 0.001
    assert counts.trace() == 0


@pytest.mark.parametrize(
    ("n", "frames", "stride", "starts"), [(10, 10, 1, {0}), (10, 8, 1, {0, 1, 2}), (10, 4, 3, {0}), (11, 4, 3, {0, 1})]
)
def test_frames_fit_the_media_and_every_start_occurs(n, frames, stride, starts):
    drawn = [choose_frames(n, frames, stride, key) for key in range(100)]
    assert {each[0] for each in drawn} == starts
    assert all(np.diff(each).tolist() == [stride] * (frames - 1) and len(each) == frames and each[-1] < n for each in drawn)
    with pytest.raises(ValueError, match="there are 3"):
        choose_frames(3, frames, stride, 0)


def test_who_is_eligible(tmp_path):
    catalog = catalog_of(
        tmp_path,
        circle("wide", [0, 100, 200]),
        circle("narrow", [0, 10, 20]),
        circle("short", [0, 10, 20], frames=16),
        Made("no-angles", views=3),
        Made("no-length", views=3, frames=None, angles={(0, 1): 10.0}),
        circle("pictures", [0, 10], frames=1),
        circle("two-pictures", [0, 10, 20], frames=1),
        Made("clip", frames=17),
        Made("short-clip", frames=16),
    )

    def names(kind, phase=None, **settings) -> set[str]:
        found = eligible(catalog, LoaderSettings(frames=17, **settings), kind, phase)
        return {catalog.sample_id(i) for i in found}

    assert names("multiview_video") == {"wide", "narrow", "no-angles"}
    assert names("multiview_video", Phase(0, 0, 60)) == {"narrow"}
    assert names("multiview_video", Phase(0, 60, 120)) == {"wide"}
    assert names("multiview_video", Phase(0, 0, 60), views=3) == {"narrow"}
    assert names("multiview_video", Phase(0, 0, 10.5), views=3) == {"narrow"}  # the middle camera has two partners
    assert names("multiview_video", Phase(0, 0, 10.5), views=3, first_view="first") == set()
    assert names("multiview_video", views=4) == set()
    assert names("multiview_video", frame_stride=4) == set()  # 17 frames, every fourth, reach over 65
    assert names("multiview_images") == {"pictures", "two-pictures"}
    assert names("multiview_images", image_views=3) == {"two-pictures"}
    assert names("singleview_video") == {"clip"}


@pytest.mark.parametrize("first", ["random", "first"])
@pytest.mark.parametrize("views", [1, 2, 3, 5])
def test_eligible_is_exactly_who_can_be_drawn(tmp_path, views, first):
    rng = np.random.default_rng(views)
    rows = [circle(f"s{i:03d}", rng.uniform(0, 180, rng.integers(2, 8)).tolist()) for i in range(80)]
    catalog = catalog_of(tmp_path, *rows)
    settings = LoaderSettings(views=views, frames=5, first_view=first)
    found = []
    for phase in PAPER_CURRICULUM:
        able = []
        for i in range(len(catalog)):
            try:
                choose_views(partners(catalog.angle(i), phase), views, first, 0)
            except ValueError:
                continue
            able.append(i)
        assert eligible(catalog, settings, "multiview_video", phase).tolist() == able
        found.append(len(able))
    assert views == 1 or 0 < max(found) < 80


def angles_about_the_common_point(c2w: np.ndarray) -> np.ndarray:
    """[V,V] degrees between the directions from the point nearest to all optical axes to the cameras c2w [V,4,4]."""
    position, axis = c2w[:, :3, 3], c2w[:, :3, 2]
    # position + s * axis = point, for every camera: linear in the point and the s
    system, right = np.zeros((3 * len(c2w), 3 + len(c2w))), position.reshape(-1)
    for i, z in enumerate(axis):
        system[3 * i : 3 * i + 3, :3] = np.eye(3)
        system[3 * i : 3 * i + 3, 3 + i] = -z
    outward = position - np.linalg.lstsq(system, right)[0][:3]
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip(outward @ outward.T, -1, 1)))


def test_drawn_pairs_lie_in_the_phase_by_the_packed_cameras(curated):
    catalog = Catalog.open(curated)
    truth = {}
    for i in np.flatnonzero(catalog.kinds == KINDS.index("multiview_video")).tolist():
        member = catalog.members(i)["cameras.npz"]
        with tarfile.open(curated / "shards" / member.shard) as archive:
            packed = archive.extractfile(f"{member.sample_id}.{member.name}").read()
        data = (curated / "shards" / member.shard).read_bytes()[member.offset : member.offset + member.size]
        assert data == packed
        with np.load(io.BytesIO(data)) as cameras:
            truth[i] = angles_about_the_common_point(cameras["c2w"][:, 0])
    phases = (Phase(0, 0, 60), Phase(20, 30, 90), Phase(40, 60, 120))
    settings = LoaderSettings(batch=8, frames=5, mix={"multiview_video": 1.0}, curriculum=phases)
    order, seen = Order(catalog, settings), []
    for step in range(60):
        low, high = [(0, 60), (30, 90), (60, 120)][step // 20]
        for draw in order.draws(step):
            angle = truth[draw.sample][draw.views[0], draw.views[1]]
            assert low - 1e-3 <= angle <= high + 1e-3, (step, draw, angle)
            seen.append(angle)
    assert min(seen) < 60 < 90 < max(seen)
