"""Nodes that put LoRAs on models."""

from typing import Annotated, NamedTuple

from pydantic import Field

from executor import Clip, Context, FileChoice, Model, Node, Widget

LoraName = Annotated[str, FileChoice("loras")]
Strength = Annotated[float, Field(ge=-100, le=100), Widget({"step": 0.01})]


class ModelAndClip(NamedTuple):
    """A model, and the text encoder that goes with it."""

    MODEL: Model
    CLIP: Clip


class LoraLoader(Node, category="loaders", display_name="Load LoRA"):
    """Put a LoRA on a model and its text encoder; 0 leaves either as it is."""

    model: Model
    clip: Clip
    lora_name: LoraName
    strength_model: Strength = 1.0
    strength_clip: Strength = 1.0

    def run(self, ctx: Context) -> ModelAndClip:
        if self.strength_model == 0 and self.strength_clip == 0:
            return ModelAndClip(self.model, self.clip)
        model, clip = ctx.models.lora(self.lora_name).on_both(
            self.model,
            self.clip,
            strength_model=self.strength_model,
            strength_clip=self.strength_clip,
        )
        return ModelAndClip(model, clip)


class LoraLoaderModelOnly(Node, category="loaders", display_name="Load LoRA (Model Only)"):
    """Put a LoRA on a model; its text encoder stays as it is."""

    model: Model
    lora_name: LoraName
    strength_model: Strength = 1.0

    def run(self, ctx: Context) -> Model:
        if self.strength_model == 0:
            return self.model
        return ctx.models.lora(self.lora_name).on_model(self.model, self.strength_model)
