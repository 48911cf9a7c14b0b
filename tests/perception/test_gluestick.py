"""GlueStick against plain computations, its symmetries, its official file, and the authors' package where that is installed."""

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from schemas.typed import RecipeError  # noqa: E402
from stages.perception.device import Precision  # noqa: E402
from stages.perception.gluestick import GlueStick, load_gluestick  # noqa: E402
from stages.perception.gluestick_net import (  # noqa: E402
    HEADS,
    WIDTH,
    GlueStickNet,
    Graph,
    assign,
    line_inputs,
    line_similarity,
    log_double_softmax,
    node_inputs,
)
from stages.perception.weights import WeightsError, find  # noqa: E402
from stages.perception.wireframe import detect  # noqa: E402
from tests.perception.test_superpoint import random_magic_leap  # noqa: E402

# Of the official checkpoint's network: "name shape", sorted, one a line.
_NAMES_SHA256 = "d95a9b2cb1241fa7d8cc237a67bf4916143e2545020c7169da54a0cae4b71545"


def boxes(seed: int = 1, height: int = 192, width: int = 256) -> np.ndarray:
    """A picture of overlapping boxes on a faint grain."""
    rng = np.random.default_rng(seed)
    image = rng.integers(100, 116, (height, width, 3), dtype=np.uint8)
    for _ in range(12):
        x, y = rng.integers(8, width - 60), rng.integers(8, height - 60)
        image[y : y + rng.integers(24, 50), x : x + rng.integers(24, 50)] = rng.integers(0, 256, 3)
    return image


def graph(points: int = 14, lines: int = 8, seed: int = 0, scores: float | None = None) -> Graph:
    """Nodes at random, every segment between junctions of its own but the second one, which shares an end with the first."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.arange(2 * lines).reshape(lines, 2)
    if lines > 1:
        ends = (ends - (ends > 2).long()).clamp(min=0)
        ends[1, 0] = 1
    count = points + (int(ends.max()) + 1 if lines else 0)
    described = torch.nn.functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
    strength = torch.rand(lines, generator=generator) if scores is None else torch.full((lines,), scores)
    xy = torch.rand(count, 2, generator=generator) * torch.tensor([320.0, 200.0])
    return Graph(xy, torch.rand(count, generator=generator), described, ends, strength, (320, 200))


def _random_net() -> GlueStickNet:
    """Random weights that tell nodes apart: a random projection amplified until equals outdo the rest."""
    torch.manual_seed(0)
    net = GlueStickNet().eval()
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        for projection in (net.final_proj, net.final_line_proj):
            projection.weight.mul_(100)
    return net


@pytest.fixture(scope="module")
def superpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("superpoint") / "superpoint_v1.pth"
    torch.save(random_magic_leap(), path)
    return path


def official(net: GlueStickNet, prefix: str = "matcher.") -> dict[str, Any]:
    """The layout of the official file: the matcher among the training's other parts."""
    model = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    model["extractor.conv1a.weight"] = torch.zeros(64, 1, 3, 3)
    return {"model": model, "epoch": 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, superpoint: Path) -> Path:
    """An official file of random weights that find something: what all nodes have in common is taken off before they are compared."""
    path = tmp_path_factory.mktemp("gluestick") / "checkpoint_GlueStick_MD.tar"
    net = _random_net()
    torch.save(official(net), path)
    model = GlueStick(path, superpoint, max_lines=40, max_keypoints=60, device="cpu")
    seen: list[torch.Tensor] = []
    assert model._net is not None
    model._net.final_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.match(boxes(), np.roll(boxes(), 8, 1))
    common = torch.cat(seen, 2).mean(2)[0]
    with torch.no_grad():
        for projection in (net.final_proj, net.final_line_proj):
            projection.bias.copy_(-projection.weight[:, :, 0] @ common)
    torch.save(official(net), path)
    return path


@pytest.fixture(scope="module")
def matcher(checkpoint: Path, superpoint: Path) -> GlueStick:
    found = find("gluestick", str(checkpoint))
    return GlueStick(found.path, superpoint, max_lines=40, max_keypoints=60, device="cpu")


@pytest.fixture(scope="module")
def net() -> GlueStickNet:
    """Less what all nodes have in common, so that they can be told apart."""
    made = _random_net()
    seen: list[torch.Tensor] = []
    hook = made.final_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        made(graph(seed=0), graph(seed=1))
        common = torch.cat(seen, 2).mean(2)[0]
        for projection in (made.final_proj, made.final_line_proj):
            projection.bias.copy_(-projection.weight[:, :, 0] @ common)
    hook.remove()
    return made.requires_grad_(False)


def _noisy(given: Graph, amount: float = 0.05) -> Graph:
    """The same nodes, described a little differently."""
    shift = torch.randn(given.descriptors.shape, generator=torch.Generator().manual_seed(9)) * amount / WIDTH**0.5
    return dataclasses.replace(given, descriptors=torch.nn.functional.normalize(given.descriptors + shift, dim=1))


# ---- names


def test_names_and_shapes_are_the_official_ones() -> None:
    net = GlueStickNet()
    rows = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in net.state_dict().items())
    assert len(rows) == 453
    assert sum(each.numel() for each in net.parameters()) == 16_934_210
    assert sum(each.numel() for each in net.buffers()) == 29_603
    assert sha256("\n".join(rows).encode()).hexdigest() == _NAMES_SHA256


def test_names_are_those_of_the_list() -> None:
    file = Path(os.environ.get("PARALLAX_REAL_DATA", "/nonexistent")).parent / "specs" / "gluestick_keys.tsv"
    if not file.is_file():
        pytest.skip("the list of names is not beside PARALLAX_REAL_DATA")
    listed = [line.split("\t") for line in file.read_text("utf-8").splitlines()]
    state = GlueStickNet().state_dict()
    assert {name: (shape, kind) for name, shape, kind in listed} == {
        name: (str(tuple(tensor.shape)), str(tensor.dtype)) for name, tensor in state.items()
    }


# ---- parts, against plain numpy


def test_attention_is_the_plain_computation(net: GlueStickNet) -> None:
    attention = net.gnn.layers[1].update.attn
    generator = torch.Generator().manual_seed(0)
    nodes, source = torch.randn(1, WIDTH, 5, generator=generator), torch.randn(1, WIDTH, 7, generator=generator)

    def linear(layer: "torch.nn.Conv1d", x: np.ndarray) -> np.ndarray:
        return layer.weight[:, :, 0].double().numpy() @ x + layer.bias.double().numpy()[:, None]

    x, y = nodes[0].double().numpy(), source[0].double().numpy()
    q, k, v = (linear(layer, of) for layer, of in zip(attention.proj, (x, y, y), strict=True))
    message = np.zeros((WIDTH, 5))
    for head in range(HEADS):
        own = [channel for channel in range(WIDTH) if channel % HEADS == head]
        for i in range(5):
            weight = np.array([sum(q[c, i] * k[c, j] for c in own) / 8 for j in range(7)])
            weight = np.exp(weight - weight.max()) / np.exp(weight - weight.max()).sum()
            message[own, i] = v[own] @ weight
    assert np.allclose(attention(nodes, source)[0].numpy(), linear(attention.merge, message), atol=1e-5)


def test_attention_stays_in_float32_under_autocast(net: GlueStickNet, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn import functional

    seen = []
    real = functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda *qkv: seen.append([each.dtype for each in qkv]) or real(*qkv))
    with torch.autocast("cpu", torch.bfloat16):
        net(graph(4, 2), graph(4, 2, seed=1))
    assert len(seen) == 36 and {kind for each in seen for kind in each} == {torch.float32}


def test_segments_speak_to_the_junctions_at_their_ends(net: GlueStickNet) -> None:
    from stages.perception.gluestick_net import _Ends

    given = graph(points=3, lines=2)  # junctions 0, 1, 2: 1 is shared
    layer = net.gnn.line_layers[0]
    encoding = net.lenc(line_inputs(given))
    nodes = torch.randn(1, WIDTH, 6, generator=torch.Generator().manual_seed(2))
    out = layer(nodes, _Ends(given, encoding))[0]

    def message(own: int, other: int, end: int) -> "torch.Tensor":
        x = torch.cat([nodes[0, :, own], nodes[0, :, other], encoding[0, :, end]])
        return layer.mlp(x[None, :, None])[0, :, 0]

    assert given.lines.tolist() == [[0, 1], [1, 2]]
    wanted = nodes[0].clone()
    wanted[:, 0] += message(0, 1, 0)
    wanted[:, 1] += (message(1, 0, 1) + message(1, 2, 2)) / 2
    wanted[:, 2] += message(2, 1, 3)
    assert torch.allclose(out, wanted, atol=1e-5)
    assert torch.equal(out[:, 3:], nodes[0, :, 3:])


def test_positions_are_relative_to_the_middle() -> None:
    given = dataclasses.replace(graph(points=2, lines=0), xy=torch.tensor([[160.0, 100.0], [0.0, 200.0]]))
    assert node_inputs(given)[0, :2].T.flatten().tolist() == pytest.approx([0, 0, -160 / 224, 100 / 224])
    assert torch.equal(node_inputs(given)[0, 2], given.scores)


def test_scores_of_segments_are_tiled_over_their_ends() -> None:
    """The released weights were trained with the k-th end getting the score of segment k modulo L."""
    given = dataclasses.replace(graph(points=0, lines=3), line_scores=torch.tensor([0.1, 0.2, 0.3]))
    inputs = line_inputs(given)[0]
    assert inputs[4].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    at = node_inputs(given)[0, :2].T
    ends = given.lines.flatten()
    assert torch.equal(inputs[:2].T, at[ends])
    assert torch.allclose(inputs[2:4].T, at[given.lines.flip(1).flatten()] - at[ends])


def test_double_softmax_is_the_plain_computation() -> None:
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 3
    s, alone = scores.double().numpy(), 0.7
    wanted = np.zeros((4, 5))
    for i in range(3):
        for j in range(4):
            row = np.log(np.exp(s[i]).sum() + np.exp(alone))
            column = np.log(np.exp(s[:, j]).sum() + np.exp(alone))
            wanted[i, j] = ((s[i, j] - row) + (s[i, j] - column)) / 2
            wanted[i, 4], wanted[3, j] = alone - row, alone - column
    assert np.allclose(log_double_softmax(scores, torch.tensor(alone)).numpy(), wanted, atol=1e-6)


def test_matches_are_mutual_and_probable() -> None:
    alone = torch.tensor(0.0)
    # 0-1 clear; 1 and 2 both want 0, which wants 2; 3 and its column 2 are right for each other, but hardly better than alone.
    scores = torch.tensor([[0.0, 9, 0], [7, 0, 0], [9, 0, 0], [-1, -1, -0.9]])
    found = assign(scores, alone)
    assert found.first.tolist() == [1, -1, 0, -1]
    assert found.second.tolist() == [2, 0, -1]
    inner = log_double_softmax(scores, alone)[:4, :3].exp()
    assert found.first_scores.tolist() == pytest.approx([inner[0, 1].item(), 0, inner[2, 0].item(), 0])
    assert found.second_scores.tolist() == pytest.approx([inner[2, 0].item(), inner[0, 1].item(), 0])
    assert inner[3, 2] < 0.2


def test_segments_compare_their_ends_either_way_round() -> None:
    nodes = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    first, second = torch.tensor([[0, 1], [1, 5]]), torch.tensor([[2, 3], [6, 0], [4, 4]])
    found = line_similarity(nodes, first, second)
    for i, (a, b) in enumerate(first.tolist()):
        for j, (c, d) in enumerate(second.tolist()):
            assert found[i, j].item() == pytest.approx(0.5 * max((nodes[a, c] + nodes[b, d]).item(), (nodes[a, d] + nodes[b, c]).item()))


# ---- symmetries of the whole network


def test_permuting_keypoints_permutes_the_matches(net: GlueStickNet) -> None:
    first, second = graph(), _noisy(graph())
    junctions, count = int(second.lines.max()) + 1, len(second.xy)
    order = torch.cat([torch.arange(junctions), junctions + torch.randperm(count - junctions, generator=torch.Generator().manual_seed(1))])
    shuffled = dataclasses.replace(second, xy=second.xy[order], scores=second.scores[order], descriptors=second.descriptors[order])
    plain, permuted = net(first, second), net(first, shuffled)
    assert (plain.points.first >= 0).sum() > 10
    assert (plain.lines.first >= 0).sum() > 3
    back = torch.cat([order, torch.tensor([-1])])
    assert torch.equal(back[permuted.points.first], plain.points.first)
    assert torch.equal(permuted.points.second, plain.points.second[order])
    assert torch.allclose(permuted.points.first_scores, plain.points.first_scores, atol=1e-3)
    assert torch.equal(permuted.lines.first, plain.lines.first)


def test_swapping_the_graphs_swaps_the_matches(net: GlueStickNet) -> None:
    first, second = graph(), _noisy(graph(points=9, seed=0))
    there, back = net(first, second), net(second, first)
    for plain, swapped in ((there.points, back.points), (there.lines, back.lines)):
        assert (plain.first >= 0).sum() > 3
        assert torch.equal(plain.first, swapped.second) and torch.equal(plain.second, swapped.first)
        assert torch.allclose(plain.first_scores, swapped.second_scores, atol=1e-3)
        matched = (plain.first >= 0).nonzero()[:, 0]
        assert torch.equal(plain.second[plain.first[matched]], matched)


def test_the_order_of_ends_does_not_matter_to_the_network(net: GlueStickNet) -> None:
    first, second = graph(scores=0.5), _noisy(graph(scores=0.5))
    turned = dataclasses.replace(second, lines=second.lines.flip(1))
    plain, other = net(first, second), net(first, turned)
    assert (plain.lines.first >= 0).sum() > 3
    assert torch.equal(plain.lines.first, other.lines.first)
    assert torch.allclose(plain.raw_line_scores, other.raw_line_scores, rtol=1e-4, atol=1e-3)


def test_segments_of_one_image_alone_change_nothing(net: GlueStickNet) -> None:
    first, second = graph(), graph(seed=1)
    none = torch.zeros(0, 2, dtype=torch.int64)
    bare = [dataclasses.replace(each, lines=none, line_scores=torch.zeros(0)) for each in (first, second)]
    one, neither = net(first, bare[1]), net(*bare)
    assert torch.equal(one.points.log_probability, neither.points.log_probability)
    assert one.lines.first.tolist() == [-1] * 8 and one.lines.second.shape == (0,)
    both = net(first, second)
    assert not torch.allclose(both.points.log_probability, neither.points.log_probability, atol=1e-2)


@pytest.mark.parametrize(("points", "lines"), [(0, 0), (0, 6), (6, 0)])
def test_an_empty_graph_leaves_all_alone(net: GlueStickNet, points: int, lines: int) -> None:
    empty, other = graph(0, 0), graph(points, lines)
    for found, flipped in ((net(empty, other), False), (net(other, empty), True)):
        alone = found.points.first if flipped else found.points.second
        assert alone.tolist() == [-1] * len(other.xy)
        assert (found.lines.first if flipped else found.lines.second).tolist() == [-1] * lines
        assert found.points.log_probability.exp().sum() == pytest.approx(len(other.xy) + 1)  # all the weight on staying alone


def test_segments_match_without_keypoints(net: GlueStickNet) -> None:
    found = net(graph(points=0), _noisy(graph(points=0)))
    assert (found.lines.first >= 0).sum() > 3


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.bfloat16, 0.01), (torch.float16, 0.002)])
def test_half_precision_stays_near(net: GlueStickNet, kind: "torch.dtype", tolerance: float) -> None:
    first, second = graph(), _noisy(graph())
    exact = net(first, second)
    with torch.autocast("cpu", kind):
        half = net(first, second)
    assert (half.raw_line_scores - exact.raw_line_scores).norm() < tolerance * exact.raw_line_scores.norm()
    assert half.raw_line_scores.dtype == half.lines.first_scores.dtype == torch.float32
    assert (exact.lines.first >= 0).sum() > 3 and torch.equal(half.lines.first, exact.lines.first)


# ---- the official file, and pictures


def test_the_official_file_runs_on_a_pair(matcher: GlueStick) -> None:
    image = boxes()
    found = matcher.match(image, np.roll(image, 8, 1))
    assert len(found.first) >= 8
    assert found.first.dtype == found.second.dtype == found.scores.dtype == np.float32
    assert found.first.shape == found.second.shape == (len(found.scores), 2, 2)
    assert (found.scores > 0.2).all() and (found.scores <= 1).all()
    # Even random weights know a picture again that was moved by one cell of SuperPoint.
    assert np.abs(found.second - found.first - [8, 0]).max() < 2
    again = matcher.match(image, np.roll(image, 8, 1))
    assert again.first.tobytes() == found.first.tobytes() and again.scores.tobytes() == found.scores.tobytes()


def test_swapping_images_swaps_the_matches(matcher: GlueStick) -> None:
    image, moved = boxes(), np.roll(boxes(), 8, 1)
    there, back = matcher.match(image, moved), matcher.match(moved, image)

    def pairs(one: np.ndarray, two: np.ndarray) -> set[tuple[float, ...]]:
        return {tuple(np.sort(np.concatenate([a, b], 1), axis=0).round(2).ravel().tolist()) for a, b in zip(one, two, strict=True)}

    assert len(there.first) >= 8
    assert pairs(there.first, there.second) == pairs(back.second, back.first)


def test_a_callers_segments_are_used_whichever_way_they_point(matcher: GlueStick) -> None:
    image, moved = boxes(), np.roll(boxes(), 8, 1)
    lines = detect(image, 12).lines
    lines = lines[(lines[:, :, 0] < 240).all(1)]  # what the roll does not tear
    plain = matcher.match(image, moved, (lines, lines + np.float32([8, 0])))
    turned = matcher.match(image, moved, (lines[:, ::-1], (lines + np.float32([8, 0]))[:, ::-1]))
    assert len(plain.first) >= 2
    for name in ("first", "second", "scores"):
        assert getattr(plain, name).tobytes() == getattr(turned, name).tobytes()


def test_a_lone_segment_comes_back_where_it_was_given(matcher: GlueStick) -> None:
    image = boxes()
    line = np.array([[[40.25, 50.5], [90.75, 60.0]]], np.float32)
    found = matcher.match(image, image, (line, line[:, ::-1]))
    assert len(found.first) == 1
    assert np.array_equal(found.first, line) and np.array_equal(found.second, line)


_GRAY = np.full((120, 160, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_GRAY, _GRAY),
        (boxes(), _GRAY),
        (_GRAY, boxes()),
        (np.zeros((4, 200, 3), np.uint8), boxes()),
        (np.zeros((0, 0, 3), np.uint8), boxes()),
    ],
)
def test_nothing_to_match_gives_empty_arrays(matcher: GlueStick, first: np.ndarray, second: np.ndarray) -> None:
    found = matcher.match(first, second)
    assert found.first.shape == found.second.shape == (0, 2, 2) and found.scores.shape == (0,)


def test_no_keypoints_at_all_still_match_segments(checkpoint: Path, superpoint: Path) -> None:
    bare = GlueStick(checkpoint, superpoint, max_lines=40, max_keypoints=0, device="cpu")
    found = bare.match(boxes(), boxes())
    assert np.array_equal(found.first, found.second) and len(found.first) > 0


@pytest.mark.parametrize(("precision", "sure"), [("fp16", 0.5), ("bf16", 0.9)])
def test_a_lower_precision_finds_what_is_clear(
    checkpoint: Path, superpoint: Path, matcher: GlueStick, precision: Precision, sure: float
) -> None:
    """With these weights bf16 moves a score by up to 0.4, fp16 by 0.1, as many threads as there may be; 0.2 is the threshold."""
    image = boxes()
    lower = GlueStick(checkpoint, superpoint, max_lines=40, max_keypoints=60, device="cpu", precision=precision)
    found, exact = lower.match(image, image), matcher.match(image, image)
    clear = exact.first[exact.scores > sure]  # weaker ones may fall to either side of the threshold
    assert len(clear) >= 6
    assert {line.tobytes() for line in clear} <= {line.tobytes() for line in found.first}
    assert found.scores.dtype == np.float32 and found.scores.tolist() != exact.scores.tolist()
    with pytest.raises(RecipeError, match="'fp8'"):
        GlueStick(checkpoint, superpoint, device="cpu", precision="fp8")  # type: ignore[arg-type]


def test_no_segments_given_are_no_matches(matcher: GlueStick) -> None:
    none = np.zeros((0, 2, 2), np.float32)
    some = np.array([[[40, 50], [90, 60]]], np.float32)
    for lines in ((none, some), (some, none), (none, none)):
        assert len(matcher.match(boxes(), boxes(), lines).scores) == 0
    with pytest.raises(ValueError, match="segments"):
        matcher.match(boxes(), boxes(), (np.zeros((3, 4), np.float32), some))


@pytest.mark.parametrize("prefix", ["matcher.", "module.matcher.", "matcher.module."])
def test_the_files_of_parallel_training_load_too(tmp_path: Path, prefix: str) -> None:
    net = _random_net()
    torch.save(official(net, prefix), tmp_path / "checkpoint.tar")
    loaded = load_gluestick(tmp_path / "checkpoint.tar").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())


def _without_model(file: dict[str, Any]) -> dict[str, Any]:
    return file["model"]


def _spoiled(file: dict[str, Any]) -> dict[str, Any]:
    del file["model"]["matcher.bin_score"], file["model"]["matcher.gnn.layers.3.update.attn.merge.bias"]
    file["model"]["matcher.gnn.layers.18.update.attn.merge.bias"] = torch.zeros(256)
    file["model"]["matcher.final_proj.bias"] = torch.zeros(128)
    return file


@pytest.mark.parametrize(
    ("spoil", "messages"),
    [
        (_without_model, ["'model'", "pipeline.weights fetch gluestick"]),
        (
            _spoiled,
            [
                "2 missing: bin_score, gnn.layers.3.update.attn.merge.bias",
                "1 unexpected: gnn.layers.18.update.attn.merge.bias",
                "1 of another shape: final_proj.bias [128] instead of [256]",
            ],
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, spoil: Callable[[dict[str, Any]], dict[str, Any]], messages: list[str]) -> None:
    torch.save(spoil(official(GlueStickNet())), tmp_path / "wrong.tar")
    with pytest.raises(WeightsError) as caught:
        load_gluestick(tmp_path / "wrong.tar")
    assert all(message in str(caught.value) for message in messages), caught.value


# ---- the authors' package


def _upstream_installed() -> bool:
    found = importlib.util.find_spec("gluestick")
    return found is not None and any((Path(each) / "models").is_dir() for each in found.submodule_search_locations or [])


def test_another_package_of_that_name_is_told_apart(
    checkpoint: Path, superpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gluestick").mkdir()
    (tmp_path / "gluestick" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.delitem(sys.modules, "gluestick", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match="ETL"):
        GlueStick(checkpoint, superpoint, device="cpu", upstream=True)


@pytest.mark.skipif(_upstream_installed(), reason="the authors' gluestick is installed")
def test_upstream_that_is_not_installed_is_refused(checkpoint: Path, superpoint: Path) -> None:
    with pytest.raises(RecipeError, match="cvg/GlueStick"):
        GlueStick(checkpoint, superpoint, device="cpu", upstream=True)


@pytest.mark.skipif(not _upstream_installed(), reason="the authors' gluestick is not installed")
def test_upstream_finds_the_same(matcher: GlueStick, checkpoint: Path, superpoint: Path) -> None:
    image, moved = boxes(), np.roll(boxes(), 8, 1)
    lines = (detect(image, 40).lines, detect(moved, 40).lines)
    theirs = GlueStick(checkpoint, superpoint, max_lines=40, max_keypoints=60, device="cpu", upstream=True)
    found, wanted = matcher.match(image, moved, lines), theirs.match(image, moved, lines)
    assert len(wanted.first) >= 4
    assert np.allclose(found.first, wanted.first, atol=1e-3) and np.allclose(found.second, wanted.second, atol=1e-3)
    assert np.allclose(found.scores, wanted.scores, atol=1e-3)
    assert len(theirs.match(image, moved).first) > 0  # with its own segments
    assert len(theirs.match(image, _GRAY).first) == 0
