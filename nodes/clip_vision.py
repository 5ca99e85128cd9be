"""Nodes that let pictures stand in prompts: what is in them (unCLIP, revision), and their style."""

from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from executor import (
    Clip,
    ClipVision,
    ClipVisionOutput,
    Cond,
    Conditioning,
    Context,
    FileChoice,
    Image,
    Model,
    Node,
    PicturePrompt,
    StyleModel,
    Vae,
    Widget,
)


class LoadedUnclip(NamedTuple):
    """The parts of an unCLIP checkpoint."""

    MODEL: Model
    CLIP: Clip
    VAE: Vae
    CLIP_VISION: ClipVision


class unCLIPCheckpointLoader(Node, category="loaders"):
    """Load a checkpoint that understands pictures, with the CLIP vision model in it."""

    ckpt_name: Annotated[str, FileChoice("checkpoints")]

    def run(self, ctx: Context) -> LoadedUnclip:
        models = ctx.models
        vision = models.checkpoint_vision(self.ckpt_name)
        return LoadedUnclip(*models.checkpoint(self.ckpt_name), vision)


class CLIPVisionLoader(Node, category="loaders", display_name="Load CLIP Vision"):
    """Load a CLIP vision model."""

    clip_name: Annotated[str, FileChoice("clip_vision")]

    def run(self, ctx: Context) -> ClipVision:
        return ctx.models.clip_vision(self.clip_name)


class CLIPVisionEncode(Node, category="conditioning", display_name="CLIP Vision Encode"):
    """Encode what is in pictures; ``none`` squeezes them into a square instead of cutting it."""

    clip_vision: ClipVision
    image: Image
    crop: Literal["center", "none"] = "center"

    def run(self, ctx: Context) -> ClipVisionOutput:
        return self.clip_vision.encode_pictures(self.image, is_cropped=self.crop == "center")


class unCLIPConditioning(Node, category="conditioning"):
    """Let encoded pictures say what is to be seen; noise lets the model keep to them less."""

    conditioning: Conditioning
    clip_vision_output: ClipVisionOutput
    strength: Annotated[float, Field(ge=-10, le=10), Widget({"step": 0.01})] = 1.0
    noise_augmentation: Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})] = 0.0

    def run(self, ctx: Context) -> Conditioning:
        if self.strength == 0:
            return self.conditioning
        picture = PicturePrompt(self.clip_vision_output, self.strength, self.noise_augmentation)
        return tuple(
            replace(cond, pictures=(*cond.pictures, picture)) for cond in self.conditioning
        )


class StyleModelLoader(Node, category="loaders", display_name="Load Style Model"):
    """Load a style adapter."""

    style_model_name: Annotated[str, FileChoice("style_models")]

    def run(self, ctx: Context) -> StyleModel:
        return ctx.models.style_model(self.style_model_name)


class StyleModelApply(Node, category="conditioning/style_model", display_name="Apply Style Model"):
    """Put the style of pictures behind a prompt."""

    conditioning: Conditioning
    style_model: StyleModel
    clip_vision_output: ClipVisionOutput
    strength: Annotated[float, Field(ge=0, le=10), Widget({"step": 0.001})] = 1.0
    strength_type: Literal["multiply", "attn_bias"] = "multiply"

    def run(self, ctx: Context) -> Conditioning:
        from executor.conditioning import concatenated

        tokens = self.style_model.style_tokens(self.clip_vision_output)
        # As in ComfyUI a bias of attention is for transformers other than U-Nets.
        scale = self.strength if self.strength_type == "multiply" else 1.0
        return concatenated(self.conditioning, (Cond(tokens * scale),))
