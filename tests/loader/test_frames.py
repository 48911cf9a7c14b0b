"""Pixels against other decoders, and intrinsics against where a point is seen in the fitted picture."""

import io

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from pipeline.loader.fetch import ReadError
from pipeline.loader.frames import Footage, decode, fit, fit_intrinsics


@pytest.fixture(scope="module")
def clip(footage):
    return next((footage / "syncamvideo" / "train" / "videos" / "scene1").iterdir())


@pytest.fixture(scope="module")
def sequential(clip):
    """Decoded frames of one plain pass."""
    with av.open(str(clip)) as container:
        return list(container.decode(video=0))


@pytest.fixture(scope="module")
def truth(sequential):
    return pixels_of(sequential)


def pixels_of(frames):
    """[N,H,W,3], chroma interpolated."""
    kernel = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    return np.stack([frame.reformat(format="rgb24", interpolation=kernel).to_ndarray() for frame in frames])


def covering(picture, size):
    """By OpenCV: shrink until the picture covers `size` (H, W), then cut out the centre."""
    H, W = size
    height, width = picture.shape[:2]
    scale = max(H / height, W / width)
    w, h = round(width * scale), round(height * scale)
    scaled = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
    return scaled[(h - H) // 2 : (h - H) // 2 + H, (w - W) // 2 : (w - W) // 2 + W]


def test_without_scaling_a_frame_is_the_decoder_s(clip, truth):
    height, width = truth.shape[1:3]
    assert np.array_equal(decode(clip.read_bytes(), range(len(truth)), (height, width)), truth)


def test_brightness_is_that_of_the_decoded_luma(clip, sequential):
    """By BT.601's own numbers, without a converter."""
    luma = np.stack([frame.to_ndarray(format="yuv420p")[:64] for frame in sequential]).astype(float)
    found = 16 + decode(clip.read_bytes(), range(9), (64, 96)) @ np.array([65.481, 128.553, 24.966]) / 255
    assert np.abs(found - luma).max() < 2.5  # the converter rounds down; with BT.709 it would be 7


def test_a_crop_moves_no_pixel(clip, truth):
    found = decode(clip.read_bytes(), [4], (64, 64))[0]
    assert np.array_equal(found, truth[4][:, 16:80])


@pytest.mark.parametrize("size", [(32, 48), (32, 32), (48, 48), (40, 72), (30, 30)])
def test_scaled_pictures_agree_with_opencv(clip, truth, size):
    found = decode(clip.read_bytes(), range(len(truth)), size)
    expected = np.stack([covering(picture, size) for picture in truth])
    assert found.shape == (len(truth), *size, 3)
    assert np.abs(found.astype(int) - expected).mean() < 2.5


@pytest.mark.parametrize("frames", [[0], [8], [3, 5], [2, 2, 7], [0, 4, 8]])
def test_which_frames_are_asked_for_changes_no_pixel(clip, frames):
    data = clip.read_bytes()
    every = decode(data, range(9), (32, 40))
    assert np.array_equal(decode(data, frames, (32, 40)), every[frames])
    assert all(not np.array_equal(every[i], every[j]) for i in range(9) for j in range(i))


@pytest.mark.parametrize("options", [{"g": "12", "bf": "0"}, {"g": "12", "bf": "3"}, {"g": "10", "bf": "2", "x264-params": "open-gop=1"}])
def test_windows_of_a_long_clip_are_those_of_one_plain_pass(options):
    """With several keyframes a late window is read from the one before it."""
    rng = np.random.default_rng(1)
    source = cv2.resize(rng.integers(0, 256, (60, 12, 16, 3), np.uint8).reshape(-1, 16, 3), (64, 60 * 48)).reshape(60, 48, 64, 3)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in source:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    data = buffer.getvalue()
    with av.open(io.BytesIO(data)) as container:
        every = pixels_of(container.decode(video=0))
    assert np.array_equal(decode(data, range(60), (48, 64)), every)
    for window in (range(45, 60), range(30, 41), range(11, 26, 2), [0, 59], [58], range(0, 60, 7), range(12, 24)):
        assert np.array_equal(decode(data, window, (48, 64)), every[list(window)])


def test_pictures_are_exact():
    pixels = np.random.default_rng(0).integers(0, 256, (54, 96, 3), np.uint8)
    data = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    assert np.array_equal(decode(data, [0], (54, 96))[0], pixels)
    assert np.array_equal(decode(data, [0], (54, 40))[0], pixels[:, 28:68])
    assert np.array_equal(decode(data, [0], (27, 48))[0], covering(pixels, (27, 48)))


@pytest.mark.parametrize("source", [(96, 64), (96, 54), (54, 96), (1280, 720), (37, 41)])
@pytest.mark.parametrize("size", [(64, 64), (32, 48), (48, 32), (384, 672), (64, 96)])
def test_the_scaled_picture_covers_and_the_aspect_is_kept(source, size):
    (width, height), left, top = fit(*source, size)
    assert width >= size[1] and height >= size[0] and (width == size[1] or height == size[0])
    assert 0 <= left <= width - size[1] and 0 <= top <= height - size[0]
    assert abs(width / source[0] - height / source[1]) <= 0.5 * max(1 / source[0], 1 / source[1])


@pytest.mark.parametrize("size", [(90, 160), (100, 100), (60, 150), (180, 320), (240, 240)])
def test_a_point_is_seen_where_the_intrinsics_say(size):
    K = np.array([[310.0, 0, 165.0], [0, 290.0, 84.0], [0, 0, 1]])
    point = np.array([0.11, 0.05, 2.0])
    u, v, _ = K @ point / point[2]
    y, x = np.mgrid[:180, :320] + 0.5  # pixel centres
    spot = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 6.0**2))
    picture = np.repeat((spot * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    found = decode(cv2.imencode(".png", picture)[1].tobytes(), [0], size)[0, ..., 0].astype(float)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    seen = np.array([(found * x).sum(), (found * y).sum()]) / found.sum()
    expected = (fit_intrinsics(K, 320, 180, size) @ point / point[2])[:2]
    assert np.abs(seen - expected).max() < 0.05


def test_intrinsics_of_a_whole_number_ratio_by_hand():
    K = np.array([[[100.0, 0, 80.0], [0, 100.0, 40.0], [0, 0, 1]]])
    # 160x80 covers 48x32 once it is scaled to 64x32; 8 columns go on either side.
    assert fit(160, 80, (32, 48)) == ((64, 32), 8, 0)
    assert np.allclose(fit_intrinsics(K, 160, 80, (32, 48)), [[[40.0, 0, 24.0], [0, 40.0, 16.0], [0, 0, 1]]], atol=1e-12)
    assert K[0, 0, 2] == 80.0


def test_what_cannot_be_decoded_is_a_read_error_that_names_the_member(clip):
    data = clip.read_bytes()
    height, width = 64, 96
    middle = len(data) // 2
    jpeg = cv2.imencode(".jpg", np.zeros((64, 96, 3), np.uint8))[1].tobytes()
    for broken in (b"", b"\0" * 100, data[:middle], jpeg[: len(jpeg) // 2], b"\x89PNG\r\n\x1a\n", data[:200] + b"\xff" * (len(data) - 200)):
        with pytest.raises(ReadError, match=r"s1\.view00"):
            decode(broken, [0], (height, width), name="s1.view00")


def test_a_frame_that_is_not_there(clip):
    assert len(Footage(clip.read_bytes())) == 9
    with pytest.raises(ReadError, match="frame 9 is needed, it holds 9"):
        decode(clip.read_bytes(), [3, 9], (32, 32))


def test_random_damage_never_passes_as_an_error_of_another_kind(clip):
    data = np.frombuffer(clip.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = data.copy()
        at = rng.integers(0, len(data) - 64)
        damaged[at : at + 64] = rng.integers(0, 256, 64)
        try:
            decode(damaged.tobytes(), range(9), (32, 48))
        except ReadError:
            continue
