"""Nodes that encode prompts and say where, when and how strongly each holds."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from executor import Area, Clip, Conditioning, Context, Mask, Node, PictureSize, Text, Widget

AreaSide = Annotated[int, Field(ge=64, le=16384), Widget({"step": 8})]
AreaOffset = Annotated[int, Field(ge=0, le=16384), Widget({"step": 8})]
PixelSide = Annotated[int, Field(ge=0, le=16384)]
Strength = Annotated[float, Field(ge=0, le=10), Widget({"step": 0.01})]
Fraction = Annotated[float, Field(ge=0, le=1), Widget({"step": 0.001})]


class CLIPTextEncode(Node, category="conditioning", display_name="CLIP Text Encode (Prompt)"):
    """Encode a prompt; ``(word:1.2)`` weighs, ``embedding:name`` puts in a textual inversion."""

    text: Text
    clip: Clip

    def files(self) -> Iterator[tuple[str, str, str]]:
        yield from _embeddings("text", self.text)

    def run(self, ctx: Context) -> Conditioning:
        return self.clip.encode(self.text)


class CLIPTextEncodeSDXL(Node, category="advanced/conditioning"):
    """Encode a prompt for each text encoder of SDXL, and say of which size the picture shall look.

    ``width`` and ``height`` are those of a picture before training cut it at ``crop_w`` and
    ``crop_h`` to ``target_width`` by ``target_height``: larger ones ask for finer detail.
    """

    clip: Clip
    width: PixelSide = 1024
    height: PixelSide = 1024
    crop_w: PixelSide = 0
    crop_h: PixelSide = 0
    target_width: PixelSide = 1024
    target_height: PixelSide = 1024
    text_g: Text
    text_l: Text

    def files(self) -> Iterator[tuple[str, str, str]]:
        yield from _embeddings("text_g", self.text_g)
        yield from _embeddings("text_l", self.text_l)

    def run(self, ctx: Context) -> Conditioning:
        size = PictureSize(
            self.height,
            self.width,
            self.crop_h,
            self.crop_w,
            self.target_height,
            self.target_width,
        )
        encoded = self.clip.encode_parts(self.text_l, self.text_g)
        return tuple(replace(cond, size=size) for cond in encoded)


class CLIPTextEncodeSDXLRefiner(Node, category="advanced/conditioning"):
    """Encode a prompt for the SDXL refiner, and say how much people shall like the picture.

    That is ``ascore``; training scored pictures from 0 to 10.
    """

    ascore: Annotated[float, Field(ge=0, le=1000), Widget({"step": 0.01})] = 6.0
    width: PixelSide = 1024
    height: PixelSide = 1024
    text: Text
    clip: Clip

    def files(self) -> Iterator[tuple[str, str, str]]:
        yield from _embeddings("text", self.text)

    def run(self, ctx: Context) -> Conditioning:
        size = PictureSize(self.height, self.width)
        encoded = self.clip.encode(self.text)
        return tuple(replace(cond, size=size, aesthetic_score=self.ascore) for cond in encoded)


def _embeddings(name: str, text: object) -> Iterator[tuple[str, str, str]]:
    """The files of embeddings that a prompt names; a link's text is not there yet."""
    from executor.models.prompt import embeddings_named

    if isinstance(text, str):
        yield from ((name, "embeddings", embedding) for embedding in embeddings_named(text))


class CLIPSetLastLayer(Node, category="conditioning", display_name="CLIP Set Last Layer"):
    """Take the text encoder's output from an earlier layer; -1 is the last ("clip skip" 1)."""

    clip: Clip
    stop_at_clip_layer: Annotated[int, Field(ge=-24, le=-1), Widget({"step": 1})] = -1

    def run(self, ctx: Context) -> Clip:
        return self.clip.with_last_layer(self.stop_at_clip_layer)


class ConditioningCombine(Node, category="conditioning", display_name="Conditioning (Combine)"):
    """Let several prompts hold side by side: their predictions are averaged where they overlap."""

    conditioning_1: Conditioning
    conditioning_2: Conditioning

    def run(self, ctx: Context) -> Conditioning:
        return (*self.conditioning_1, *self.conditioning_2)


class ConditioningAverage(Node, category="conditioning", display_name="Conditioning (Average)"):
    """Mix two encoded prompts; strength 1 is all ``conditioning_to``."""

    conditioning_to: Conditioning
    conditioning_from: Conditioning
    conditioning_to_strength: Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})] = 1.0

    def run(self, ctx: Context) -> Conditioning:
        from executor.conditioning import averaged

        return averaged(self.conditioning_to, self.conditioning_from, self.conditioning_to_strength)


class ConditioningConcat(Node, category="conditioning", display_name="Conditioning (Concat)"):
    """Put one encoded prompt behind another, as if both were one long prompt."""

    conditioning_to: Conditioning
    conditioning_from: Conditioning

    def run(self, ctx: Context) -> Conditioning:
        from executor.conditioning import concatenated

        return concatenated(self.conditioning_to, self.conditioning_from)


class ConditioningSetArea(Node, category="conditioning", display_name="Conditioning (Set Area)"):
    """Let a prompt hold in a rectangle, given in pixels of the picture."""

    conditioning: Conditioning
    width: AreaSide = 64
    height: AreaSide = 64
    x: AreaOffset = 0
    y: AreaOffset = 0
    strength: Strength = 1.0

    def run(self, ctx: Context) -> Conditioning:
        area = Area(self.height // 8, self.width // 8, self.y // 8, self.x // 8)
        return tuple(
            replace(cond, area=area, strength=self.strength, is_cropped_to_mask=False)
            for cond in self.conditioning
        )


class ConditioningSetMask(Node, category="conditioning", display_name="Conditioning (Set Mask)"):
    """Let a prompt hold where a mask is 1; ``mask bounds`` evaluates its bounding box only."""

    conditioning: Conditioning
    mask: Mask
    strength: Strength = 1.0
    set_cond_area: Literal["default", "mask bounds"] = "default"

    def run(self, ctx: Context) -> Conditioning:
        is_cropped = self.set_cond_area == "mask bounds"
        return tuple(
            replace(
                cond, mask=self.mask, mask_strength=self.strength, is_cropped_to_mask=is_cropped
            )
            for cond in self.conditioning
        )


class ConditioningSetTimestepRange(
    Node, category="advanced/conditioning", display_name="Conditioning (Set Timestep Range)"
):
    """Let a prompt hold for a part of the sampling only: 0 is the first step, 1 the last."""

    conditioning: Conditioning
    start: Fraction = 0.0
    end: Fraction = 1.0

    def run(self, ctx: Context) -> Conditioning:
        return tuple(
            replace(cond, start_percent=self.start, end_percent=self.end)
            for cond in self.conditioning
        )


class ConditioningZeroOut(
    Node, category="advanced/conditioning", display_name="Conditioning (Zero Out)"
):
    """Blank an encoded prompt, which is less than encoding an empty one."""

    conditioning: Conditioning

    def run(self, ctx: Context) -> Conditioning:
        from executor.conditioning import zeroed

        return zeroed(self.conditioning)
