"""View attention for Wan blocks, as in the SynCamMaster Wan2.1 release: after self-attention, before cross-attention.

Added to every block: `cam_encoder` and `projector` (zero), `norm_mvs` (no parameters), `modulation_mvs` (the first three rows of
the block's own) and `mvs_attn` (a copy of the block's self-attention).
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.bases.base import Base
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.context import ViewContext, zero_linear


class WanViewAttention(nn.Module):
    """The added modules of one block; an exact no-op until the projector learns."""

    def __init__(self, block: Any, config: ViewConfig) -> None:
        super().__init__()
        like = block.attn1.to_q.weight
        dim = like.shape[1]
        self.cam_encoder = zero_linear(config.camera_dim, dim, like)
        self.projector = zero_linear(dim, dim, like)
        self.norm_mvs = deepcopy(block.norm1)
        self.modulation_mvs = nn.Parameter(block.scale_shift_table.detach()[:, :3].clone(memory_format=torch.contiguous_format))
        self.mvs_attn = deepcopy(block.attn1)
        self.requires_grad_(True)

    def forward(self, x: Tensor, temb: Tensor, context: ViewContext) -> Tensor:
        """x [B*V,f*h*w,d] plus what the same frame of all views says; temb is the block's own time modulation."""
        shift, scale, gate = _modulation(self.modulation_mvs, temb)
        normed = (self.norm_mvs(x.float()) * (1 + scale) + shift).type_as(x)
        frames, cells = context.grid[0], context.grid[1] * context.grid[2]
        tokens = normed.unflatten(1, (frames, cells)).unflatten(0, (-1, context.views))  # [B,V,f,h*w,d]
        cameras = self.cam_encoder(context.cameras.to(self.cam_encoder.weight.dtype))
        tokens = (tokens + (cameras.unsqueeze(3) if cameras.ndim == 4 else cameras)).type_as(x)
        together = tokens.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [B*f,V*h*w,d]
        said = self.projector(self.mvs_attn(together, None, None, context.rotary))
        said = said.unflatten(1, (context.views, cells)).unflatten(0, (-1, frames)).transpose(1, 2)
        return (x.float() + said.flatten(2, 3).flatten(0, 1) * gate).type_as(x)


class WanViewBlock(nn.Module):
    """A WanTransformerBlock with view attention inside; with no context it is the block."""

    def __init__(self, block: nn.Module, config: ViewConfig) -> None:
        super().__init__()
        self.block = block
        self.view = WanViewAttention(block, config)
        self.context: ViewContext | None = None

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any) -> Tensor:
        """The block's own forward (diffusers 0.42) through the block's own modules, in its order and precision, with the view
        step between; a test compares the two exactly."""
        if self.context is None:
            return self.block(hidden_states, encoder_hidden_states, temb, rotary_emb)
        block: Any = self.block
        x = hidden_states
        shift, scale, gate, ff_shift, ff_scale, ff_gate = _modulation(block.scale_shift_table, temb)

        normed = (block.norm1(x.float()) * (1 + scale) + shift).type_as(x)
        x = (x.float() + block.attn1(normed, None, None, rotary_emb) * gate).type_as(x)

        x = self.view(x, temb, self.context)

        normed = block.norm2(x.float()).type_as(x)
        x = x + block.attn2(normed, encoder_hidden_states, None, None)

        normed = (block.norm3(x.float()) * (1 + ff_scale) + ff_shift).type_as(x)
        return (x.float() + block.ffn(normed).float() * ff_gate).type_as(x)


def make_block(base: Base, index: int, block: nn.Module, config: ViewConfig) -> WanViewBlock:
    return WanViewBlock(block, config)


def view_rotary(base: Base, views: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [1,V*h*w,1,head_dim], of V views of height x width tokens: the base's table, view in the frame's place."""
    t, h, w = base.spec.patch
    transformer: Any = base.transformer
    cos, sin = transformer.rope(torch.empty(1, 1, views * t, height * h, width * w, device="meta"))
    return cos, sin


def _modulation(table: Tensor, temb: Tensor) -> tuple[Tensor, ...]:
    """The table's k rows [1,k,d] plus the first k of the time modulation [N,6,d] (or per token [N,L,6,d]), as k times [N,1|L,d]."""
    k = table.shape[1]
    if temb.ndim == 4:
        return (table.unsqueeze(0) + temb[:, :, :k].float()).unbind(2)
    return (table + temb[:, :k].float()).chunk(k, dim=1)
