"""The narrow door through which a node run reaches the world.

A node gets no services: it can find files in the folders that its user opened, load models, keep
files, and learn where to put tensors. One ``Context`` belongs to one node run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, Protocol

from executor.ports import (
    Autoencoder,
    ControlNetwork,
    DiffusionModel,
    GroundingNetwork,
    StyleReader,
    TextEncoder,
    Upscaler,
    VisionEncoder,
)

if TYPE_CHECKING:
    import torch


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    model: DiffusionModel
    clip: TextEncoder
    vae: Autoencoder


class Lora(Protocol):
    """A file of changes to a model's weights. What it is put on is left as it is.

    Both methods raise ModelFileError for a LoRA of another family, and InputError for a model that
    is not of Weft's loaders.
    """

    def on_model(self, model: DiffusionModel, strength: float) -> DiffusionModel:
        """The model with its weights changed so strongly; at 0 the same one."""
        ...

    def on_both(
        self,
        model: DiffusionModel,
        clip: TextEncoder,
        *,
        strength_model: float,
        strength_clip: float,
    ) -> tuple[DiffusionModel, TextEncoder]:
        """The model and its text encoder, each changed so strongly."""
        ...


class Models(Protocol):
    """A shelf of models by the names of their files, each in memory once whoever asks for it.

    Every method raises PathError where there is no such file, and ModelFileError, which says what
    the file is, where it is not what was asked for.
    """

    def checkpoint(self, name: str) -> Checkpoint:
        """All parts of a file in ``checkpoints``."""
        ...

    def vae(self, name: str) -> Autoencoder:
        """From the folder ``vae``."""
        ...

    def controlnet(self, name: str, base: DiffusionModel | None = None) -> ControlNetwork:
        """From the folder ``controlnet``, be it a ControlNet or a T2I-Adapter.

        One that is kept as its difference from a model has the weights of ``base`` added to it.
        """
        ...

    def gligen(self, name: str) -> GroundingNetwork:
        """From the folder ``gligen``."""
        ...

    def diffusion_model(self, name: str, weight_dtype: str = "default") -> DiffusionModel:
        """From the folder ``diffusion_models``, its weights rounded to a type of 8 bits.

        The types have ComfyUI's names, like ``fp8_e4m3fn``; ``default`` rounds nothing.
        """
        ...

    def text_encoder(self, names: Sequence[str], *, on_cpu: bool = False) -> TextEncoder:
        """From the folder ``text_encoders``: one, or SDXL's two in any order."""
        ...

    def diffusers(self, name: str) -> Checkpoint:
        """All parts of a diffusers folder in ``diffusers``."""
        ...

    def lora(self, name: str) -> Lora:
        """From the folder ``loras``."""
        ...

    def clip_vision(self, name: str) -> VisionEncoder:
        """From the folder ``clip_vision``."""
        ...

    def checkpoint_vision(self, name: str) -> VisionEncoder:
        """The CLIP vision model of an unCLIP file in ``checkpoints``."""
        ...

    def style_model(self, name: str) -> StyleReader:
        """From the folder ``style_models``."""
        ...

    def upscaler(self, name: str) -> Upscaler:
        """From the folder ``upscale_models``."""
        ...


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file that a node run left behind, as clients ask for it."""

    filename: str
    subfolder: str
    type: Literal["output", "temp"]
    kind: str = "images"  # under which name the node's results list it
    is_animated: bool = False  # it has several frames, which editors show otherwise


class Context(Protocol):
    """What a node run may do beside computing."""

    @property
    def device(self) -> "torch.device":
        """Where new tensors go, and where inputs are."""
        ...

    @property
    def ancestral_seed_offset(self) -> int:
        """Added to a seed for the noise that ancestral samplers add (see ``executor.settings``)."""
        ...

    @property
    def max_picture_pixels(self) -> int:
        """Pictures of more pixels than this must not be decoded."""
        ...

    @property
    def prompt(self) -> Mapping[str, Any]:
        """The workflow in ComfyUI's API format, for files that carry it."""
        ...

    @property
    def extra_pnginfo(self) -> Mapping[str, Any]:
        """What the client wants in saved pictures: ``workflow``, the editor's graph, and others."""
        ...

    def find(self, folder: str, name: str) -> Path:
        """The file of that name in a named folder (``checkpoints``, ``input`` …).

        Raises PathError if there is none, or if the name leads out of the folder.
        """
        ...

    @property
    def models(self) -> Models:
        """The user's models: loaded when first asked for, in memory once."""
        ...

    def send(self, png: bytes) -> None:
        """Give a picture to the client that submitted the job, now; it is not kept.

        Where no client is, as in a script, it becomes a temporary file. A node that sends declares
        ``always_runs``: what was sent for one job is not sent again from a cache.
        """
        ...

    def save(
        self,
        prefix: str,
        suffix: str,
        write: Callable[[BinaryIO], None],
        *,
        kind: str = "images",
        is_temporary: bool = False,
        is_animated: bool = False,
        size: tuple[int, int] | None = None,
    ) -> SavedFile:
        """Keep a new file ``prefix_00001_suffix`` in the output folder: whole, or not at all.

        ``prefix`` may hold folders and the placeholders of ``executor.paths`` (``%date:yyyy%``,
        ``%width%`` …, of ``size``). The file is listed under ``kind`` in the node's results.
        """
        ...
