"""An autoencoder as nodes see it: pictures in [0, 1] to unscaled latents and back.

It takes the mode of the posterior, as ComfyUI does: encoding has no randomness. Batches are cut to
what memory holds (``executor.devices``), pictures into tiles if need be.
"""

from fractions import Fraction
from pathlib import Path
from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from executor.devices import in_batches
from executor.errors import InputError, ModelFileError
from executor.ports import Tiling
from executor.presence import lasting_bytes, present
from executor.tiling import Compute, tiled

FALLBACK = Tiling(size=512, overlap=128)
"""Where a whole picture does not fit into memory; ComfyUI's for decoding."""


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
        """How much its weights take, without what a file holds for as long as they can leave."""
        return lasting_bytes(self.network)

    def encode(self, pixels: Tensor, tiling: Tiling | None = None) -> Tensor:
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
            with present(self.network):
                (posterior,) = self.network.encode(rows.to(self.network.dtype), return_dict=False)
            return posterior.mode().float()

        scale = Fraction(1, factor)
        return self._run(pixels * 2 - 1, compute, scale, tiling, "encoding a picture")

    def decode(self, samples: Tensor, tiling: Tiling | None = None) -> Tensor:
        """Unscaled latents (B, C', h, w) → (B, 8h, 8w, 3) in [0, 1], float32."""
        if samples.shape[1] != self.network.config["latent_channels"]:
            raise InputError(
                f"this VAE decodes latents of {self.network.config['latent_channels']} channels, "
                f"got {samples.shape[1]}: they are of another family of models"
            )

        def compute(rows: Tensor) -> Tensor:
            latents = cast("torch.FloatTensor", rows.to(self.network.dtype))
            with present(self.network):
                (decoded,) = self.network.decode(latents, return_dict=False)
            return decoded.float()

        scale = Fraction(self.factor)
        decoded = self._run(samples, compute, scale, tiling, "decoding a latent")
        return ((decoded + 1) / 2).clamp_(0, 1).movedim(1, -1).contiguous()

    def _run(
        self, rows: Tensor, compute: Compute, scale: Fraction, tiling: Tiling | None, what: str
    ) -> Tensor:
        """All rows, in batches; in tiles, where somebody asks for them or memory does."""
        rows = rows.to(self.device)
        pixels = rows.shape[-2] * rows.shape[-1] * max(1, scale) ** 2  # of the picture
        what = f"{what} of {float(pixels) / 1e6:.1f} megapixels"

        def in_tiles(rows: Tensor) -> Tensor:
            return _tiled(rows, compute, scale, tiling or FALLBACK)

        if tiling is not None:
            pixels, what = min(pixels, tiling.size**2), f"{what} in tiles"
        # At full size the widest tensor is the input of the finest level. Decoding with SD 1.5's
        # VAE took 4.1 to 4.8 times as much, for inputs, norms, results and scratch together.
        widths = self.network.config["block_out_channels"]
        bytes_per_pixel = 5 * max(widths[:2]) * self.network.dtype.itemsize
        with torch.no_grad():
            return in_batches(
                rows,
                in_tiles if tiling else compute,
                row_bytes=int(pixels * bytes_per_pixel),
                what=what,
                in_tiles=None if tiling else in_tiles,
                network=self.network,
            )


def _tiled(rows: Tensor, compute: Compute, scale: Fraction, tiling: Tiling) -> Tensor:
    """The mean over three ways to cut: squares, and rectangles of twice the width or the height.

    As in ComfyUI: where one has a seam, two have none.
    """
    factor = max(scale, 1 / scale)
    unit = 1 if scale > 1 else int(factor)  # so many pixels of ``rows`` are one of the latent
    size, overlap = (int(side // factor) for side in (tiling.size, tiling.overlap))
    size = max(2, size)
    made: list[Tensor] = []
    for tile in ((size, size), (size * 2, size // 2), (size // 2, size * 2)):
        # What would leave no room for a next tile is cut to half of this one.
        fits = overlap if overlap < min(tile) else min(tile) // 2
        sides = (tile[0] * unit, tile[1] * unit)
        part = tiled(rows, compute, tile=sides, overlap=fits * unit, scale=scale)
        made = [made[0] + part if made else part]
    return made[0] / 3


class MissingAutoencoder:
    """Stands for the VAE of a checkpoint that holds none; using it says what to do."""

    nbytes = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    def encode(self, pixels: Tensor, tiling: Tiling | None = None) -> Tensor:
        """Raises ModelFileError."""
        raise self._error()

    def decode(self, samples: Tensor, tiling: Tiling | None = None) -> Tensor:
        """Raises ModelFileError."""
        raise self._error()

    def _error(self) -> ModelFileError:
        return ModelFileError(
            f"{self.path.name} holds no VAE; load one with VAELoader and connect that instead"
        )
