"""The model families that Weft knows, one frozen row each.

A row says what tensor shapes cannot tell. Widths and depths are not here: they are read from the
file (``configs``), so that a tiny model and the real one of a family go through the same code.
Light: no torch.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Prediction: TypeAlias = Literal["epsilon", "v"]

VectorSays: TypeAlias = Literal["sizes", "score"]
"""What the numbers after the pooled prompt mean: sizes, or with the last two for a score."""

LatentSpace: TypeAlias = Literal["sd", "sdxl"]
"""Families with the same encode a picture to the same latent, about."""


@dataclass(frozen=True, slots=True)
class TextTower:
    """One text encoder of a family, and where a checkpoint keeps it."""

    name: str
    prefixes: tuple[str, ...]  # the first that a file has wins
    is_open_clip: bool = False  # OpenCLIP's own names, with q, k and v in one matrix
    activation: str = "quick_gelu"
    has_final_norm: bool = True  # the final norm is also put on an earlier hidden layer


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of checkpoint: equal architecture, equal conventions."""

    name: str
    title: str
    in_channels: int  # of the U-Net: 4, or with a mask and a masked picture 9
    context: int  # width of the prompt's tokens in the family's real files
    vector: int | None  # width of the pooled prompt and further numbers, if it takes any
    text: tuple[TextTower, ...]
    resolution: int  # side in pixels that it was trained on
    heads: int | None  # attention heads of the U-Net; None: one for every 64 channels
    latent_scale: float = 0.18215
    prediction: Prediction = "epsilon"
    vector_says: VectorSays | None = None
    is_supported: bool = False

    @property
    def latent_space(self) -> LatentSpace:
        """Whose latents it works on."""
        return "sdxl" if self.name.startswith("sdxl") else "sd"


CLIP_L = TextTower(
    "clip_l",
    ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."),
)
CLIP_H = TextTower("clip_h", ("cond_stage_model.model.",), is_open_clip=True, activation="gelu")
SDXL_CLIP_L = TextTower(
    "clip_l", ("conditioner.embedders.0.transformer.text_model.",), has_final_norm=False
)
SDXL_CLIP_G = TextTower(
    "clip_g",
    ("conditioner.embedders.1.model.",),
    is_open_clip=True,
    activation="gelu",
    has_final_norm=False,
)
REFINER_CLIP_G = TextTower(
    "clip_g",
    ("conditioner.embedders.0.model.",),
    is_open_clip=True,
    activation="gelu",
    has_final_norm=False,
)

FAMILIES: tuple[Family, ...] = (
    Family("sd1", "Stable Diffusion 1.x", 4, 768, None, (CLIP_L,), 512, 8, is_supported=True),
    Family("sd1-inpaint", "Stable Diffusion 1.x inpainting", 9, 768, None, (CLIP_L,), 512, 8),
    Family("sd1-edit", "InstructPix2Pix (Stable Diffusion 1.x)", 8, 768, None, (CLIP_L,), 512, 8),
    Family("sd2", "Stable Diffusion 2.x", 4, 1024, None, (CLIP_H,), 768, None),
    Family("sd2-inpaint", "Stable Diffusion 2.x inpainting", 9, 1024, None, (CLIP_H,), 512, None),
    Family("sd2-depth", "Stable Diffusion 2.x depth", 5, 1024, None, (CLIP_H,), 512, None),
    Family(
        "sdxl",
        "SDXL",
        4,
        2048,
        2816,
        (SDXL_CLIP_L, SDXL_CLIP_G),
        1024,
        None,
        latent_scale=0.13025,
        vector_says="sizes",
    ),
    Family(
        "sdxl-inpaint",
        "SDXL inpainting",
        9,
        2048,
        2816,
        (SDXL_CLIP_L, SDXL_CLIP_G),
        1024,
        None,
        latent_scale=0.13025,
        vector_says="sizes",
    ),
    Family(
        "sdxl-refiner",
        "SDXL refiner",
        4,
        1280,
        2560,
        (REFINER_CLIP_G,),
        1024,
        None,
        latent_scale=0.13025,
        vector_says="score",
    ),
)

FOREIGN: tuple[tuple[str, str], ...] = (
    (".joint_blocks.", "Stable Diffusion 3"),
    ("double_blocks.", "Flux"),
    (".time_stack.", "Stable Video Diffusion"),
    ("cap_embedder.", "Lumina or Z-Image"),
    ("clip_txt_mapper.", "Stable Cascade"),
    ("double_layers.", "AuraFlow"),
    ("t_embedder.mlp", "PixArt or another diffusion transformer"),
    ("patch_embedding.", "Wan or another video transformer"),
    ("model.diffusion_model.", "an architecture that Weft does not know"),
)
"""A piece of a tensor name that gives other architectures away, and their names, best first."""


def supported_titles() -> str:
    """The families that can be run, for messages."""
    return ", ".join(family.title for family in FAMILIES if family.is_supported)
