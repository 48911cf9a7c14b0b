"""The camera view in a real browser: what is drawn is where a projection written here says, however it is turned."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.report.camera_files import read_camera_file
from pipeline.report.camera_view import camera_page
from tests.report.conftest import watched
from tests.report.test_cameras import npz

pytestmark = pytest.mark.browser
FOV = 40.0


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    path = npz(tmp_path / "cameras.npz")
    (tmp_path / "view.html").write_text(camera_page(read_camera_file(path), "five cameras"), "utf-8")
    opened = watched(browser.new_page(viewport={"width": 1200, "height": 900}, has_touch=True))
    opened.goto((tmp_path / "view.html").as_uri())
    opened.cameras = read_camera_file(path)
    yield opened
    assert opened.trouble == []
    opened.close()


STATE = """() => { const s = document.querySelector(".camera-stage svg");
  return {azimuth: +s.dataset.azimuth, elevation: +s.dataset.elevation,
  distance: +s.dataset.distance, target: s.dataset.target.split(" ").map(Number), box: s.getAttribute("viewBox").split(" ").map(Number),
  paths: [...s.querySelectorAll("path.frustum")].map(p => p.getAttribute("d")), metres: +s.querySelector(".scale").dataset.metres,
  scale: s.querySelector(".scale").getAttribute("d")}; }"""


def expected(state: dict[str, Any], points: np.ndarray) -> np.ndarray:
    """[N,2] where points [N,3] of a world with z upward appear: a pinhole that looks at `target` from azimuth and elevation."""
    azimuth, elevation = np.radians([state["azimuth"], state["elevation"]])
    # The axes across and along: the world's x axis is the one least along z, and x cross z is -y.
    across, along, up = np.array([0, -1.0, 0]), np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
    away = np.cos(elevation) * (np.cos(azimuth) * across + np.sin(azimuth) * along) + np.sin(elevation) * up
    eye = np.array(state["target"]) + state["distance"] * away
    right = np.cross(-away, up) / np.linalg.norm(np.cross(-away, up))
    axes = np.stack([right, np.cross(right, -away), -away])
    x, y, z = (points - eye) @ axes.T[:, 0], (points - eye) @ axes.T[:, 1], (points - eye) @ axes.T[:, 2]
    _, _, width, height = state["box"]
    focal = height / 2 / np.tan(np.radians(FOV / 2))
    return np.stack([width / 2 + focal * x / z, height / 2 - focal * y / z], axis=1)


def drawn(state: dict[str, Any], view: int) -> np.ndarray:
    """[5,2] the picture's four corners and the camera's centre."""
    numbers = np.array([float(x) for x in re.findall(r"-?[0-9.]+", state["paths"][view])]).reshape(-1, 2)
    return np.concatenate([numbers[:4], numbers[5:6]])


def truth(page: Any, view: int, frame: int, depth: float) -> np.ndarray:
    track = page.cameras.tracks[f"view{view:02d}"]
    pixels = np.array([[0, 0, 1], [160, 0, 1], [160, 90, 1], [0, 90, 1]], float) @ np.linalg.inv(track.K[frame]).T * depth
    corners = pixels @ track.c2w[frame, :3, :3].T + track.c2w[frame, :3, 3]
    return np.concatenate([corners, track.c2w[frame, None, :3, 3]])


def depth_of(page: Any) -> float:
    """Frustums are 0.22 of the cameras' reach deep, and less where the lens is wide."""
    places = np.concatenate([track.c2w[:, :3, 3] for track in page.cameras.tracks.values()])
    reach = np.linalg.norm(np.ptp(places, axis=0)) / 2
    return float(min(0.22 * reach, 0.22 * reach * 0.93 / np.hypot(1.6, 0.9)))


def check(page: Any, frame: int = 0) -> dict[str, Any]:
    state = page.evaluate(STATE)
    for view in range(5):
        assert np.abs(drawn(state, view) - expected(state, truth(page, view, frame, depth_of(page)))).max() < 0.6, view
    return state


def test_frustums_are_drawn_as_the_projection_says(page: Any) -> None:
    state = check(page)
    _, _, width, height = state["box"]
    all_points = np.concatenate([drawn(state, view) for view in range(5)])
    assert (all_points > 0).all() and (all_points < [width, height]).all()
    # The bar is as long as that many metres at the turning point.
    length = float(re.search(r"h([0-9.]+)", state["scale"])[1])
    assert abs(length - state["metres"] * height / 2 / np.tan(np.radians(FOV / 2)) / state["distance"]) < 0.1


def test_a_drag_turns_the_view(page: Any) -> None:
    before = check(page)
    box = page.locator(".camera-stage svg").bounding_box()
    page.mouse.move(box["x"] + 400, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 240, steps=5)
    page.mouse.up()
    after = check(page)
    assert after["azimuth"] == pytest.approx(before["azimuth"] - 40) and after["elevation"] == pytest.approx(before["elevation"] + 16)
    assert np.abs(drawn(after, 0) - drawn(before, 0)).max() > 30


def test_a_finger_turns_it_too(page: Any) -> None:
    before = check(page)
    send = page.context.new_cdp_session(page).send
    box = page.locator(".camera-stage svg").bounding_box()
    for kind, dx in (("touchStart", 0), ("touchMove", 25), ("touchMove", 50)):
        send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": box["x"] + 300 + dx, "y": box["y"] + 200}]})
    send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert check(page)["azimuth"] == pytest.approx(before["azimuth"] - 20)


def test_keys_turn_zoom_move_and_reset(page: Any) -> None:
    before = check(page)
    page.locator(".camera-stage svg").focus()
    for key in ("ArrowRight", "ArrowUp", "+", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    after = check(page)
    assert (after["azimuth"], after["elevation"]) == pytest.approx((before["azimuth"] + 5, before["elevation"] + 5))
    assert after["distance"] == pytest.approx(before["distance"] * 0.9) and after["target"] != before["target"]
    page.keyboard.press("0")
    assert page.evaluate(STATE) == before


def test_the_wheel_scrolls_the_page_until_the_view_is_chosen(page: Any) -> None:
    before = check(page)
    page.locator(".camera-stage svg").hover()
    page.mouse.wheel(0, 100)
    assert check(page)["distance"] == before["distance"]
    page.locator(".camera-stage svg").focus()
    page.mouse.wheel(0, 100)
    assert check(page)["distance"] > before["distance"]


def test_the_slider_moves_the_cameras(page: Any) -> None:
    assert page.locator("output").inner_text() == "frame 0 (1 of 3)"
    slider = page.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("output").inner_text() == "frame 4 (3 of 3)"
    check(page, 2)


def test_a_camera_is_chosen_by_its_name(page: Any) -> None:
    button = page.get_by_role("button", name="view03")
    button.click()
    track = page.cameras.tracks["view03"]
    told = page.locator(".camera-told").inner_text()
    assert told.startswith("view03: at ") and "160 x 90 pixels, fx 100, 77.3 degrees" in told
    assert [float(x) for x in re.search(r"at ([^ ]+, [^ ]+, [^ ]+) m;", told)[1].split(",")] == pytest.approx(track.c2w[0, :3, 3], abs=2e-3)
    assert page.locator("g.camera.on").get_attribute("data-name") == "view03"
    assert button.get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_does_not_scroll_sideways(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function(f"+document.querySelector('.camera-stage svg').getAttribute('viewBox').split(' ')[2] <= {width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    check(page)
