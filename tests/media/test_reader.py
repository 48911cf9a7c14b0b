"""What a read gives besides the right frame: order, size, colours, rotation, and the consumers' own errors."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from schemas.candidate import MediaRef
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media import Media, SandboxError
from tests.media import torture

RED, GREEN, BLUE = (200, 30, 40), (20, 180, 60), (30, 50, 210)


def flat(path: Path, colour: tuple[int, int, int], colorspace: int, full_range: bool) -> Path:
    """Lossless H.264 of one colour, its matrix and range written into the file. The oracle is BT.601 / BT.709 arithmetic."""
    kr, kb = (0.2126, 0.0722) if colorspace == 1 else (0.299, 0.114)
    r, g, b = (value / 255 for value in colour)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    scale, offset, chroma = (255, 0, 255) if full_range else (219, 16, 224)
    planes = [luma * scale + offset, (b - luma) / (2 - 2 * kb) * chroma + 128, (r - luma) / (2 - 2 * kr) * chroma + 128]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, 2 if full_range else 1
        frame = av.VideoFrame(64, 48, "yuv420p")
        frame.colorspace, frame.color_range = colorspace, 2 if full_range else 1
        for plane, value in zip(frame.planes, planes, strict=True):
            plane.update(bytes([round(value)]) * plane.buffer_size)
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("colour", [RED, GREEN, BLUE])
@pytest.mark.parametrize(("colorspace", "full_range"), [(1, False), (5, False), (1, True), (5, True)])
@pytest.mark.parametrize("size", [None, (32, 24), (96, 72)])
def test_colours_follow_the_files_matrix_and_range(
    colour: tuple[int, int, int],
    colorspace: int,
    full_range: bool,
    size: tuple[int, int] | None,
    tmp_path_factory: pytest.TempPathFactory,
    video_ref: Callable[[str], MediaRef],
    open_media: Callable[..., Media],
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = flat(folder / f"flat-{colour[0]}-{colorspace}-{full_range}.mp4", colour, colorspace, full_range)
    media, ref = open_media(folder), video_ref(path.name)
    index = media.index(ref)
    [picture] = media.frames(ref, index, [0], size)
    assert np.abs(picture.astype(int) - colour).max() <= 3
    kr, kb = (0.2126, 0.0722) if colorspace == 1 else (0.299, 0.114)
    luma = kr * colour[0] + (1 - kr - kb) * colour[1] + kb * colour[2]
    mean = media.map_frames(ref, index, [0], "tests.media.calls:first_mean", gray=True, size=size)
    assert abs(mean - luma) <= 1.5


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_display_rotation_is_applied(degrees: int, suffix: str, tmp_path: Path, video_ref: Callable[[str], MediaRef]) -> None:
    """`degrees` is how far the stored picture must be turned clockwise to stand upright."""
    upright = torture.burn(77)
    stored = np.ascontiguousarray(np.rot90(upright, degrees // 90))
    path = tmp_path / f"turned.{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"crf": "10"})
        stream.height, stream.width = stored.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(-degrees)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        out.mux(stream.encode(None))
    with Media(tmp_path, MediaLimits()) as media:
        index = media.index(video_ref(path.name))
        [picture] = media.frames(video_ref(path.name), index, [0])
        [small] = media.frames(video_ref(path.name), index, [0], size=(96, 56))
    assert (index.rotation, index.width, index.height) == (degrees, torture.WIDTH, torture.HEIGHT)
    assert picture.shape == upright.shape
    assert torture.number_of(picture) == torture.number_of(small) == 77
    assert np.abs(picture[80:].astype(int) - upright[80:]).mean() < 12


def test_order_repeats_size_and_gray(plain: Path, open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]) -> None:
    media, ref = open_media(plain.parent), video_ref(plain.name)
    index = media.index(ref)
    pictures = media.frames(ref, index, np.array([80, 3, 80]), size=(96, 64))
    assert pictures.shape == (3, 64, 96, 3)
    assert [torture.number_of(picture) for picture in pictures] == [80, 3, 80]
    shapes = media.map_frames(ref, index, [5, 5, 6], "tests.media.calls:shapes", size=(96, 64), gray=True, factor=2)
    assert shapes == [[128, 192]] * 3
    assert media.frames(ref, index, []).shape == (0, torture.HEIGHT, torture.WIDTH, 3)
    assert media.map_frames(ref, index, [], "tests.media.calls:numbers") == []


def test_a_scaled_read_is_the_scaled_picture(plain: Path, open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]) -> None:
    media, ref = open_media(plain.parent), video_ref(plain.name)
    index = media.index(ref)
    [large], [small] = media.frames(ref, index, [40]), media.frames(ref, index, [40], size=(96, 56))
    averaged = large.reshape(56, 2, 96, 2, 3).mean((1, 3))
    assert np.abs(averaged - small).mean() < 2


def test_a_consumer_may_stop_early(plain: Path, open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]) -> None:
    media, ref = open_media(plain.parent), video_ref(plain.name)
    assert media.map_frames(ref, media.index(ref), None, "tests.media.calls:first_mean") > 0


def test_misuse_is_told_apart_from_bad_files(plain: Path, open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]) -> None:
    media, ref = open_media(plain.parent), video_ref(plain.name)
    index = media.index(ref)
    with pytest.raises(IndexError, match="90 was asked for; this view has 90"):
        media.frames(ref, index, [90])
    with pytest.raises(IndexError):
        media.frames(ref, index, [-1])
    with pytest.raises(ValueError, match="ascending"):
        media.map_frames(ref, index, [5, 4], "tests.media.calls:numbers")
    with pytest.raises(SandboxError, match="no such thing"):
        media.map_frames(ref, index, [1], "tests.media.calls:boom")


def test_another_file_under_the_same_name_is_noticed(tmp_path: Path, video_ref: Callable[[str], MediaRef]) -> None:
    """The index's pts no longer exist: an error, never a neighbouring frame."""
    path = torture.write(tmp_path / "a.mp4", range(30), [i * 3000 for i in range(30)])
    with Media(tmp_path, MediaLimits()) as media:
        index = media.index(video_ref("a.mp4"))
        torture.write(path, range(30), [i * 3000 + (i > 9) * 700 for i in range(30)])
        assert torture.number_of(media.frames(video_ref("a.mp4"), index, [4])[0]) == 4
        with pytest.raises(CandidateError) as caught:
            media.frames(video_ref("a.mp4"), index, [20])
    assert caught.value.reason == Reason.E_TRUNCATED


def test_average_rate_comes_from_the_frames(
    torture_set: dict[str, torture.Footage], open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]
) -> None:
    truth = torture_set["b_frames.mp4"]
    index = open_media(truth.path.parent).index(video_ref("b_frames.mp4"))
    assert index.fps == 30
    assert index.codec == "h264"
    assert index.duration_s == pytest.approx(3.0)
    irregular = torture_set["variable_rate.mp4"]
    index = open_media(irregular.path.parent).index(video_ref("variable_rate.mp4"))
    assert float(index.fps) == pytest.approx(float(Fraction(89) / irregular.times[-1]), rel=1e-3)


def test_a_rate_is_not_blurred_by_coarse_ticks(tmp_path: Path, video_ref: Callable[[str], MediaRef]) -> None:
    """Matroska rounds times to milliseconds."""
    torture.write(tmp_path / "a.mkv", range(60), range(60), tick=Fraction(1, 30))
    with Media(tmp_path, MediaLimits()) as media:
        assert media.index(video_ref("a.mkv")).fps == 30
