"""Targets: what reads media and arrays, in the sandbox's child and in the loader; and what the child says to its parent."""

import io
import json
import struct
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st

from pipeline.loader.fetch import ReadError
from pipeline.loader.frames import Footage
from pipeline.loader.sample import Wanted, read_sample
from schemas.verdict import CandidateError
from stages.media import wire
from stages.media.header import read_header
from stages.media.sandbox import Sandbox
from stages.media.stills import HEAD_BYTES, decode_picture, picture_header, sequence_index
from stages.perception.depth_files import known_maps
from stages.perception.mask_files import known_masks
from tests.fuzz import seeds
from tests.fuzz.cameras import cameras_npz
from tests.fuzz.mutate import mutated, mutated_json
from tests.fuzz.reading import LIMITS, Reader, media_ref
from tests.fuzz.target import MAX_SIDE, Target, write_file


@cache
def _videos() -> dict[str, bytes]:
    """Small videos in several containers."""
    import av

    found = {"mp4": seeds.files("rig", "cam01.mp4")[0]}
    for name, codec in (
        ("matroska", "mpeg4"),
        ("avi", "mjpeg"),
        ("mpegts", "mpeg2video"),
        ("webm", "libvpx"),
        ("mov", "mjpeg"),
        ("ogg", "libtheora"),
    ):
        buffer = io.BytesIO()
        try:
            with av.open(buffer, "w", format=name) as container:
                stream = container.add_stream(codec, rate=10)
                stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p" if codec == "mjpeg" else "yuv420p"  # type: ignore[attr-defined]
                for i in range(4):
                    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * i, np.uint8), format="rgb24")
                    container.mux(stream.encode(frame))  # type: ignore[attr-defined]
                container.mux(stream.encode(None))  # type: ignore[attr-defined]
        except ValueError:
            continue  # this FFmpeg was built without the codec
        found[name] = buffer.getvalue()
    return found


@cache
def _pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    return [cv2.imencode(ending, pixels)[1].tobytes() for ending in (".jpg", ".png", ".bmp", ".webp")]


_BOXES = [
    b"moov",
    b"trak",
    b"mdia",
    b"stbl",
    b"stsd",
    b"stsz",
    b"ctts",
    b"elst",
    b"tkhd",
    b"mdhd",
    b"edts",
    b"cmov",
    b"stco",
    b"dref",
    b"mvhd",
]
_SEGMENTS = [bytes([0xFF, marker]) for marker in (0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xE1, 0xFF)] + [
    b"IHDR",
    b"IEND",
    b"IDAT",
    b"PLTE",
    b"acTL",
]


def _header(data: bytes, folder: Path) -> str:
    return read_header(data, LIMITS).demuxer


def _still(data: bytes, folder: Path) -> str:
    kind, width, height = picture_header(data[:HEAD_BYTES], "x")
    assert min(width, height) >= 0
    index = sequence_index([(data, "a"), (data, "b")], [0, 10**9], LIMITS)
    assert 0 < index.width <= MAX_SIDE and 0 < index.height <= MAX_SIDE, "a picture without pixels was taken"
    pixels = decode_picture(data, "x", LIMITS)
    assert pixels.ndim == 3 and pixels.shape[0] * pixels.shape[1] <= LIMITS.max_pixels and pixels.shape[2] == 3
    return kind


def _indexed(data: bytes, folder: Path) -> str:
    """As a user's view: indexed, then every frame of it decoded."""
    media, ref = Reader.of(folder), media_ref(folder, "clip.mp4")
    index = media.index(ref)
    assert len(index) and (np.diff(index.pts) > 0).all()
    assert index.width * index.height <= LIMITS.max_pixels and len(index) <= LIMITS.max_frames
    frames = media.frames(ref, index, range(min(len(index), 20)), (16, 16))
    assert frames.shape[1:] == (16, 16, 3)
    return index.codec


def _footage(data: bytes, folder: Path) -> str:
    footage = Footage(data)
    read = footage.read(range(min(len(footage), 20)), (16, 16))
    assert read.shape[1:] == (16, 16, 3)
    return "read"


# What a child that a file took over could answer.


def _message(header: bytes, buffers: bytes = b"") -> bytes:
    return struct.pack("<I", len(header)) + header + buffers


_ANSWERS: list[Any] = [
    {"value": {"dict": [["value", {"tuple": [1, 2.5, None, "x", {"fraction": [1, 3]}]}]]}, "buffers": []},
    {"value": {"dict": [["value", {"array": [0, "<f8", [2, 2]]}]]}, "buffers": [32]},
    {"value": {"dict": [["value", {"bytes": 0}]]}, "buffers": [5]},
    {"value": {"dict": [["candidate", ["E_OPEN", "no"]]]}, "buffers": []},
    {"value": {"dict": [["raised", "Traceback"]]}, "buffers": []},
    {"value": {"dict": [["oom", "x"]]}, "buffers": []},
]


@st.composite
def _answers(draw: st.DrawFn) -> bytes:
    document = draw(mutated_json(_ANSWERS))
    if draw(st.booleans()):
        for old, new in draw(st.lists(st.tuples(st.sampled_from((b"<f8", b"32", b"2", b"0", b"E_OPEN")), st.sampled_from(
            (b"|O", b"O", b"|V8", b"<U1", b"M8[s]", b"<f16", b"(1000000000,)f8", b"i4,i4", b"-1", b"1e3",
            b"9223372036854775807", b"LOW_FPS", b"")
        )), max_size=2)):  # fmt: skip
            document = document.replace(old, new, 1)
    message = _message(document, b"\1" * draw(st.sampled_from((0, 5, 32, 64))))
    return draw(mutated([message])) if draw(st.integers(0, 4)) == 0 else message


class _Answered(Sandbox):
    """The parent's side of the sandbox, with a message instead of a child."""

    def __init__(self, data: bytes) -> None:
        super().__init__(LIMITS)
        self.data = data

    def value(self) -> Any:
        stream = io.BytesIO(self.data)

        def exactly(size: int) -> bytearray:
            assert 0 <= size <= LIMITS.memory_mb << 20, size
            data = bytearray(stream.read(size))
            if len(data) != size:
                raise EOFError
            return data

        return self._value("f", wire.unpack(exactly, 1 << 20))


def _wire(data: bytes, folder: Path) -> str:
    from stages.media import SandboxError

    try:
        value = _Answered(data).value()
    except (SandboxError, EOFError) as said:
        return type(said).__name__
    return type(value).__name__


# Depth and masks.


@cache
def _masks() -> list[bytes]:
    gray = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
    return [*seeds.files("davis", "00000.png"), cv2.imencode(".png", gray)[1].tobytes()]


def _mask(data: bytes, folder: Path) -> str:
    ids = known_masks([str(folder / "00000.png")], (32, 32), 16, LIMITS)
    assert ids.shape == (1, 16, 16) and ids.dtype == np.uint8
    return "read"


def _npz(**arrays: Any) -> bytes:
    from pipeline.encoding.sample import npz

    return npz(**arrays)


@cache
def _depths() -> list[bytes]:
    K = np.array([[30.0, 0, 16], [0, 30, 16], [0, 0, 1]])
    depth = np.linspace(1, 5, 3 * 16 * 16, dtype=np.float32).reshape(3, 16, 16)
    made = [
        _npz(depth=depth),
        _npz(depth=depth, K=K),
        _npz(depth=depth[None].repeat(2, 0), views=np.array(["a", "cam"]), K=np.stack([K, K])),
    ]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, depth=depth)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("depth.npy", "w") as file:
        file.write(
            b"\x93NUMPY\x01\x00v\x00" + "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1000, 1000), }".ljust(117).encode() + b"\n"
        )
        file.write(bytes(1 << 20))
    return [*made, buffer.getvalue(), bomb.getvalue()]


_NPY = [
    b"'<f4'", b"'|O'", b"'<f2'", b"'>f8'", b"'<c16'", b"'V99999'", b"(3, 16, 16)", b"(3, -16, 16)", b"(999999999, 16, 16)",
    b"(99999999999999999999, 16, 16)",
    b"(3, 65536, 65536)", b"True", b"()", b"(" * 300, b"[('a', '<f4')]", b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04",
    b"depth.npy", b"views.npy", b"\0" * 22,
    b"{'descr': ", b"}", b"\x93NUMPY\x03\x00", b"\x93NUMPY\x02\x00", b"\x08\x00", b"\x0c\x00", b"\x0e\x00", b"\x63\x00", b"\x01\x00",
]  # fmt: skip


def _depth(data: bytes, folder: Path) -> str:
    arrays = known_maps("npz", [str(folder / "depth.npz")], [0, 2], 3, "cam", (32, 32), 16, LIMITS)
    return _maps(arrays)


def _maps(arrays: dict[str, Any]) -> str:
    assert arrays["depth"].dtype == np.float16 and arrays["depth"].shape[1] <= 16 and arrays["depth"].size
    assert "K" not in arrays or np.isfinite(arrays["K"]).all()
    return " and ".join(arrays)


def _write_kubric(value: tuple[bytes, bytes], folder: Path) -> None:
    for name, data in zip(("camera.json", "depth.tiff"), value, strict=True):
        (folder / name).write_bytes(data)


def _kubric(value: tuple[bytes, bytes], folder: Path) -> str:
    paths = [str(folder / "camera.json"), str(folder / "depth.tiff")]
    return _maps(known_maps("kubric4d", paths, [0], 3, "v0", (32, 32), 16, LIMITS))


# Chunks and weights, which torch reads: restricted, never as a pickle that may run code.


@cache
def _chunks() -> list[bytes]:
    import torch

    jpeg = torch.frombuffer(bytearray(_pictures()[0]), dtype=torch.uint8)
    scene = {
        "key": "a",
        "url": "https://x.y/watch?v=abcdefgh",
        "timestamps": torch.tensor([0, 1000]),
        "cameras": torch.zeros(2, 18),
        "images": [jpeg, jpeg],
    }
    found = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save([scene, {"key": 3}], buffer, _use_new_zipfile_serialization=zipped)
        found.append(buffer.getvalue())
    return found


_PICKLE = [
    b"cos\nsystem\n(S'true'\ntR.",
    b"cbuiltins\neval\n",
    b"\x80\x02",
    b"\x85R",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"j\xff\xff\xff\xff",
    b"cposix\nsystem\n",
]
_PICKLE += [b"ctorch._utils\n_rebuild_tensor_v2\n", b"q\x00", b"h\x63", b"K\x7f", b"(" * 3000, b"]" * 3000, b"R", b"b", b"\x81", b"Q", b"."]


def _chunk(data: bytes, folder: Path) -> str:
    """In the sandbox, as discovery and `load` do."""
    media, path = Reader.of(folder), str(folder / "x.torch")
    found = media.run("stages.ingest.torch_chunk:list_scenes", path)
    for item in range(min(len(found), 2)):
        try:
            media.run("stages.media.chunks:scene_header", path, item)
            media.index(media_ref(folder, "x.torch", item))
        except CandidateError:
            continue
    return f"{min(len(found), 3)} scenes"


def _write_state(value: tuple[str, bytes], folder: Path) -> None:
    (folder / value[0]).write_bytes(value[1])


@st.composite
def _states(draw: st.DrawFn) -> tuple[str, bytes]:
    import torch
    from safetensors.torch import save

    tensors = save({"a.weight": torch.zeros(2, 3), "b": torch.ones(1)})
    if draw(st.booleans()):
        length = int.from_bytes(tensors[:8], "little")
        header = draw(mutated_json([json.loads(tensors[8 : 8 + length])]))
        return "x.safetensors", draw(mutated([tensors, struct.pack("<Q", len(header)) + header + tensors[8 + length :]]))
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2, 3)}, buffer)
    return "x.pth", draw(mutated([buffer.getvalue(), *_chunks()], _PICKLE))


def _state(value: tuple[str, bytes], folder: Path) -> str:
    from stages.perception.state import read_state

    return f"{min(len(read_state(folder / value[0])), 3)} tensors"


# A sample's members, as the loader takes them out of shards.


@st.composite
def _members(draw: st.DrawFn) -> dict[str, bytes]:
    jpeg = _pictures()[0]
    members = {"view00.jpg": jpeg, "view01.jpg": _pictures()[1], "cameras.npz": _sample_cameras(), "caption.txt": b"a walk"}
    latents = {f"view{i:02d}_latent.npz": _npz(latent=np.zeros((4, 1, 2, 2), np.float16)) for i in range(2)}
    members |= latents | {"text.npz": _npz(text=np.zeros((3, 4), np.float16))}
    for name in draw(st.lists(st.sampled_from(list(members)), max_size=2, unique=True)):
        if draw(st.integers(0, 9)) == 0:
            del members[name]
        else:
            members[name] = draw(mutated([members[name]], _NPY if name.endswith("npz") else _SEGMENTS))
    return members


@cache
def _sample_cameras() -> bytes:
    with np.load(io.BytesIO(cameras_npz())) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return _npz(**{**arrays, "size": np.array([[16, 12]] * 2)})


def _sample(members: dict[str, bytes], folder: Path) -> str:
    shown = []
    for latents in (False, True):
        try:
            sample = read_sample("a", ["x", "y"], Wanted([0, 1], [0], (8, 8), True, latents), members)
        except ReadError as error:
            assert str(error).strip()
            continue
        assert sample.c2w is not None and sample.K is not None and np.isfinite(sample.c2w).all() and np.isfinite(sample.K).all()
        shown.append("latents" if latents else "pictures")
    return " and ".join(shown) or "ReadError"


def targets() -> list[Target]:
    videos = list(_videos().values())
    chunked = [
        Target("RealEstate10K .torch", mutated(_chunks(), _PICKLE), _chunk, write=write_file("x.torch"), sandbox=True, memory_mb=None),
        Target("checkpoint", _states(), _state, (_weights_error(),), _write_state, memory_mb=4096),
    ] if _has_torch() else []  # fmt: skip
    kubric = [json.loads(seeds.layout("kubric4d")["data/scn02900/scn02900_p0_v0.json"])]
    tiff = [data for name, data in seeds.layout("kubric4d").items() if name.endswith(".tiff")]
    return [
        Target("video header", mutated(videos, _BOXES), _header),
        Target("picture", mutated(_pictures(), _SEGMENTS), _still),
        Target(
            "video, sandboxed", mutated(videos, _BOXES), _indexed, write=write_file("clip.mp4"), sandbox=True, memory_mb=None, share=2.0
        ),
        Target("footage in the loader", mutated([*videos, *_pictures()], _BOXES), _footage, (ReadError,)),
        Target("the sandbox's answer", _answers(), _wire, (wire.WireError, CandidateError)),
        Target("mask png", mutated(_masks(), _SEGMENTS), _mask, write=write_file("00000.png")),
        Target("depth npz", mutated(_depths(), _NPY), _depth, write=write_file("depth.npz")),
        Target("depth tiff", st.tuples(mutated_json(kubric), mutated(tiff)), _kubric, write=_write_kubric),
        Target("a sample's members", _members(), _sample),
        *chunked,
    ]


def _has_torch() -> bool:
    from stages.ingest.torch_chunk import torch_is_installed

    return torch_is_installed()


def _weights_error() -> type[Exception]:
    from stages.perception.weights import WeightsError

    return WeightsError
