"""CLIP vision models: a picture becomes a vector that says what is in it, and the states before.

Computed in float32, a picture at a time. How a picture is brought to the size that the model was
trained on is ComfyUI's way.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from executor.devices import Devices
from executor.errors import ModelFileError
from executor.models.model_file import FOLDER_OF, Kind, ModelFile
from executor.models.part import Part
from executor.models.vision_place import vision_place
from executor.ports import EncodedPicture
from executor.presence import lasting_bytes, present
from executor.residency import Turn

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pictures that CLIP was trained on
_STD = (0.26862954, 0.26130258, 0.27577711)
_CHANNELS = 3


class ClipVision:
    """A CLIP vision model (``executor.ports.VisionEncoder``)."""

    def __init__(self, network: CLIPVisionModelWithProjection) -> None:
        self.network = network
        config: Any = network.config
        self.size: int = config.image_size  # side of the pictures that it reads

    @property
    def memory(self) -> object:
        """What holds its weights: the cache counts them once, whoever else holds them."""
        return self.network

    @property
    def nbytes(self) -> int:
        """How much its weights take, without what a file holds for as long as they can leave."""
        return lasting_bytes(self.network)

    @torch.no_grad()
    def encode_pictures(self, pixels: Tensor, *, is_cropped: bool = True) -> EncodedPicture:
        """Pictures (B, H, W, C) in [0, 1], cut to a square or squeezed into one."""
        seen = prepared(pixels, self.size, is_cropped=is_cropped).to(self.network.device)
        with present(self.network):
            rows = [self._encoded(row) for row in seen.split(1)]
        embeds, last, penultimate = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return EncodedPicture(embeds, last, penultimate)

    def _encoded(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model = self.network.vision_model
        states = model.pre_layrnorm(model.embeddings(seen))
        penultimate = states
        for layer in model.encoder.layers:
            penultimate = states
            states = layer(states, None)
        embeds = self.network.visual_projection(model.post_layernorm(states[:, 0]))
        return embeds, states, penultimate


def prepared(pixels: Tensor, size: int, *, is_cropped: bool) -> Tensor:
    """Pictures as CLIP sees them (B, 3, size, size), of 256 levels a colour.

    Scaled bicubically to the shorter side and cut to the middle, or scaled to a square.
    """
    pixels = pixels[..., :_CHANNELS].expand(*pixels.shape[:3], _CHANNELS).movedim(-1, 1).float()
    if pixels.shape[-2:] != (size, size):
        height, width = pixels.shape[-2:]
        scale = size / min(height, width)
        wanted = (round(scale * height), round(scale * width)) if is_cropped else (size, size)
        pixels = interpolate(pixels, size=wanted, mode="bicubic", antialias=True)
        top, left = ((side - size) // 2 for side in wanted)
        pixels = pixels[..., top : top + size, left : left + size]
    levels = (255 * pixels).clamp(0, 255).round() / 255
    mean, std = (torch.tensor(numbers)[:, None, None].to(levels) for numbers in (_MEAN, _STD))
    return (levels - mean) / std


def load_clip_vision(file: ModelFile, devices: Devices) -> ClipVision:
    """The CLIP vision model of a file of its own, or of an unCLIP checkpoint.

    Raises ModelFileError.
    """
    place = None if file.is_folder else vision_place(file.header)
    if place is None:
        folder = FOLDER_OF.get(file.kind)
        belongs = f"; such files belong in the folder {folder}" if folder else ""
        what = "without a CLIP vision model" if file.kind is Kind.CHECKPOINT else "no CLIP vision"
        raise ModelFileError(f"{file.path.name} is {file.kind} {what}{belongs}")
    part = Part("CLIP vision model", place.header, place.stored)
    network = part.build(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**place.config())))
    part.fill(network, devices, devices.text_dtype, turn=Turn.TEXT_ENCODER)
    embeddings = network.vision_model.embeddings
    positions = torch.arange(embeddings.num_positions, device=devices.device)
    # a buffer that no file need hold, and that was built without storage
    embeddings.register_buffer("position_ids", positions[None], persistent=False)
    return ClipVision(network)
