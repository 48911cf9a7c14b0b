"""Latents of training and of generation: as exact as the codec, whatever the transformer computes in."""

from collections.abc import Callable

import torch
from diffusers import AutoencoderKLWan

from pipeline.bases.wan import WanBase
from pipeline.loader.batch import Batch
from pipeline.methods.conditions import clean_latents
from pipeline.methods.syncammaster.generate import generate


def coded(make: Callable[..., WanBase], dtype: torch.dtype) -> WanBase:
    base = make()
    torch.manual_seed(1)
    shape = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    base.vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **shape).eval()
    base.transformer.to(dtype)
    base.embed = lambda texts: torch.zeros(len(texts), 512, 12, dtype=dtype)  # no tokenizer at hand
    return base


def test_a_float32_codec_is_given_and_gives_float32(small_wan: Callable[..., WanBase]) -> None:
    video = torch.randint(256, (1, 2, 3, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = Batch(0, "multiview_images", [0], ["a"], [["v0", "v1"]], [""], [True], None, None, (16, 16), video=video)
    exact, ours = (clean_latents(coded(small_wan, dtype), batch, torch.device("cpu")) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(ours, exact)


def test_under_autocast_the_codec_decodes_in_float32(small_wan: Callable[..., WanBase]) -> None:
    base = coded(small_wan, torch.bfloat16)

    def still(z: torch.Tensor, t: torch.Tensor, text: torch.Tensor, cameras: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(z)

    wanted = {"texts": ["a"], "cameras": torch.zeros(1, 1, 1, 12), "frames": 1, "size": (16, 16), "steps": 2, "guidance": 1.0, "seeds": [0]}
    with torch.autocast("cpu", torch.bfloat16):
        made = generate(still, base, **wanted)
    noise = torch.randn(1, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made[0], base.decode(noise))
