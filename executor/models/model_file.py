"""What is known of a model file before it is loaded. Light: no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from executor.models.families import Family
from executor.models.header import Header
from executor.ports import Objective, Prediction


class Kind(StrEnum):
    """What a file holds, in words that fit after "is"."""

    CHECKPOINT = "a checkpoint"
    UNET = "a U-Net without text encoder"
    VAE = "a VAE"
    TEXT_ENCODER = "a text encoder"
    LORA = "a LoRA"
    CONTROLNET = "a ControlNet"
    T2I_ADAPTER = "a T2I-Adapter"
    GLIGEN = "a GLIGEN network"
    EMBEDDING = "a textual inversion embedding"
    UPSCALER = "an upscaler"
    LATENT = "a saved latent"
    PREVIEW_VAE = "a preview VAE (TAESD)"
    CLIP_VISION = "a CLIP vision model"
    STYLE_MODEL = "a style adapter"
    IP_ADAPTER = "an IP-Adapter"
    UNKNOWN = "a file of tensors that Weft does not recognise"


FOLDER_OF = {
    Kind.CHECKPOINT: "checkpoints",
    Kind.UNET: "diffusion_models",
    Kind.VAE: "vae",
    Kind.TEXT_ENCODER: "text_encoders",
    Kind.LORA: "loras",
    Kind.CONTROLNET: "controlnet",
    Kind.T2I_ADAPTER: "controlnet",
    Kind.GLIGEN: "gligen",
    Kind.EMBEDDING: "embeddings",
    Kind.UPSCALER: "upscale_models",
    Kind.LATENT: "input",
    Kind.PREVIEW_VAE: "vae_approx",
    Kind.CLIP_VISION: "clip_vision",
    Kind.STYLE_MODEL: "style_models",
    Kind.IP_ADAPTER: "ipadapter",
}
"""Below which folder of models a kind of file belongs."""


@dataclass(frozen=True, slots=True)
class Hints:
    """What a file says of itself that shapes cannot tell; None where it says nothing."""

    unet_heads: int | None = None
    unet_norm_groups: int | None = None
    vae_norm_groups: int | None = None
    text_heads: Mapping[str, int] = field(default_factory=dict[str, int])  # by text encoder
    family: str | None = None  # of a part alone whose widths are nobody's


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What is known of a model file, or of a diffusers folder, before it is loaded."""

    path: Path
    kind: Kind
    family: Family | None  # None: not a checkpoint, or of no family in the table
    architecture: str  # the family's title, or another's name
    objective: Objective
    resolution: int | None  # side in pixels
    dtypes: Mapping[str, int]  # numbers in the file by type ("F16"), most first
    parameters: int
    size_bytes: int
    parts: Mapping[str, int]  # parameters of the unet, text and vae, as far as they are there
    metadata: Mapping[str, str]
    hints: Hints
    headers: Mapping[str, Header]  # of the single file "", or by folder of a diffusers model

    @property
    def prediction(self) -> Prediction:
        """What its network predicts."""
        return self.objective.prediction

    @property
    def is_folder(self) -> bool:
        """Whether it is a diffusers folder."""
        return "" not in self.headers

    @property
    def header(self) -> Header:
        """The header of a single file."""
        return self.headers[""]

    @property
    def identity(self) -> tuple[str, int, int]:
        """Equal as long as nobody has replaced the files."""
        newest = max(header.modified_ns for header in self.headers.values())
        return str(self.path.resolve()), self.size_bytes, newest
