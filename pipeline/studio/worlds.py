"""The studio's sets: an open plaza for multi-camera scenes, and furnished rooms for walk-throughs."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.studio.figure import Figure, Motion, add_figure
from pipeline.studio.scene import Array, Builder, Scene, Slider, Still
from pipeline.studio.textures import Colour, Rng, bricks, crate, facade, panel, plain, planks, poster, sky, tiles, wallpaper, window

Subject = Literal["moving", "still", "none"]

FLOORS: tuple[tuple[Colour, Colour], ...] = (
    ((204, 196, 182), (150, 142, 134)),
    ((198, 170, 140), (164, 128, 100)),
    ((178, 190, 186), (122, 140, 142)),
    ((210, 200, 170), (128, 110, 92)),
)
PAINTS: tuple[Colour, ...] = (
    (202, 92, 66), (74, 128, 168), (226, 178, 74), (110, 150, 96), (170, 120, 168), (196, 150, 104), (90, 100, 120),
)  # fmt: skip
WALLS: tuple[Colour, ...] = ((222, 214, 198), (196, 208, 206), (214, 198, 190), (206, 212, 190))

DOING: dict[Motion, str] = {"walk": "walks in a circle", "wave": "waves", "dance": "dances", "still": "stands"}


def plaza(seed: int, subject: Subject = "moving", movers: int = 1) -> Scene:
    """Open air: tiled ground of 36 m, houses all around beyond 11 m, crates within 3 m, and one or two figures at the centre.

    Cameras belong between 3.4 and 9.5 m from the centre. subject: moving figures and carts, the same at rest, or none.
    """
    rng = np.random.default_rng([seed, 1])
    builder = Builder(f"plaza-{seed}", light=(rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7), -1.0))
    builder.sky = builder.add_texture(sky(rng))
    ground = builder.add_actor(Still())
    paving = builder.add_texture(tiles(rng, FLOORS[int(rng.integers(len(FLOORS)))]))
    builder.floor = builder.add_face(ground, [(-18, 18, 0), (18, 18, 0), (18, -18, 0), (-18, -18, 0)], paving, tile=3.0)
    _houses(builder, ground, rng)
    crates = [builder.add_texture(crate(rng, colour)) for colour in _pick(rng, PAINTS, 4)]
    angles = rng.uniform(0, 2 * np.pi) + np.arange(4) * 2 * np.pi / 4 + rng.uniform(-0.4, 0.4, 4)
    for k, angle in enumerate(angles):
        at = rng.uniform(1.9, 2.6) * np.array([np.cos(angle), np.sin(angle)])
        side = rng.uniform(0.5, 0.85)
        still = subject != "moving" or k >= movers
        swing = 0.5 * np.array([-np.sin(angle), np.cos(angle)])
        turn = float(rng.uniform(0, np.pi))
        mover = Slider((at[0], at[1]), (0.0, 0.0) if still else (swing[0], swing[1]), 4.0, turn, 0.0 if still else 0.35)
        body = builder.add_actor(mover, f"crate{k + 1}")
        builder.add_box(body, (-side / 2, -side / 2, 0), (side / 2, side / 2, side), crates[k])
        if rng.random() < 0.5:
            builder.add_box(body, (-side / 4, -side / 4, side), (side / 4, side / 4, side * 1.5), crates[(k + 1) % 4])
    doing = _figures(builder, rng, subject == "moving") if subject != "none" else "Nobody is there"
    builder.caption = f"{doing} among crates on a tiled plaza with houses around it."
    return builder.build()


def _figures(builder: Builder, rng: Rng, moving: bool) -> str:
    """Adds one or two figures; says what they do."""
    motions: tuple[Motion, ...] = ("walk", "wave", "dance")
    first = motions[int(rng.integers(3))] if moving else "still"
    heading = float(rng.uniform(0, 2 * np.pi))
    add_figure(builder, Figure(first, (0.0, 0.0), 0.9, heading, float(rng.uniform(0.75, 1.0)), float(rng.uniform(0, 6))), rng, "figure1")
    if rng.random() >= 0.4:
        return f"A person {DOING[first]}"
    second: Motion = ("wave", "dance")[int(rng.integers(2))] if moving else "still"
    at = 1.0 if first != "walk" else 0.1
    place = (-at * np.cos(heading), -at * np.sin(heading))
    add_figure(builder, Figure(second, place, 0.9, heading + 2.0, 0.8, float(rng.uniform(0, 6))), rng, "figure2")
    return f"A person {DOING[first]} and another one {DOING[second]}"


def _houses(builder: Builder, body: int, rng: Rng) -> None:
    fronts = [builder.add_texture(facade(rng, colour)) for colour in _pick(rng, PAINTS, 3)]
    fronts.append(builder.add_texture(bricks(rng, (168, 84, 62))))
    roof = builder.add_texture(plain(rng, (110, 100, 96)))
    for k, angle in enumerate(np.arange(0, 360, 36) + rng.uniform(0, 36)):
        distance, half, height = rng.uniform(12.5, 14.5), rng.uniform(2.2, 3.6), rng.uniform(3.5, 7.5)
        turn = np.radians(angle)
        # Axis-aligned blocks on a ring: their corners give clean vanishing lines from every side.
        x, y = distance * np.cos(turn), distance * np.sin(turn)
        sides = [fronts[k % 4]] * 4 + [roof, roof]
        builder.add_box(body, (x - half, y - half * 0.8, 0), (x + half, y + half * 0.8, height), sides, tile=4.0)


@dataclass(frozen=True)
class RoomSize:
    """Inner walls of a room, metres: x and y ranges and the height."""

    x: tuple[float, float] = (-4.0, 4.0)
    y: tuple[float, float] = (-3.0, 3.0)
    height: float = 2.8


def room(seed: int, extent: RoomSize | None = None) -> Scene:
    """A furnished room without people. Furniture stays within 0.7 m of the walls, so that the middle is free for the camera."""
    extent = extent or RoomSize()
    rng = np.random.default_rng([seed, 2])
    builder = Builder(f"room-{seed}", light=(0.25, 0.35, -1.0), ambient=0.84)
    body = builder.add_actor(Still())
    (x0, x1), (y0, y1), top = extent.x, extent.y, extent.height
    wood = builder.add_texture(planks(rng, (176, 128, 84)))
    builder.floor = builder.add_face(body, [(x0, y1, 0), (x1, y1, 0), (x1, y0, 0), (x0, y0, 0)], wood, tile=1.6)
    ceiling = builder.add_texture(tiles(rng, ((232, 230, 224), (226, 224, 220)), 4))
    builder.add_face(body, [(x0, y0, top), (x1, y0, top), (x1, y1, top), (x0, y1, top)], ceiling, tile=2.4)
    papers = [builder.add_texture(wallpaper(rng, colour)) for colour in _pick(rng, WALLS, 2)]
    papers.append(builder.add_texture(bricks(rng, (186, 108, 84))))
    corners = [(x0, y1), (x1, y1), (x1, y0), (x0, y0)]
    feature = int(rng.integers(4))
    for k in range(4):
        start, end = np.array(corners[k]), np.array(corners[(k + 1) % 4])
        paper = papers[2] if k == feature else papers[k % 2]
        builder.add_face(body, _upright(start, end, 0, top), paper, tile=1.6)
        _furnish(builder, body, start, end, top, rng)
    builder.caption = "A walk through a furnished room with pictures on its walls."
    return builder.build()


def _upright(start: Array, end: Array, low: float, high: float) -> list[tuple[float, float, float]]:
    """The corners of a vertical rectangle, as `Builder.add_face` wants them."""
    return [(*start, high), (*end, high), (*end, low), (*start, low)]


def _furnish(builder: Builder, body: int, start: Array, end: Array, top: float, rng: Rng) -> None:
    """Along one wall from start to end (seen from inside, left to right): pictures, a window or a door, cabinets and shelves."""
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    inward = np.array([along[1], -along[0]])
    at = 0.5
    while at < length - 0.9:
        width = float(min(rng.uniform(0.7, 1.5), length - at - 0.4))
        left, right = start + along * at, start + along * (at + width)
        kind = rng.choice(("window", "picture", "cabinet", "shelf", "crate"))
        if kind == "window":
            _plate(builder, body, left, right, inward, 0.95, min(2.2, top - 0.3), builder.add_texture(window(rng)))
        elif kind == "picture":
            _plate(builder, body, left, right, inward, 1.25, 1.25 + width * 0.75, builder.add_texture(poster(rng)))
        else:
            height = {"cabinet": rng.uniform(0.7, 1.1), "shelf": rng.uniform(1.6, 2.1), "crate": rng.uniform(0.4, 0.7)}[str(kind)]
            depth = rng.uniform(0.3, 0.55)
            colour = PAINTS[int(rng.integers(len(PAINTS)))]
            front = builder.add_texture(crate(rng, colour) if kind == "crate" else panel(rng, colour))
            ends = np.stack([left, right, left + inward * depth, right + inward * depth])
            low, high = ends.min(axis=0), ends.max(axis=0)
            piece = builder.add_actor(Still(), f"{kind}{len(builder.instances)}")
            builder.add_box(piece, (*low, 0.0), (*high, height), front)
            if kind == "cabinet" and height + 0.4 + width * 0.6 < top:
                picture = builder.add_texture(poster(rng))
                _plate(builder, body, left + along * 0.1, right - along * 0.1, inward, height + 0.3, height + 0.3 + width * 0.55, picture)
        at += width + float(rng.uniform(0.25, 0.6))


def _plate(builder: Builder, body: int, left: Array, right: Array, inward: Array, low: float, high: float, texture: int) -> None:
    """A picture that hangs 2 cm before its wall."""
    builder.add_face(body, _upright(left + inward * 0.02, right + inward * 0.02, low, high), texture)


def _pick(rng: Rng, colours: tuple[Colour, ...], count: int) -> list[Colour]:
    return [colours[int(k)] for k in rng.choice(len(colours), count, replace=False)]
