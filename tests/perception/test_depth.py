"""Depth models from folders as their publishers have them, with random weights."""

import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.studio.render import render
from pipeline.studio.trajectories import scattered
from pipeline.studio.worlds import plaza
from schemas.camera import intrinsics
from stages.perception.depth import DepthModel
from stages.perception.weights import WeightsError, find

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ZOE_HEADS = [
    {"name": "nyu", "n_bins": 64, "min_depth": 1e-3, "max_depth": 10.0},
    {"name": "kitti", "n_bins": 64, "min_depth": 1e-3, "max_depth": 80.0},
]
ZOE_PATCH = {
    "num_patch_transformer_layers": 4,
    "patch_transformer_hidden_size": 128,
    "patch_transformer_intermediate_size": 1024,
    "patch_transformer_num_attention_heads": 4,
}


def zoedepth(small: bool) -> Any:
    """Intel/zoedepth-nyu-kitti; small: narrower and shallower, else alike."""
    size = (32, 4, 4, 64) if small else (1024, 24, 16, 4096)
    stages = (1, 2, 3, 4) if small else (6, 12, 18, 24)
    backbone = transformers.BeitConfig(
        image_size=384, hidden_size=size[0], num_hidden_layers=size[1], num_attention_heads=size[2], intermediate_size=size[3],
        use_relative_position_bias=True, reshape_hidden_states=False, out_features=[f"stage{k}" for k in stages],
    )  # fmt: skip
    widths = {"neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16, "bottleneck_features": 16, "bin_embedding_dim": 16}
    more = widths | {"num_relative_features": 8} if small else {"neck_hidden_sizes": [256, 512, 1024, 1024]}
    return transformers.ZoeDepthConfig(backbone_config=backbone, bin_configurations=ZOE_HEADS, **ZOE_PATCH, **more)


def depth_anything(max_depth: int = 20, kind: str = "metric", small: bool = False) -> Any:
    """depth-anything/Depth-Anything-V2-Metric-*-Small-hf; small: narrower and shallower still, else alike."""
    width, layers, heads = (32, 4, 2) if small else (384, 12, 6)
    necks, fused = ([8, 16, 32, 32], 16) if small else ([48, 96, 192, 384], 64)
    backbone = transformers.Dinov2Config(
        image_size=518, patch_size=14, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        out_indices=[layers * k // 4 for k in (1, 2, 3, 4)], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    return transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=width, patch_size=14, neck_hidden_sizes=necks,
        fusion_hidden_size=fused, depth_estimation_type=kind, max_depth=max_depth,
    )  # fmt: skip


def depth_pro(small: bool, fov: bool = True) -> Any:
    """apple/DepthPro-hf; small: narrower, shallower, and 32 instead of 384 pixels a patch."""
    side, size = (32, (16, 2, 2, 8)) if small else (384, (1024, 24, 16, 16))
    encoder = {
        "model_type": "dinov2", "image_size": side, "hidden_size": size[0], "num_hidden_layers": size[1],
        "num_attention_heads": size[2], "patch_size": size[3], "use_mask_token": False,
    }  # fmt: skip
    widths = {"fusion_hidden_size": 16, "intermediate_hook_ids": [1, 0], "intermediate_feature_dims": [16, 16]}
    more = widths | {"scaled_images_feature_dims": [16, 16, 16]} if small else {}
    three = {f"{name}_model_config": dict(encoder) for name in ("image", "patch", "fov")}
    return transformers.DepthProConfig(patch_size=side, use_fov_model=fov, **three, **more)


ZOE_PROCESSOR = {
    "image_processor_type": "ZoeDepthImageProcessor", "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
    "ensure_multiple_of": 32, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "keep_aspect_ratio": True, "resample": 2,
    "rescale_factor": 1 / 255, "size": {"height": 384, "width": 512},
}  # fmt: skip
DPT_PROCESSOR = {
    "image_processor_type": "DPTImageProcessor", "do_normalize": True, "do_pad": False, "do_rescale": True, "do_resize": True,
    "ensure_multiple_of": 14, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "keep_aspect_ratio": True,
    "resample": 3, "rescale_factor": 1 / 255, "size": {"height": 518, "width": 518}, "size_divisor": None,
}  # fmt: skip


def pro_processor(side: int) -> dict[str, Any]:
    return {
        "image_processor_type": "DepthProImageProcessor", "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2, "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }  # fmt: skip


# So that random features end where trained ones do: a field of view of some 50 degrees, 1/depth above nothing.
BIASES = {"fov_model.head.layers.4.bias": 50.0, "head.layers.4.bias": 2.0}


def write_folder(folder: Path, network: Any, config: Any, processor: dict[str, Any]) -> Path:
    """A checkpoint as its publisher would have saved it, with random weights: such that signals neither die out nor explode."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made = network(config)
        for name, each in made.named_parameters():
            if each.ndim > 1:
                each.normal_(std=each[0].numel() ** -0.5)
            elif name in BIASES:
                each.fill_(BIASES[name])
        made.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("depth")
    return {
        "zoedepth": write_folder(root / "zoe", transformers.ZoeDepthForDepthEstimation, zoedepth(small=True), ZOE_PROCESSOR),
        "depth-anything-v2-metric-indoor": write_folder(
            root / "indoor", transformers.DepthAnythingForDepthEstimation, depth_anything(), DPT_PROCESSOR
        ),
        "depth-pro": write_folder(root / "pro", transformers.DepthProForDepthEstimation, depth_pro(small=True), pro_processor(128)),
    }


NAMES = ("zoedepth", "depth-anything-v2-metric-indoor", "depth-pro")
# Tensors that the official files name so, whatever transformers calls them today.
OFFICIAL = {
    "zoedepth": (
        "backbone.encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table",
        "metric_head.seed_bin_regressors.nyu.conv1.weight",
        "metric_head.mlp_classifier.linear1.weight",
    ),
    "depth-anything-v2-metric-indoor": (
        "backbone.embeddings.mask_token",
        "backbone.encoder.layer.11.attention.attention.query.weight",
        "head.conv3.weight",
    ),
    "depth-pro": (
        "depth_pro.encoder.patch_encoder.model.encoder.layer.0.attention.attention.query.weight",
        "head.layers.0.weight",
        "fov_model.fov_encoder.neck.weight",
    ),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **settings: Any) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def clip() -> list[NDArray[np.uint8]]:
    scene = plaza(3)
    K = intrinsics(90, 90, 48, 36)[0]
    return [render(scene, 0, pose, K, (96, 72)).rgb for pose in scattered(np.random.default_rng(0), 2)]


def load(folders: dict[str, Path], name: str, **settings: Any) -> DepthModel:
    return DepthModel(find(name, str(folders[name]), accept_noncommercial=True).path, device="cpu", **settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_through_the_registry_gives_metres_at_the_size_of_the_clip(
    folders: dict[str, Path], clip: list[NDArray[np.uint8]], name: str
) -> None:
    found = load(folders, name, batch=2).depth(clip)
    assert found.metres.shape == (2, 72, 96) and found.metres.dtype == np.float32
    assert np.isfinite(found.metres).all() and (found.metres > 0).all() and found.metres.std() > 0
    assert not np.array_equal(found.metres[0], found.metres[1])
    if name == "depth-pro":
        assert found.K is not None and found.K.shape == (2, 3, 3)
        assert (found.K[:, 0, 0] > 0).all() and (found.K[:, 0, 2] == 48).all() and (found.K[:, 1, 2] == 36).all()
    else:
        assert found.K is None
    alone = load(folders, name).depth(clip[1:])
    np.testing.assert_allclose(found.metres[1], alone.metres[0], rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_has_the_official_names(folders: dict[str, Path], name: str) -> None:
    from safetensors import safe_open

    with safe_open(folders[name] / "model.safetensors", "pt") as file:
        assert set(OFFICIAL[name]) <= set(file.keys())


@pytest.mark.parametrize(
    "config, network, millions",
    [
        (lambda: zoedepth(small=False), "ZoeDepthForDepthEstimation", 345.1),
        (depth_anything, "DepthAnythingForDepthEstimation", 24.8),
        (lambda: depth_pro(small=False), "DepthProForDepthEstimation", 952.0),
    ],
)
def test_the_true_sizes(config: Callable[[], Any], network: str, millions: float) -> None:
    with torch.device("meta"):
        model = getattr(transformers, network)(config())
    assert sum(each.numel() for each in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.long
def test_zoedepth_at_its_true_size(tmp_path: Path, clip: list[NDArray[np.uint8]]) -> None:
    """345 million parameters, 1.4 GB on disk."""
    folder = write_folder(tmp_path / "zoe", transformers.ZoeDepthForDepthEstimation, zoedepth(small=False), ZOE_PROCESSOR)
    found = DepthModel(find("zoedepth", str(folder)).path, device="cpu").depth(clip[:1])
    assert found.metres.shape == (1, 72, 96) and np.isfinite(found.metres).all() and (found.metres > 0).all()


class Echo(torch.nn.Module):  # type: ignore[misc]
    """A network whose depth is the brightness of what it is given: what remains is the way there and back."""

    def __init__(self, inverse: bool) -> None:
        super().__init__()
        self._inverse = inverse

    def forward(self, pixel_values: Any) -> Any:
        from transformers.models.depth_pro.modeling_depth_pro import DepthProDepthEstimatorOutput

        metres = 4 + pixel_values.mean(dim=1)
        fov = torch.full((len(metres),), 90.0)  # then width / focal length is 2
        return DepthProDepthEstimatorOutput(predicted_depth=1 / (2 * metres) if self._inverse else metres, field_of_view=fov)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(96, 72), (72, 128), (161, 90)])
def test_maps_come_back_to_where_the_picture_was(folders: dict[str, Path], name: str, size: tuple[int, int]) -> None:
    """A ramp to the right and one downwards come back as ramps of the same slope: nothing shifted, cropped, mirrored or stretched."""
    model = load(folders, name, batch=2)
    model._network = Echo(inverse=name == "depth-pro")
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ramps = [np.repeat((255 * ramp)[..., None], 3, axis=2).astype(np.uint8) for ramp in (x / (width - 1), y / (height - 1))]
    found = model.depth(ramps)
    inside = np.s_[3:-3, 3:-3]  # resizing bends the last pixels
    for metres, along in ((found.metres[0], x), (found.metres[1], y)):
        slope, offset = np.polyfit(along[inside].ravel(), metres[inside].ravel(), 1)
        assert np.abs(metres - (slope * along + offset))[inside].max() < 1.0 * slope  # within a pixel everywhere
        spread = 1.0 / 0.226 if "anything" in name else 2.0  # of the normalised brightness; three channels' mean deviation
        assert slope * along.max() == pytest.approx(spread, rel=0.03)
        middle = metres[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2].mean()
        centre = along[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2].mean()
        ends = (metres[inside].min() + metres[inside].max()) / 2
        assert abs(middle - ends) < 1.5 * slope and abs(centre - along.max() / 2) <= 0.5
    if found.K is not None:
        np.testing.assert_allclose(found.K[:, 0, 0], width / 2, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_near(folders: dict[str, Path], clip: list[NDArray[np.uint8]], name: str) -> None:
    exact, half = (load(folders, name, precision=precision).depth(clip[:1]).metres for precision in ("fp32", "bf16"))
    assert np.median(np.abs(half - exact) / exact) < 0.02


def test_a_head_that_is_voted_for_does_not_depend_on_the_neighbours(folders: dict[str, Path]) -> None:
    """ZoeDepth sums the votes for its head over a batch: one picture would change another's depth tenfold."""
    rng = np.random.default_rng(0)
    dark, bright = (rng.integers(0, high, (48, 64, 3), np.uint8) for high in (2, 255))  # alone, each votes for another head
    together = load(folders, "zoedepth", batch=2).depth([dark, bright]).metres
    np.testing.assert_allclose(load(folders, "zoedepth").depth([dark]).metres[0], together[0], rtol=1e-5)


def test_what_does_not_fit_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = folders["depth-anything-v2-metric-indoor"]
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with pytest.raises(WeightsError, match="cannot be loaded as DepthAnythingForDepthEstimation"):
        DepthModel(tmp_path, device="cpu")
    state = load_file(source / "model.safetensors")
    state["head.conv9.bias"] = state.pop("head.conv3.bias")
    state["head.conv2.weight"] = state["head.conv2.weight"][:5].clone()
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    message = r"1 missing: head.conv3.bias; 1 unexpected: head.conv9.bias; 1 of another shape: head.conv2.weight \[5, 32, 3, 3\] instead of"
    with pytest.raises(WeightsError, match=message):
        DepthModel(tmp_path, device="cpu")


@pytest.mark.parametrize(
    "config, message",
    [
        (lambda: depth_anything(kind="relative").to_dict(), "gives relative depth"),
        (lambda: depth_pro(small=True, fov=False).to_dict(), "without its field-of-view network"),
        (lambda: {"model_type": "dpt"}, "holds a model of type 'dpt'; depth takes zoedepth, depth_anything, depth_pro"),
        (lambda: {}, "is no folder of a depth model"),
    ],
)
def test_folders_without_metres_are_refused(tmp_path: Path, config: Callable[[], dict[str, Any]], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    with pytest.raises(WeightsError, match=message):
        DepthModel(tmp_path, device="cpu")


def test_images_of_two_sizes_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="images of one size"):
        load(folders, "depth-pro").depth([np.zeros((20, 30, 3), np.uint8), np.zeros((30, 20, 3), np.uint8)])


def test_all_that_the_loader_reads_of_a_folder_is_in_its_digest(folders: dict[str, Path], tmp_path: Path) -> None:
    """Also the processor's settings in their newer place, which win over the older one."""
    name = "depth-anything-v2-metric-indoor"
    folder = Path(shutil.copytree(folders[name], tmp_path / "model"))
    plain, image = find(name, str(folder)), [np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)]
    before = DepthModel(folder, device="cpu").depth(image).metres
    (folder / "README.md").write_text("what this is")
    assert find(name, str(folder)).sha256 == plain.sha256
    nested = {"image_processor": {**DPT_PROCESSOR, "image_mean": [0.0, 0.0, 0.0]}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    opened: set[str] = set()
    watching = True

    def note(event: str, details: tuple[Any, ...]) -> None:
        if watching and event == "open" and str(details[0]).startswith(str(folder)):
            opened.add(Path(str(details[0])).name)

    sys.addaudithook(note)
    after = DepthModel(folder, device="cpu").depth(image).metres
    watching = False
    assert not np.array_equal(before, after), "it was read"
    assert {"config.json", "processor_config.json"} <= opened
    for each in opened:
        known = find(name, str(folder)).sha256
        (folder / each).write_text((folder / each).read_text() + " ")
        assert find(name, str(folder)).sha256 != known, each
