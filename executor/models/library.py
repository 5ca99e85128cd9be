"""The models in memory: a file is there once, however many nodes and jobs name it.

A file is known by path, size and time, so one that was replaced is loaded anew. Parts are held
weakly and each by itself: whoever holds a VAE alone does not keep the U-Net.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import torch

from executor.context import Checkpoint
from executor.devices import Devices
from executor.models import detect, load
from executor.models.clip_tower import ClipTower
from executor.models.clip_vision import ClipVision, load_clip_vision
from executor.models.control import load_controlnet
from executor.models.control_file import ControlKind, read_control_file
from executor.models.control_lora import load_control_lora
from executor.models.families import Family, TextTower
from executor.models.gligen import Gligen, load_gligen
from executor.models.load_text import clip_text, load_weights
from executor.models.lora import Lora
from executor.models.lora_file import read_lora
from executor.models.model_file import ModelFile
from executor.models.style import StyleModel, load_style
from executor.models.t2i_adapter import load_adapter
from executor.models.text import ClipText, FindEmbedding, no_embeddings
from executor.models.text_file import arranged, place_alone
from executor.models.unet import UNet
from executor.models.union_control import load_union
from executor.models.upscale import Upscaler, load_upscaler
from executor.models.vae import Autoencoder
from executor.ports import ControlNetwork, DiffusionModel

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
                self._unet(file, family, None),
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

    def diffusion_model(self, path: Path, rounded: torch.dtype | None = None) -> UNet:
        """The U-Net of a file of its own, its weights ``rounded`` to a type if one is said.

        Loaded if it is not in memory. Raises ModelFileError.
        """
        with self._lock:
            file = detect.inspect(path)
            return self._unet(file, detect.family_of_unet(file), rounded)

    def text_encoder(self, paths: Sequence[Path], *, on_cpu: bool = False) -> ClipText:
        """One text encoder, or SDXL's two, from files of their own.

        Loaded if they are not in memory. Raises ModelFileError.
        """
        with self._lock:
            devices = Devices.choose("cpu") if on_cpu else self.devices
            files = arranged([detect.inspect(path) for path in paths])

            def tower(rules: TextTower, file: ModelFile) -> ClipTower:
                place, key = place_alone(file), (file.identity, devices.device)
                weights = self._once(
                    key, rules.name, lambda: load_weights(file, place, rules, devices)
                )
                return ClipTower(weights, rules)

            def load_it() -> ClipText:
                towers = [tower(rules, file) for rules, file in files.items()]
                return clip_text(next(iter(files.values())), towers, self._find_embedding)

            identities = tuple(file.identity for file in files.values())
            return self._once((identities, devices.device), "text", load_it)

    def _unet(self, file: ModelFile, family: Family, rounded: torch.dtype | None) -> UNet:
        # The objective may be said beside the file, and be said otherwise later.
        return self._once(
            (file.identity, file.objective, rounded),
            "unet",
            lambda: load.load_unet(file, family, self.devices, rounded=rounded),
        )

    def lora(self, path: Path) -> Lora:
        """A LoRA, parsed if it is not in memory. Raises ModelFileError."""
        with self._lock:
            file = detect.inspect(path)
            detect.require_lora(file)
            return Lora(self._once(file.identity, "lora", lambda: read_lora(file)))

    def controlnet(self, path: Path, base: DiffusionModel | None = None) -> ControlNetwork:
        """What steers in a file; a difference with the weights of ``base`` added to it.

        Loaded if it is not in memory. Raises ModelFileError, InputError.
        """
        with self._lock:
            file = read_control_file(path)
            if file.kind is ControlKind.ADAPTER:
                return self._once(file.identity, "t2i", lambda: load_adapter(file, self.devices))
            if file.kind is ControlKind.LORA:
                return self._once(
                    file.identity, "control-lora", lambda: load_control_lora(file, self.devices)
                )
            if file.kind is ControlKind.UNION:
                return self._once(file.identity, "union", lambda: load_union(file, self.devices))
            is_whole = file.kind is ControlKind.CONTROLNET
            of_base = None if is_whole or not isinstance(base, UNet) else base.weights_key
            return self._once(
                (file.identity, of_base),
                "controlnet",
                lambda: load_controlnet(file, self.devices, base),
            )

    def gligen(self, path: Path) -> Gligen:
        """GLIGEN's layers, loaded if they are not in memory. Raises ModelFileError."""
        with self._lock:
            identity = detect.inspect(path).identity
            return self._once(identity, "gligen", lambda: load_gligen(path, self.devices))

    def clip_vision(self, path: Path) -> ClipVision:
        """The CLIP vision model of a file of its own, or of an unCLIP checkpoint.

        Loaded if it is not in memory. Raises ModelFileError.
        """
        with self._lock:
            file = detect.inspect(path)
            return self._once(
                file.identity, "clip-vision", lambda: load_clip_vision(file, self.devices)
            )

    def style_model(self, path: Path) -> StyleModel:
        """A style adapter, loaded if it is not in memory. Raises ModelFileError."""
        with self._lock:
            file = detect.inspect(path)
            return self._once(file.identity, "style", lambda: load_style(file, self.devices))

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
