"""Picture sequences and RealEstate10K chunks: sizes from headers, source bytes verbatim, broken ones told apart."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from schemas.candidate import MediaFile, MediaRef
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from stages.media.stills import picture_header
from tests.media import torture


def encoded(number: int, suffix: str = ".jpg", width: int = 192, height: int = 112) -> bytes:
    """A burned-in picture as a file's bytes."""
    done, data = cv2.imencode(suffix, cv2.cvtColor(torture.burn(number, width, height), cv2.COLOR_RGB2BGR))
    assert done
    return bytes(data)


def sequence(folder: Path, *pictures: bytes, times: tuple[int, ...] | None = None) -> MediaRef:
    """Write pictures and refer to them."""
    for i, data in enumerate(pictures):
        (folder / f"{i:03d}").write_bytes(data)
    files = tuple(MediaFile(f"{i:03d}", 0, 0) for i in range(len(pictures)))
    return MediaRef("images", files, pts_ns=tuple(i * 40_000_000 for i in range(len(files))) if times is None else times)


@pytest.fixture
def media(tmp_path: Path) -> Iterator[Media]:
    with Media(tmp_path, MediaLimits()) as opened:
        yield opened


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_formats(suffix: str, tmp_path: Path, media: Media) -> None:
    ref = sequence(tmp_path, *(encoded(i, suffix) for i in range(5)))
    index = media.index(ref)
    assert (len(index), index.width, index.height, index.fps) == (5, 192, 112, 25)
    assert index.pts_ns.tolist() == list(ref.pts_ns)
    assert [torture.number_of(frame) for frame in media.frames(ref, index, [4, 0, 4], size=(96, 56))] == [4, 0, 4]
    assert media.map_frames(ref, index, None, "tests.media.calls:numbers", gray=True) == list(range(5))


def test_source_bytes_are_kept_where_the_format_is_that_already(tmp_path: Path, media: Media) -> None:
    jpg, png = encoded(1), encoded(2, ".png")
    ref = sequence(tmp_path, jpg, png)
    index = media.index(ref)
    assert media.image(ref, index, 0, "jpg", 10) == jpg
    assert media.image(ref, index, 1, "png") == png
    assert picture_header(media.image(ref, index, 1, "jpg"), "x") == ("jpeg", 192, 112)
    assert picture_header(media.image(ref, index, 0, "png"), "x") == ("png", 192, 112)


def huge(data: bytes) -> bytes:
    """A PNG whose header promises 100,000 x 100,000 pixels."""
    return data[:16] + struct.pack(">II", 100_000, 100_000) + data[24:]


@pytest.mark.parametrize(
    ("second", "times", "reason"),
    [
        (huge(encoded(1, ".png")), None, Reason.E_TOO_BIG),
        (b"not a picture", None, Reason.E_OPEN),
        (b"", None, Reason.E_OPEN),
        (encoded(1, ".png")[:20], None, Reason.E_TRUNCATED),
        (encoded(1)[:20], None, Reason.E_TRUNCATED),
        (encoded(1, ".jpg", 96, 56), None, Reason.E_OPEN),
        (encoded(1), (0,), Reason.E_PTS),
        (encoded(1), (), Reason.E_PTS),
        (encoded(1), (5, 5), Reason.E_PTS),
        (encoded(1), (0, 10**13), Reason.E_TOO_BIG),
    ],
)
def test_broken_sequences(second: bytes, times: tuple[int, ...] | None, reason: Reason, tmp_path: Path, media: Media) -> None:
    ref = sequence(tmp_path, encoded(0), second, times=times)
    with pytest.raises(CandidateError) as caught:
        media.index(ref)
    assert caught.value.reason == reason


def test_a_side_is_no_longer_than_a_cameras_may_be(tmp_path: Path, media: Media) -> None:
    """As many pixels as are allowed, in a row."""
    long = encoded(0, ".png")
    for width, taken in ((65_536, True), (65_537, False)):
        ref = sequence(tmp_path, long[:16] + struct.pack(">II", width, 12) + long[24:])
        if taken:
            assert media.index(ref).width == width
            continue
        with pytest.raises(CandidateError, match="a side has at most 65536") as caught:
            media.index(ref)
        assert caught.value.reason == Reason.E_TOO_BIG


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_cut_off_picture_is_an_error_not_gray(suffix: str, tmp_path: Path, media: Media) -> None:
    whole = encoded(1, suffix)
    ref = sequence(tmp_path, encoded(0, suffix), whole[: int(len(whole) * 0.7)])
    index = media.index(ref)
    assert torture.number_of(media.frames(ref, index, [0])[0]) == 0
    for read in (lambda: media.frames(ref, index, [1]), lambda: media.image(ref, index, 1, suffix[1:])):  # type: ignore[arg-type]
        with pytest.raises(CandidateError) as caught:
            read()
        assert caught.value.reason == Reason.E_TRUNCATED


def test_exif_orientation_is_not_applied(tmp_path: Path, media: Media) -> None:
    exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + b"\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
    data = encoded(9)
    ref = sequence(tmp_path, data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    index = media.index(ref)
    assert (index.width, index.height) == (192, 112)
    assert torture.number_of(media.frames(ref, index, [0])[0]) == 9


def chunk(path: Path, scenes: int = 2, frames: int = 6) -> list[dict[str, Any]]:
    """A RealEstate10K chunk with burned-in pictures; scene s shows the numbers from 100 s."""
    torch = pytest.importorskip("torch", reason="reading .torch chunks needs torch (pip install 'parallax-curation[perception]')")
    made = [
        {
            "key": f"scene{s}",
            "url": f"https://video.example/{s}",
            "timestamps": torch.arange(frames, dtype=torch.int64) * 33_367 + 1_000_000 * s,
            "cameras": torch.arange(frames * 18, dtype=torch.float32).reshape(frames, 18),
            "images": [torch.from_numpy(np.frombuffer(encoded(100 * s + i), np.uint8).copy()) for i in range(frames)],
        }
        for s in range(scenes)
    ]
    torch.save(made, path)
    return made


def test_chunks(tmp_path: Path, media: Media) -> None:
    made = chunk(tmp_path / "000000.torch")
    ref = MediaRef("torch_chunk", (MediaFile("000000.torch", 0, 0),), item=1)
    index = media.index(ref)
    assert (len(index), index.width, index.height, index.codec) == (6, 192, 112, "jpeg")
    assert index.pts_ns.tolist() == (made[1]["timestamps"].numpy() * 1000).tolist()
    assert [torture.number_of(frame) for frame in media.frames(ref, index, [5, 0])] == [105, 100]
    assert media.image(ref, index, 3, "jpg") == made[1]["images"][3].numpy().tobytes()
    [first, second] = media.run("stages.media.chunks:chunk_scenes", str(media.local([MediaFile("000000.torch", 0, 0)])[0]))
    assert (first["key"], second["url"], second["n_images"]) == ("scene0", "https://video.example/1", 6)
    assert (second["cameras"] == made[1]["cameras"].numpy()).all()


def test_bad_chunks(tmp_path: Path, media: Media) -> None:
    chunk(tmp_path / "good.torch", scenes=1)
    whole = (tmp_path / "good.torch").read_bytes()
    import torch

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "owned",)

    torch.save([Payload()], tmp_path / "pickle.torch")
    torch.save({"no": "list"}, tmp_path / "mapping.torch")
    torch.save([{"key": "a"}], tmp_path / "fields.torch")
    (tmp_path / "cut.torch").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.torch").write_bytes(b"hello")
    found = {}
    for name in ("pickle", "mapping", "fields", "cut", "text", "good"):
        ref = MediaRef("torch_chunk", (MediaFile(f"{name}.torch", 0, 0),), item=1 if name == "good" else 0)
        with pytest.raises(CandidateError) as caught:
            media.index(ref)
        found[name] = caught.value.reason
    assert found == {**dict.fromkeys(("pickle", "mapping", "fields", "text", "good"), Reason.E_OPEN), "cut": Reason.E_TRUNCATED}
    assert not (tmp_path / "owned").exists()
