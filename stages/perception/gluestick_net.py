"""GlueStick's matcher: the points and line segments of two images, matched together by one graph network.

After Pautrat, Suárez et al., "GlueStick: Robust Image Matching by Sticking Points and Lines Together", ICCV 2023, and written from a
description of the released model: names and shapes of its 453 tensors are those of the official checkpoint. Imported lazily: it needs
torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 256  # channels of a node
HEADS = 4
ROUNDS = 9  # of a self layer, a line layer and a cross layer
THRESHOLD = 0.2  # a match is at least this probable
_ENCODER = (32, 64, 128, WIDTH, WIDTH)


@dataclass(frozen=True, eq=False)
class Graph:
    """One image's nodes, the junctions of its line segments first, and the segments as pairs of them."""

    xy: Tensor  # [N,2] float32, pixels; the centre of the first pixel is (0, 0)
    scores: Tensor  # [N] float32, 0 to 1
    descriptors: Tensor  # [N,256] float32, of length 1
    lines: Tensor  # [L,2] int64: the nodes at a segment's ends
    line_scores: Tensor  # [L] float32, 0 to 1
    size: tuple[int, int]  # the image's width and height


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which of M things here and of N there belong together, one to one; -1 and score 0 for those that stay alone."""

    first: Tensor  # [M] int64: the other's index, or -1
    second: Tensor  # [N] int64
    first_scores: Tensor  # [M] float32, 0 to 1
    second_scores: Tensor  # [N] float32
    log_probability: Tensor  # [M+1,N+1]; last column and row: of staying alone


@dataclass(frozen=True, eq=False)
class Matching:
    """Of two graphs: nodes, and segments, whose raw similarity [L,L'] is what their assignment starts from."""

    points: Assignment
    lines: Assignment
    raw_line_scores: Tensor


class GlueStickNet(nn.Module):
    """forward(first, second) -> Matching. 16,934,210 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.bin_score = nn.Parameter(torch.tensor(1.0))
        self.line_bin_score = nn.Parameter(torch.tensor(1.0))
        self.kenc = _Encoder(3)
        self.lenc = _Encoder(5)
        self.gnn = _Gnn()
        self.final_proj = nn.Conv1d(WIDTH, WIDTH, 1)
        self.final_line_proj = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, first: Graph, second: Graph) -> Matching:
        """No nodes or no segments in either graph leave all of that kind unmatched."""
        graphs = (first, second)
        if not (len(first.xy) and len(second.xy)):
            points, lines = (first.xy.new_zeros(len(getattr(first, name)), len(getattr(second, name))) for name in ("xy", "lines"))
            return Matching(assign(points, self.bin_score), assign(lines, self.line_bin_score), lines)
        nodes = [each.descriptors.T[None] + self.kenc(node_inputs(each)) for each in graphs]
        wired = bool(len(first.lines) and len(second.lines))
        ends = [_Ends(each, self.lenc(line_inputs(each))) for each in graphs] if wired else []
        nodes = self.gnn(nodes, ends)
        points = similarity(*(self.final_proj(each)[0] for each in nodes))
        # Segments compare the descriptors of their ends, either way round.
        whole = similarity(*(self.final_line_proj(each)[0] for each in nodes))
        lines = line_similarity(whole, first.lines, second.lines)
        return Matching(assign(points, self.bin_score), assign(lines, self.line_bin_score), lines)


def normalized(graph: Graph) -> Tensor:
    """[N,2]: positions relative to the middle, in units of 0.7 of the longer side."""
    size = graph.xy.new_tensor(graph.size)
    return (graph.xy - size / 2) / (0.7 * size.max())


def node_inputs(graph: Graph) -> Tensor:
    """[1,3,N]: x, y, score."""
    return torch.cat([normalized(graph), graph.scores[:, None]], 1).T[None]


def line_inputs(graph: Graph) -> Tensor:
    """[1,5,2L], both ends of the first segment, then of the second and so on: x, y, the way to the other end, a score.

    The k-th end gets the score of segment k modulo L, which is mostly another segment's. The released weights were trained that way.
    """
    ends = normalized(graph)[graph.lines]
    way = ends.flip(1) - ends
    scores = graph.line_scores.repeat(2)[:, None]
    return torch.cat([ends.flatten(0, 1), way.flatten(0, 1), scores], 1).T[None]


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """[M,N] of descriptors [256,M] and [256,N]. In float32, whatever is around it."""
    with torch.autocast(first.device.type, enabled=False):
        return first.float().T @ second.float() / WIDTH**0.5


def line_similarity(nodes: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """[L,L']: the mean similarity of the ends of segments [L,2] and [L',2], the better way round; nodes [N,N'] has that of nodes."""
    ends = nodes[first[:, :, None, None], second]  # [L, 2, L', 2]
    along = ends[:, 0, :, 0] + ends[:, 1, :, 1]
    across = ends[:, 0, :, 1] + ends[:, 1, :, 0]
    return 0.5 * torch.maximum(along, across)


def log_double_softmax(scores: Tensor, alone: Tensor) -> Tensor:
    """[M+1,N+1] of similarities [M,N]: the mean of the log softmax over rows and over columns, each with `alone` as one choice more.

    The last column and row are the log probability of that choice; the corner, which nothing reads, is 0.
    """
    m, n = scores.shape
    by_row = torch.cat([scores, alone.expand(m, 1)], 1).log_softmax(1)
    by_column = torch.cat([scores, alone.expand(1, n)], 0).log_softmax(0)
    inner = (by_row[:, :n] + by_column[:m]) / 2
    top = torch.cat([inner, by_row[:, n:]], 1)
    return torch.cat([top, functional.pad(by_column[m:], (0, 1))], 0)


def assign(scores: Tensor, alone: Tensor) -> Assignment:
    """Those of M and N that choose each other, where that is more probable than THRESHOLD."""
    m, n = scores.shape
    log_probability = log_double_softmax(scores, alone.to(scores.dtype))
    first, second = (torch.full((count,), -1, device=scores.device) for count in (m, n))
    first_scores, second_scores = scores.new_zeros(m), scores.new_zeros(n)
    if m and n:
        inner = log_probability[:m, :n]
        choice, back = inner.argmax(1), inner.argmax(0)
        here = torch.arange(m, device=scores.device)
        probability = inner[here, choice].exp()
        taken = here[(back[choice] == here) & (probability > THRESHOLD)]
        first[taken], second[choice[taken]] = choice[taken], taken
        first_scores[taken], second_scores[choice[taken]] = probability[taken], probability[taken]
    return Assignment(first, second, first_scores, second_scores, log_probability)


def _mlp(*channels: int) -> nn.Sequential:
    """1x1 convolutions, with batch normalisation and ReLU between them."""
    layers: list[nn.Module] = []
    for i in range(1, len(channels)):
        layers.append(nn.Conv1d(channels[i - 1], channels[i], 1))
        if i < len(channels) - 1:
            layers += [nn.BatchNorm1d(channels[i]), nn.ReLU()]
    return nn.Sequential(*layers)


class _Encoder(nn.Module):
    """Positions and scores [1,inputs,N] to what is added to descriptors [1,256,N]."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.encoder = _mlp(inputs, *_ENCODER)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.encoder(inputs)


class _Attention(nn.Module):
    """Multi-head attention of nodes [1,256,N] over a source [1,256,M]. In float32, whatever is around it."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.ModuleList([nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(3)])
        self.merge = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, nodes: Tensor, source: Tensor) -> Tensor:
        query, key, value = (self._heads(proj(x)) for proj, x in zip(self.proj, (nodes, source, source), strict=True))
        with torch.autocast(nodes.device.type, enabled=False):
            message = functional.scaled_dot_product_attention(query, key, value)  # [1, heads, N, 64]
        return self.merge(message.permute(0, 3, 1, 2).flatten(1, 2))

    @staticmethod
    def _heads(channels: Tensor) -> Tensor:
        """[1,heads,N,64]: the head is what varies fastest along the channels."""
        return channels.float().unflatten(1, (WIDTH // HEADS, HEADS)).permute(0, 2, 3, 1)


class _Update(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = _Attention()
        self.mlp = _mlp(2 * WIDTH, 2 * WIDTH, WIDTH)

    def forward(self, nodes: Tensor, source: Tensor) -> Tensor:
        return self.mlp(torch.cat([nodes, self.attn(nodes, source).to(nodes.dtype)], 1))


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.update = _Update()

    def forward(self, nodes: Tensor, source: Tensor) -> Tensor:
        return nodes + self.update(nodes, source)


class _Ends:
    """The ends of a graph's segments: their nodes [2L], encodings [1,256,2L], and the matrix [2L,J] that averages over each junction.

    A matrix product, where a scatter would add up in another order every time on a GPU.
    """

    def __init__(self, graph: Graph, encoding: Tensor) -> None:
        self.nodes = graph.lines.flatten()
        self.encoding = encoding
        arrivals = functional.one_hot(self.nodes).to(encoding.dtype)
        self.mean = arrivals / arrivals.sum(0).clamp(min=1)


class _LineLayer(nn.Module):
    """Sends what a segment's end, its other end and its encoding make to the junction at that end."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = _mlp(3 * WIDTH, 2 * WIDTH, WIDTH)

    def forward(self, nodes: Tensor, ends: _Ends) -> Tensor:
        own = nodes[:, :, ends.nodes]
        other = own.unflatten(2, (-1, 2)).flip(3).flatten(2)
        message = self.mlp(torch.cat([own, other, ends.encoding.to(own.dtype)], 1)) @ ends.mean.to(own.dtype)
        return nodes + functional.pad(message, (0, nodes.shape[2] - message.shape[2]))


class _Gnn(nn.Module):
    """Layers in pairs, self and cross; after each self layer the segments have their say, where both images have some."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer() for _ in range(2 * ROUNDS)])
        self.line_layers = nn.ModuleList([_LineLayer() for _ in range(ROUNDS)])

    def forward(self, nodes: Sequence[Tensor], ends: Sequence[_Ends]) -> list[Tensor]:
        first, second = nodes
        for i, layer in enumerate(self.layers):
            cross = i % 2 == 1
            first, second = layer(first, second if cross else first), layer(second, first if cross else second)
            if ends and not cross:
                line_layer = self.line_layers[i // 2]
                first, second = line_layer(first, ends[0]), line_layer(second, ends[1])
        return [first, second]
