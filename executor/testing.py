"""Small real models for tests: random weights, every tensor of them, in the layouts of real files.

A tiny file of any family is written in a fraction of a second and goes through the same loading as
one of gigabytes. It has CLIP's whole vocabulary, its family's U-Net blocks, an autoencoder of
four levels, and makes pictures that depend on prompt and seed; they show nothing.
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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from executor.models import layout
from executor.models.families import FAMILIES, Family, TextTower

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
"""Of Stable Diffusion 1.x; what others differ in, ``unet_config`` says."""

XL_BLOCKS: dict[str, Any] = {
    "block_out_channels": [32, 32, 64],
    "transformer_layers_per_block": [1, 1, 2],
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
}
REFINER_BLOCKS: dict[str, Any] = {
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
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
_LORA_ENDINGS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
)
"""Modules that kohya's scripts train."""
CLIP_PREFIX = "cond_stage_model.transformer.text_model."


def family(name: str) -> Family:
    """The row of the table with this name."""
    return next(row for row in FAMILIES if row.name == name)


def unet_config(of: Family) -> dict[str, Any]:
    """A family's tiny U-Net: its inputs, blocks, heads and projections, narrow."""
    blocks = {"sizes": XL_BLOCKS, "score": REFINER_BLOCKS}.get(of.vector_says or "", {})
    config = UNET | blocks
    width = TEXT["hidden_size"]
    vectors = {"sizes": width + 6 * 256, "score": width + 5 * 256, "picture": 2 * width}
    return config | {
        "in_channels": of.in_channels,
        "cross_attention_dim": width * len(of.text),
        "attention_head_dim": of.heads or [1] * len(config["block_out_channels"]),
        "use_linear_projection": of.heads is None,
        "class_embed_type": "projection" if of.vector_says else None,
        "projection_class_embeddings_input_dim": vectors.get(of.vector_says or ""),
    }


def text_config(tower: TextTower) -> dict[str, Any]:
    """A tiny text encoder with a family's activation."""
    config = TEXT | {"hidden_act": tower.activation}
    return config | ({"projection_dim": TEXT["hidden_size"]} if tower.is_projected else {})


def text_kind(tower: TextTower) -> type[nn.Module]:
    """transformers' class of a text encoder."""
    return CLIPTextModelWithProjection if tower.is_projected else CLIPTextModel


def write_tiny_checkpoint(
    path: Path,
    *,
    of: str = "sd1",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    with_vae: bool = True,
    ema: Literal["none", "only", "both"] = "none",
    text_prefix: str | None = None,
    unet: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> Weights:
    """Write a tiny file of a family in its original layout; returns its tensors.

    Args:
        of: the family's name.
        ema: whether the U-Net's weights, their running means, or both are there. With ``both``
            the means are other numbers, so that a loader that takes the wrong ones is found out.
        text_prefix: what the first text encoder's names begin with, if not the usual.
        unet, vae, text: what differs from the configurations above; ``text`` of every encoder.
        extra: further tensors, as training leaves them behind.
    """
    row = family(of)
    weights: Weights = {}
    config = unet_config(row) | dict(unet or {})
    unet_weights = ldm_unet(random_weights(UNet2DConditionModel, config, seed))
    if ema != "only":
        weights |= {layout.UNET + name: tensor for name, tensor in unet_weights.items()}
    if ema != "none":
        factor = 1.0 if ema == "only" else 0.5
        weights |= {layout.ema_name(name): factor * t for name, t in unet_weights.items()}
    if with_vae:
        vae_weights = ldm_vae(random_weights(AutoencoderKL, VAE | dict(vae or {}), seed))
        weights |= {layout.VAE + name: tensor for name, tensor in vae_weights.items()}
    for tower in row.text:
        config = text_config(tower) | dict(text or {})
        tower_weights = random_weights(text_kind(tower), config, seed)
        prefix = text_prefix if text_prefix is not None and tower is row.text[0] else None
        weights |= ldm_text(tower_weights, tower, prefix)
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


def write_tiny_lora(
    path: Path, *, of: str = "sd1", seed: int = 0, rank: int = 2, alpha: float = 1.0
) -> Weights:
    """Write a LoRA for a tiny model of a family, as kohya's scripts do; returns its tensors.

    It changes what theirs change: attention and feed-forward layers of all its networks.
    """
    row = family(of)
    networks = {"lora_unet_": _shapes(UNet2DConditionModel, unet_config(row))}
    for place, tower in enumerate(row.text, start=1):
        prefix = "lora_te_" if len(row.text) == 1 else f"lora_te{place}_"
        shapes = _shapes(text_kind(tower), text_config(tower))
        networks[prefix] = {
            f"text_model.{k.removeprefix('text_model.')}": s for k, s in shapes.items()
        }
    weights: Weights = {}
    for prefix, shapes in networks.items():
        for name, (out, *width) in shapes.items():
            module, _, leaf = name.rpartition(".")
            if leaf == "weight" and module.endswith(_LORA_ENDINGS):
                flat = prefix + module.replace(".", "_")
                square = [1] * len(width[1:])  # the projections of some are convolutions
                down, up = (rank, *width), (out, rank, *square)
                weights[f"{flat}.lora_down.weight"] = _random(f"{seed} {flat} down", down)
                weights[f"{flat}.lora_up.weight"] = _random(f"{seed} {flat} up", up)
                weights[f"{flat}.alpha"] = torch.tensor(alpha)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return weights


def write_tiny_folder(
    path: Path,
    *,
    of: str = "sd1",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    pieces: int = 1,
    scheduler: Mapping[str, Any] | None = None,
) -> None:
    """Write the same model as ``write_tiny_checkpoint`` as a diffusers folder.

    Args:
        pieces: in how many files the U-Net's weights are.
        scheduler: what its configuration says.
    """
    row = family(of)
    stem = "diffusion_pytorch_model"
    config = unet_config(row)
    weights = random_weights(UNet2DConditionModel, config, seed)
    if row.vector_says in ("sizes", "score"):
        weights = {k.replace("class_embedding.", "add_embedding."): w for k, w in weights.items()}
    _write_part(path / "unet", stem, config, weights, dtype, pieces=pieces)
    _write_part(path / "vae", stem, VAE, random_weights(AutoencoderKL, VAE, seed), dtype)
    for tower in row.text:
        config = text_config(tower)
        weights = random_weights(text_kind(tower), config, seed)
        if not tower.is_projected:
            weights = {f"text_model.{name}": tensor for name, tensor in weights.items()}
        elif tower.has_final_norm:  # diffusers leaves out what Stable Diffusion 2 does not use
            config = config | {"num_hidden_layers": config["num_hidden_layers"] - 1}
            last = f".layers.{config['num_hidden_layers']}."
            weights = {k: w for k, w in weights.items() if last not in k and "projection" not in k}
        _write_part(path / tower.folder, "model", config, weights, dtype)
    if scheduler is not None:
        (path / "scheduler").mkdir(exist_ok=True)
        (path / "scheduler/scheduler_config.json").write_text(json.dumps(dict(scheduler)))
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]}
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_part(
    folder: Path,
    stem: str,
    config: Mapping[str, Any],
    weights: Weights,
    dtype: torch.dtype,
    *,
    pieces: int = 1,
) -> None:
    """One network of a diffusers folder, in one file or in several with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    if pieces == 1:
        save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    found: dict[str, str] = {}
    for piece in range(pieces):
        file = f"{stem}-{piece + 1:05}-of-{pieces:05}.safetensors"
        save_file({name: tensors[name] for name in names[piece::pieces]}, folder / file)
        found |= dict.fromkeys(names[piece::pieces], file)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": found}), encoding="utf-8")


def random_weights(kind: type[nn.Module], config: Mapping[str, Any], seed: int) -> Weights:
    """Every tensor of a network of that configuration: the same for the same seed and name."""
    return {
        name: _random(f"{seed} {kind.__name__} {name}", shape)
        for name, shape in _shapes(kind, config).items()
    }


def _shapes(kind: type[nn.Module], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of every tensor of a network of that configuration."""
    is_text = issubclass(kind, CLIPTextModel | CLIPTextModelWithProjection)
    with torch.device("meta"):
        network = kind(CLIPTextConfig(**config)) if is_text else kind(**config)
    return {name: tuple(meta.shape) for name, meta in network.state_dict().items()}


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


def ldm_text(weights: Mapping[str, Tensor], tower: TextTower, prefix: str | None = None) -> Weights:
    """A text encoder's weights by the names and in the shapes of a family's single file."""
    prefix = tower.prefixes[0] if prefix is None else prefix
    if not tower.is_projected:
        return {key: weights[name] for name, key in layout.text_names(weights, prefix).items()}
    thirds: dict[str, list[Tensor]] = {}
    for name, at in layout.open_clip_names(weights, prefix).items():
        tensor = weights[name].T if at.is_transposed else weights[name]
        own = thirds.setdefault(at.key, [torch.empty(0)] * (1 if at.third is None else 3))
        own[at.third or 0] = tensor
    return {key: torch.cat(own) if len(own) > 1 else own[0] for key, own in thirds.items()}
