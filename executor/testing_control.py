"""Tiny files of what steers a U-Net, for tests: random weights in the layouts of real files.

Each fits the tiny U-Net that ``testing`` writes for a family.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from executor.models import layout
from executor.models.control_layout import CONTROL, adapter_names, control_names
from executor.models.control_lora import OF_THE_UNET
from executor.testing import UNET, Weights, family, random_weights, unet_config

Names = Literal["authors", "bare", "diffusers", "folder"]
"""Whose tensor names: the authors', with or without prefix, or diffusers'; alone or in a folder."""

AdapterKind = Literal["full_adapter", "light_adapter", "full_adapter_xl"]


def control_config(of: str = "sd1") -> dict[str, Any]:
    """A tiny ControlNet for a family."""
    config = unet_config(family(of))
    return {
        **{key: config[key] for key in OF_THE_UNET if key in config},
        "conditioning_embedding_out_channels": [4, 4, 8, 8],
    }


def adapter_config(kind: AdapterKind) -> dict[str, Any]:
    """A tiny T2I-Adapter for Stable Diffusion 1.x, or the large one for SDXL."""
    is_light, is_large = kind == "light_adapter", kind == "full_adapter_xl"
    widths = UNET["block_out_channels"]
    return {
        "in_channels": 3,
        "channels": widths[:-1] if is_light else widths,
        "num_res_blocks": 4 if is_light else 2,
        "downscale_factor": 16 if is_large else 8,
        "adapter_type": kind,
    }


def write_tiny_controlnet(
    path: Path,
    *,
    of: str = "sd1",
    names: Names = "authors",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    is_zero: bool = False,
    extra: Mapping[str, Tensor] | None = None,
) -> Weights:
    """Write a ControlNet's file, or folder; returns its tensors by diffusers' names.

    Args:
        of: the family that it is for.
        is_zero: as training begins, with no effect yet.
        extra: further tensors.
    """
    weights = random_weights(ControlNetModel, control_config(of), seed)
    if is_zero:
        weights = {
            name: torch.zeros_like(tensor)
            if name.startswith(("controlnet_down_blocks.", "controlnet_mid_block."))
            else tensor
            for name, tensor in weights.items()
        }
    if names in ("diffusers", "folder"):
        keys = {name: name.replace("class_embedding.", "add_embedding.") for name in weights}
    else:
        prefix = CONTROL if names == "authors" else ""
        keys = {name: prefix + key for name, key in control_names(weights).items()}
    tensors = {keys[name]: tensor for name, tensor in weights.items()} | dict(extra or {})
    _write(path, tensors, dtype, control_config(of) if names == "folder" else None)
    return weights


def write_tiny_union(path: Path, *, of: str = "sdxl", kinds: int = 6, seed: int = 0) -> Weights:
    """Write a union ControlNet's file; returns its tensors by diffusers' names."""
    weights = random_weights(ControlNetUnionModel, union_config(of, kinds), seed)
    keys = {name: name.replace("class_embedding.", "add_embedding.") for name in weights}
    _write(path, {keys[name]: tensor for name, tensor in weights.items()}, torch.float32, None)
    return weights


def union_config(of: str = "sdxl", kinds: int = 6) -> dict[str, Any]:
    """A tiny union ControlNet for a family."""
    config = control_config(of)
    width = config["block_out_channels"][0]
    return config | {
        "num_control_type": kinds,
        "num_trans_channel": width,
        "num_proj_channel": width,
        "addition_time_embed_dim": 256,
    }


def write_tiny_adapter(
    path: Path,
    *,
    kind: AdapterKind = "full_adapter",
    names: Names = "authors",
    seed: int = 0,
) -> Weights:
    """Write a T2I-Adapter's file, or folder; returns its tensors by diffusers' names."""
    weights = random_weights(T2IAdapter, adapter_config(kind), seed)
    keys = adapter_names(weights) if names == "authors" else {name: name for name in weights}
    tensors = {keys[name]: tensor for name, tensor in weights.items()}
    _write(path, tensors, torch.float32, adapter_config(kind) if names == "folder" else None)
    return weights


def write_tiny_control_lora(
    path: Path, *, of: str = "sd1", rank: int = 4, seed: int = 0
) -> Weights:
    """Write a control-LoRA's file; returns its tensors."""
    weights = random_weights(ControlNetModel, control_config(of), seed)
    tensors: Weights = {"lora_controlnet": torch.zeros(1)}
    for name, key in control_names(weights).items():
        tensor = weights[name]
        if name.startswith("controlnet_"):
            tensors[key] = tensor
        elif tensor.ndim > 1:
            stem, rows = key.removesuffix(".weight"), tensor.flatten(1)
            tensors[f"{stem}.up"] = rows[:, :rank]
            tensors[f"{stem}.down"] = rows[:rank].reshape(-1, *tensor.shape[1:])
    _write(path, tensors, torch.float32, None)
    return tensors


def write_tiny_gligen(path: Path, *, of: str = "sd1", seed: int = 0) -> Weights:
    """Write a GLIGEN file; returns its tensors by the names of diffusers' gated U-Net."""
    config = unet_config(family(of))
    weights = random_weights(UNet2DConditionModel, config | {"attention_type": "gated"}, seed)
    keys = layout.unet_names(weights)
    # Gates are scalars, which would be nearly closed at random.
    own = {
        name: tensor.new_tensor(0.7) if ".alpha_" in name else tensor
        for name, tensor in weights.items()
        if ".fuser." in name or name.startswith("position_net.")
    }
    heads = config["attention_head_dim"]
    metadata = {"weft.unet_heads": str(heads if isinstance(heads, int) else heads[0])}
    tensors = {keys[name]: tensor for name, tensor in own.items()}
    _write(path, tensors, torch.float32, None, metadata)
    return own


def _write(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    config: Mapping[str, Any] | None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """A file, or with a configuration a diffusers folder."""
    file = path if config is None else path / "diffusion_pytorch_model.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: tensor.to(dtype).contiguous().clone() for name, tensor in tensors.items()}
    save_file(kept, file, metadata={"format": "pt", **(metadata or {})})
    if config is not None:
        (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
