"""Nodes that steer prompts by pictures: ControlNets and T2I-Adapters."""

from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from executor import (
    Conditioning,
    Context,
    Control,
    ControlNet,
    FileChoice,
    Image,
    Model,
    Node,
    Vae,
    Widget,
)

Strength = Annotated[float, Field(ge=0, le=10), Widget({"step": 0.01})]
Fraction = Annotated[float, Field(ge=0, le=1), Widget({"step": 0.001})]
ControlName = Annotated[str, FileChoice("controlnet")]
UnionKind = Literal[
    "auto",
    "openpose",
    "depth",
    "hed/pidi/scribble/ted",
    "canny/lineart/anime_lineart/mlsd",
    "normal",
    "segment",
    "tile",
    "repaint",
]


class Steered(NamedTuple):
    """Both sides of guidance, steered alike."""

    positive: Conditioning
    negative: Conditioning


class ControlNetLoader(Node, category="loaders", display_name="Load ControlNet Model"):
    """Load a ControlNet or a T2I-Adapter."""

    control_net_name: ControlName

    def run(self, ctx: Context) -> ControlNet:
        return ctx.models.controlnet(self.control_net_name)


class DiffControlNetLoader(Node, category="loaders", display_name="Load ControlNet Model (diff)"):
    """Load a ControlNet that is kept as its difference from a model, and add that model to it."""

    model: Model
    control_net_name: ControlName

    def run(self, ctx: Context) -> ControlNet:
        return ctx.models.controlnet(self.control_net_name, self.model)


class SetUnionControlNetType(Node, category="conditioning/controlnet"):
    """Say what kind of picture a union ControlNet will be given; others are as they were."""

    control_net: ControlNet
    type: UnionKind = "auto"

    def run(self, ctx: Context) -> ControlNet:
        from executor.models.union_control import of_kind

        return of_kind(self.control_net, self.type)


class ControlNetApply(
    Node, category="conditioning/controlnet", display_name="Apply ControlNet (OLD)"
):
    """Steer a prompt by a picture; where it is the positive one, the negative is steered too."""

    conditioning: Conditioning
    control_net: ControlNet
    image: Image
    strength: Strength = 1.0

    def run(self, ctx: Context) -> Conditioning:
        control = Control(self.control_net, self.image, self.strength)
        return _steered(self.conditioning, control, is_shared=True)


class ControlNetApplyAdvanced(
    Node, category="conditioning/controlnet", display_name="Apply ControlNet"
):
    """Steer both prompts by a picture, for a part of the sampling: 0 is the first step, 1 the last.

    ``vae`` is for ControlNets of other families, which read latents.
    """

    positive: Conditioning
    negative: Conditioning
    control_net: ControlNet
    image: Image
    strength: Strength = 1.0
    start_percent: Fraction = 0.0
    end_percent: Fraction = 1.0
    vae: Vae | None = None

    def run(self, ctx: Context) -> Steered:
        control = Control(
            self.control_net, self.image, self.strength, self.start_percent, self.end_percent
        )
        return Steered(
            _steered(self.positive, control, is_shared=False),
            _steered(self.negative, control, is_shared=False),
        )


def _steered(conditioning: Conditioning, control: Control, *, is_shared: bool) -> Conditioning:
    """The prompts with one more control; as they were where it has no strength."""
    if control.strength == 0:
        return conditioning
    return tuple(
        replace(cond, controls=(*cond.controls, control), shares_controls=is_shared)
        for cond in conditioning
    )
