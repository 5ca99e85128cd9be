"""FreeU (Si et al. 2023): on the way up more of the backbone, less of the skips' low frequencies.

Where the features are four or two times as wide as the first ones, half of their channels are
scaled by b and the lowest frequencies of the skip connection by s (§3.2). The second version scales
by what the features' mean says of each place. As in ComfyUI the width decides where, so the first
block after a change of size counts with those before it.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from executor.models.unet_blocks import blocks
from executor.patches import NetworkPatch, Rows

_LOW = 1  # frequencies on either side of none that count as low


@dataclass(frozen=True, slots=True)
class FreeU(NetworkPatch):
    """Scales at four (1) and at two (2) times the first width; 1 changes nothing."""

    b1: float
    b2: float
    s1: float
    s2: float
    is_second_version: bool = False

    @contextmanager
    def applied(self, network: Any, rows: Rows) -> Generator[None]:
        """While this holds, the network's skip connections are joined so."""
        first: int = network.config["block_out_channels"][0]
        scales = {4 * first: (self.b1, self.s1), 2 * first: (self.b2, self.s2)}
        handles = [
            block.resnet.register_forward_pre_hook(_Joined(self, block.channels, *scales[width]))
            for block in blocks(network).outputs
            if (width := block.channels) in scales
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def scaled(self, features: Tensor, b: float) -> Tensor:
        """Features (B, C, h, w) with half of their channels scaled."""
        half = features.shape[1] // 2
        factor: Tensor | float = b
        if self.is_second_version:
            factor = (b - 1) * _spread(features.mean(dim=1, keepdim=True)) + 1
        return torch.cat((features[:, :half] * factor, features[:, half:]), dim=1)


@dataclass(frozen=True, slots=True)
class _Joined:
    """What a residual block is given in place of features and skip connection, joined."""

    patch: FreeU
    channels: int  # of the features
    b: float
    s: float

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, skip = args[0][:, : self.channels], args[0][:, self.channels :]
        joined = torch.cat((self.patch.scaled(features, self.b), low_scaled(skip, self.s)), dim=1)
        return joined, *args[1:]


def _spread(mean: Tensor) -> Tensor:
    """Each row (1, h, w) brought to [0, 1]; what is the same everywhere to 0."""
    least, most = mean.amin(dim=(1, 2, 3), keepdim=True), mean.amax(dim=(1, 2, 3), keepdim=True)
    return (mean - least) / (most - least).clamp_min(torch.finfo(mean.dtype).tiny)


def low_scaled(skip: Tensor, scale: float) -> Tensor:
    """(B, C, h, w) with its lowest frequencies scaled, in float32."""
    height, width = skip.shape[-2:]
    frequencies = torch.fft.fftshift(torch.fft.fftn(skip.float(), dim=(-2, -1)), dim=(-2, -1))
    rows = slice(max(0, height // 2 - _LOW), height // 2 + _LOW)
    columns = slice(max(0, width // 2 - _LOW), width // 2 + _LOW)
    frequencies[..., rows, columns] *= scale
    back = torch.fft.ifftn(torch.fft.ifftshift(frequencies, dim=(-2, -1)), dim=(-2, -1))
    return back.real.to(skip.dtype)
