"""Small real models for tests: random weights, every tensor of them, in the layouts of real files.

A tiny Stable Diffusion 1.x file is written in a fraction of a second and goes through the same
loading as one of 2 GB. It has CLIP's whole vocabulary, four levels of U-Net and autoencoder, and
makes pictures that depend on prompt and seed; they show nothing.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from executor.models import layout

Weights = dict[str, Tensor]

UNET: dict[str, Any] = {
    "block_out_channels": [32, 32, 64, 64],
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
VAE: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [32, 32, 32, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT: dict[str, Any] = {
    "vocab_size": 49_408,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
CLIP_PREFIX = "cond_stage_model.transformer.text_model."


def write_tiny_checkpoint(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    with_vae: bool = True,
    ema: Literal["none", "only", "both"] = "none",
    text_prefix: str = CLIP_PREFIX,
    unet: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> Weights:
    """Write a tiny Stable Diffusion 1.x file in its original layout; returns its tensors.

    Args:
        ema: whether the U-Net's weights, their running means, or both are there. With ``both``
            the means are other numbers, so that a loader that takes the wrong ones is found out.
        text_prefix: what the text encoder's names begin with.
        unet, vae, text: what differs from the configurations above.
        extra: further tensors, as training leaves them behind.
    """
    weights: Weights = {}
    unet_weights = ldm_unet(random_weights(UNet2DConditionModel, UNET | dict(unet or {}), seed))
    if ema != "only":
        weights |= {layout.UNET + name: tensor for name, tensor in unet_weights.items()}
    if ema != "none":
        factor = 1.0 if ema == "only" else 0.5
        weights |= {layout.ema_name(name): factor * t for name, t in unet_weights.items()}
    if with_vae:
        vae_weights = ldm_vae(random_weights(AutoencoderKL, VAE | dict(vae or {}), seed))
        weights |= {layout.VAE + name: tensor for name, tensor in vae_weights.items()}
    clip = random_weights(CLIPTextModel, TEXT | dict(text or {}), seed)
    weights |= {key: clip[name] for name, key in layout.text_names(clip, text_prefix).items()}
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    weights |= {name: tensor.contiguous() for name, tensor in (extra or {}).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata={"format": "pt", **(metadata or {})})
    return weights


def write_tiny_vae(path: Path, *, seed: int = 0, prefix: str = "") -> Weights:
    """Write a tiny VAE's own file, in the original layout; returns its tensors."""
    weights = ldm_vae(random_weights(AutoencoderKL, VAE, seed))
    weights = {prefix + name: tensor.contiguous() for name, tensor in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return weights


def write_tiny_folder(path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
    """Write the same model as ``write_tiny_checkpoint`` as a diffusers folder."""
    index = {"_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "X"]}
    parts: dict[str, tuple[type[nn.Module], dict[str, Any], str]] = {
        "unet": (UNet2DConditionModel, UNET, "diffusion_pytorch_model"),
        "vae": (AutoencoderKL, VAE, "diffusion_pytorch_model"),
        "text_encoder": (CLIPTextModel, TEXT, "model"),
    }
    for part, (kind, config, stem) in parts.items():
        (path / part).mkdir(parents=True, exist_ok=True)
        weights = random_weights(kind, config, seed)
        prefix = "text_model." if part == "text_encoder" else ""
        tensors = {prefix + name: tensor.to(dtype) for name, tensor in weights.items()}
        save_file(tensors, path / part / f"{stem}.safetensors", metadata={"format": "pt"})
        (path / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def random_weights(kind: type[nn.Module], config: Mapping[str, Any], seed: int) -> Weights:
    """Every tensor of a network of that configuration: the same for the same seed and name."""
    with torch.device("meta"):
        network = kind(CLIPTextConfig(**config)) if kind is CLIPTextModel else kind(**config)
    return {
        name: _random(f"{seed} {kind.__name__} {name}", tuple(meta.shape))
        for name, meta in network.state_dict().items()
    }


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers of a size that keeps activations near 1."""
    digest = hashlib.sha256(name.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    numbers = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 1 + 0.1 * numbers if name.endswith("weight") else 0.05 * numbers
    if "_embedding.weight" in name:
        return numbers * (0.5 if "token" in name else 0.1)
    if len(shape) < 2:
        return 0.05 * numbers
    gain = 2.0 if ".attn2." in name else 1.0  # so that the prompt is felt
    return numbers * (gain / math.sqrt(math.prod(shape[1:])))


def ldm_unet(weights: Mapping[str, Tensor]) -> Weights:
    """A ``UNet2DConditionModel``'s weights by the names of the original layout, without prefix."""
    return {new: weights[old] for old, new in layout.unet_names(weights).items()}


def ldm_vae(weights: Mapping[str, Tensor]) -> Weights:
    """An ``AutoencoderKL``'s weights by the names and in the shapes of the original layout."""
    return {
        new: weights[old][:, :, None, None] if layout.is_vae_attention(new) else weights[old]
        for old, new in layout.vae_names(weights).items()
    }
