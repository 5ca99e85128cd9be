"""The tiny U-Net and text encoder, trained as one: noisy latents and a caption in, noise out.

Stable Diffusion 1.x made small: three levels, cross-attention on the two coarse ones, and CLIP's
text encoder with two layers. Shapes: latents (B, 4, h, w) × 0.18215, timesteps (B,) of 1,000,
token ids (B, 77), context (B, 77, 64).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from models.weft_tiny import layout
from models.weft_tiny.autoencoder import set_to_zero
from models.weft_tiny.words import VOCABULARY_SIZE

WIDTHS = (64, 64, 96)
HAS_ATTENTION = (False, True, True)
LAYERS = 1
HEADS = 8
NORM_GROUPS = 16
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS = 64, 2, 1
EMBEDDING = "embeddings.token_embedding.weight"


def alphas_cumprod() -> Tensor:
    """The share of signal (1000,) at each timestep: Stable Diffusion's "scaled linear" betas."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()


def new_unet() -> UNet2DConditionModel:
    """An untrained U-Net."""
    down = ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in HAS_ATTENTION]
    up = ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(HAS_ATTENTION)]
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=WIDTHS,
        layers_per_block=LAYERS,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=HEADS,  # diffusers' name for the number of heads
        norm_num_groups=NORM_GROUPS,
    )


def new_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """An untrained CLIP text encoder."""
    config = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        projection_dim=TEXT_WIDTH,
        hidden_act="quick_gelu",
        bos_token_id=0,
        eos_token_id=2,
    )
    return CLIPTextModel(config)


class Denoiser(nn.Module):
    """The U-Net and the text encoder; ``vocabulary_size`` rows of embedding."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.unet = new_unet()
        self.text = new_text_encoder(vocabulary_size)

    def context(self, ids: Tensor) -> Tensor:
        """What cross-attention reads, (B, 77, 64)."""
        return self.text(input_ids=ids).last_hidden_state

    def forward(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """The noise in noisy latents."""
        return self.unet(noisy, timesteps, context).sample


def start_residuals_at_zero(denoiser: Denoiser) -> None:
    """Lets every residual branch begin as nothing."""
    for module in denoiser.unet.modules():
        if isinstance(module, ResnetBlock2D):
            set_to_zero(module.conv2)
        elif isinstance(module, Transformer2DModel):
            set_to_zero(module.proj_out)


def embedding_name(weights: dict[str, Tensor]) -> str:
    return next(name for name in weights if name.endswith(EMBEDDING))


def few_rows(table: Tensor, known: Sequence[int]) -> Tensor:
    """The rows of the known tokens, and after them the one that all others share."""
    rows, counts = table.unique(dim=0, return_counts=True)
    return torch.cat([table[torch.tensor(known)], rows[counts.argmax()][None]])


def all_rows(few: Tensor, known: Sequence[int]) -> Tensor:
    """The inverse: CLIP's full table from the trained rows."""
    table = few[-1:].repeat(VOCABULARY_SIZE, 1)
    table[torch.tensor(known)] = few[:-1]
    return table


def load_checkpoint(denoiser: Denoiser, path: Path, known: Sequence[int] | None = None) -> None:
    """Fills the weights from a checkpoint; with ``known``, only these tokens' rows."""
    weights = {name: weight.float() for name, weight in load_file(path).items()}
    unet = layout.unet_from_file(weights, HAS_ATTENTION, LAYERS)
    denoiser.unet.load_state_dict(unet)
    text = layout.text_from_file(weights, denoiser.text.state_dict())
    if known is not None:
        name = embedding_name(text)
        text[name] = few_rows(text[name], known)
    denoiser.text.load_state_dict(text)
