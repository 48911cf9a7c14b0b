"""Segment Anything from files of the official layout with random weights, against the package called directly, and known shapes."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.typed import RecipeError
from stages.filter_motion import MotionConfig, MotionFilter, measure
from stages.perception.device import lower, torch_device
from stages.perception.sam import SamSegmenter
from stages.perception.weights import WeightsError, find

torch = pytest.importorskip("torch", reason="needs the extra perception")
package = pytest.importorskip("segment_anything", reason="needs the extra perception")

_EVERYTHING = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vit_b at its true size with random weights, under the official file's name."""
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b_01ec64.pth"
    torch.manual_seed(0)
    torch.save(package.sam_model_registry["vit_b"]().state_dict(), path)
    return path


def load(file: Path, **more: Any) -> SamSegmenter:
    """Through the registry, as a recipe does."""
    return SamSegmenter(find("sam-vit-b", str(file)).path, "vit_b", device="cpu", **more)


def picture(size: tuple[int, int] = (160, 120)) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    return cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def encoded(file: Path) -> tuple[Any, Any]:
    """What the image encoder is given for the picture, and an answer of its kind: its own takes it half a minute on one core, and is
    the package's, made of weights that are compared."""
    segmenter = load(file, points_per_side=1)
    answer = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0))
    seen = []

    def forward(pictures: Any) -> Any:
        seen.append(pictures)
        return answer

    segmenter._generator.predictor.model.image_encoder.forward = forward
    segmenter.masks(picture())
    return seen[0], answer


def remember(encoder: Any, encoded: tuple[Any, Any]) -> None:
    """Lets an encoder give that answer, if it is asked the same."""

    def forward(pictures: Any) -> Any:
        assert torch.equal(pictures, encoded[0])
        return encoded[1]

    encoder.forward = forward


def test_the_true_network_gives_the_packages_masks(file: Path, encoded: tuple[Any, Any]) -> None:
    state = torch.load(file, weights_only=True)
    assert len(state) == 314 and sum(tensor.numel() for tensor in state.values()) == 93_735_728
    segmenter = load(file, points_per_side=2, **_EVERYTHING)
    loaded = segmenter._generator.predictor.model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    remember(segmenter._generator.predictor.model.image_encoder, encoded)
    found = segmenter.masks(picture())

    sam = package.sam_model_registry["vit_b"](checkpoint=file)
    remember(sam.image_encoder, encoded)
    wanted = package.SamAutomaticMaskGenerator(sam, points_per_side=2, **_EVERYTHING).generate(picture())
    wanted.sort(key=lambda each: -each["area"])
    assert len(found) == len(wanted) > 0
    for mask, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mask.pixels, other["segmentation"])
        assert mask.pixels.shape == (120, 160) and mask.pixels.dtype == np.bool_
        assert mask.score == pytest.approx(min(max(other["predicted_iou"], 0), 1))
    again = segmenter.masks(picture())
    assert [mask.pixels.tobytes() for mask in again] == [mask.pixels.tobytes() for mask in found]


class Disks:
    """In the network's place: around each point that it is asked for, disks of three sizes in the picture's pixels, whose edges are
    sharp, and how good it thinks they are. What the package and the adapter make of a network's answers can then be known."""

    def __init__(self, segmenter: SamSegmenter, radii: tuple[float, float, float], scores: tuple[float, float, float], zoom: float) -> None:
        sam = segmenter._generator.predictor.model
        self.radii, self.scores, self.zoom = torch.tensor(radii), torch.tensor(scores), zoom  # zoom: picture to network
        sam.image_encoder.forward = lambda pictures: torch.zeros(len(pictures), 256, 64, 64)
        sam.prompt_encoder.forward = lambda points, boxes, masks: (points[0].float(), None)
        sam.mask_decoder.forward = self.draw

    def draw(self, sparse_prompt_embeddings: Any, **_: Any) -> tuple[Any, Any]:
        at = (torch.arange(256) + 0.5) * 4  # the network's answer has a quarter of its 1024 pixels
        x = at[None, None, :] - sparse_prompt_embeddings[:, 0, 0, None, None]
        y = at[None, :, None] - sparse_prompt_embeddings[:, 0, 1, None, None]
        distance = torch.hypot(x, y) / self.zoom
        masks = (self.radii[None, :, None, None] - distance[:, None]) * 30
        return masks, self.scores.expand(len(masks), 3)


def disk(size: tuple[int, int], centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    return np.hypot(x - centre[0], y - centre[1]) < radius


def test_the_motion_filter_runs_it_on_a_clip(file: Path, encoded: tuple[Any, Any]) -> None:
    """A picture that slides by two pixels a frame: the camera's motion, whatever regions random weights make of it."""
    settings: dict[str, Any] = {"masks": "sam-vit-b", "sam": str(file), "points_per_side": 1, "device": "cpu", **_EVERYTHING}
    stage = MotionFilter(MotionConfig(**settings))
    stage.prepare()
    segmenter = stage.models()[0]
    assert isinstance(segmenter, SamSegmenter)
    remember(segmenter._generator.predictor.model.image_encoder, encoded)
    frames = [np.roll(picture(), 2 * number, axis=1) for number in range(5)]
    motion = measure(iter(frames), *stage.models(), stage.config)
    assert motion.scores()["camera_motion"] == pytest.approx(8 / 200, abs=0.005)
    found = [mask for mask in segmenter.masks(frames[0]) if mask.pixels.mean() <= 0.5]
    assert motion.labels.max(initial=0) <= len(found) and set(np.unique(motion.label)) <= set(range(len(found) + 1))


@pytest.mark.parametrize("size", [(200, 100), (100, 200)])  # a wide and a tall one: a resize that mixes up its axes would show
def test_known_shapes_come_out_where_they_are_and_in_order(file: Path, size: tuple[int, int]) -> None:
    segmenter = load(file, points_per_side=2, points_per_batch=3)
    Disks(segmenter, (6, 12, 22), (0.95, 1.02, 0.9), zoom=1024 / 200)
    found = segmenter.masks(picture(size))
    centres = [(size[0] * x, size[1] * y) for y in (0.25, 0.75) for x in (0.25, 0.75)]  # by their first pixel, too
    wanted = [(disk(size, centre, radius), score) for radius, score in ((22, 0.9), (12, 1.0), (6, 0.95)) for centre in centres]
    assert len(found) == 12
    for mask, (pixels, score) in zip(found, wanted, strict=True):
        assert (mask.pixels & pixels).sum() / (mask.pixels | pixels).sum() > 0.95
        assert mask.score == pytest.approx(score)


def test_limits_leave_out_small_doubtful_and_unstable_masks(file: Path) -> None:
    def count(scores: tuple[float, float, float] = (0.95, 0.95, 0.95), **limits: float) -> list[int]:
        segmenter = load(file, points_per_side=2, **limits)
        Disks(segmenter, (6, 12, 22), scores, zoom=1024 / 200)
        return [int(mask.pixels.sum()) for mask in segmenter.masks(picture((200, 100)))]

    everything = count()
    assert len(everything) == 12 and everything == sorted(everything, reverse=True)
    assert count(min_area=300 / 20_000) == everything[:8]  # the smallest disks have some 113 pixels, the next 452
    assert count((0.95, 0.87, 0.95)) == everything[:4] + everything[8:]
    assert count((0.95, 0.87, 0.95), pred_iou_thresh=0.5) == everything
    assert len(count(stability_score_thresh=0.99)) < 12  # a logit more or less moves an edge by a thirtieth of a pixel
    assert count((0.1, 0.1, 0.1)) == []


def test_half_precision_changes_the_encoder_alone() -> None:
    """On a smaller encoder of the same class; what differs in the true one stands in its docstring."""
    from segment_anything.modeling import ImageEncoderViT

    torch.manual_seed(0)
    encoder = ImageEncoderViT(img_size=128, embed_dim=192, depth=4, num_heads=3, out_chans=64, use_rel_pos=True, global_attn_indexes=(1, 3))
    given = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        exact = encoder(given)
        lower(encoder, "bf16")
        near = encoder(given)
    assert near.dtype == torch.float32 and all(tensor.dtype == torch.float32 for tensor in encoder.parameters())
    assert 0 < torch.linalg.norm(near - exact) / torch.linalg.norm(exact) < 0.02


def test_boxes_are_compared_on_one_device(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package makes their categories on the CPU: every tensor that leaves a batch of points must have been moved there."""
    segmenter = load(file, points_per_side=1)
    moved = []
    plain: Callable[..., Any] = torch.Tensor.cpu

    def cpu(tensor: Any) -> Any:
        moved.append(plain(tensor).clone())
        return moved[-1]

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    Disks(segmenter, (6, 12, 22), (0.95, 0.95, 0.95), zoom=1024 / 200)
    segmenter._generator.predictor.set_image(picture((200, 100)))
    data = segmenter._generator._process_batch(np.array([[50.0, 50.0]]), (100, 200), [0, 0, 200, 100], (100, 200))
    tensors = {name: value for name, value in data.items() if isinstance(value, torch.Tensor)}
    assert {"boxes", "iou_preds", "stability_score"} <= set(tensors)
    assert all(any(value is one for one in moved) for value in tensors.values())


def test_a_checkpoint_that_does_not_fit_says_what_is_wrong(file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)
    del state["mask_decoder.iou_token.weight"]
    state["extra"] = torch.zeros(1)
    state["image_encoder.neck.0.weight"] = state["image_encoder.neck.0.weight"][:, :512].clone()
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError) as raised:
        SamSegmenter(tmp_path / "other.pth", device="cpu")
    for part in ("1 missing: mask_decoder.iou_token.weight", "1 unexpected: extra", "[256, 512, 1, 1] instead of [256, 768, 1, 1]"):
        assert part in str(raised.value)


def test_what_is_missing_or_unknown_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="no Segment Anything model 'vit_x'"):
        SamSegmenter(file, "vit_x")
    with pytest.raises(RecipeError, match="no device 'gpu'"):
        torch_device("gpu")
    with pytest.raises(RecipeError, match=r"device is 'cuda:99', but torch sees \d+ GPUs"):
        torch_device("cuda:99")
    with pytest.raises(RecipeError, match="no precision 'fp8'"):
        lower(torch.nn.Linear(1, 1), "fp8")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(RecipeError, match=r"uv pip install -e '\.\[perception\]'"):
        SamSegmenter(file)
