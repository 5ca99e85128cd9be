"""The models in memory: a file is there once, however many nodes and jobs name it.

A file is known by path, size and time, so one that was replaced is loaded anew. Parts are held
weakly and each by itself: whoever holds a VAE alone does not keep the U-Net.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

from executor.context import Checkpoint
from executor.devices import Devices
from executor.models import detect, load
from executor.models.text import FindEmbedding, no_embeddings
from executor.models.upscale import Upscaler, load_upscaler
from executor.models.vae import Autoencoder

P = TypeVar("P")


class Library:
    """Loads models for one device."""

    def __init__(self, devices: Devices, find_embedding: FindEmbedding = no_embeddings) -> None:
        self.devices = devices
        self._find_embedding = find_embedding
        self._loaded: WeakValueDictionary[tuple[object, str], Any] = WeakValueDictionary()
        self._lock = Lock()  # one file at a time: two would only take the disk from each other

    def checkpoint(self, path: Path) -> Checkpoint:
        """The parts of a checkpoint, loaded if they are not in memory. Raises ModelFileError."""
        with self._lock:
            file = detect.inspect(path)
            family = detect.family_of(file)
            devices, identity = self.devices, file.identity
            return Checkpoint(
                self._once(identity, "unet", lambda: load.load_unet(file, family, devices)),
                self._once(
                    identity,
                    "text",
                    lambda: load.load_text(file, family, devices, self._find_embedding),
                ),
                self._once(identity, "vae", lambda: load.load_checkpoint_vae(file, devices)),
            )

    def vae(self, path: Path) -> Autoencoder:
        """The autoencoder of a file, loaded if it is not in memory. Raises ModelFileError."""
        with self._lock:
            identity = detect.inspect(path).identity
            return self._once(identity, "vae", lambda: load.load_vae(path, self.devices))

    def upscaler(self, path: Path) -> Upscaler:
        """An upscaler, loaded if it is not in memory. Raises ModelFileError."""
        with self._lock:
            file = detect.inspect(path)
            detect.require_upscaler(file)
            return self._once(file.identity, "upscaler", lambda: load_upscaler(file, self.devices))

    def _once(self, identity: object, part: str, load_it: Callable[[], P]) -> P:
        found = self._loaded.get((identity, part))
        if found is None:
            found = self._loaded[identity, part] = load_it()
        return cast("P", found)
