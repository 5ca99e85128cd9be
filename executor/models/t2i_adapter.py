"""T2I-Adapters (Mou et al. 2023): a small network that turns a picture into a U-Net's features.

It sees neither the noisy latent nor the prompt, so it runs once for a whole sampling. Its features
are added behind the last residual block of each of the encoder's levels; SDXL's first behind the
first change of size, and its last in the middle. So they are in ComfyUI.
"""

from collections.abc import Hashable
from copy import copy

import torch
from diffusers.models.adapter import T2IAdapter as AdapterNetwork
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from executor.devices import Devices, in_batches
from executor.errors import InputError
from executor.models.control_file import ControlFile
from executor.models.control_layout import adapter_config
from executor.models.control_picture import control_picture
from executor.models.part import Part
from executor.models.unet import UNet
from executor.ports import DiffusionModel, Residuals
from executor.presence import lasting_bytes, present
from executor.residency import Turn
from executor.steps import ControlInput, Inputs

_PIXELS = 8  # of the picture, for one of the latent


class T2IAdapter:
    """A T2I-Adapter (``executor.ports.ControlNetwork``)."""

    def __init__(self, network: AdapterNetwork, *, name: str, key: Hashable) -> None:
        self.name = name  # of its file, for messages
        self.key = key
        self.config = network.config
        self.network = network
        self.dtype: torch.dtype = network.dtype
        self._layers = 2  # residual blocks on each level of the U-Net: so many in all real ones
        for block in network.adapter.body:
            if block.downsample is not None:
                block.downsample = _Halved()

    @property
    def memory(self) -> object:
        """What holds its weights: the cache counts them once, whoever else holds them."""
        return self.network

    @property
    def nbytes(self) -> int:
        """How much its weights take, without what a file holds for as long as they can leave."""
        return lasting_bytes(self.network)

    @property
    def widths(self) -> list[int]:
        """Channels of its features."""
        widths = list(self.config["channels"])
        return [*widths, widths[-1]] if self.config["adapter_type"] == "light_adapter" else widths

    @property
    def _is_large(self) -> bool:
        return self.config["adapter_type"] == "full_adapter_xl"

    def fitted(self, model: DiffusionModel) -> "T2IAdapter":
        """The same for this model's levels. Raises InputError for one of other widths."""
        if not isinstance(model, UNet):
            return self
        there = list(model.config["block_out_channels"])
        wanted = [*there, there[-1]] if self._is_large else there
        if self.widths != wanted:
            made_for = "SDXL" if self._is_large else "Stable Diffusion 1.x"
            raise InputError(
                f"{self.name} is a T2I-Adapter for {made_for}, {_listed(self.widths)} channels "
                f"wide; this model is {model.family.title}, {_listed(there)} wide: use an "
                "adapter that was made for it"
            )
        placed = copy(self)
        placed._layers = model.config["layers_per_block"]
        return placed

    def hints(self, picture: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """The features (B, C, h, w) that a picture (B, H, W, C) has on each level."""
        factor: int = self.config["downscale_factor"]
        # Sides are made up to what the network can take apart: SDXL's reads 16 pixels at a time.
        rows, columns = (-(-_PIXELS * side // factor) * factor for side in (height, width))
        pixels = control_picture(picture, rows, columns, self.config["in_channels"])
        device = self.network.device
        shapes: list[torch.Size] = []

        @torch.no_grad()
        def read(rows: Tensor) -> Tensor:
            """The features side by side, since batches are made of one tensor."""
            with present(self.network):
                features: list[Tensor] = self.network(rows.to(device, self.dtype))
            shapes[:] = [feature.shape[1:] for feature in features]
            return torch.cat([feature.flatten(1) for feature in features], dim=1)

        row_bytes = 8 * self.widths[0] * (rows // _PIXELS) * (columns // _PIXELS) * 4
        what, network = "while a T2I-Adapter reads pictures", self.network
        side_by_side = in_batches(pixels, read, row_bytes=row_bytes, what=what, network=network)
        parts = side_by_side.split([shape.numel() for shape in shapes], dim=1)
        return tuple(p.unflatten(1, shape) for p, shape in zip(parts, shapes, strict=True))

    def residuals(
        self, seen: Tensor, timesteps: Tensor, inputs: Inputs, control: ControlInput
    ) -> Residuals:
        """Its features, the same at every step, float32."""
        scale = control.strength.float()[:, None, None, None]
        scaled = [hint * scale for hint in control.hints]
        blocks = self._layers + 1  # of a level, the change of size being one
        if self._is_large:
            *scaled, middle = scaled
            places = (blocks, 2 * blocks - 1, 3 * blocks - 1)
            return Residuals(middle=middle, features=dict(zip(places, scaled, strict=True)))
        return Residuals(
            features={blocks * level - 1: one for level, one in enumerate(scaled, start=1)}
        )


class _Halved(nn.Module):
    """Means of 2×2; an odd side gets zeros at both ends first, which count (as in ComfyUI)."""

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, 2, padding=(x.shape[2] % 2, x.shape[3] % 2))


def load_adapter(file: ControlFile, devices: Devices) -> T2IAdapter:
    """The T2I-Adapter of a file. Raises ModelFileError for a file that cannot be loaded."""
    part = Part("T2I-Adapter", file.header, file.keys)
    network = part.build(lambda: AdapterNetwork(**adapter_config(file.shapes)))
    dtype = devices.unet_dtype(part.stored_dtype(network))
    part.fill(network, devices, dtype, turn=Turn.CONTROL)
    return T2IAdapter(network, name=file.path.name, key=("t2i-adapter", file.identity, dtype))


def _listed(widths: list[int]) -> str:
    return ", ".join(map(str, widths))
