"""Nodes that put pictures together; ``executor.compositing`` and ``executor.blending`` compute."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from executor import Context, Image, Mask, Node, Widget

LARGEST = 16384
Offset = Annotated[int, Field(ge=0, le=LARGEST), Widget({"step": 1})]
Border = Annotated[int, Field(ge=0, le=LARGEST), Widget({"step": 8})]


class ImageAndMask(NamedTuple):
    """Pictures, and a mask that goes with them."""

    IMAGE: Image
    MASK: Mask


class ImageCompositeMasked(Node, category="image"):
    """Lay pictures on others, where a mask lets them show."""

    destination: Image
    source: Image
    x: Offset = 0
    y: Offset = 0
    resize_source: bool = False
    mask: Mask | None = None

    def run(self, ctx: Context) -> Image:
        from executor.compositing import paste

        return paste(
            self.destination,
            self.source,
            x=self.x,
            y=self.y,
            mask=self.mask,
            resize_source=self.resize_source,
        )


class ImagePadForOutpaint(Node, category="image", display_name="Pad Image for Outpainting"):
    """Add grey room around pictures, and the mask that has it painted, soft towards the picture."""

    image: Image
    left: Border = 0
    top: Border = 0
    right: Border = 0
    bottom: Border = 0
    feathering: Offset = 40

    def run(self, ctx: Context) -> ImageAndMask:
        from executor.compositing import with_border

        padded = with_border(
            self.image,
            left=self.left,
            top=self.top,
            right=self.right,
            bottom=self.bottom,
            feathering=self.feathering,
        )
        return ImageAndMask(padded.image, padded.mask)


class ImageBlend(Node, category="image/postprocessing", display_name="Image Blend"):
    """Blend the second pictures into the first; they take the size of those."""

    image1: Image
    image2: Image
    blend_factor: Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})] = 0.5
    blend_mode: Literal["normal", "multiply", "screen", "overlay", "soft_light", "difference"] = (
        "normal"
    )

    def run(self, ctx: Context) -> Image:
        from executor.blending import blended

        return blended(self.image1, self.image2, self.blend_factor, self.blend_mode)


class PorterDuffImageComposite(
    Node, category="mask/compositing", display_name="Porter-Duff Image Composite"
):
    """Combine two layers by one of Porter and Duff's operators; masks are 1 where nothing is."""

    source: Image
    source_alpha: Mask
    destination: Image
    destination_alpha: Mask
    mode: Literal[
        "ADD",
        "CLEAR",
        "DARKEN",
        "DST",
        "DST_ATOP",
        "DST_IN",
        "DST_OUT",
        "DST_OVER",
        "LIGHTEN",
        "MULTIPLY",
        "OVERLAY",
        "SCREEN",
        "SRC",
        "SRC_ATOP",
        "SRC_IN",
        "SRC_OUT",
        "SRC_OVER",
        "XOR",
    ] = "DST"

    def run(self, ctx: Context) -> ImageAndMask:
        from executor.blending import Layer, composite

        source = Layer(self.source, self.source_alpha)
        destination = Layer(self.destination, self.destination_alpha)
        return ImageAndMask(*composite(source, destination, self.mode))


class SplitImageWithAlpha(Node, category="mask/compositing", display_name="Split Image with Alpha"):
    """Take pictures apart into colours and a mask, 1 where they are transparent."""

    image: Image

    def run(self, ctx: Context) -> ImageAndMask:
        from executor.compositing import split_alpha

        return ImageAndMask(*split_alpha(self.image))


class JoinImageWithAlpha(Node, category="mask/compositing", display_name="Join Image with Alpha"):
    """Make pictures transparent where the mask is 1."""

    image: Image
    alpha: Mask

    def run(self, ctx: Context) -> Image:
        from executor.compositing import join_alpha

        return join_alpha(self.image, self.alpha)
