import cv2
import numpy as np
import pytest

from pipeline.studio.layouts.order import camera_track
from pipeline.studio.render import render
from pipeline.studio.scene import SKY
from pipeline.studio.trajectories import hold, on_sphere
from pipeline.studio.truth import lines, project, skeleton, tracks
from pipeline.studio.worlds import plaza, room
from schemas.camera import look_at

SIZE = (192, 128)
TIMES = [0.0, 0.5, 1.1]


@pytest.fixture(scope="module")
def stage():
    scene = plaza(3, movers=2)
    poses = on_sphere(np.array([4.0, 5.0]), np.array([15.0, 25.0]), np.array([20.0, 75.0]))
    cameras = [camera_track(hold(pose, len(TIMES)), 170.0, SIZE) for pose in poses]
    frames = [[render(scene, time, view.c2w[t], view.K[t], SIZE) for t, time in enumerate(TIMES)] for view in cameras]
    return scene, cameras, frames


def test_point_tracks_are_visible_exactly_where_a_ray_caster_reaches_them(stage, ray_caster):
    scene, cameras, _ = stage
    found = tracks(scene, cameras, TIMES, count=200, seed=1)
    assert found.pixels.shape == (2, 3, 200, 2) and found.visible.shape == (2, 3, 200)
    for v, camera in enumerate(cameras):
        for t, time in enumerate(TIMES):
            xy, z = project(found.points[t], camera.c2w[t], camera.K[t])
            assert np.abs(xy - found.pixels[v, t])[z > 0].max() < 1e-9
            depth, _ = ray_caster(scene, time, camera.c2w[t], camera.K[t], xy)
            inside = (z > 0.1) & (xy >= 0).all(axis=1) & (xy < SIZE).all(axis=1)
            expected = inside & (depth > z * 0.9998)
            assert (expected == found.visible[v, t]).mean() > 0.99
    share = found.visible.mean()
    assert 0.1 < share < 0.9  # both answers occur


def test_points_on_the_figure_move_with_it_and_others_stay(stage):
    scene, cameras, _ = stage
    found = tracks(scene, cameras, TIMES, count=400, seed=2)
    figure = found.instance == scene.instances.index("figure1")
    still = found.instance == 0
    assert figure.sum() > 10 and still.sum() == 200
    assert np.ptp(found.points[:, still], axis=0).max() == 0
    assert np.linalg.norm(found.points[0] - found.points[1], axis=1)[figure].max() > 0.05


def test_a_visible_track_has_its_own_instance_under_it(stage):
    scene, cameras, frames = stage
    found = tracks(scene, cameras, TIMES, count=300, seed=3)
    agree = []
    for v in range(2):
        for t in range(len(TIMES)):
            seen = found.visible[v, t]
            x, y = np.floor(found.pixels[v, t][seen]).astype(int).T
            # The centre of the pixel may lie across an edge from the point, but then a neighbour does not.
            padded = np.pad(frames[v][t].instance, 1, mode="edge")
            around = np.stack([padded[y + dy, x + dx] for dy in range(3) for dx in range(3)])
            agree.append((around == found.instance[seen]).any(axis=0))
    assert np.concatenate(agree).mean() > 0.99


def test_pixels_carried_by_depth_land_on_the_same_surface_in_the_other_view(stage):
    _, (first, second), frames = stage
    a, b = frames[0][1], frames[1][1]
    rows, columns = np.nonzero(np.isfinite(a.depth))
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], axis=1) @ np.linalg.inv(first.K[1]).T
    world = (rays * a.depth[rows, columns, None]) @ first.c2w[1, :3, :3].T + first.c2w[1, :3, 3]
    xy, z = project(world, second.c2w[1], second.K[1])
    inside = (z > 0.1) & (xy >= 1).all(axis=1) & (xy < np.array(SIZE) - 1).all(axis=1)
    x, y = np.floor(xy[inside]).astype(int).T
    open_to_both = np.abs(b.depth[y, x] - z[inside]) < 0.02 * z[inside]
    assert open_to_both.sum() > 2000
    same = a.instance[rows, columns][inside][open_to_both] == b.instance[y, x][open_to_both]
    assert same.mean() > 0.97
    colour = np.abs(a.rgb[rows, columns][inside][open_to_both].astype(float) - b.rgb[y, x][open_to_both]).mean(axis=1)
    other = np.abs(a.rgb[rows, columns][inside][open_to_both].astype(float) - np.roll(b.rgb, 40, axis=1)[y, x][open_to_both]).mean(axis=1)
    assert np.median(colour) < 12 and np.median(colour) < 0.5 * np.median(other)


def test_visible_line_segments_lie_on_edges_of_the_picture():
    scene = room(4)
    camera = camera_track(look_at((-2.0, -1.0, 1.5), (2.0, 1.5, 1.2))[None], 400.0, (480, 320))
    found = lines(scene, [camera], [0.0])
    frame = render(scene, 0.0, camera.c2w[0], camera.K[0], (480, 320))
    grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    strength = cv2.dilate(np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)), np.ones((3, 3)))
    whole = np.flatnonzero((found.visible[0, 0] > 0.99) & (np.linalg.norm(np.diff(found.pixels[0, 0], axis=1)[:, 0], axis=1) > 20))
    assert len(whole) >= 10
    on_line = [strength[_samples(found.pixels[0, 0, n])].mean() for n in whole]
    beside = [strength[_samples(found.pixels[0, 0, n] + (9, 7))].mean() for n in whole]
    assert np.median(on_line) > 1.5 * np.median(beside)


def _samples(ends):
    share = np.linspace(0.1, 0.9, 30)[:, None]
    x, y = np.floor((1 - share) * ends[0] + share * ends[1]).astype(int).T
    return np.clip(y, 0, 319), np.clip(x, 0, 479)


def test_line_ends_project_from_their_world_segments_and_hidden_ones_say_so(stage):
    scene, cameras, _ = stage
    found = lines(scene, cameras, TIMES)
    assert found.pixels.shape[:2] == (2, 3) and len(found.instance) == found.ends.shape[1] == found.visible.shape[2]
    xy, z = project(found.ends[1, :, 0], cameras[1].c2w[1], cameras[1].K[1])
    assert np.abs(xy - found.pixels[1, 1, :, 0])[z > 0.02].max() < 1e-9
    assert np.isnan(found.pixels[1, 1, :, 0][z < 0.02]).all()
    assert found.visible.min() == 0 and found.visible.max() == 1


def test_joints_lie_in_their_figure_and_move(stage):
    scene, cameras, frames = stage
    found = skeleton(scene, cameras, TIMES)
    figures = len(found.instance)
    assert found.names[0] == "nose" and len(found.names) == 17 and found.pixels.shape == (2, 3, figures, 17, 2)
    assert found.visible.any() and not found.visible.all()
    for v in range(2):
        for p in range(figures):
            seen = found.visible[v, 1, p]
            x, y = np.floor(found.pixels[v, 1, p][seen]).astype(int).T
            mask = cv2.dilate((frames[v][1].instance == found.instance[p]).astype(np.uint8), np.ones((3, 3)))
            assert mask[y, x].all()
    assert np.linalg.norm(found.joints[0] - found.joints[2], axis=-1).max() > 0.1
    ankles = found.joints[..., [found.names.index("left_ankle"), found.names.index("right_ankle")], 2]
    assert ankles.min() > 0.0 and (ankles.min(axis=-1) < 0.25).all()  # someone's foot is always near the ground


def test_the_floor_carries_no_instance_and_the_sky_is_told_apart(stage):
    scene, _, frames = stage
    ids = np.unique(np.concatenate([frame.instance.ravel() for row in frames for frame in row]))
    assert SKY in ids and 0 in ids and ids.max() < len(scene.instances)
