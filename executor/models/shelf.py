"""The library by names: which folder a kind of model is looked for in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from executor.context import Checkpoint
from executor.models.library import Library
from executor.models.lora import Lora
from executor.models.text import ClipText
from executor.models.unet import UNet
from executor.ports import (
    Autoencoder,
    ControlNetwork,
    DiffusionModel,
    GroundingNetwork,
    StyleReader,
    Upscaler,
    VisionEncoder,
)

_ROUNDED = {  # ComfyUI's names; "fast" is only about how they are multiplied
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fn_fast": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


@dataclass(frozen=True, slots=True)
class Shelf:
    """The user's models (``executor.context.Models``)."""

    library: Library
    find: Callable[[str, str], Path]  # the file of a name in a folder; raises PathError

    def checkpoint(self, name: str) -> Checkpoint:
        """All parts of a file in ``checkpoints``."""
        return self.library.checkpoint(self.find("checkpoints", name))

    def vae(self, name: str) -> Autoencoder:
        """From the folder ``vae``."""
        return self.library.vae(self.find("vae", name))

    def diffusion_model(self, name: str, weight_dtype: str = "default") -> UNet:
        """From the folder ``diffusion_models``, its weights rounded to a type of 8 bits."""
        path = self.find("diffusion_models", name)
        return self.library.diffusion_model(path, _ROUNDED.get(weight_dtype))

    def text_encoder(self, names: Sequence[str], *, on_cpu: bool = False) -> ClipText:
        """From the folder ``text_encoders``: one, or SDXL's two in any order."""
        paths = [self.find("text_encoders", name) for name in names]
        return self.library.text_encoder(paths, on_cpu=on_cpu)

    def diffusers(self, name: str) -> Checkpoint:
        """All parts of a diffusers folder in ``diffusers``."""
        return self.library.checkpoint(self.find("diffusers", name))

    def lora(self, name: str) -> Lora:
        """From the folder ``loras``."""
        return self.library.lora(self.find("loras", name))

    def controlnet(self, name: str, base: DiffusionModel | None = None) -> ControlNetwork:
        """From the folder ``controlnet``."""
        return self.library.controlnet(self.find("controlnet", name), base)

    def gligen(self, name: str) -> GroundingNetwork:
        """From the folder ``gligen``."""
        return self.library.gligen(self.find("gligen", name))

    def clip_vision(self, name: str) -> VisionEncoder:
        """From the folder ``clip_vision``."""
        return self.library.clip_vision(self.find("clip_vision", name))

    def checkpoint_vision(self, name: str) -> VisionEncoder:
        """The CLIP vision model of an unCLIP file in ``checkpoints``."""
        return self.library.clip_vision(self.find("checkpoints", name))

    def style_model(self, name: str) -> StyleReader:
        """From the folder ``style_models``."""
        return self.library.style_model(self.find("style_models", name))

    def upscaler(self, name: str) -> Upscaler:
        """From the folder ``upscale_models``."""
        return self.library.upscaler(self.find("upscale_models", name))
