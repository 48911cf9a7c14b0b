"""A Wan base of the true classes, small enough to build for every test."""

from collections.abc import Callable

import pytest
import torch
from diffusers import WanTransformer3DModel

from pipeline.bases.wan import WanBase

SMALL_WAN = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 12,
    "freq_dim": 16,
    "ffn_dim": 40,
    "num_layers": 2,
    "rope_max_seq_len": 64,
}


@pytest.fixture
def small_wan() -> Callable[..., WanBase]:
    def make(seed: int = 0, **changes: object) -> WanBase:
        torch.manual_seed(seed)
        transformer = WanTransformer3DModel(**{**SMALL_WAN, **changes})
        for name, parameter in transformer.named_parameters():  # norms start at 1 and 0: make every one of them count
            if "norm" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
        return WanBase("small-wan", transformer.eval())

    return make
