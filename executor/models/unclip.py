"""Pictures as prompts (unCLIP, Ramesh et al. 2022): what a U-Net is told of encoded pictures.

Each encoded picture is noised as its prompt wants, the less of it is to be kept the more, and told
with how noisy it is. Several are weighed, added and noised once more, a little. The noise follows
from the seed of the sampling. The rules and numbers are ComfyUI's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers.models.embeddings import get_timestep_embedding
from safetensors import safe_open
from torch import Tensor

from executor.models.header import Header
from executor.ports import PicturePrompt

MERGED = 0.05
"""How far several pictures together are noised, where the model was trained to be told so."""

_LEVELS = 1000
_SEED_OFFSET = 10  # so far below the sampling's seed is the noise's
_LARGEST_BETA = 0.999
_MEAN, _STD = "noise_augmentor.data_mean", "noise_augmentor.data_std"


@dataclass(frozen=True, eq=False)
class PictureNoise:
    """Noise for encoded pictures of a width, of these mean and deviation in training."""

    width: int
    mean: Tensor | float = 0.0
    std: Tensor | float = 1.0

    @cached_property
    def kept(self) -> Tensor:
        """Which share of the picture's variance is left at each level (1000,), float64.

        The cosine schedule of Nichol & Dhariwal (2021), eq. 17, as it is cut into steps there.
        """
        angles = (torch.arange(_LEVELS + 1, dtype=torch.float64) / _LEVELS + 0.008) / 1.008
        left = torch.cos(angles * math.pi / 2) ** 2
        betas = (1 - left[1:] / left[:-1]).clamp_max(_LARGEST_BETA)
        return torch.cumprod(1 - betas, dim=0)

    def told(self, picture: Tensor, amount: float, noise: Tensor) -> Tensor:
        """An encoded picture (1, P) noised so far (0…1), and its level as a timestep (1, 2P)."""
        level = round((_LEVELS - 1) * amount)
        kept = float(self.kept[level])
        clean = (picture - self.mean) / self.std
        noised = math.sqrt(kept) * clean + math.sqrt(1 - kept) * noise
        said = get_timestep_embedding(
            torch.tensor([level]), self.width, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return torch.cat((noised * self.std + self.mean, said), dim=1)

    def vector(self, pictures: Sequence[PicturePrompt], seed: int, *, merged: float) -> Tensor:
        """What all of them together say (1, 2P), on the CPU."""
        generator = torch.Generator().manual_seed(seed - _SEED_OFFSET)
        noise = torch.randn(1, self.width, generator=generator)  # the same for every picture
        told = [
            self.told(row[None].float().cpu(), prompt.noise_augmentation, noise) * prompt.strength
            for prompt in pictures
            for row in prompt.picture.embeds
        ]
        if len(told) == 1:
            return told[0]
        again = torch.randn(1, self.width, generator=generator)
        return self.told(sum(told, torch.zeros(()))[:, : self.width], merged, again)


def read_picture_noise(header: Header) -> PictureNoise | None:
    """With the mean and deviation that a checkpoint brings, if it does."""
    if not {_MEAN, _STD} <= header.tensors.keys():
        return None
    with safe_open(header.path, framework="pt") as file:
        mean, std = (file.get_tensor(name).float().reshape(1, -1) for name in (_MEAN, _STD))
    return PictureNoise(mean.shape[1], mean, std)
