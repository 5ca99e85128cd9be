"""An autoencoder as nodes see it: pictures in [0, 1] to unscaled latents and back.

It takes the mode of the posterior, as ComfyUI does: encoding has no randomness. Batches are cut to
what memory holds (``executor.devices``).
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from executor.devices import in_batches
from executor.errors import InputError, ModelFileError


class Autoencoder:
    """A KL autoencoder (``executor.ports.Autoencoder``)."""

    def __init__(self, network: AutoencoderKL) -> None:
        self.network = network

    @property
    def factor(self) -> int:
        """How many pixels one latent pixel stands for, along each side."""
        return 2 ** (len(self.network.config["block_out_channels"]) - 1)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.network.device

    @property
    def memory(self) -> object:
        """What holds its weights: the cache counts them once, whoever else holds them."""
        return self.network

    @property
    def nbytes(self) -> int:
        """How much its weights take."""
        return sum(weight.nbytes for weight in self.network.parameters())

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) in [0, 1] → unscaled latents (B, C', H/8, W/8), float32.

        Sides that are no multiple of 8 lose their rim, equally at both ends; alpha is left out.
        """
        _, height, width, channels = pixels.shape
        if channels not in (1, 3, 4):
            raise InputError(f"a picture to encode must have 1, 3 or 4 channels, got {channels}")
        factor = self.factor
        if height < factor or width < factor:
            raise InputError(
                f"a picture to encode must be at least {factor} pixels high and wide, "
                f"got {width}×{height}"
            )
        top, left = height % factor // 2, width % factor // 2
        height, width = height - height % factor, width - width % factor
        pixels = pixels[:, top : top + height, left : left + width, :3]
        pixels = pixels.expand(-1, -1, -1, 3).movedim(-1, 1)  # (B, 3, H, W)

        def compute(rows: Tensor) -> Tensor:
            (posterior,) = self.network.encode(rows, return_dict=False)
            return posterior.mode()

        return self._in_batches(pixels * 2 - 1, compute, height * width, "encoding a picture")

    def decode(self, samples: Tensor) -> Tensor:
        """Unscaled latents (B, C', h, w) → (B, 8h, 8w, 3) in [0, 1], float32."""
        if samples.shape[1] != self.network.config["latent_channels"]:
            raise InputError(
                f"this VAE decodes latents of {self.network.config['latent_channels']} channels, "
                f"got {samples.shape[1]}: they are of another family of models"
            )

        def compute(rows: Tensor) -> Tensor:
            (decoded,) = self.network.decode(cast("torch.FloatTensor", rows), return_dict=False)
            return decoded

        pixels = samples.shape[2] * samples.shape[3] * self.factor**2
        decoded = self._in_batches(samples, compute, pixels, "decoding a latent")
        return ((decoded + 1) / 2).clamp_(0, 1).movedim(1, -1).contiguous()

    def _in_batches(
        self, rows: Tensor, compute: Callable[[Tensor], Tensor], pixels: int, what: str
    ) -> Tensor:
        dtype = self.network.dtype
        # At full size the widest tensor is the input of the finest level. Decoding with SD 1.5's
        # VAE took 4.1 to 4.8 times as much, for inputs, norms, results and scratch together.
        widths = self.network.config["block_out_channels"]
        bytes_per_pixel = 5 * max(widths[:2]) * dtype.itemsize
        with torch.no_grad():
            return in_batches(
                rows.to(self.device),
                lambda part: compute(part.to(dtype)).float(),
                row_bytes=pixels * bytes_per_pixel,
                what=f"{what} of {pixels / 1e6:.1f} megapixels",
            )


class MissingAutoencoder:
    """Stands for the VAE of a checkpoint that holds none; using it says what to do."""

    nbytes = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    def encode(self, pixels: Tensor) -> Tensor:
        """Raises ModelFileError."""
        raise self._error()

    def decode(self, samples: Tensor) -> Tensor:
        """Raises ModelFileError."""
        raise self._error()

    def _error(self) -> ModelFileError:
        return ModelFileError(
            f"{self.path.name} holds no VAE; load one with VAELoader and connect that instead"
        )
