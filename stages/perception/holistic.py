"""Skeletons without a model hub: MediaPipe's body, hand and face models (Apache-2.0), which come inside its wheel.

The networks are BlazePose (arXiv 2006.10204), the hand model of arXiv 2006.10214 and the face mesh of arXiv 1907.06724; the wheel
is not installed and its graphs are not used. They were made for one or few people close by. What makes several people, and small
ones, possible is ours: the detector looks at the whole picture and at squares of it, and whoever is found twice counts once.

A region is a square (centre x, centre y, side, angle) of the image; its own up is the image's, turned clockwise by the angle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.typed import RecipeError
from stages.perception.openpose import FACE, LEFT_HAND, NECK, POINTS, RIGHT_HAND, nobody
from stages.perception.results import Image, People
from stages.perception.weights import WeightsError

Floats = NDArray[np.float64]
Network = Callable[[NDArray[np.float32]], list[Floats]]  # [S,S,3] float32 -> its outputs, those of the batch of one

# 33 points of BlazePose -> the 134. The neck lies between the shoulders; there is no small toe.
_BODY = {
    **{0: 0, 5: 14, 2: 15, 8: 16, 7: 17},
    **{12: 2, 14: 3, 16: 4, 11: 5, 13: 6, 15: 7, 24: 8, 26: 9, 28: 10, 23: 11, 25: 12, 27: 13},
    **{31: 18, 29: 20, 32: 21, 30: 23},
}
_SHOULDERS = [11, 12]
# Limbs among the 33, and the trunk: its outline and its diagonals.
_BONES = (
    *((0, 11), (0, 12), (7, 8), (11, 13), (13, 15), (15, 19), (12, 14), (14, 16), (16, 20)),
    *((23, 25), (25, 27), (27, 31), (24, 26), (26, 28), (28, 32)),
    *((11, 12), (12, 24), (24, 23), (23, 11), (11, 24), (12, 23)),
)
# 468 points of the face mesh -> 68 as in 300-W: jaw, brows, nose, eyes, lips.
_FACE = [
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
    *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
]
# Wrist, little finger's and index finger's knuckle among the 33, of the left and the right hand.
_HANDS = ((15, 17, 19), (16, 18, 20))
_PALM = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]  # the points of a hand that its next region is made from

_LONGEST = 4  # pictures that are longer than so many times their width are not cut into ever more squares
_DETECTED = 0.5  # the least score of a detection, ...
_PRESENT = 0.5  # ... and of what the networks of hand and face say of whether there is one: MediaPipe's values
_BODY_PRESENT = 0.8  # of a body; MediaPipe has 0.5, but looks at one place in a picture and not at dozens (ours)
_BODY_SCALE = 2 * 1.25  # side of a body's region over the distance of its two points: a circle's diameter, and a quarter more
_SAME_PLACE = 0.2  # detections whose centres are nearer than this share of a side are of one person
_SAME_BODY = 0.1  # bodies whose points lie nearer to each other, as a median, than this share of the larger one's side are one
_PART = 0.6  # a body with less than this share of another's side is a part of it, where it lies on it
_WARM = 0.5  # of the body's heat: where it is less, a point stays where the network's other head puts it
_LOOKS = 3  # at a body, each where the one before says that it is, until that stays ...
_SETTLED = 0.05  # ... to this share of its side
_LEAST_SIDE = 16.0  # pixels: hands and faces in smaller regions are left out, there is nothing to see


class HolisticPose:
    """People of images with body, feet, hands and face.

    body_detector, body, hand, face: the .tflite files; without hand or face those points are not found. levels: how small people may
    be: 0 looks at the whole picture only, 1 also at squares of its shorter side, each further level at squares of half the size, half
    overlapping. threads: of one network. Runs on the CPU. Raises RecipeError.
    """

    def __init__(
        self,
        body_detector: Path,
        body: Path,
        hand: Path | None = None,
        face: Path | None = None,
        *,
        levels: int = 2,
        threads: int = 1,
    ) -> None:
        self._levels = levels
        self._detector = _network(body_detector, 224, [(2254, 12), (2254, 1)], threads)
        self._body = _network(body, 256, [(195,), (1,), (256, 256, 1), (64, 64, 39)], threads)
        self._hand = None if hand is None else _network(hand, 224, [(63,), (1,)], threads)
        self._face = None if face is None else _network(face, 192, [(1, 1, 1404), (1, 1, 1)], threads)
        self._anchors = anchors(224, [(8, 2), (16, 2), (32, 6)])

    def people(self, images: Sequence[Image]) -> list[People]:
        """One result for each image [H,W,3], the surest person first. Points of score 0 lie at (0, 0)."""
        return [self._people(Crops(image)) for image in images]

    def _people(self, crops: "Crops") -> People:
        bodies = self._bodies(crops)
        if not bodies:
            return nobody()
        found = [self._person(crops, body) for body in bodies]
        keypoints, scores = (np.stack(each).astype(np.float32) for each in zip(*found, strict=True))
        keypoints[scores == 0] = 0
        return People(keypoints, scores)

    def _bodies(self, crops: "Crops") -> list["Body"]:
        """Every body once, the surest first."""
        height, width = crops.shape
        squares = squares_of(width, height, self._levels)
        seen = [self._detected(crops, square) for square in squares]
        regions, scores = np.concatenate([each for each, _ in seen]), np.concatenate([each for _, each in seen])
        bodies = []
        for region in apart(regions, scores):
            body = None
            for _ in range(_LOOKS):
                body = self._look_at_body(crops, region)
                if body is None or settled(region, body.region):
                    break
                region = body.region
            if body is not None:
                bodies.append(body)
        return distinct(bodies)

    def _detected(self, crops: "Crops", square: Floats) -> tuple[Floats, Floats]:
        """Regions [N,4] of bodies that show in a square of the picture, and their scores [N]."""
        raw, logits = self._detector(crops.cut(square, 224) * 2 - 1)
        scores = sigmoid(logits[:, 0])
        chosen = scores >= _DETECTED
        # Of the four points the first is the hips' middle; the second lies on a circle around it that holds the body.
        points = (raw[chosen, 4:8].reshape(-1, 2, 2) / 224) + self._anchors[chosen, None]
        points = in_image(points, square)
        return np.array([body_region(hips, rim) for hips, rim in points]).reshape(-1, 4), scores[chosen]

    def _look_at_body(self, crops: "Crops", region: Floats) -> "Body | None":
        values, present, _, heat = self._body(crops.cut(region, 256))
        if present[0] < _BODY_PRESENT:
            return None
        points = values.reshape(39, 5)  # x, y, z, logits of visible and of inside the picture; 33 of a body, 2 for its region, 4 more
        xy = in_image(refined(points[:35, :2] / 256, heat), region)
        return Body(xy[:33], sigmoid(points[:33, 3]), float(present[0]), body_region(xy[33], xy[34]))

    def _person(self, crops: "Crops", body: "Body") -> tuple[Floats, Floats]:
        keypoints, scores = np.zeros((POINTS, 2)), np.zeros(POINTS)
        for source, target in _BODY.items():
            keypoints[target], scores[target] = body.points[source], body.visible[source]
        keypoints[NECK], scores[NECK] = body.points[_SHOULDERS].mean(0), body.visible[_SHOULDERS].min()
        if self._hand is not None:
            for side, part in enumerate((LEFT_HAND, RIGHT_HAND)):
                found = self._hand_at(crops, hand_region(*body.points[list(_HANDS[side])]))
                found = None if found is None else self._hand_at(crops, hand_region_again(found[0]))
                if found is not None:
                    keypoints[part], scores[part] = found
        if self._face is not None:
            found = self._face_at(crops, face_region(body.points))
            found = None if found is None else self._face_at(crops, face_region_again(found[0]))
            if found is not None:
                keypoints[FACE], scores[FACE] = found[0][_FACE], found[1]
        return keypoints, scores

    def _hand_at(self, crops: "Crops", region: Floats) -> tuple[Floats, float] | None:
        assert self._hand is not None
        if region[2] < _LEAST_SIDE:
            return None
        values, present = self._hand(crops.cut(region, 224))[:2]
        points = in_image(values.reshape(21, 3)[:, :2] / 224, region)
        return None if present[0] < _PRESENT else (points, float(present[0]))

    def _face_at(self, crops: "Crops", region: Floats) -> tuple[Floats, float] | None:
        assert self._face is not None
        if region[2] < _LEAST_SIDE:
            return None
        values, logit = self._face(crops.cut(region, 192))[:2]
        points, present = in_image(values.reshape(468, 3)[:, :2] / 192, region), float(sigmoid(logit.ravel())[0])
        return None if present < _PRESENT else (points, present)


@dataclass(frozen=True, eq=False)
class Body:
    """points [33,2], visible [33]: how likely each is seen; score: that this is a body; region: for a second look."""

    points: Floats
    visible: Floats
    score: float
    region: Floats


class Crops:
    """Regions of one image [H,W,3], each reduced from a copy that is at most twice too large, so that nothing aliases."""

    def __init__(self, image: Image) -> None:
        self.shape = image.shape[:2]
        self._copies = [image]

    def cut(self, region: Floats, size: int) -> NDArray[np.float32]:
        """[size,size,3], 0 to 1; black outside the image."""
        x, y, side, angle = (float(value) for value in region)
        level = max(0, int(np.floor(np.log2(max(side / size, 1.0)))))
        while len(self._copies) <= level and min(self._copies[-1].shape[:2]) > 1:
            height, width = self._copies[-1].shape[:2]
            half = cv2.resize(self._copies[-1], ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
            self._copies.append(np.asarray(half, np.uint8))
        copy = self._copies[min(level, len(self._copies) - 1)]
        across, down = copy.shape[1] / self.shape[1], copy.shape[0] / self.shape[0]
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * side / size
        turn *= [[across], [down]]
        # OpenCV counts from the centre of the first pixel, we from its corner.
        shift = np.array([x * across, y * down]) - turn @ [(size - 1) / 2, (size - 1) / 2] - 0.5
        matrix = np.concatenate([turn, shift[:, None]], axis=1)
        cut = cv2.warpAffine(copy, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        return cut.astype(np.float32) / np.float32(255)


def refined(points: Floats, heat: Floats) -> Floats:
    """Points [N,2], 0 to 1, at the centre of gravity of their heat [64,64,>=N] (logits) in 7 x 7 cells, where it is any warm."""
    cells = heat.shape[0]
    moved = points.copy()
    for number, (across, down) in enumerate((points * cells).astype(int)):  # towards zero, as MediaPipe casts: just outside counts
        if not (0 <= across < cells and 0 <= down < cells):
            continue
        left, top = max(0, across - 3), max(0, down - 3)
        weights = sigmoid(heat[top : down + 4, left : across + 4, number])
        if weights.max() >= _WARM:
            x, y = left + np.arange(weights.shape[1]) + 0.5, top + np.arange(weights.shape[0]) + 0.5
            moved[number] = np.array([weights.sum(0) @ x, weights.sum(1) @ y]) / weights.sum() / cells
    return moved


def in_image(points: Floats, region: Floats) -> Floats:
    """Where points [...,2] of a region (0 to 1 from its left to its right and from its top to its bottom) lie in the image."""
    x, y, side, angle = region
    offset = (points - 0.5) * side
    return np.stack(
        [
            x + np.cos(angle) * offset[..., 0] - np.sin(angle) * offset[..., 1],
            y + np.sin(angle) * offset[..., 0] + np.cos(angle) * offset[..., 1],
        ],
        axis=-1,
    )


def anchors(size: int, layers: Sequence[tuple[int, int]]) -> Floats:
    """Centres [N,2] of the cells of a single-shot detector, 0 to 1. layers: (stride, how often each cell counts), in order."""
    found = []
    for stride, times in layers:
        middles = (np.arange(size // stride) + 0.5) * stride / size
        down, across = np.meshgrid(middles, middles, indexing="ij")
        found.append(np.repeat(np.stack([across, down], axis=-1).reshape(-1, 2), times, axis=0))
    return np.concatenate(found)


def squares_of(width: int, height: int, levels: int) -> Floats:
    """Regions [N,4] that the detector looks at: the whole picture, then squares that overlap by half at least, ever smaller."""
    found = [(width / 2, height / 2, max(width, height), 0.0)]
    shorter = max(min(width, height), max(width, height) / _LONGEST)
    for level in range(levels):
        side = shorter / 2**level
        if side < max(width, height):
            found += [(x, y, side, 0.0) for y in _middles(height, side) for x in _middles(width, side)]
    return np.array(found, np.float64)


def _middles(length: int, side: float) -> Floats:
    if side >= length:
        return np.array([length / 2])
    return np.linspace(side / 2, length - side / 2, int(np.ceil((length - side) / (side / 2))) + 1)


def settled(before: Floats, after: Floats) -> bool:
    """Whether a body's region is where the look before had it."""
    return float(np.abs(after[:3] - before[:3]).max()) <= _SETTLED * before[2]


def apart(regions: Floats, scores: Floats) -> Floats:
    """The regions [N,4] of different people, the surest first: of those close to each other the one with the best score."""
    kept: list[Floats] = []
    for index in np.argsort(-scores, kind="stable"):
        region = regions[index]
        if all(np.hypot(*(region[:2] - other[:2])) > _SAME_PLACE * min(region[2], other[2]) for other in kept):
            kept.append(region)
    return np.array(kept).reshape(-1, 4)


def distinct(bodies: Sequence[Body]) -> list[Body]:
    """The surest of those that are one and the same body, without what is but a part of another."""
    kept: list[Body] = []
    for body in sorted(bodies, key=lambda each: -each.score * float(each.visible.mean())):
        if all(_gap(body, other) > _SAME_BODY and not lies_on(body, other) for other in kept):
            kept.append(body)
    # A part may look surer than the whole.
    return [body for body in kept if not any(body.region[2] < _PART * other.region[2] and lies_on(body, other) for other in kept)]


def _gap(body: Body, other: Body) -> float:
    """Median distance of the same points, as a share of the larger one's side."""
    return float(np.median(np.linalg.norm(body.points - other.points, axis=1))) / max(body.region[2], other.region[2])


def lies_on(body: Body, other: Body) -> bool:
    """Whether a body lies on the limbs and the trunk of another: a boot, or the fold of a jacket, that looked like one.

    It costs whoever is right behind somebody.
    """
    starts, ends = other.points[[a for a, _ in _BONES]], other.points[[b for _, b in _BONES]]
    along = ends - starts
    share = ((body.points[:, None] - starts) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9)
    nearest = starts + np.clip(share, 0, 1)[..., None] * along
    gaps = np.linalg.norm(body.points[:, None] - nearest, axis=-1).min(1)
    return bool((gaps <= _SAME_BODY * min(body.region[2], other.region[2])).mean() > 0.9)


def body_region(hips: Floats, rim: Floats) -> Floats:
    """Around the middle of the hips; rim: a point of the circle that holds the body, on its upper end."""
    across, up = rim - hips
    return np.array([*hips, _BODY_SCALE * np.hypot(across, up), np.arctan2(across, -up)])


def hand_region(wrist: Floats, little: Floats, index: Floats) -> Floats:
    """Of the hand with this wrist and these knuckles: around the middle finger's, twice the hand's length (ours)."""
    knuckle = (2 * index + little) / 3
    across, up = knuckle - wrist
    return np.array([*(knuckle + 0.2 * (knuckle - wrist)), 4 * np.hypot(across, up), np.arctan2(across, -up)])


def hand_region_again(points: Floats) -> Floats:
    """From the 21 points of a first look, as MediaPipe follows a hand: up is from the wrist to the fingers' middle joints."""
    across, up = (points[6] + points[14]) / 4 + points[10] / 2 - points[0]
    return _around(points[_PALM], float(np.arctan2(across, -up)), 2.0, -0.1)


def face_region(body: Floats) -> Floats:
    """From the 33 points of a body: up is from the mouth to the eyes; the size is that of a whole head (ours)."""
    eyes, mouth = body[[2, 5]].mean(0), body[[9, 10]].mean(0)
    across, up = eyes - mouth
    side = max(4 * np.hypot(across, up), 1.8 * np.linalg.norm(body[7] - body[8]))
    return np.array([*body[[2, 5, 9, 10]].mean(0), side, np.arctan2(across, -up)])


def face_region_again(points: Floats) -> Floats:
    """From the 468 points of a first look, as MediaPipe follows a face: level are the eyes' outer corners."""
    across, down = points[263] - points[33]
    return _around(points, float(np.arctan2(down, across)), 1.5, 0.0)


def _around(points: Floats, angle: float, scale: float, shift: float) -> Floats:
    """The points' bounding square at that angle, scaled, and shifted down by a share of its side."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    local = points @ turn  # each row turned back
    low, high = local.min(0), local.max(0)
    side = float((high - low).max())
    middle = turn @ ((low + high) / 2 + [0, shift * (high - low)[1]])
    return np.array([*middle, scale * side, angle])


def sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(logits, -100, 100)))


def _network(path: Path, size: int, outputs: list[tuple[int, ...]], threads: int) -> Network:
    """A .tflite network that takes [1,size,size,3] and whose first outputs have these shapes, less the batch."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise RecipeError("MediaPipe's models need ai-edge-litert; install it with: uv pip install -e '.[perception]'") from None
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} is no network that LiteRT can run ({str(error).strip().splitlines()[0]})") from None
    entry, exits = interpreter.get_input_details()[0], interpreter.get_output_details()
    shapes = [tuple(int(side) for side in each["shape"][1:]) for each in exits]
    if tuple(entry["shape"]) != (1, size, size, 3) or shapes[: len(outputs)] != outputs:
        raise WeightsError(
            f"{path} takes {entry['shape'].tolist()} and gives {shapes}; expected [1, {size}, {size}, 3] and {outputs} first"
        )

    def run(pixels: NDArray[np.float32]) -> list[Floats]:
        interpreter.set_tensor(entry["index"], pixels[None])
        interpreter.invoke()
        return [interpreter.get_tensor(each["index"])[0].astype(np.float64) for each in exits[: len(outputs)]]

    return run
