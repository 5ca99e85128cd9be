"""Nodes that put phrases of a prompt at places of the picture (GLIGEN)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, cast

from pydantic import Field

from executor import (
    Area,
    Clip,
    Conditioning,
    Context,
    FileChoice,
    Gligen,
    Grounding,
    Node,
    Phrase,
    Text,
    Widget,
)

BoxSide = Annotated[int, Field(ge=8, le=16384), Widget({"step": 8})]
BoxOffset = Annotated[int, Field(ge=0, le=16384), Widget({"step": 8})]


class GLIGENLoader(Node, category="loaders"):
    """Load the layers that let a Stable Diffusion 1.x model put phrases at places."""

    gligen_name: Annotated[str, FileChoice("gligen")]

    def run(self, ctx: Context) -> Gligen:
        return ctx.models.gligen(self.gligen_name)


class GLIGENTextBoxApply(Node, category="conditioning/gligen"):
    """Say what is to be seen in a rectangle, given in pixels; the prompt should name it too."""

    conditioning_to: Conditioning
    clip: Clip
    gligen_textbox_model: Gligen
    text: Text
    width: BoxSide = 64
    height: BoxSide = 64
    x: BoxOffset = 0
    y: BoxOffset = 0

    def files(self) -> Iterator[tuple[str, str, str]]:
        from executor.models.prompt import embeddings_named

        text = cast(object, self.text)  # or a link, whose text is not there yet
        if isinstance(text, str):
            yield from (("text", "embeddings", name) for name in embeddings_named(text))

    def run(self, ctx: Context) -> Conditioning:
        (encoded,) = self.clip.encode(self.text)
        area = Area(self.height // 8, self.width // 8, self.y // 8, self.x // 8)
        assert encoded.pooled is not None, "text encoders pool what they encode"
        phrase = Phrase(encoded.pooled, area)

        def grounded(before: Grounding | None) -> Grounding:
            phrases = before.phrases if before else ()
            return Grounding(self.gligen_textbox_model, (*phrases, phrase))

        return tuple(
            replace(cond, grounding=grounded(cond.grounding)) for cond in self.conditioning_to
        )
