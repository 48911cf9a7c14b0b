"""GlueStick's network against plain computations and its own symmetries; its names and shapes are the official ones."""

import dataclasses
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from stages.perception.gluestick_net import (  # noqa: E402
    HEADS,
    WIDTH,
    GlueStickNet,
    assign,
    line_inputs,
    line_similarity,
    log_double_softmax,
    node_inputs,
)
from tests.perception.gluestick_files import graph, noisy, telling_net  # noqa: E402

# Of the official checkpoint's network: "name shape", sorted, one a line.
_NAMES_SHA256 = "d95a9b2cb1241fa7d8cc237a67bf4916143e2545020c7169da54a0cae4b71545"


@pytest.fixture(scope="module")
def net() -> GlueStickNet:
    return telling_net()


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
    first, second = graph(), noisy(graph())
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
    first, second = graph(), noisy(graph(points=9, seed=0))
    there, back = net(first, second), net(second, first)
    for plain, swapped in ((there.points, back.points), (there.lines, back.lines)):
        assert (plain.first >= 0).sum() > 3
        assert torch.equal(plain.first, swapped.second) and torch.equal(plain.second, swapped.first)
        assert torch.allclose(plain.first_scores, swapped.second_scores, atol=1e-3)
        matched = (plain.first >= 0).nonzero()[:, 0]
        assert torch.equal(plain.second[plain.first[matched]], matched)


def test_the_order_of_ends_does_not_matter_to_the_network(net: GlueStickNet) -> None:
    first, second = graph(scores=0.5), noisy(graph(scores=0.5))
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
    found = net(graph(points=0), noisy(graph(points=0)))
    assert (found.lines.first >= 0).sum() > 3


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.bfloat16, 0.01), (torch.float16, 0.002)])
def test_half_precision_stays_near(net: GlueStickNet, kind: "torch.dtype", tolerance: float) -> None:
    first, second = graph(), noisy(graph())
    exact = net(first, second)
    with torch.autocast("cpu", kind):
        half = net(first, second)
    assert (half.raw_line_scores - exact.raw_line_scores).norm() < tolerance * exact.raw_line_scores.norm()
    assert half.raw_line_scores.dtype == half.lines.first_scores.dtype == torch.float32
    assert (exact.lines.first >= 0).sum() > 3 and torch.equal(half.lines.first, exact.lines.first)
