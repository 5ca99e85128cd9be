"""Tiny models under the names that the published workflows ask for, each of the right family."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from safetensors.torch import save_file

from executor import testing
from executor.testing import write_tiny_checkpoint, write_tiny_lora, write_tiny_vae
from executor.testing_control import (
    write_tiny_adapter,
    write_tiny_controlnet,
    write_tiny_gligen,
)
from executor.testing_upscale import write_tiny_upscaler
from executor.testing_vision import write_tiny_clip_vision

Write: TypeAlias = Callable[[Path], Any]

# Where attention begins in real models, these pictures of a megapixel would take minutes.
BLOCKS: Mapping[str, list[str]] = {
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
}

CHECKPOINTS: Mapping[str, str] = {
    "512-inpainting-ema.safetensors": "sd2-inpaint",
    "v2-1_768-ema-pruned.safetensors": "sd2",
    "sd_xl_base_1.0.safetensors": "sdxl",
    "sd_xl_turbo_1.0_fp16.safetensors": "sdxl",
    "sd_xl_refiner_1.0.safetensors": "sdxl-refiner",
}
"""By family; all others are Stable Diffusion 1.x."""


def writer(folder: str, name: str) -> Write:
    """What writes the file of a name in a folder of models."""
    match folder:
        case "checkpoints":
            return partial(write_tiny_checkpoint, of=CHECKPOINTS.get(name, "sd1"), seed=len(name))
        case "vae":
            return write_tiny_vae
        case "loras":
            return write_tiny_lora
        case "controlnet":
            return write_tiny_adapter if "t2iadapter" in name.lower() else write_tiny_controlnet
        case "gligen":
            return write_tiny_gligen
        case "clip_vision":
            return write_tiny_clip_vision
        case "upscale_models":
            return write_tiny_upscaler
        case "embeddings":
            return _embedding
        case "input":
            return _picture
        case _:
            raise AssertionError(f"nobody has said how to write {folder}/{name}")


def _embedding(path: Path) -> None:
    width = testing.TEXT["hidden_size"]
    save_file({"emb_params": torch.linspace(-1, 1, 2 * width).reshape(2, width)}, path)


def _picture(path: Path) -> None:
    """A gradient with a transparent middle, so that its mask is not empty."""
    red = Image.linear_gradient("L").resize((512, 384))
    alpha = Image.new("L", red.size, 255)
    alpha.paste(0, (200, 100, 300, 250))
    Image.merge("RGBA", (red, red.transpose(Image.Transpose.ROTATE_180), red, alpha)).save(path)
