"""Paints with a checkpoint: text to picture, picture to picture, and inside a mask.

The sampler is DPM-Solver++(2M) of Lu et al. (2022) on the sigmas of Karras et al. (2022), or Euler.
It is written for scoring: no state, every picture from a seed of its own. Latents here are already
times 0.18215.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.weft_tiny.autoencoder import LATENT_SCALE, decoded, posterior
from models.weft_tiny.denoiser import Denoiser, alphas_cumprod, load_checkpoint
from models.weft_tiny.train_vae import from_checkpoint, to_unit
from models.weft_tiny.words import VOCABULARY_SIZE, token_ids

Pixels = NDArray[np.uint8]
BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to sample; ``strength`` below 1 starts from a picture, as img2img does."""

    side_px: int = 128
    steps: int = 20
    guidance: float = 4.0
    sampler: str = "dpmpp_2m"
    strength: float = 1.0


def karras_sigmas(lowest: float, highest: float, steps: int) -> Tensor:
    """Falling noise levels (steps + 1,), the last zero: equation 5 of Karras et al., rho 7."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = lowest ** (1 / 7), highest ** (1 / 7)
    return torch.cat([(high + ramp * (low - high)) ** 7, torch.zeros(1)])


class Painter:
    """A checkpoint, ready to paint on the CPU in float32."""

    def __init__(self, checkpoint: Path) -> None:
        self.vae = from_checkpoint(checkpoint).eval()
        self.denoiser = Denoiser(VOCABULARY_SIZE).eval()
        load_checkpoint(self.denoiser, checkpoint)
        alphas = alphas_cumprod().double()
        self.sigmas = ((1 - alphas) / alphas).sqrt()  # (1000,), rising
        self.nothing = self.context([""])

    @torch.no_grad()
    def context(self, captions: Sequence[str]) -> Tensor:
        return self.denoiser.context(token_ids(captions))

    @torch.no_grad()
    def encode(self, pictures: Sequence[Pixels]) -> Tensor:
        parts = to_unit(list(pictures)).split(BATCH)
        means = [posterior(self.vae, part).mean for part in parts]
        return torch.cat(means) * LATENT_SCALE

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Pixels]:
        parts = [decoded(self.vae, part) for part in (latents / LATENT_SCALE).split(BATCH)]
        pixels = (torch.cat(parts).clamp(-1, 1) + 1).mul(127.5).round().byte()
        return list(pixels.permute(0, 2, 3, 1).numpy())

    def timestep(self, sigma: float) -> float:
        """Where a noise level lies among the thousand, by its logarithm."""
        return float(np.interp(math.log(sigma), self.sigmas.log().numpy(), np.arange(1000)))

    def denoised(self, x: Tensor, sigma: float, context: Tensor, guidance: float) -> Tensor:
        """The clean latents that x suggests, towards the caption and away from none."""
        count = len(x)
        scaled = x / math.sqrt(sigma**2 + 1)
        timesteps = torch.full((2 * count,), self.timestep(sigma))
        both = torch.cat([context, self.nothing.expand_as(context)])
        with_text, without = self.denoiser(torch.cat([scaled] * 2), timesteps, both).chunk(2)
        return x - sigma * (without + guidance * (with_text - without))

    @torch.no_grad()
    def sample(
        self,
        context: Tensor,
        noise: Tensor,
        settings: Settings,
        source: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Latents for a batch; ``mask`` (B, 1, h, w) is one where something new may come."""
        total = int(settings.steps / settings.strength)
        lowest, highest = self.sigmas[0].item(), self.sigmas[-1].item()
        sigmas = karras_sigmas(lowest, highest, total)[-settings.steps - 1 :].tolist()
        origin = torch.zeros_like(noise) if source is None else source
        first = math.sqrt(1 + sigmas[0] ** 2) if source is None else sigmas[0]
        x = origin + noise * first
        before: tuple[Tensor, float] | None = None  # the last step's clean latents and sigma
        for sigma, following in pairwise(sigmas):
            if mask is not None:
                x = mask * x + (1 - mask) * (origin + noise * sigma)
            clean = self.denoised(x, sigma, context, settings.guidance)
            if mask is not None:
                clean = mask * clean + (1 - mask) * origin
            if following == 0:
                return clean
            direction = clean
            if settings.sampler == "euler":
                x = x + (x - clean) / sigma * (following - sigma)
                continue
            width = math.log(sigma / following)
            if before is not None:
                ratio = math.log(before[1] / sigma) / width
                direction = clean + (clean - before[0]) / (2 * ratio)
            x = following / sigma * x - math.expm1(-width) * direction
            before = clean, sigma
        return x

    def paint(
        self,
        captions: Sequence[str],
        settings: Settings,
        sources: Sequence[Pixels] | None = None,
        masks: Tensor | None = None,
        seed: int = 0,
    ) -> list[Pixels]:
        """One picture a caption; ``masks`` are in latent cells."""
        side = settings.side_px // 8
        latents: list[Tensor] = []
        for i in range(0, len(captions), BATCH):
            part = slice(i, i + BATCH)
            context = self.context(captions[part])
            generators = [torch.Generator().manual_seed(seed + i + j) for j in range(len(context))]
            noise = torch.stack([torch.randn(4, side, side, generator=g) for g in generators])
            source = self.encode(sources[part]) if sources is not None else None
            mask = masks[part] if masks is not None else None
            latents.append(self.sample(context, noise, settings, source, mask))
        return self.decode(torch.cat(latents))
