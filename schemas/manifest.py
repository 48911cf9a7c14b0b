"""The tables of the manifest, as Arrow schemas.

`samples`: one row for every candidate, whatever became of it. Byte-stable: no wall-clock, host or random value.
`shards`:  one row per shard with its members.
`units`:   one row per unit of work: who did it, when, how long. Everything that differs between two runs lives here.
"""

import pyarrow as pa

from schemas.scores import SCORES

MANIFEST_VERSION = 1

_SPREAD = pa.struct([("min", pa.float32()), ("median", pa.float32()), ("max", pa.float32())])

PAIR = pa.struct(
    [
        ("a", pa.string()),
        ("b", pa.string()),
        ("rotation_deg", _SPREAD),  # geodesic angle of the relative rotation
        ("axis_deg", _SPREAD),  # angle between the optical axes
        ("parallax_deg", _SPREAD),  # angle at the scene centre; null where no centre is known
        ("azimuth_deg", _SPREAD),  # signed difference b - a in (-180,180], source's sense; null without an up vector
        ("elevation_deg", _SPREAD),  # signed difference b - a; null without an up vector
        ("overlap", pa.float32()),  # two-way overlap; null where not computed
    ]
)

WEIGHTS = pa.struct([("name", pa.string()), ("sha256", pa.string()), ("license", pa.string()), ("noncommercial", pa.bool_())])

SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),  # the sample key: [A-Za-z0-9_-]+
        pa.field("parent_id", pa.string()),  # the source row a child came from; null for source rows
        pa.field("source", pa.string(), nullable=False),  # name in the recipe
        pa.field("candidate_id", pa.string(), nullable=False),  # the source's own name for it
        pa.field("kind", pa.string(), nullable=False),  # multiview | posed_video | video | view_group | window
        pa.field("is_source", pa.bool_(), nullable=False),  # one per candidate found by ingest
        pa.field("is_sample", pa.bool_(), nullable=False),  # could be packed; false for sources that only have children
        pa.field("n_children", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),
        pa.field("error_message", pa.string()),
        pa.field("stage", pa.string()),  # the stage that raised the error
        pa.field("stopped_at", pa.string()),  # first stage not run because an earlier cost tier failed
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("license", pa.string()),
        pa.field("has_text", pa.bool_(), nullable=False),
        pa.field("media", pa.list_(pa.string()), nullable=False),  # input files, relative to the source's root
        pa.field("view_ids", pa.list_(pa.string()), nullable=False),
        pa.field("frame_index", pa.list_(pa.list_(pa.int32()))),  # per view; null where the whole video is the sample
        pa.field("pts_ns", pa.list_(pa.list_(pa.int64()))),  # beside every frame index
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("n_frames", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("angle_bins", pa.list_(pa.string())),  # "0-60", ...: all that hold its largest angle (multi-view: any pair's angle)
        pa.field("pairs", pa.list_(PAIR)),
        pa.field("scores", pa.struct([(name, pa.float64()) for name in SCORES]), nullable=False),
        pa.field("notes", pa.map_(pa.string(), pa.string())),  # decisions worth auditing, e.g. the crop-or-scale rule
        pa.field("weights", pa.list_(WEIGHTS)),  # checkpoints that its scores and members depend on; null where there are none
        pa.field("step_keys", pa.map_(pa.string(), pa.string())),
        pa.field("shard", pa.string()),  # null unless kept and packed
        pa.field("content_sha256", pa.string()),  # over the names and hashes of the sample's members
        pa.field("unit", pa.string(), nullable=False),
    ],
    metadata={"parallax.table": "samples", "parallax.version": str(MANIFEST_VERSION)},
)

MEMBER = pa.struct(
    [
        ("sample_id", pa.string()),
        ("name", pa.string()),  # after the key: "view00.mp4", "cameras.npz", "meta.json", "caption.txt"
        ("offset", pa.int64()),  # of the member's first data byte within the shard
        ("size", pa.int64()),
        ("sha256", pa.string()),
    ]
)

SHARDS = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),  # path below DIR/shards
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("n_samples", pa.int32(), nullable=False),
        pa.field("members", pa.list_(MEMBER), nullable=False),
    ],
    metadata={"parallax.table": "shards", "parallax.version": str(MANIFEST_VERSION)},
)

UNITS = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),  # "u000012"
        pa.field("source", pa.string(), nullable=False),
        pa.field("unit_key", pa.string(), nullable=False),
        pa.field("n_candidates", pa.int32(), nullable=False),
        pa.field("n_rows", pa.int32(), nullable=False),
        pa.field("host", pa.string(), nullable=False),
        pa.field("started_ns", pa.int64(), nullable=False),
        pa.field("ended_ns", pa.int64(), nullable=False),
        pa.field("peak_rss_bytes", pa.int64(), nullable=False),
        pa.field("seconds", pa.map_(pa.string(), pa.float64()), nullable=False),  # per stage
        pa.field("steps_computed", pa.int32(), nullable=False),
        pa.field("steps_reused", pa.int32(), nullable=False),
    ],
    metadata={"parallax.table": "units", "parallax.version": str(MANIFEST_VERSION)},
)

ANGLE_BINS: dict[str, tuple[float, float]] = {"0-60": (0.0, 60.0), "30-90": (30.0, 90.0), "60-120": (60.0, 120.0)}
