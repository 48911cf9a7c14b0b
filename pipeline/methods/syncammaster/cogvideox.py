"""View attention for CogVideoX blocks, as in the SynCamMaster CogVideoX release: at the very start of the block.

Added to every block: `cam_encoder` and `projector` (zero), `norm_syncam` and `attn_syncam` (copies of the block's `norm1` and
`attn1`). Frame k of all views attends jointly, together with the text, whose own output is discarded.

The release repeats the text once per view and per frame and computes queries and outputs for it that nobody reads. Here the
text's keys and values are computed once, the text asks nothing, and the attention's output layer and the projector, with nothing
between them, are one matrix. The result is the same (up to rounding; with `text_per_view` the release's own).
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.bases.base import Base
from pipeline.bases.cogvideox import CogVideoX
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.context import ViewContext, zero_linear

Rotary = tuple[Tensor, Tensor]


class CogVideoXViewAttention(nn.Module):
    """The added modules of one block; an exact no-op until the projector learns.

    text_per_view False (ours): the text stream of view 0, once. The text streams of the views start equal and drift apart in the
    base's own attention; one has to be chosen.
    """

    def __init__(self, block: Any, config: ViewConfig) -> None:
        super().__init__()
        like = block.norm1.linear.weight
        dim = block.norm1.norm.normalized_shape[0]
        self.text_per_view = config.text_per_view
        self.norm_syncam = deepcopy(block.norm1)
        self.attn_syncam = deepcopy(block.attn1)
        self.cam_encoder = zero_linear(config.camera_dim, dim, like)
        self.projector = zero_linear(dim, dim, like)
        self.requires_grad_(True)

    def forward(self, hidden: Tensor, text: Tensor, temb: Tensor, context: ViewContext) -> Tensor:
        """hidden [B*V,f*h*w,d] plus what the same frame of all views says. text [B*V,n,d], temb [B*V,time_embed_dim]."""
        views, (f, h, w) = context.views, context.grid
        x, told, gate = self._normed(hidden, text, temb, context)
        query, key, value = self._attended(x, told, context.rotary)  # [B*f,tokens,heads,head_dim]
        said = functional.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        said = self._projected(said.transpose(1, 2).flatten(2))
        said = said.unflatten(1, (views, h * w)).unflatten(0, (-1, f)).transpose(1, 2)  # [B,V,f,h*w,d], a view
        streams = hidden.unflatten(1, (f, h * w)).unflatten(0, (-1, views))
        return (streams + gate.unflatten(0, (-1, views))[:, :, None, None] * said).to(hidden.dtype).reshape(hidden.shape)

    def _normed(self, hidden: Tensor, text: Tensor, temb: Tensor, context: ViewContext) -> tuple[Tensor, Tensor, Tensor]:
        """Video tokens [B*f,V*h*w,d] with their cameras, text tokens [B,n or V*n,d], and the gate [B*V,d]."""
        views, (f, h, w) = context.views, context.grid
        norm = self.norm_syncam.norm
        rows = self.norm_syncam.linear(self.norm_syncam.silu(temb))
        shift, scale, gate, text_shift, text_scale, _ = rows.chunk(6, dim=1)
        # Normalised in the order of the attention, so that the layer's own pass over the tokens is the only reordering.
        tokens = norm(hidden.unflatten(1, (f, h * w)).unflatten(0, (-1, views)).transpose(1, 2))  # [B,f,V,h*w,d]
        cameras = self.cam_encoder(context.cameras.to(self.cam_encoder.weight.dtype)).transpose(1, 2)  # [B,f,V,d] or [B,f,V,h*w,d]
        if cameras.ndim == 4:
            cameras = cameras.unsqueeze(3)
        shift, scale = (each.unflatten(0, (-1, 1, views)).unsqueeze(3) for each in (shift, 1 + scale))  # [B,1,V,1,d]
        tokens = (tokens * scale + (shift + cameras)).to(hidden.dtype)
        if not self.text_per_view:
            text, text_shift, text_scale = text[::views], text_shift[::views], text_scale[::views]
        told = (norm(text) * (1 + text_scale)[:, None] + text_shift[:, None]).to(hidden.dtype)
        if self.text_per_view:
            told = told.unflatten(0, (-1, views)).flatten(1, 2)
        return tokens.flatten(2, 3).flatten(0, 1), told, gate

    def _attended(self, x: Tensor, told: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the video tokens; keys and values of the text, then of the video tokens."""
        attention = self.attn_syncam
        heads, frames = attention.heads, len(x) // len(told)
        query, key, value, text_key, text_value = (
            layer(source).unflatten(2, (heads, -1))
            for layer, source in (
                (attention.to_q, x),
                (attention.to_k, x),
                (attention.to_v, x),
                (attention.to_k, told),
                (attention.to_v, told),
            )
        )
        if attention.norm_q is not None:
            query, key, text_key = attention.norm_q(query), attention.norm_k(key), attention.norm_k(text_key)
        if rotary is not None:
            query, key = _rotated(query, rotary), _rotated(key, rotary)
        key = torch.cat([text_key.repeat_interleave(frames, 0).to(key.dtype), key], dim=1)
        value = torch.cat([text_value.repeat_interleave(frames, 0), value], dim=1)
        return query.to(value.dtype), key.to(value.dtype), value

    def _projected(self, said: Tensor) -> Tensor:
        """projector(to_out(said)) as one matrix: a product of d x d matrices costs less than a pass over the tokens."""
        out: Any = self.attn_syncam.to_out[0]
        bias = self.projector.bias if out.bias is None else functional.linear(out.bias, self.projector.weight, self.projector.bias)
        return functional.linear(said, self.projector.weight @ out.weight, bias)


class CogVideoXViewBlock(nn.Module):
    """A CogVideoXBlock with view attention before it; with no context it is the block."""

    def __init__(self, block: nn.Module, config: ViewConfig) -> None:
        super().__init__()
        self.block = block
        self.view = CogVideoXViewAttention(block, config)
        self.context: ViewContext | None = None

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: Rotary | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        if self.context is not None:
            hidden_states = self.view(hidden_states, encoder_hidden_states, temb, self.context)
        return self.block(hidden_states, encoder_hidden_states, temb, image_rotary_emb, attention_kwargs)


def make_block(base: Base, index: int, block: nn.Module, config: ViewConfig) -> CogVideoXViewBlock:
    return CogVideoXViewBlock(block, config)


def view_rotary(base: Base, views: int, height: int, width: int) -> Rotary | None:
    """(cos, sin), each [V*h*w,head_dim], with the view in the frame's place; None for bases without rotary positions (2b).

    The release declares such positions and never passes them, which leaves its 5b without any in view attention; these are ours.
    """
    assert isinstance(base, CogVideoX)
    return base.positions((views, height, width), base.device)


def _rotated(x: Tensor, rotary: Rotary) -> Tensor:
    """x [N,tokens,heads,head_dim] turned by its positions."""
    from diffusers.models.embeddings import apply_rotary_emb

    positions: Any = rotary
    turned: Any = apply_rotary_emb(x, positions, sequence_dim=1)
    return turned
