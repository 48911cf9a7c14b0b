"""Line segments as GlueStick's front end wants them: found by LSD, wired together at their ends, paired by FCVG.

Positions: pixel centres at integer + 0.5, as in stages.perception.results.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.typed import RecipeError
from stages.perception.results import Image, Points

if TYPE_CHECKING:
    from scipy.spatial import KDTree

SCALES = (0.3, 0.4, 0.5, 0.7, 0.8, 1.0)  # of the image, tried in this order until there are segments enough
MIN_LENGTH = 15.0  # pixels
MERGE = 3.0  # pixels: ends this near, or linked by others that are, become one junction
CLEAR = 4.0  # pixels: a keypoint nearer than this to a segment's end says nothing new
_LEAST_SIDE = 32  # pixels: below it no scale leaves LSD's own blur enough to work on; ours
_STEEP = 22.5  # degrees: how far gradients of one segment may differ

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Segments:
    """lines [L,2,2] (endpoint, xy) pixels, scores [L] 0 to 1."""

    lines: Points
    scores: Floats


@dataclass(frozen=True, eq=False)
class Wireframe:
    """Segments wired together: junctions [J,2] pixels and their scores [J]; ends [L,2] the junctions at each segment's ends."""

    junctions: Points
    junction_scores: Floats
    ends: NDArray[np.int64]
    line_scores: Floats

    @property
    def lines(self) -> Points:
        """[L,2,2]: the segments, from junction to junction."""
        return self.junctions[self.ends]


def luma(image: Image) -> NDArray[np.uint8]:
    """[H,W] of [H,W,3] RGB, by ITU-R 601."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def detect(image: Image, max_lines: int) -> Segments:
    """The strongest segments of [H,W,3] RGB, strongest first: of the first of SCALES that gives `max_lines`, else of the last one.

    GlueStick's rules (wireframe front end of the released code) on OpenCV's LSD: refined and scored by the number of false alarms, as
    pytlsd's are, without its test of density. Blur and resampling differ, and so do the segments. Strength: -log10 of the number of
    false alarms times the root of the length; score: that over the largest. (pytlsd 0.0.2, which FCVG pins, gives the tolerance of the
    angle where that logarithm should be, so that there the length alone decides.) The ends stand in a fixed order (`ordered`).
    """
    if min(image.shape[:2]) < _LEAST_SIDE or max_lines < 1:
        return Segments(np.zeros((0, 2, 2), np.float32), np.zeros(0, np.float32))
    gray = luma(image)
    for scale in SCALES:
        lines, strength = _lsd(gray, scale)
        if len(lines) >= max_lines:
            break
    length = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1)
    lines, strength, length = (each[length >= MIN_LENGTH] for each in (lines, strength, length))
    strength = strength * np.sqrt(length)
    strongest = np.lexsort((*lines.reshape(-1, 4).T, -strength))[:max_lines]  # equal ones: by position
    return Segments(ordered(lines[strongest]), _relative(strength[strongest]))


def given(lines: Points, scores: Floats | None = None) -> Segments:
    """A caller's own segments [L,2,2]; scores [L], none below 0: by default the root of each one's length. Raises ValueError."""
    lines = np.asarray(lines, np.float32)
    if lines.size == 0:
        lines = lines.reshape(0, 2, 2)
    if lines.ndim != 3 or lines.shape[1:] != (2, 2) or not np.isfinite(lines).all():
        raise ValueError(f"line segments must be finite numbers [L,2,2] (endpoint, xy); these are {list(lines.shape)}")
    if scores is None:
        scores = np.sqrt(np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1))
    scores = np.asarray(scores, np.float32)
    if scores.shape != (len(lines),) or not (np.isfinite(scores) & (scores >= 0)).all():
        raise ValueError(f"{len(lines)} segments need as many scores, none below 0; these are {list(scores.shape)}")
    return Segments(ordered(lines), _relative(scores))


def ordered(lines: Points) -> Points:
    """Each segment with its left end first, of two above each other the upper one.

    Ours: the network's scores of ends are mixed up (gluestick_net.line_inputs), so that their order would matter a little otherwise.
    """
    a, b = lines[:, 0], lines[:, 1]
    turn = (b[:, 0] < a[:, 0]) | ((b[:, 0] == a[:, 0]) & (b[:, 1] < a[:, 1]))
    return np.where(turn[:, None, None], lines[:, ::-1], lines).astype(np.float32)


def wire(segments: Segments) -> Wireframe:
    """Ends within MERGE of each other, directly or through others, become one junction at their mean, with the mean of their scores.

    Junctions stand in the order in which the segments come to them.
    """
    ends = segments.lines.reshape(-1, 2).astype(np.float64)
    if not len(ends):
        return Wireframe(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 2), np.int64), segments.scores)
    near = _tree(ends).query_pairs(MERGE, output_type="ndarray")
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(near), np.int8), (near[:, 0], near[:, 1])), shape=(len(ends), len(ends)))
    _, label = connected_components(links, directed=False)
    _, first, junction = np.unique(label, return_index=True, return_inverse=True)
    junction = np.argsort(np.argsort(first))[junction]
    count = np.bincount(junction)
    mean = [np.bincount(junction, values) / count for values in (*ends.T, np.repeat(segments.scores, 2).astype(np.float64))]
    return Wireframe(
        np.stack(mean[:2], 1).astype(np.float32), mean[2].astype(np.float32), junction.reshape(-1, 2).astype(np.int64), segments.scores
    )


def clear_of_ends(points: Points, segments: Segments) -> NDArray[np.bool_]:
    """[N]: which points [N,2] are at least CLEAR from every end of a segment."""
    if not len(segments.lines) or not len(points):
        return np.ones(len(points), np.bool_)
    distance, _ = _tree(segments.lines.reshape(-1, 2)).query(points)
    return np.asarray(distance >= CLEAR)


def aligned(first: Points, second: Points) -> Points:
    """The second segments [N,2,2] with their ends in the order of the first's: whichever way moves both ends less in sum.

    FCVG's rule (demo of the released code): a tie is turned.
    """

    def moved(ends: Points) -> Floats:
        return np.linalg.norm(first - ends, axis=2).sum(1)

    turned = second[:, ::-1]
    return np.where((moved(second) < moved(turned))[:, None, None], second, turned)


def _tree(points: NDArray[np.floating[Any]]) -> "KDTree":
    try:
        from scipy.spatial import KDTree
    except ImportError as error:
        raise RecipeError(f"GlueStick needs the package {error.name}; install it with: uv pip install -e '.[perception]'") from None
    return KDTree(points)


def _relative(strength: Floats) -> Floats:
    return np.asarray(strength / (strength.max(initial=0) + 1e-8), np.float32)


def _lsd(gray: NDArray[np.uint8], scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Segments [L,2,2] and -log10 of their numbers of false alarms [L]."""
    detector = cv2.createLineSegmentDetector(
        refine=cv2.LSD_REFINE_ADV, scale=scale, sigma_scale=0.6, quant=2.0, ang_th=_STEEP, log_eps=0.0, density_th=0.0, n_bins=1024
    )
    found, _, _, alarms = detector.detect(gray)
    if found is None or not len(found):
        return np.zeros((0, 2, 2)), np.zeros(0)
    # OpenCV reports where the gradient lies in the shrunken picture as if its first pixel's centre were the origin, but shrinks about
    # the corner: half a shrunken pixel is missing.
    return np.asarray(found, np.float64).reshape(-1, 2, 2) + 0.5 / scale, np.asarray(alarms, np.float64).reshape(-1)
