"""Seeded textures with strong straight lines, and the mip atlas they are sampled from."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]
Rng = np.random.Generator

LEVELS = 8  # mip levels kept of every texture
PADDING = 2  # texels around every level, so that bilinear reads stay inside it

WORDS = ("PARALLAX", "CAMERA", "VIEW", "EPIPOLAR", "FRAME", "TRACK", "SHIFT", "LINE", "POSE", "ORBIT", "DOLLY", "NORTH")


@dataclass(frozen=True, eq=False)
class Texture:
    """image [h,w,3] RGB, h and w powers of two. tiles: may be repeated side by side without a seam.

    lines: straight lines drawn in it, from (a, b) to (a, b) in [0,1]; only pictures that are not repeated name theirs.
    """

    image: Image
    tiles: bool = False
    lines: tuple[tuple[tuple[float, float], tuple[float, float]], ...] = ()


def grain(rng: Rng, height: int, width: int, strength: float) -> NDArray[np.float32]:
    """[height,width] multiplicative noise of several octaves around 1; it tiles."""
    total = np.zeros((height, width), np.float32)
    for octave in (2, 8, 32):
        coarse = rng.normal(size=(max(height // octave, 2), max(width // octave, 2))).astype(np.float32)
        wrapped = np.pad(coarse, 2, mode="wrap")
        factor = (height / coarse.shape[0], width / coarse.shape[1])
        grown = (round(wrapped.shape[1] * factor[1]), round(wrapped.shape[0] * factor[0]))
        fine = cv2.resize(wrapped, grown, interpolation=cv2.INTER_CUBIC)
        top, left = round(2 * factor[0]), round(2 * factor[1])
        total += fine[top : top + height, left : left + width]
    return np.asarray(1 + strength * total / 3, np.float32)


def roughen(image: NDArray[np.float32], rng: Rng, strength: float) -> Image:
    """`image` under `grain`, as bytes."""
    return np.asarray(np.clip(image * grain(rng, image.shape[0], image.shape[1], strength)[..., None], 0, 255), np.uint8)


def tiles(rng: Rng, colours: Sequence[Colour], count: int = 4, size: int = 512, joint: float = 0.02) -> Texture:
    """A square grid of tinted tiles with joints, chequered by the first two colours."""
    image = np.zeros((size, size, 3), np.float32)
    step = size // count
    for row in range(count):
        for column in range(count):
            tint = np.array(colours[(row + column) % len(colours)], np.float32) * rng.uniform(0.9, 1.1)
            image[row * step : (row + 1) * step, column * step : (column + 1) * step] = tint
    half = max(round(joint * step / 2), 1)
    for k in range(count + 1):
        low, high = max(k * step - half, 0), min(k * step + half, size)
        image[low:high] = image[:, low:high] = (70, 68, 66)
    return Texture(roughen(image, rng, 0.10), True)


def bricks(rng: Rng, colour: Colour, rows: int = 16, size: int = 512) -> Texture:
    """Running-bond bricks, each with its own tint."""
    mortar = np.full((size, size, 3), (176, 170, 160), np.float32)
    height, width = size // rows, size // (rows // 2)
    for row in range(rows):
        shift = (row % 2) * width // 2
        for column in range(rows // 2):
            tint = np.array(colour, np.float32) * rng.uniform(0.72, 1.18)
            across = np.arange(column * width + shift + 2, (column + 1) * width + shift - 1) % size
            mortar[row * height + 2 : (row + 1) * height - 1, across] = tint
    return Texture(roughen(mortar, rng, 0.12), True)


def planks(rng: Rng, colour: Colour, count: int = 8, size: int = 512) -> Texture:
    """Long boards with stretched grain and dark joints."""
    image = np.empty((size, size, 3), np.float32)
    for k in range(count):
        low, high = k * size // count, (k + 1) * size // count
        step = high - low
        streaks = cv2.resize(rng.normal(1, 0.09, (step, 16)).astype(np.float32), (size, step), interpolation=cv2.INTER_LINEAR)
        board = np.asarray(streaks, np.float32) * rng.uniform(0.8, 1.15)
        image[low:high] = np.array(colour, np.float32) * board[..., None]
        image[low : low + 2] *= 0.45
        joint = int(rng.integers(0, size - 3))
        image[low:high, joint : joint + 3] *= 0.5
    return Texture(roughen(image, rng, 0.05), True)


def wallpaper(rng: Rng, colour: Colour, size: int = 512) -> Texture:
    """Vertical bands in two tints, with a small diamond on every other one."""
    count = int(rng.choice((8, 16)))
    columns = np.arange(size) * count // size
    second = np.array(colour, np.float32) * (0.84, 0.86, 0.88)
    image = np.where((columns % 2 == 0)[:, None], np.array(colour, np.float32), second.astype(np.float32))
    canvas = np.ascontiguousarray(np.broadcast_to(image, (size, size, 3)))
    accent = tuple(rng.uniform(60, 190, 3))
    half = size // count // 4
    for k in range(0, count, 2):
        for row in range(count // 2):
            x, y = (2 * k + 1) * size // count // 2, (2 * row + 1 + k // 2 % 2) * size // count % size
            cv2.fillConvexPoly(canvas, np.array([(x, y - half), (x + half, y), (x, y + half), (x - half, y)]), accent, cv2.LINE_AA)
    return Texture(roughen(canvas, rng, 0.04), True)


def facade(rng: Rng, colour: Colour, columns: int = 4, rows: int = 4, size: int = 512) -> Texture:
    """A house front: framed windows, some lit, some with blinds, between bands of plaster."""
    image = np.full((size, size, 3), colour, np.float32)
    cell_w, cell_h = size // columns, size // rows
    for row in range(rows):
        image[row * cell_h : row * cell_h + 6] *= 0.75
        for column in range(columns):
            x0, y0 = column * cell_w + cell_w // 4, row * cell_h + cell_h // 4
            x1, y1 = (column + 1) * cell_w - cell_w // 4, (row + 1) * cell_h - cell_h // 6
            glass = np.array((236, 214, 150) if rng.random() < 0.25 else (72, 96, 118), np.float32) * rng.uniform(0.8, 1.2)
            image[y0 - 6 : y1 + 6, x0 - 6 : x1 + 6] = (238, 236, 230)
            image[y0:y1, x0:x1] = glass * np.linspace(1.15, 0.75, y1 - y0, dtype=np.float32)[:, None, None]
            image[y0:y1, (x0 + x1) // 2 - 2 : (x0 + x1) // 2 + 2] = (238, 236, 230)
            if rng.random() < 0.5:
                drop = int(rng.uniform(0.2, 0.8) * (y1 - y0))
                image[y0 : y0 + drop, x0:x1] = (206, 196, 176)
                image[y0 : y0 + drop : 6, x0:x1] *= 0.8
    return Texture(roughen(image, rng, 0.05), True)


def crate(rng: Rng, colour: Colour, size: int = 256) -> Texture:
    """A wooden or painted crate side: frame, diagonal brace, boards and a stencilled word."""
    board = planks(rng, colour, 6, size).image.astype(np.float32) * 0.82
    edge = size // 9
    dark, light = tuple(c * 0.55 for c in colour), tuple(min(c * 1.12, 255) for c in colour)
    canvas = np.ascontiguousarray(board)
    if rng.random() < 0.6:
        cv2.line(canvas, (edge, size - edge), (size - edge, edge), dark, edge + 6, cv2.LINE_AA)
        cv2.line(canvas, (edge, size - edge), (size - edge, edge), light, edge, cv2.LINE_AA)
    else:
        letter(canvas, str(rng.choice(WORDS)), (40, 36, 32), 0.5)
    for inset, tint in ((0, dark), (3, light)):
        cv2.rectangle(canvas, (inset, inset), (size - 1 - inset, size - 1 - inset), tint, max(edge - 2 * inset, 1) * 2 - inset)
    cv2.rectangle(canvas, (edge, edge), (size - edge, size - edge), dark, 3)
    lines = tuple(((p, q), (r, s)) for p, q, r, s in _frame(edge / size))
    return Texture(roughen(canvas.astype(np.float32), rng, 0.06), False, lines)


def panel(rng: Rng, colour: Colour, size: int = 256) -> Texture:
    """A cabinet front: two framed doors with handles."""
    image = np.full((size, size, 3), colour, np.float32)
    canvas = np.ascontiguousarray(image)
    dark = tuple(c * 0.6 for c in colour)
    for left in (0, size // 2):
        cv2.rectangle(canvas, (left + 6, 6), (left + size // 2 - 6, size - 7), dark, 3)
        cv2.rectangle(canvas, (left + 26, 26), (left + size // 2 - 26, size - 27), dark, 2)
    cv2.rectangle(canvas, (size // 2 - 22, size // 2 - 20), (size // 2 - 16, size // 2 + 20), (60, 58, 56), -1)
    cv2.rectangle(canvas, (size // 2 + 16, size // 2 - 20), (size // 2 + 22, size // 2 + 20), (60, 58, 56), -1)
    return Texture(roughen(canvas, rng, 0.05), False, (((0.5, 0.0), (0.5, 1.0)),))


def poster(rng: Rng, size: int = 256) -> Texture:
    """A framed picture: coloured blocks, a word, and small print."""
    base = rng.uniform(120, 250, 3).astype(np.float32)
    canvas = np.ascontiguousarray(np.tile(base, (size, size, 1)))
    for _ in range(9):
        x, y = rng.integers(12, size - 60, 2)
        w, h = rng.integers(24, 130, 2)
        end = (int(min(x + w, size - 12)), int(min(y + h, size - 12)))
        cv2.rectangle(canvas, (int(x), int(y)), end, tuple(rng.uniform(20, 255, 3)), -1)
    centre = tuple(int(v) for v in rng.integers(70, size - 70, 2))
    cv2.circle(canvas, centre, int(rng.integers(20, 46)), tuple(rng.uniform(20, 255, 3)), -1, cv2.LINE_AA)
    letter(canvas, str(rng.choice(WORDS)), (250, 250, 246) if base.mean() < 170 else (24, 24, 30), 0.78)
    for row in range(3):
        width = int(rng.integers(size // 3, size * 3 // 4))
        cv2.line(canvas, (24, size - 26 - 9 * row), (24 + width // 2, size - 26 - 9 * row), (40, 40, 40), 2)
    cv2.rectangle(canvas, (0, 0), (size - 1, size - 1), (52, 40, 30), 18)
    lines = tuple(((p, q), (r, s)) for p, q, r, s in _frame(9 / size))
    return Texture(roughen(canvas, rng, 0.02), False, lines)


def window(rng: Rng, size: int = 256) -> Texture:
    """A window that looks at a bright garden, with bars."""
    rows = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    sky_light = (1 - rows) * np.array((168, 206, 238), np.float32) + rows * np.array((228, 238, 240), np.float32)
    canvas = np.ascontiguousarray(np.broadcast_to(sky_light, (size, size, 3)))
    for _ in range(14):
        centre = (int(rng.integers(0, size)), int(rng.integers(size * 6 // 10, size)))
        cv2.circle(canvas, centre, int(rng.integers(12, 40)), tuple(np.array((80, 130, 70)) * rng.uniform(0.7, 1.4)), -1, cv2.LINE_AA)
    for k in (0.0, 0.5, 1.0):
        at = round(k * (size - 1))
        cv2.line(canvas, (at, 0), (at, size - 1), (246, 244, 240), 20 if k != 0.5 else 10)
        cv2.line(canvas, (0, at), (size - 1, at), (246, 244, 240), 20 if k != 0.5 else 10)
    return Texture(roughen(canvas, rng, 0.01), False, (((0.5, 0.0), (0.5, 1.0)), ((0.0, 0.5), (1.0, 0.5))))


def cloth(rng: Rng, colour: Colour, second: Colour, size: int = 64) -> Texture:
    """Plaid or stripes for clothes: structure that a tracker can hold on to."""
    rows, columns = np.mgrid[0:size, 0:size]
    period = int(rng.choice((16, 32)))
    stripes = (rows // (period // 2) % 2).astype(np.float32)
    if rng.random() < 0.6:
        stripes = (stripes + (columns // (period // 2) % 2)) / 2
    image = np.array(colour, np.float32) * (1 - stripes[..., None]) + np.array(second, np.float32) * stripes[..., None]
    return Texture(roughen(image, rng, 0.12), True)


def plain(rng: Rng, colour: Colour, size: int = 64, strength: float = 0.08) -> Texture:
    """One colour with grain."""
    return Texture(roughen(np.full((size, size, 3), colour, np.float32), rng, strength), True)


def face(rng: Rng, skin: Colour, hair: Colour, size: int = 64) -> Texture:
    """The front of a head: hair line, eyes and mouth."""
    canvas = np.full((size, size, 3), skin, np.float32)
    canvas[: size // 6] = hair
    for x in (0.3, 0.7):
        cv2.circle(canvas, (round(x * size), round(0.42 * size)), 5, (250, 250, 250), -1, cv2.LINE_AA)
        cv2.circle(canvas, (round(x * size), round(0.42 * size)), 3, (30, 30, 40), -1, cv2.LINE_AA)
        cv2.line(canvas, (round(x * size) - 6, round(0.3 * size)), (round(x * size) + 6, round(0.29 * size)), hair, 2, cv2.LINE_AA)
    cv2.line(canvas, (round(0.36 * size), round(0.76 * size)), (round(0.64 * size), round(0.76 * size)), (150, 60, 60), 3, cv2.LINE_AA)
    return Texture(roughen(canvas, rng, 0.03))


def sky(rng: Rng, height: int = 256, width: int = 1024) -> Texture:
    """All around: columns are azimuth, rows elevation from the zenith down to 30 degrees below the horizon."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    base = (1 - rows) * np.array((96, 148, 208), np.float32) + rows * np.array((214, 226, 234), np.float32)
    coarse = rng.normal(size=(10, 24)).astype(np.float32)
    wrapped = np.concatenate([coarse, coarse[:, :4]], axis=1)
    clouds = cv2.resize(wrapped, (width + width // 6, height), interpolation=cv2.INTER_CUBIC)[:, :width]
    blend = np.clip(clouds * 0.5, 0, 0.8)[..., None] * (0.3 + 0.7 * rows)
    return Texture(np.clip(base * (1 - blend) + 250 * blend, 0, 255).astype(np.uint8), True)


def letter(canvas: NDArray[np.float32], word: str, colour: Sequence[float], height: float) -> None:
    """Write `word` across the canvas, centred at `height` of it."""
    size = canvas.shape[1]
    (width, tall), _ = cv2.getTextSize(word, cv2.FONT_HERSHEY_DUPLEX, 1.0, 3)
    scale = 0.74 * size / width
    at = (round((size - width * scale) / 2), round(height * canvas.shape[0] + tall * scale / 2))
    ink = np.zeros(canvas.shape[:2], np.uint8)
    cv2.putText(ink, word, at, cv2.FONT_HERSHEY_DUPLEX, scale, 255, 3, cv2.LINE_AA)
    share = ink[..., None].astype(np.float32) / 255
    canvas[:] = canvas * (1 - share) + np.asarray(colour, np.float32) * share


def _frame(inset: float) -> list[tuple[float, float, float, float]]:
    low, high = inset, 1 - inset
    return [(low, low, high, low), (high, low, high, high), (high, high, low, high), (low, high, low, low)]


@dataclass(frozen=True, eq=False)
class Atlas:
    """Every level of every texture in one image, so that one remap paints a whole frame.

    cells [N*LEVELS,4]: for level l of texture n, at n*LEVELS+l, the x and y that remap reads its corner at, and its width
    and height. size [N,2]: width and height of level 0.
    """

    image: Image
    cells: NDArray[np.float32]
    size: NDArray[np.float32]


def build_atlas(textures: Sequence[Texture]) -> Atlas:
    """Levels halve by area averaging; small textures stop at 1 texel and repeat it."""
    columns: list[list[Image]] = []
    cells = np.zeros((len(textures), LEVELS, 4), np.float32)
    top = 0
    for n, texture in enumerate(textures):
        level, left, row = texture.image, 0, []
        for k in range(LEVELS):
            if k:
                half = (max(level.shape[1] // 2, 1), max(level.shape[0] // 2, 1))
                level = np.asarray(cv2.resize(level, half, interpolation=cv2.INTER_AREA), np.uint8)
            padded = np.pad(level, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="wrap" if texture.tiles else "edge")
            cells[n, k] = left + PADDING - 0.5, top + PADDING - 0.5, level.shape[1], level.shape[0]
            left += padded.shape[1]
            row.append(padded)
        columns.append(row)
        top += row[0].shape[0]
    image = np.zeros((top, max(sum(level.shape[1] for level in row) for row in columns), 3), np.uint8)
    for n, row in enumerate(columns):
        for k, level in enumerate(row):
            x, y = (cells[n, k, :2] + 0.5 - PADDING).astype(int)
            image[y : y + level.shape[0], x : x + level.shape[1]] = level
    size = np.array([texture.image.shape[1::-1] for texture in textures], np.float32)
    return Atlas(image, cells.reshape(-1, 4), size)
