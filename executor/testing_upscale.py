"""Tiny upscalers for tests: random weights, in the layouts of real files."""

import re
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from executor.models.upscale_networks import Compact, RRDBNet
from executor.testing import random_weights

Layout = Literal["real-esrgan", "bsrgan", "esrgan", "compact"]

RRDB: dict[str, Any] = {"channels": 3, "filters": 8, "growth": 4, "blocks": 2, "doublings": 2}
COMPACT: dict[str, Any] = {"channels": 3, "filters": 8, "layers": 2, "scale": 2}


def tiny_weights(*, is_compact: bool = False, **config: Any) -> dict[str, Tensor]:
    """The weights of a network that makes pictures around mid grey, by Real-ESRGAN's names."""
    if is_compact:
        return random_weights(Compact, COMPACT | config, seed=0)
    weights = random_weights(RRDBNet, RRDB | config, seed=0)
    weights["conv_last.weight"] = weights["conv_last.weight"] / 10
    weights["conv_last.bias"] = torch.full_like(weights["conv_last.bias"], 0.5)
    return weights


def write_tiny_upscaler(
    path: Path, layout: Layout = "real-esrgan", *, prefix: str = "", **config: Any
) -> dict[str, Tensor]:
    """Write the file of a tiny upscaler; returns its weights by Real-ESRGAN's names."""
    weights = tiny_weights(is_compact=layout == "compact", **config)
    whole = RRDB | config

    def renamed(name: str) -> str:
        match layout:
            case "real-esrgan" | "compact":
                return name
            case "bsrgan":
                return _bsrgan_name(name)
            case "esrgan":
                return _esrgan_name(name, whole["blocks"], whole["doublings"])

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + renamed(name): tensor for name, tensor in weights.items()}, path)
    return weights


def _bsrgan_name(name: str) -> str:
    name = re.sub(r"^body\.(\d+)\.rdb", r"RRDB_trunk.\1.RDB", name)
    for new, old in (("conv_body", "trunk_conv"), ("conv_up", "upconv"), ("conv_hr", "HRconv")):
        name = name.replace(new, old)
    return name


def _esrgan_name(name: str, blocks: int, doublings: int) -> str:
    """The first authors' chain: one layer, the blocks, then three layers for each doubling."""
    inner = re.fullmatch(r"body\.(\d+)\.rdb(\d)\.conv(\d)\.(.+)", name)
    if inner:
        block, dense, conv, kind = inner.groups()
        return f"model.1.sub.{block}.RDB{dense}.conv{conv}.0.{kind}"
    module, kind = name.rsplit(".", 1)
    ups = {f"conv_up{index}": f"model.{3 * index}" for index in range(1, doublings + 1)}
    end = 3 * doublings
    chain = {
        "conv_first": "model.0",
        "conv_body": f"model.1.sub.{blocks}",
        "conv_hr": f"model.{end + 2}",
        "conv_last": f"model.{end + 4}",
    }
    return f"{(chain | ups)[module]}.{kind}"
