"""Upscalers as nodes see them: pictures in [0, 1] become larger ones, tile by tile.

ESRGAN, Real-ESRGAN and its compact form are built here; other architectures are spandrel's, where
it is installed. Computed in float32, as in ComfyUI: half precision would be seen in flat colours.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from executor.devices import Devices, in_smaller_tiles
from executor.errors import InputError, ModelFileError
from executor.models.model_file import ModelFile
from executor.models.part import Part
from executor.models.upscale_layout import Architecture, architecture_of
from executor.models.upscale_networks import Compact, RRDBNet
from executor.presence import lasting_bytes, present
from executor.residency import Turn
from executor.tiling import tiled

TILES = (512, 256, 128)
"""Sides of the tiles, in pixels of the picture that is given; smaller where memory is short."""

OVERLAP = 32

_PIXEL_BYTES = 900
"""For each pixel of the result: measured, 890 for ESRGAN, which keeps 64 channels there."""


class Upscaler:
    """A network that makes pictures larger (``executor.ports.Upscaler``)."""

    def __init__(self, network: nn.Module, scale: int, compute: Callable[[Tensor], Tensor]) -> None:
        self.network, self.scale = network, scale
        self._compute = compute

    @property
    def memory(self) -> object:
        """What holds its weights."""
        return self.network

    @property
    def nbytes(self) -> int:
        """How much its weights take, without what a file holds for as long as they can leave."""
        return lasting_bytes(self.network)

    def upscale(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) in [0, 1] → (B, s · H, s · W, 3), for the factor s; alpha is left out.

        Raises InputError if there is not memory enough for the smallest tile.
        """
        if pixels.shape[3] not in (1, 3, 4):
            words = f"a picture to upscale has 1, 3 or 4 channels, got {pixels.shape[3]}"
            raise InputError(words)
        weight = next(self.network.parameters())
        rows = pixels[..., :3].expand(-1, -1, -1, 3).movedim(-1, 1)  # (B, 3, H, W)
        rows = rows.to(weight.device, weight.dtype)

        def upscaled(tile: int) -> Tensor:
            scale = Fraction(self.scale)
            with present(self.network):
                return tiled(rows, self._compute, tile=(tile, tile), overlap=OVERLAP, scale=scale)

        def bytes_of(tile: int) -> int:
            height, width = (min(tile, side) for side in rows.shape[2:])
            return height * width * max(2, self.scale**2) * _PIXEL_BYTES

        with torch.no_grad():
            size = f"{rows.shape[3]}×{rows.shape[2]}"
            large = in_smaller_tiles(
                TILES,
                upscaled,
                bytes_of=bytes_of,
                device=rows.device,
                what=f"upscaling a picture of {size} pixels by {self.scale}",
                network=self.network,
            )
        return large.clamp_(0, 1).movedim(1, -1).contiguous()


def load_upscaler(file: ModelFile, devices: Devices) -> Upscaler:
    """The network in a file. Raises ModelFileError if nobody here knows it."""
    found = architecture_of(file.header)
    if found is None:
        return _by_spandrel(file, devices)
    part = Part("network", file.header, found.keys)
    network = part.build(lambda: _built(found))
    part.fill(network, devices, devices.upscaler_dtype, turn=Turn.AUTOENCODER)
    return Upscaler(network, network.scale, network)


def _built(found: Architecture) -> RRDBNet | Compact:
    return Compact(**found.config) if found.is_compact else RRDBNet(**found.config)


def _by_spandrel(file: ModelFile, devices: Devices) -> Upscaler:
    """A network of the many architectures that spandrel knows."""
    name = file.path.name
    try:
        import spandrel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelFileError(
            f"{name} is an upscaler of an architecture that Weft does not know by itself; it knows "
            "ESRGAN, Real-ESRGAN and its compact form. pip install 'weft[upscale]' adds many more"
        ) from error
    known: Any = spandrel
    try:
        loader = known.ModelLoader(device=devices.device)
        found: Any = loader.load_from_state_dict(load_file(file.path))
    except known.UnsupportedModelError as error:
        words = f"{name} is no upscaler that Weft or spandrel knows; use another model"
        raise ModelFileError(words) from error
    except (RuntimeError, KeyError, ValueError) as error:  # weights that do not fit together
        raise ModelFileError(f"{name}: its network cannot be loaded: {error}") from error
    takes = (found.input_channels, found.output_channels)
    if not isinstance(found, known.ImageModelDescriptor) or takes != (3, 3):
        words = f"{name} is a {found.architecture.name}, which does not enlarge colour pictures"
        raise ModelFileError(f"{words}; use another model")
    found.to(devices.device, dtype=devices.upscaler_dtype).eval()
    found.model.requires_grad_(False)
    return Upscaler(found.model, found.scale, found)
