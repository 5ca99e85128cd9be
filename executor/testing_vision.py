"""Tiny files of what reads pictures for prompts, for tests: random weights in real files' layouts.

Each fits the tiny U-Nets that ``testing`` writes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from executor.models.style import StyleLayers
from executor.testing import TEXT, Weights, random_weights, write_tiny_checkpoint

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": TEXT["hidden_size"],
    "hidden_act": "gelu",
}
STYLE: dict[str, int] = {"width": 32, "context": TEXT["hidden_size"], "tokens": 2, "layers": 2}

_OUTER = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_INNER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


class VisionNetwork(CLIPVisionModelWithProjection):
    """A CLIP vision model from its numbers alone."""

    def __init__(self, **config: Any) -> None:
        super().__init__(CLIPVisionConfig(**config))


def vision_weights(seed: int = 0, **config: Any) -> Weights:
    """A tiny CLIP vision model's tensors by transformers' names, which files of their own use."""
    return random_weights(VisionNetwork, VISION | config, seed)


def open_clip(weights: Mapping[str, Tensor], prefix: str = "visual.") -> Weights:
    """The same in OpenCLIP's layout, which files of its own and unCLIP's checkpoints use."""
    inside = {name.removeprefix("vision_model."): tensor for name, tensor in weights.items()}
    found = {_OUTER[name]: tensor for name, tensor in inside.items() if name in _OUTER}
    found["proj"] = inside["visual_projection.weight"].T
    layers = 1 + max(int(name.split(".")[2]) for name in inside if ".layers." in name)
    for layer in range(layers):
        old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            found |= {f"{new}.{b}.{kind}": inside[f"{old}.{a}.{kind}"] for a, b in _INNER.items()}
            thirds = [inside[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{new}.attn.in_proj_{kind}"] = torch.cat(thirds)
    return {prefix + name: tensor.contiguous() for name, tensor in found.items()}


def write_tiny_clip_vision(
    path: Path, *, names: Literal["transformers", "open_clip"] = "transformers", seed: int = 0
) -> Weights:
    """Write a tiny CLIP vision model's own file; returns its tensors by transformers' names."""
    weights = vision_weights(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights if names == "transformers" else open_clip(weights), path)
    return weights


def write_tiny_unclip(
    path: Path, *, of: str = "sd2-unclip-h", extra: Mapping[str, Tensor] | None = None
) -> Weights:
    """Write a tiny unCLIP checkpoint with its CLIP vision model; returns that one's tensors."""
    weights = vision_weights()
    tensors = open_clip(weights, "embedder.model.visual.")
    write_tiny_checkpoint(path, of=of, extra=tensors | dict(extra or {}))
    return weights


def write_tiny_style(path: Path, *, seed: int = 0) -> Weights:
    """Write a tiny style adapter in its authors' layout; returns its tensors."""
    weights = random_weights(StyleLayers, STYLE, seed)
    weights = {
        name.replace("layers.", "transformer_layes.", 1): tensor for name, tensor in weights.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return weights
