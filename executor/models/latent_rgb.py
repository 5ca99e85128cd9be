"""The colours that a latent stands for, approximately: a linear map for each latent space.

A map takes the four numbers of a latent pixel, scaled as the U-Net sees them, to red, green and
blue in [0, 1]. A checkpoint can carry its own under ``KEY`` in its metadata, fitted by
``executor.models.preview.fit``; the real families have published ones. Light: no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, TypeAlias

from executor.errors import InputError
from executor.models.families import LatentSpace

KEY = "weft.latent_rgb"

Method: TypeAlias = Literal["auto", "latent2rgb", "taesd"]
"""How previews are drawn, in ComfyUI's words; on a GPU auto takes a tiny decoder if it is there."""


@dataclass(frozen=True, slots=True)
class LatentRgb:
    """rgb = latent · factors + bias."""

    factors: tuple[tuple[float, ...], ...]  # a row of three for each channel of the latent
    bias: tuple[float, ...]

    @classmethod
    def from_text(cls, text: str, channels: int) -> "LatentRgb":
        """Read what ``text`` wrote, for latents of so many channels. Raises InputError."""
        try:
            rows: Any = json.loads(text)
            *factors, bias = (tuple(map(_number, row)) for row in rows)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"{KEY} is no list of lists of numbers ({error})") from error
        if len(factors) != channels or any(len(row) != 3 for row in (*factors, bias)):
            raise InputError(f"{KEY} must be {channels} rows of three numbers, and one of the bias")
        return cls(tuple(factors), bias)

    def text(self) -> str:
        """The value of ``KEY``: a JSON list of the rows, the bias last."""
        return json.dumps(
            [[round(value, 5) for value in row] for row in (*self.factors, self.bias)]
        )


PUBLISHED: Mapping[LatentSpace, LatentRgb] = {
    # Stable Diffusion 1.4's, by Kevin Turner ("keturn"), 2022, on Hugging Face's forum ("Decoding
    # latents to RGB without upscaling"). 2.x kept the encoder. Given for [-1, 1]; halved here.
    "sd": LatentRgb(
        (
            (0.149, 0.1035, 0.104),
            (0.0935, 0.143, 0.0865),
            (-0.079, 0.0945, 0.132),
            (-0.092, -0.1355, -0.2365),
        ),
        (0.5, 0.5, 0.5),
    ),
    # By Timothy Alexis Vass, 2023 ("Explaining the SDXL latent space"). Given for 0 to 255.
    "sdxl": LatentRgb(
        (
            (60 / 255, 60 / 255, 60 / 255),
            (-60 / 255, -5 / 255, 10 / 255),
            (25 / 255, 15 / 255, -5 / 255),
            (-70 / 255, -50 / 255, -35 / 255),
        ),
        (150 / 255, 140 / 255, 130 / 255),
    ),
}


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value):
        raise ValueError(f"{value!r:.40} is no number")
    return float(value)
