"""Where a file keeps a U-Net: below which prefix, in whose names, or as running means only.

Shapes are told by the names of the original layout, whichever the file has. Light: no torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from executor.models import layout
from executor.models.header import Header
from executor.models.layout import EMA, UNET

_PREFIXES = (UNET, "diffusion_model.", "")
_STEM = "input_blocks.0.0.weight"


@dataclass(frozen=True, slots=True)
class UnetPlace:
    """A U-Net in a file."""

    header: Header
    names: Literal["original", "means", "diffusers"]
    prefix: str = ""  # of the original names

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its tensors by their original names, without prefix."""
        if self.names == "original":
            return self.header.shapes_below(self.prefix)
        return {
            original: self.header.tensors[key].shape for key, original in self._originals().items()
        }

    def stored(self, names: Iterable[str]) -> dict[str, str]:
        """The file's name of every tensor of a ``UNet2DConditionModel``."""
        if self.names == "diffusers":
            return {name: self._beside_time(name) for name in names}
        return {name: self.key(ldm) for name, ldm in layout.unet_names(names).items()}

    def key(self, original: str) -> str:
        """The file's name of a tensor by its original name; as it is if the file has none."""
        if self.names == "original":
            return self.prefix + original
        if self.names == "means":
            return layout.ema_name(original)
        found = (key for key, name in self._originals().items() if name == original)
        return next(found, original)

    def _originals(self) -> dict[str, str]:
        """The original names of the file's tensors, by the file's."""
        if self.names == "means":
            return {
                key: name
                for key in self.header.tensors
                if key.startswith(EMA) and (name := layout.unet_name_of_ema(key))
            }
        try:
            return layout.unet_names(self.header.tensors)
        except ValueError:  # not one block of the kind that tells its depth
            return {}

    def _beside_time(self, name: str) -> str:
        """diffusers has two names for what joins the timestep's embedding."""
        other = name.replace("class_embedding.", "add_embedding.", 1)
        return other if other in self.header.tensors else name


def unet_place(header: Header) -> UnetPlace | None:
    """The U-Net of a file, if it has one: its own weights rather than their running means."""
    names = header.tensors
    if any(name.startswith(UNET) for name in names):
        return UnetPlace(header, "original", UNET)
    if any(name.startswith(EMA) for name in names):
        return UnetPlace(header, "means")
    for prefix in _PREFIXES:
        if prefix + _STEM in names:
            return UnetPlace(header, "original", prefix)
    if "conv_in.weight" in names and any(name.startswith("down_blocks.") for name in names):
        return UnetPlace(header, "diffusers")
    return None
