"""The model families that Weft knows, one frozen row each.

A row says what tensor shapes cannot tell. Widths and depths are not here: they are read from the
file (``configs``), so that a tiny model and the real one of a family go through the same code.
Light: no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

VectorSays: TypeAlias = Literal["sizes", "score", "picture"]
"""What joins the timestep: the pooled prompt and sizes, with a score in place of the last two; or
an encoded picture."""

LatentSpace: TypeAlias = Literal["sd", "sdxl"]
"""Families with the same encode a picture to the same latent, about."""

LATENT_SCALE: Mapping[LatentSpace, float] = {"sd": 0.18215, "sdxl": 0.13025}
"""What brings the latents of a space to a variance of about 1."""


@dataclass(frozen=True, slots=True)
class TextTower:
    """One text encoder of a family: where it is kept, and how the family uses it."""

    name: str
    prefixes: tuple[str, ...]  # in a single file; the first that is there wins
    folder: str = "text_encoder"  # in a diffusers folder
    activation: str = "quick_gelu"
    layer: int = -1  # the hidden layer that the U-Net was trained with, from the end
    has_final_norm: bool = True  # the final norm is also put on an earlier hidden layer
    is_projected: bool = False  # its pooled output goes through a projection of its own
    pads_with_end: bool = True  # prompts are filled up with the end token; else with token 0


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of checkpoint: equal architecture, equal conventions."""

    name: str
    title: str
    text: tuple[TextTower, ...]
    context: int  # width of the prompt's tokens in the family's real files
    resolution: int  # side in pixels that it was trained on
    in_channels: int = 4  # of the U-Net: further ones for a mask, for a picture
    vector: int | None = None  # width of what joins the timestep, in real files; None: nothing
    vector_says: VectorSays | None = None
    heads: int | None = None  # attention heads of the U-Net; None: one for every 64 channels
    latent_space: LatentSpace = "sd"
    tells_v_by_norm: bool = False  # a trained norm gives away which files predict v
    is_supported: bool = True

    @property
    def latent_scale(self) -> float:
        """What unscaled latents are multiplied with."""
        return LATENT_SCALE[self.latent_space]


CLIP_L = TextTower(
    "clip_l",
    ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."),
)
CLIP_H = TextTower(
    "clip_h",
    ("cond_stage_model.model.", "conditioner.embedders.0.model."),
    activation="gelu",
    layer=-2,
    is_projected=True,
    pads_with_end=False,
)
XL_CLIP_L = TextTower(
    "clip_l",
    ("conditioner.embedders.0.transformer.text_model.",),
    layer=-2,
    has_final_norm=False,
)
XL_CLIP_G = TextTower(
    "clip_g",
    ("conditioner.embedders.1.model.",),
    folder="text_encoder_2",
    activation="gelu",
    layer=-2,
    has_final_norm=False,
    is_projected=True,
    pads_with_end=False,
)
REFINER_CLIP_G = TextTower(
    "clip_g",
    ("conditioner.embedders.0.model.",),
    folder="text_encoder_2",
    activation="gelu",
    layer=-2,
    has_final_norm=False,
    is_projected=True,
    pads_with_end=False,
)
XL_TEXT = (XL_CLIP_L, XL_CLIP_G)

FAMILIES: tuple[Family, ...] = (
    Family("sd1", "Stable Diffusion 1.x", (CLIP_L,), 768, 512, heads=8),
    Family(
        "sd1-inpaint",
        "Stable Diffusion 1.x inpainting",
        (CLIP_L,),
        768,
        512,
        in_channels=9,
        heads=8,
    ),
    Family(
        "sd1-edit",
        "InstructPix2Pix (Stable Diffusion 1.x)",
        (CLIP_L,),
        768,
        512,
        in_channels=8,
        heads=8,
    ),
    Family("sd2", "Stable Diffusion 2.x", (CLIP_H,), 1024, 768, tells_v_by_norm=True),
    Family("sd2-inpaint", "Stable Diffusion 2.x inpainting", (CLIP_H,), 1024, 512, in_channels=9),
    Family(
        "sd2-depth",
        "Stable Diffusion 2.x depth",
        (CLIP_H,),
        1024,
        512,
        in_channels=5,
        is_supported=False,
    ),
    Family(
        "sdxl", "SDXL", XL_TEXT, 2048, 1024, vector=2816, vector_says="sizes", latent_space="sdxl"
    ),
    Family(
        "sdxl-inpaint",
        "SDXL inpainting",
        XL_TEXT,
        2048,
        1024,
        in_channels=9,
        vector=2816,
        vector_says="sizes",
        latent_space="sdxl",
    ),
    Family(
        "sdxl-edit",
        "InstructPix2Pix (SDXL)",
        XL_TEXT,
        2048,
        768,
        in_channels=8,
        vector=2816,
        vector_says="sizes",
        latent_space="sdxl",
    ),
    Family(
        "sdxl-refiner",
        "SDXL refiner",
        (REFINER_CLIP_G,),
        1280,
        1024,
        vector=2560,
        vector_says="score",
        latent_space="sdxl",
    ),
    Family(
        "sd2-unclip-h",
        "Stable Diffusion 2.1 unCLIP (ViT-H)",
        (CLIP_H,),
        1024,
        768,
        vector=2048,
        vector_says="picture",
        tells_v_by_norm=True,
    ),
    Family(
        "sd2-unclip-l",
        "Stable Diffusion 2.1 unCLIP (ViT-L)",
        (CLIP_H,),
        1024,
        768,
        vector=1536,
        vector_says="picture",
        tells_v_by_norm=True,
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
    ("cc_projection.", "Stable Zero123"),
    ("model.diffusion_model.", "an architecture that Weft does not know"),
)
"""A piece of a tensor name that gives other architectures away, and their names, best first."""


def family_with(
    unet: Mapping[str, tuple[int, ...]], has_tower: Callable[[TextTower], bool] | None
) -> Family | None:
    """The row that a U-Net's shapes and the text encoders beside it fit, if there is one.

    Of a U-Net alone (``has_tower`` is None) the widths of its inputs decide, as real files have
    them.
    """
    stem = unet.get("input_blocks.0.0.weight", ())
    if len(stem) != 4 or any(sign in name for name in unet for sign, _ in FOREIGN):
        return None
    context = next((s[-1:] for n, s in unet.items() if n.endswith("attn2.to_k.weight")), ())
    vector = unet["label_emb.0.0.weight"][-1:] if "label_emb.0.0.weight" in unet else None
    linear = next((len(s) == 2 for n, s in unet.items() if n.endswith(".1.proj_in.weight")), None)
    fitting = [
        family
        for family in FAMILIES
        if family.in_channels == stem[1]
        and (family.vector is None) == (vector is None)
        and linear in (None, family.heads is None)  # those with 8 heads project by convolutions
    ]
    if has_tower is None:
        fitting = [f for f in fitting if (f.context,) == context and _is_wide(f.vector, vector)]
        return next(iter(fitting), None)
    fitting = [family for family in fitting if all(map(has_tower, family.text))]
    # of several that fit equally well, the first in the table
    return max(fitting, key=lambda f: (len(f.text), _is_wide(f.vector, vector)), default=None)


def _is_wide(width: int | None, there: tuple[int, ...] | None) -> bool:
    """Whether the last side of a tensor's shape is so long; None: there is no tensor."""
    return there == (None if width is None else (width,))


def supported_titles() -> str:
    """The families that can be run, for messages."""
    return ", ".join(family.title for family in FAMILIES if family.is_supported)
