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
    CAMERA_MOVES = "camera_moves"
    SUBJECT_STILL = "subject_still"
    UNTRACKED = "untracked"  # too little could be followed through the clip to judge what moves
    FEW_LINES = "few_lines"
    FEW_PEOPLE = "few_people"
    DUPLICATE = "duplicate"  # made of the same bytes as a sample that is kept
    NEAR_DUPLICATE = "near_duplicate"  # looks the same as a sample that is kept
    NO_CHILDREN = "no_children"  # a source from which nothing could be sampled
    OVER_TARGET_COUNT = "over_target_count"  # fine, but the source's target_count holds better ones

    # Skips: deliberately not examined.
    CAMERA_ONLY = "camera_only"  # the dataset publishes cameras without footage for it
    NO_FOOTAGE = "no_footage"  # listed by the dataset, but its footage is not in the input folder
    SPLIT_EXCLUDED = "split_excluded"  # the recipe does not take this split
    EXCLUDED = "excluded"  # on the recipe's list of scenes to leave out, as benchmarks are


ERRORS = frozenset(reason for reason in Reason if reason.value.startswith("E_"))
SKIPS = frozenset({Reason.CAMERA_ONLY, Reason.NO_FOOTAGE, Reason.SPLIT_EXCLUDED, Reason.EXCLUDED})

# Depend on the machine's load or on storage, so they lie outside the identity claim; --retry-errors looks at them again.
PROVISIONAL = frozenset({Reason.E_TIMEOUT, Reason.E_OOM, Reason.E_IO})
STORAGE = frozenset({Reason.E_IO})  # of these, what every run looks at again: storage may be well by now


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


# One sentence for each reason, for people: the report, `audit show` and `audit summary` print these.
REASON_TEXT: dict[Reason, str] = {
    Reason.E_OPEN: "Not a media file, or its container cannot be opened.",
    Reason.E_NO_VIDEO: "Opens, but holds no video stream.",
    Reason.E_TRUNCATED: "Ends before its own header says, or a packet cannot be decoded.",
    Reason.E_TIMEOUT: "The wall-clock limit ran out. Provisional: --retry-errors runs it again.",
    Reason.E_CRASH: "Killed the process that looked at it.",
    Reason.E_OOM: "Passed the memory limit. Provisional: --retry-errors runs it again.",
    Reason.E_TOO_BIG: "The header promises more pixels, frames, streams or seconds than the caps allow.",
    Reason.E_PTS: "Timestamps are missing, repeated, or not those of the index.",
    Reason.E_FRAMECOUNT: "Cameras and frames do not match in number or in time.",
    Reason.E_CAMERA: "The camera file is unreadable, or holds NaN or something that is no rotation.",
    Reason.E_DUPLICATE: "A second candidate with an id that is already taken.",
    Reason.E_UNSAFE_PATH: "A path that leaves the input folder, or is no plain file.",
    Reason.E_IO: "Storage failed. Provisional: the same command looks at it again.",
    Reason.E_STAGE: "A stage raised something unforeseen: a bug of ours, the message names it.",
    Reason.LOW_RESOLUTION: "The picture is smaller than the recipe asks for.",
    Reason.LOW_FPS: "The frame rate lies below the recipe's limit.",
    Reason.HIGH_FPS: "The frame rate lies above the recipe's limit.",
    Reason.TOO_SHORT: "Too short, in seconds or in frames.",
    Reason.TOO_LONG: "Too long, in seconds or in frames.",
    Reason.BLACK: "Too many frames are all but black.",
    Reason.FROZEN: "Too many frames repeat the one before.",
    Reason.LETTERBOX: "Constant dark bars take too much of the picture.",
    Reason.BLURRED: "Less sharp than the recipe asks for.",
    Reason.UNDEREXPOSED: "Too dark, or too many pixels are crushed to black.",
    Reason.OVEREXPOSED: "Too bright, or too many pixels are blown out.",
    Reason.TOO_FEW_VIEWS: "Fewer views than the recipe needs.",
    Reason.SYNC_FRAME_COUNT: "The views' frame counts differ by more than the recipe allows.",
    Reason.SYNC_FPS: "The views' frame rates differ by more than the recipe allows.",
    Reason.SYNC_OFFSET: "The same frame number lies at different times in different views.",
    Reason.LOW_OVERLAP: "The views of the group see too little of the same space.",
    Reason.SMALL_BASELINE: "The cameras of the group stand too close together.",
    Reason.NO_SUCH_ANGLE: "No group of views with enough overlap lies in this angle bin.",
    Reason.WIDE_FOV: "The field of view is wider than the recipe allows.",
    Reason.BOUNDARY: "The window would run over the end of the clip.",
    Reason.UNEVEN_FRAME_RATE: "No frame lies near enough to where the stride wants one.",
    Reason.START_END_TOO_SIMILAR: "First and last frame are too much alike to bridge.",
    Reason.START_END_TOO_DIFFERENT: "First and last frame have too little in common to bridge.",
    Reason.CAMERA_MOVES: "The camera itself moves more than the recipe allows.",
    Reason.SUBJECT_STILL: "Nothing moves enough against the background.",
    Reason.UNTRACKED: "Too little could be followed through the clip to judge what moves in it.",
    Reason.FEW_LINES: "Too few line segments match between the first and the last frame.",
    Reason.FEW_PEOPLE: "Fewer people in both the first and the last frame than the recipe asks for.",
    Reason.DUPLICATE: "Made of the same bytes as a sample that is kept; the note duplicate_of names it.",
    Reason.NEAR_DUPLICATE: "Looks the same as a sample that is kept; the note duplicate_of names it.",
    Reason.NO_CHILDREN: "Nothing could be sampled from this source.",
    Reason.OVER_TARGET_COUNT: "Fine, but the source's target count holds better ones.",
    Reason.CAMERA_ONLY: "The dataset publishes cameras without footage for it.",
    Reason.NO_FOOTAGE: "Listed by the dataset, but its footage is not in the input folder.",
    Reason.SPLIT_EXCLUDED: "The recipe does not take this split.",
    Reason.EXCLUDED: "On the recipe's list of what to leave out.",
}
