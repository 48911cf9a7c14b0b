"""What can be said of a candidate: a closed set of statuses and reasons.

The manifest stores these as strings. Values are append-only: a published value keeps its meaning for ever.
"""

from enum import StrEnum


class Status(StrEnum):
    """What became of a candidate. `error` (we could not look) is never folded into `rejected` (we looked)."""

    KEPT = "kept"
    REJECTED = "rejected"
    ERROR = "error"
    SKIPPED = "skipped"


class Reason(StrEnum):
    """Why a candidate was not kept. All that apply are stored, not only the first."""

    # Errors: the candidate could not be examined.
    E_OPEN = "E_OPEN"  # not a media file, or the container cannot be opened
    E_NO_VIDEO = "E_NO_VIDEO"  # opens, but holds no video stream
    E_TRUNCATED = "E_TRUNCATED"  # ends before its own header says, or a packet cannot be decoded
    E_TIMEOUT = "E_TIMEOUT"  # the wall-clock limit ran out (provisional)
    E_CRASH = "E_CRASH"  # killed the process that looked at it
    E_OOM = "E_OOM"  # passed the memory limit (provisional)
    E_TOO_BIG = "E_TOO_BIG"  # the header promises more pixels, frames, streams or seconds than the caps allow
    E_PTS = "E_PTS"  # timestamps missing, repeated, or not those of the index
    E_FRAMECOUNT = "E_FRAMECOUNT"  # cameras and frames do not match in number or in time
    E_CAMERA = "E_CAMERA"  # camera file unreadable, NaN, or not a rotation
    E_DUPLICATE = "E_DUPLICATE"  # a second candidate with an id that is already taken
    E_UNSAFE_PATH = "E_UNSAFE_PATH"  # a path that leaves the input folder, or is no plain file
    E_IO = "E_IO"  # storage failed (provisional)
    E_STAGE = "E_STAGE"  # a stage raised something unforeseen; a bug of ours, the message names it

    # Rejections: examined, and outside a limit of the recipe.
    LOW_RESOLUTION = "low_resolution"
    LOW_FPS = "low_fps"
    HIGH_FPS = "high_fps"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    BLACK = "black"
    FROZEN = "frozen"
    LETTERBOX = "letterbox"
    BLURRED = "blurred"
    UNDEREXPOSED = "underexposed"
    OVEREXPOSED = "overexposed"
    TOO_FEW_VIEWS = "too_few_views"
    SYNC_FRAME_COUNT = "sync_frame_count"
    SYNC_FPS = "sync_fps"
    SYNC_OFFSET = "sync_offset"
    LOW_OVERLAP = "low_overlap"
    SMALL_BASELINE = "small_baseline"
    NO_SUCH_ANGLE = "no_such_angle"  # no group of views with enough overlap lies in this angle bin
    WIDE_FOV = "wide_fov"
    BOUNDARY = "boundary"  # a window would run over the end of the clip
    UNEVEN_FRAME_RATE = "uneven_frame_rate"  # no frame lies near enough to where the stride wants one
    START_END_TOO_SIMILAR = "start_end_too_similar"
    START_END_TOO_DIFFERENT = "start_end_too_different"
    NO_CHILDREN = "no_children"  # a source from which nothing could be sampled
    OVER_TARGET_COUNT = "over_target_count"  # fine, but the source's target_count holds better ones

    # Skips: deliberately not examined.
    CAMERA_ONLY = "camera_only"  # the dataset publishes cameras without footage for it
    NO_FOOTAGE = "no_footage"  # listed by the dataset, but its footage is not in the input folder
    SPLIT_EXCLUDED = "split_excluded"  # the recipe does not take this split


ERRORS = frozenset(reason for reason in Reason if reason.value.startswith("E_"))
SKIPS = frozenset({Reason.CAMERA_ONLY, Reason.NO_FOOTAGE, Reason.SPLIT_EXCLUDED})

# Depend on the machine's load or on storage, so they lie outside the identity claim; --retry-errors runs them again.
PROVISIONAL = frozenset({Reason.E_TIMEOUT, Reason.E_OOM, Reason.E_IO})


class CandidateError(Exception):
    """Something is wrong with one candidate. Becomes its verdict row; never ends a run.

    `reason` is an error or a skip of `Reason`; `message` says what, the value, and what is allowed.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        if reason not in ERRORS and reason not in SKIPS:
            raise ValueError(f"CandidateError takes an error or a skip reason, got {reason!r}; rejections come from limits")
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def status_of(reasons: "list[Reason] | tuple[Reason, ...]") -> Status:
    """The status that follows from the reasons: error beats skipped beats rejected; none means kept."""
    if any(reason in ERRORS for reason in reasons):
        return Status.ERROR
    if any(reason in SKIPS for reason in reasons):
        return Status.SKIPPED
    return Status.REJECTED if reasons else Status.KEPT
