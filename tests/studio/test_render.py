import numpy as np
import pytest

from pipeline.studio.render import paint, render
from pipeline.studio.scene import BACKGROUND, SKY, Builder, Scene, Still
from pipeline.studio.textures import Texture
from pipeline.studio.truth import project
from pipeline.studio.worlds import plaza, room
from schemas.camera import intrinsics, look_at

SIZE = (64, 40)
K = intrinsics(55.0, 52.0, 31.0, 21.5)[0]  # nothing centred or square, so that a mix-up of axes shows


def plain(colour: tuple[int, int, int]) -> Texture:
    return Texture(np.full((8, 8, 3), colour, np.uint8))


@pytest.mark.parametrize(
    ("scene", "time", "eye", "target"),
    [
        (plaza(3), 0.4, (4.2, -3.0, 1.9), (0.0, 0.0, 0.9)),
        (plaza(8, movers=4), 1.7, (-2.5, 3.9, 0.4), (0.0, 0.0, 1.2)),
        (plaza(5), 0.0, (0.3, 0.2, 3.5), (0.0, 0.0, 0.0)),  # straight over the figure
        (room(1), 0.0, (-2.9, 0.4, 1.5), (3.0, 1.0, 1.0)),
        (room(2), 0.0, (3.0, 2.2, 0.05), (3.9, -2.9, 0.4)),  # a hand above the floor, which runs behind the camera
    ],
)
def test_depth_and_instances_equal_those_of_a_ray_caster(scene, time, eye, target, ray_caster, centres):
    c2w = look_at(eye, target, (0.1, 0.0, 1.0))
    frame = render(scene, time, c2w, K, SIZE)
    depth, instance = ray_caster(scene, time, c2w, K, centres(*SIZE))
    depth, instance = depth.reshape(frame.depth.shape), instance.reshape(frame.depth.shape)
    assert (np.isinf(depth) == np.isinf(frame.depth)).mean() > 0.999
    both = np.isfinite(depth) & np.isfinite(frame.depth)
    assert both.mean() > 0.5
    # Rays that graze an edge may fall on either side of it; nothing else may differ.
    assert (np.abs(frame.depth[both] - depth[both]) < 1e-4 * depth[both]).mean() > 0.998
    assert (instance == frame.instance).mean() > 0.998
    assert frame.depth.dtype == np.float32 and frame.instance.dtype == np.int16 and frame.rgb.shape == (40, 64, 3)


def marked_wall(at: tuple[float, float]) -> Scene:
    """A grey wall in x = 0 that faces +x, with a red square of 12 cm centred at (y, z)."""
    builder = Builder("marker", light=(-1.0, 0.0, -0.2))
    body = builder.add_actor(Still())
    grey, red = builder.add_texture(plain((120, 120, 120))), builder.add_texture(plain((250, 10, 10)))
    builder.floor = builder.add_face(body, [(0, -3, 3), (0, 3, 3), (0, 3, -3), (0, -3, -3)], grey)
    y, z, h = *at, 0.06
    builder.add_face(body, [(0.001, y - h, z + h), (0.001, y + h, z + h), (0.001, y + h, z - h), (0.001, y - h, z - h)], red)
    return builder.build()


@pytest.mark.parametrize("at", [(0.0, 0.0), (0.43, -0.21), (-0.6, 0.35)])
def test_a_marker_appears_where_its_point_projects(at):
    c2w, size = look_at((2.5, 0.4, 0.3), (0.0, 0.0, 0.0)), (160, 96)
    K = intrinsics(150.0, 150.0, 80.0, 48.0)[0]
    rgb = paint(marked_wall(at), 0.0, c2w, K, size).astype(float)
    redness = np.clip(rgb[..., 0] - rgb[..., 1], 0, None)
    rows, columns = np.mgrid[0:96, 0:160] + 0.5
    seen = np.array([(redness * columns).sum(), (redness * rows).sum()]) / redness.sum()
    expected, _ = project(np.array([[0.0, *at]]), c2w, K)
    assert np.abs(seen - expected[0]).max() < 0.25


def test_texture_is_upright_and_not_mirrored():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :32], image[:32, 32:], image[32:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    builder = Builder("quarters", light=(-1.0, 0.0, -0.1), ambient=1.0)
    body = builder.add_actor(Still())
    # Seen from +x, +y is to the right.
    builder.floor = builder.add_face(body, [(0, -1, 1), (0, 1, 1), (0, 1, -1), (0, -1, -1)], builder.add_texture(Texture(image)))
    rgb = paint(builder.build(), 0.0, look_at((3.0, 0.0, 0.0), (0.0, 0.0, 0.0)), intrinsics(60, 60, 32, 32)[0], (64, 64))
    assert [int(rgb[y, x].argmax()) for y, x in ((20, 20), (20, 44), (44, 20))] == [0, 1, 2]
    assert rgb[44, 44].max() < 10


def test_back_faces_and_what_lies_behind_the_camera_are_not_drawn():
    scene = marked_wall((0.0, 0.0))
    behind = render(scene, 0.0, look_at((-2.0, 0.0, 0.0), (0.0, 0.0, 0.0)), K, SIZE)
    away = render(scene, 0.0, look_at((2.0, 0.0, 0.0), (4.0, 0.0, 0.0)), K, SIZE)
    for frame in (behind, away):
        assert (frame.instance == SKY).all() and np.isinf(frame.depth).all()


def test_a_far_fine_pattern_turns_grey_instead_of_aliasing():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    builder = Builder("stripes", light=(-1.0, 0.0, -0.1), ambient=0.5)
    body = builder.add_actor(Still())
    texture = builder.add_texture(Texture(stripes, True))
    builder.floor = builder.add_face(body, [(0, -8, 8), (0, 8, 8), (0, 8, -8), (0, -8, -8)], texture, tile=0.5)
    rgb = paint(builder.build(), 0.0, look_at((6.0, 0.0, 0.0), (0.0, 0.0, 0.0)), intrinsics(60, 60, 32, 32)[0], (64, 64))
    assert rgb.std() < 3 and 60 < rgb.mean() < 200


def test_the_same_scene_renders_to_the_same_pixels_and_another_seed_does_not():
    c2w = look_at((4.0, 2.0, 1.5), (0.0, 0.0, 1.0))
    first, second, other = (paint(plaza(seed), 0.7, c2w, K, SIZE) for seed in (4, 4, 5))
    assert (first == second).all()
    assert (first != other).mean() > 0.2


def test_a_still_subject_stands_still_and_a_moving_one_moves():
    c2w = look_at((3.8, 1.0, 1.5), (0.0, 0.0, 1.0))
    for subject, moves in (("still", False), ("moving", True)):
        scene = plaza(11, subject)
        before, after = (render(scene, time, c2w, K, SIZE) for time in (0.0, 0.8))
        assert (before.instance != after.instance).any() == moves
    assert set(np.unique(before.instance)) >= {BACKGROUND, scene.instances.index("figure1")}


def test_a_closed_room_has_no_hole():
    scene = room(3)
    for yaw in np.radians(np.arange(0, 360, 30)):
        eye = np.array([0.2, -0.3, 1.4])
        ahead = np.array([np.cos(yaw), np.sin(yaw), 0.2])
        frame = render(scene, 0.0, look_at(eye, eye + ahead), K, SIZE)
        assert (frame.instance != SKY).all()
