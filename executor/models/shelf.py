"""The library by names: which folder a kind of model is looked for in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from executor.context import Checkpoint
from executor.models.library import Library
from executor.ports import Autoencoder, Upscaler


@dataclass(frozen=True, slots=True)
class Shelf:
    """The user's models (``executor.context.Models``)."""

    library: Library
    find: Callable[[str, str], Path]  # the file of a name in a folder; raises PathError

    def checkpoint(self, name: str) -> Checkpoint:
        """All parts of a file in ``checkpoints``."""
        return self.library.checkpoint(self.find("checkpoints", name))

    def vae(self, name: str) -> Autoencoder:
        """From the folder ``vae``."""
        return self.library.vae(self.find("vae", name))

    def upscaler(self, name: str) -> Upscaler:
        """From the folder ``upscale_models``."""
        return self.library.upscaler(self.find("upscale_models", name))
