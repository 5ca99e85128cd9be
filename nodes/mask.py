"""Nodes that make, change and combine masks; ``executor.masks`` has the arithmetic."""

from typing import Annotated, Literal

from pydantic import Field

from executor import Context, Image, InputError, Node, Widget, ports

LARGEST = 16384
Side = Annotated[int, Field(ge=1, le=LARGEST), Widget({"step": 1})]
Offset = Annotated[int, Field(ge=0, le=LARGEST), Widget({"step": 1})]
Signed = Annotated[int, Field(ge=-LARGEST, le=LARGEST), Widget({"step": 1})]
Softness = Annotated[int, Field(ge=0, le=1024), Widget({"step": 1})]
Share = Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})]
Source = Literal["alpha", "red", "green", "blue", "luminance", "mask", "rectangle", "solid"]
COLOURS = ("red", "green", "blue", "alpha")


def _tip(words: str) -> Widget:
    return Widget({"tooltip": words})


class Mask(Node, category="mask"):
    """Make a mask in one step: from a picture, a rectangle or nothing; then refine it.

    ``alpha`` is 1 where the picture is transparent; a rectangle and a solid mask have the size of
    ``image`` or ``mask``, or else of the canvas. It is inverted first, then grown, then feathered.
    """

    image: Annotated[Image | None, _tip("the picture whose channel, or size, is taken")] = None
    mask: Annotated[ports.Mask | None, _tip("a mask to refine, with source 'mask'")] = None
    source: Source = "luminance"
    value: Annotated[Share, _tip("of a rectangle and of a solid mask")] = 1.0
    x: Annotated[Offset, _tip("the rectangle's left border, in pixels")] = 0
    y: Annotated[Offset, _tip("the rectangle's upper border, in pixels")] = 0
    width: Annotated[Side, _tip("of the rectangle, in pixels")] = 256
    height: Annotated[Side, _tip("of the rectangle, in pixels")] = 256
    canvas_width: Annotated[Side, _tip("of the whole mask, where no picture says it")] = 512
    canvas_height: Annotated[Side, _tip("of the whole mask, where no picture says it")] = 512
    invert: bool = False
    grow: Annotated[Signed, _tip("pixels to widen it by; negative ones narrow it")] = 0
    tapered_corners: Annotated[bool, _tip("grow points to diamonds, not to squares")] = True
    feather: Annotated[Softness, _tip("pixels to either side over which edges are softened")] = 0

    def run(self, ctx: Context) -> ports.Mask:
        from executor import masks

        mask = self._made(ctx)
        if self.invert:
            mask = 1.0 - mask
        mask = masks.grow(mask, self.grow, tapered_corners=self.tapered_corners)
        return masks.soften(mask, self.feather)

    def _made(self, ctx: Context) -> ports.Mask:
        """The mask as its source has it."""
        from executor import masks

        match self.source:
            case "mask":
                if self.mask is None:
                    raise InputError("source 'mask' needs a link to mask")
                return self.mask
            case "rectangle":
                width, height = self._size()
                if self.x >= width or self.y >= height:
                    at, size = f"({self.x}, {self.y})", f"{width}×{height}"
                    raise InputError(f"the rectangle at {at} lies outside of the {size} mask")
                box = (self.x, self.y, self.width, self.height)
                return masks.rectangle(width, height, box, ctx.device) * self.value
            case "solid":
                width, height = self._size()
                return masks.solid(width, height, self.value, ctx.device)
            case "luminance":
                return masks.luminance(self._picture())
            case "alpha":
                return 1.0 - masks.channel(self._picture(), COLOURS.index("alpha"))
            case colour:
                return masks.channel(self._picture(), COLOURS.index(colour))

    def _picture(self) -> Image:
        if self.image is None:
            raise InputError(f"source {self.source!r} needs a link to image")
        return self.image

    def _size(self) -> tuple[int, int]:
        """Width and height of a mask that is drawn."""
        like = self.image if self.image is not None else self.mask
        if like is None:
            return self.canvas_width, self.canvas_height
        return like.shape[2], like.shape[1]


class MaskToImage(Node, category="mask", display_name="Convert Mask to Image"):
    """Show masks as grey pictures."""

    mask: ports.Mask

    def run(self, ctx: Context) -> Image:
        return self.mask[..., None].expand(-1, -1, -1, 3).contiguous()


class ImageToMask(Node, category="mask", display_name="Convert Image to Mask"):
    """Take one channel of pictures as masks."""

    image: Image
    channel: Literal["red", "green", "blue", "alpha"] = "red"

    def run(self, ctx: Context) -> ports.Mask:
        from executor.masks import channel

        return channel(self.image, COLOURS.index(self.channel))


class ImageColorToMask(Node, category="mask", display_name="Image Color to Mask"):
    """Mask the pixels of just one colour, given as 0xRRGGBB."""

    image: Image
    color: Annotated[int, Field(ge=0, le=0xFFFFFF), Widget({"step": 1, "display": "color"})] = 0

    def run(self, ctx: Context) -> ports.Mask:
        from executor.masks import of_colour

        return of_colour(self.image, self.color)


class SolidMask(Node, category="mask"):
    """Make a mask of one value."""

    value: Share = 1.0
    width: Side = 512
    height: Side = 512

    def run(self, ctx: Context) -> ports.Mask:
        from executor.masks import solid

        return solid(self.width, self.height, self.value, ctx.device)


class InvertMask(Node, category="mask"):
    """Mask what was not masked."""

    mask: ports.Mask

    def run(self, ctx: Context) -> ports.Mask:
        return 1.0 - self.mask


class CropMask(Node, category="mask", display_name="Crop Mask"):
    """Cut a rectangle out of masks."""

    mask: ports.Mask
    x: Offset = 0
    y: Offset = 0
    width: Side = 512
    height: Side = 512

    def run(self, ctx: Context) -> ports.Mask:
        from executor.masks import cropped

        return cropped(self.mask, x=self.x, y=self.y, width=self.width, height=self.height)


class GrowMask(Node, category="mask"):
    """Widen masks by so many pixels, or narrow them."""

    mask: ports.Mask
    expand: Signed = 0
    tapered_corners: bool = True

    def run(self, ctx: Context) -> ports.Mask:
        from executor.masks import grow

        return grow(self.mask, self.expand, tapered_corners=self.tapered_corners)


class FeatherMask(Node, category="mask"):
    """Fade masks out towards the picture's borders."""

    mask: ports.Mask
    left: Offset = 0
    top: Offset = 0
    right: Offset = 0
    bottom: Offset = 0

    def run(self, ctx: Context) -> ports.Mask:
        from executor.masks import feather

        return feather(
            self.mask, left=self.left, top=self.top, right=self.right, bottom=self.bottom
        )


class MaskComposite(Node, category="mask"):
    """Lay a mask on another and combine the two."""

    destination: ports.Mask
    source: ports.Mask
    x: Offset = 0
    y: Offset = 0
    operation: Literal["multiply", "add", "subtract", "and", "or", "xor"] = "multiply"

    def run(self, ctx: Context) -> ports.Mask:
        from executor.masks import combine

        return combine(self.destination, self.source, self.x, self.y, self.operation)


class ThresholdMask(Node, category="mask"):
    """Mask fully what is masked more than ``value``, and nothing else."""

    mask: ports.Mask
    value: Share = 0.5

    def run(self, ctx: Context) -> ports.Mask:
        return (self.mask > self.value).to(self.mask.dtype)
