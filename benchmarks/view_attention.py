"""python -m benchmarks.view_attention: the added modules at the true block sizes, ours beside the published arrangement.

For CogVideoX-2b and Wan2.1-1.3B, with 2 and 4 views, in bfloat16, forward and backward: the time of the added module in turns
with the released arrangement of the same weights; the whole block's training step against the least time its operations need
at the matrix peak measured on this device; memory; and both for the whole model, from the block. Random weights and inputs.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.table import print_table
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.context import ViewContext

AIM = {"cogvideox-2b": 1.15}
# Bytes a trained parameter: float32 master, gradient and two moments of Adam; a frozen one is bfloat16.
TRAINED_BYTES, FROZEN_BYTES = 16, 2


@dataclass(frozen=True)
class Size:
    """One base at its release's picture size: `grid` is tokens (f, h, w) of one view."""

    name: str
    grid: tuple[int, int, int]
    heads: int
    head_dim: int
    ff_dim: int
    layers: int
    text_tokens: int
    frozen: int  # parameters of the whole transformer

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def tokens(self) -> int:
        f, h, w = self.grid
        return f * h * w


SIZES = (
    Size("cogvideox-2b", (13, 30, 45), 30, 64, 7680, 30, 226, 1_693_783_872),  # 49 frames of 480x720
    Size("wan2.1-1.3b", (21, 30, 52), 12, 128, 8960, 30, 512, 1_418_996_800),  # 81 frames of 480x832
)
TIME_DIM = 512


class CogVideoXCase:
    """A CogVideoX block with its inputs."""

    def __init__(self, size: Size, views: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> None:
        from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock

        from pipeline.methods.syncammaster.cogvideox import CogVideoXViewBlock

        self.size, self.views, f = size, views, size.grid[0]
        block = CogVideoXBlock(size.dim, size.heads, size.head_dim, TIME_DIM, attention_bias=True, ff_inner_dim=size.ff_dim)
        self.wrapped = ready(CogVideoXViewBlock(block.requires_grad_(False), ViewConfig()), device, dtype)
        self.hidden = drawn((views, size.tokens, size.dim), device, dtype).requires_grad_()
        # The first block's text needs no gradient, all others' does: what the added modules of one block said changes the next text.
        self.text = drawn((1, size.text_tokens, size.dim), device, dtype).repeat(views, 1, 1).requires_grad_()
        self.temb = drawn((1, TIME_DIM), device, dtype).repeat(views, 1)
        self.context = ViewContext(views, size.grid, drawn((1, views, f, 12), device, dtype))

    def inputs(self) -> list[Tensor]:
        return [self.hidden, self.text]

    def ours(self) -> list[Tensor]:
        return [self.wrapped.view(self.hidden, self.text, self.temb, self.context)]

    def published(self) -> list[Tensor]:
        """The release: every view's text, repeated for every frame, asks and is answered, and the answer is thrown away."""
        view, views, (f, h, w) = self.wrapped.view, self.views, self.size.grid
        x, text, gate, _ = view.norm_syncam(self.hidden, self.text, self.temb)
        x = x + view.cam_encoder(self.context.cameras[0]).repeat_interleave(h * w, 1)
        x = x.unflatten(1, (f, h * w)).transpose(0, 1).reshape(f, views * h * w, -1)
        text = text.flatten(0, 1).repeat(f, 1, 1)
        said, _ = view.attn_syncam(hidden_states=x, encoder_hidden_states=text)
        said = view.projector(said).unflatten(1, (views, h * w)).transpose(0, 1).reshape(self.hidden.shape)
        return [self.hidden + gate * said]

    def block(self) -> list[Tensor]:
        self.wrapped.context = self.context
        return list(self.wrapped(self.hidden, self.text, self.temb))


class WanCase:
    """A Wan block with its inputs. The text of Wan's blocks is the same for all and needs no gradient."""

    def __init__(self, size: Size, views: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> None:
        from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock

        from pipeline.methods.syncammaster.wan import WanViewBlock

        self.size, self.views, (f, h, w) = size, views, size.grid
        block = WanTransformerBlock(size.dim, size.ff_dim, size.heads, "rms_norm_across_heads", cross_attn_norm=True)
        self.wrapped = ready(WanViewBlock(block.requires_grad_(False), ViewConfig()), device, dtype)
        rope = WanRotaryPosEmbed(size.head_dim, (1, 2, 2), 1024).to(device)
        self.rotary, among = (rope(torch.empty(1, 1, n, 2 * h, 2 * w, device=device)) for n in (f, views))
        self.hidden = drawn((views, size.tokens, size.dim), device, dtype).requires_grad_()
        self.text = drawn((1, size.text_tokens, size.dim), device, dtype).repeat(views, 1, 1)
        self.temb = drawn((1, 6, size.dim), device, dtype).repeat(views, 1, 1)
        self.context = ViewContext(views, size.grid, drawn((1, views, f, 12), device, dtype), among)
        cos, sin = among
        self.turn = torch.complex(cos[0, :, :, 0::2].double(), sin[0, :, :, 1::2].double())  # [V*h*w,1,head_dim/2]

    def inputs(self) -> list[Tensor]:
        return [self.hidden]

    def ours(self) -> list[Tensor]:
        return [self.wrapped.view(self.hidden, self.temb, self.context)]

    def published(self) -> list[Tensor]:
        """The release: modulation in the model's precision, rotary positions as double-precision complex numbers."""
        view, views, (f, h, w) = self.wrapped.view, self.views, self.size.grid
        attention = view.mvs_attn
        shift, scale, gate = (view.modulation_mvs.to(self.temb.dtype) + self.temb[:, :3]).chunk(3, dim=1)
        x = functional.layer_norm(self.hidden, (self.size.dim,), eps=view.norm_mvs.eps) * (1 + scale) + shift
        x = x + view.cam_encoder(self.context.cameras[0]).repeat_interleave(h * w, 1)
        x = x.unflatten(1, (f, h * w)).transpose(0, 1).reshape(f, views * h * w, -1)
        q, k = attention.norm_q(attention.to_q(x)), attention.norm_k(attention.to_k(x))
        q, k, v = (each.unflatten(2, (self.size.heads, -1)) for each in (self.turned(q), self.turned(k), attention.to_v(x)))
        said = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        said = view.projector(attention.to_out[0](said.transpose(1, 2).flatten(2)))
        return [self.hidden + gate * said.unflatten(1, (views, h * w)).transpose(0, 1).reshape(self.hidden.shape)]

    def turned(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.double().unflatten(2, (self.size.heads, -1, 2)))
        return torch.view_as_real(pairs * self.turn).flatten(2).to(x.dtype)

    def block(self) -> list[Tensor]:
        self.wrapped.context = self.context
        return [self.wrapped(self.hidden, self.text, self.temb, self.rotary)]


Case = CogVideoXCase | WanCase


def ready(module: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """The block with a projector that says something: products with zeros could be special."""
    view: Any = module.view
    for layer in (view.projector, view.cam_encoder):
        nn.init.normal_(layer.weight, std=0.02)
    return module.to(device, dtype)


def drawn(shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(tuple(shape), device=device, dtype=dtype)


def step(case: Case, forward: Callable[[], list[Tensor]]) -> Callable[[], None]:
    """Forward and backward to the inputs and to everything that trains, as inside of a training step."""
    wanted = [*case.inputs(), *(p for p in case.wrapped.parameters() if p.requires_grad)]

    def run() -> None:
        said = forward()
        torch.autograd.backward(said, [torch.ones_like(each) for each in said])
        for each in wanted:
            each.grad = None

    return run


def milliseconds(runs: Sequence[Callable[[], None]], repeats: int, device: torch.device) -> list[float]:
    """The median time of each, all in turns, so that whatever disturbs the device disturbs them alike."""
    for run in runs:
        for _ in range(3):
            run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, spent in zip(runs, times, strict=True):
            spent.append(_timed(run, device))
    return [statistics.median(spent) for spent in times]


def _timed(run: Callable[[], None], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def peak_flops(device: torch.device, side: int, repeats: int) -> float:
    """Operations a second of the fastest bfloat16 matrix product measured here."""
    a, b = drawn((side, side), device), drawn((side, side), device)

    def run() -> None:
        torch.matmul(a, b)

    return 2 * side**3 / (milliseconds([run], repeats, device)[0] / 1000)


def operations(run: Callable[[], None]) -> float:
    """Multiply-adds x 2 of matrix products and attention (with what its backward computes anew) in one run."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def memory(run: Callable[[], None], device: torch.device) -> float:
    """GiB that a run needs at most, beyond what was there before; 0 off CUDA."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before) / 2**30


def difference(size: Size, views: int, device: torch.device) -> float:
    """The largest difference between what the two arrangements add, over the largest that is added: toy sizes, float32.

    One copy of the text or V differ in its weight, so for this the text is repeated in both.
    """
    case = make(tiny(size), views, device, torch.float32)
    if isinstance(case, CogVideoXCase):
        case.wrapped.view.text_per_view = True
    with torch.no_grad():
        one, other = (forward()[0] - case.hidden for forward in (case.ours, case.published))
    return float((one - other).abs().max() / other.abs().max())


def make(size: Size, views: int, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Case:
    return (CogVideoXCase if size.name.startswith("cogvideox") else WanCase)(size, views, device, dtype)


def measure(size: Size, views: int, options: argparse.Namespace, peak: float) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Rows of the table of ratios, and the lines on the block and the whole model."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    apart = difference(size, views, device)
    if apart > 1e-3:
        raise SystemExit(f"{size.name}, {views} views: the arrangements differ by {apart:.2g} of what they add; nothing was measured")
    case = make(size, views, device)
    compiled: Callable[[Any], Any] = torch.compile if options.compile else (lambda forward: forward)
    ours, published, block = (step(case, compiled(forward)) for forward in (case.ours, case.published, case.block))
    mine, theirs, whole = milliseconds([ours, published, block], options.repeats, device)
    bound = 1000 * operations(step(case, case.block)) / peak
    module_bound = [1000 * operations(step(case, forward)) / peak for forward in (case.ours, case.published)]
    least = AIM.get(size.name, 0.0)
    what = f"{size.name}, {views} views: added module"
    row = (what, f"{mine:.2f} ms", "published arrangement", f"{theirs:.2f} ms", theirs / mine, least)
    gib = [memory(run, device) for run in (ours, published, block)]
    if options.profile:
        _profile(ours, device)

    trained = sum(p.numel() for p in case.wrapped.view.parameters()) * size.layers
    weights = (TRAINED_BYTES * trained + FROZEN_BYTES * size.frozen) / 2**30
    kept = case.hidden.numel() * 2 * size.layers / 2**30  # one input a block under gradient checkpointing
    forward_ms = milliseconds([_forward_only(case)], max(3, options.repeats // 2), device)[0]
    lines = [
        f"{size.name}, {views} views, {size.tokens} tokens a view; in float32 the arrangements agree to {apart:.1g} of what they add",
        f"  added module: {mine:.2f} ms, least by operations {module_bound[0]:.2f} ms ({100 * module_bound[0] / mine:.0f} %), "
        f"published {theirs:.2f} ms, its least {module_bound[1]:.2f} ms; memory {gib[0]:.2f} and {gib[1]:.2f} GiB",
        f"  block, training step: {whole:.2f} ms, least by operations {bound:.2f} ms ({100 * bound / whole:.0f} % of the measured peak), "
        f"{gib[2]:.2f} GiB",
        f"  {size.layers} blocks, from the block: {size.layers * whole / 1000:.2f} s a sample, with gradient checkpointing "
        f"{size.layers * (whole + forward_ms) / 1000:.2f} s; memory: weights and Adam {weights:.1f} GiB, activations "
        f"{size.layers * gib[2]:.1f} GiB, with checkpointing {kept + gib[2]:.1f} GiB",
    ]
    return [row], lines


def _forward_only(case: Case) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            case.block()

    return run


def _profile(run: Callable[[], None], device: torch.device) -> None:
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as found:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(found.key_averages().table(sort_by=key, row_limit=20, max_name_column_width=70))


def tiny(size: Size) -> Size:
    """The same block at a size that a CPU runs in a moment: for trying the benchmark, not for its numbers."""
    return replace(deepcopy(size), grid=(2, 3, 4), heads=2, head_dim=32, ff_dim=64, text_tokens=6)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.view_attention", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to try the benchmark itself")
    parser.add_argument("--views", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--base", choices=[size.name for size in SIZES], nargs="+", default=[size.name for size in SIZES])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="torch.compile both arrangements and the block")
    parser.add_argument("--profile", action="store_true", help="print where the added module's time goes")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; to try the benchmark without one: --device cpu --tiny", file=sys.stderr)
        return 2
    if options.device == "cpu" and not options.tiny:
        print("the true sizes take hours on a CPU; add --tiny, or use a CUDA device", file=sys.stderr)
        return 2
    device = torch.device(options.device)
    peak = peak_flops(device, 256 if options.tiny else 8192, options.repeats)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, bfloat16, {peak / 1e12:.4g} TFLOP/s in matrix products\n")
    rows, lines = [], []
    for size in (each for each in SIZES if each.name in options.base):
        for views in options.views:
            found, said = measure(tiny(size) if options.tiny else size, views, options, peak)
            rows += found
            lines += said
    print_table(rows)
    print("\n" + "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
