"""Nodes that load, make, cut and turn pictures; ``executor`` has the arithmetic."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from executor import Context, FileChoice, Image, Mask, Node, Widget
from nodes.compositing import ImageAndMask

LARGEST = 16384
Side = Annotated[int, Field(ge=1, le=LARGEST), Widget({"step": 1})]
Offset = Annotated[int, Field(ge=0, le=LARGEST), Widget({"step": 1})]
PictureFile = Annotated[str, FileChoice("input", {"image_upload": True})]


class Size(NamedTuple):
    """How large pictures are, in pixels, and how many."""

    width: int
    height: int
    batch_size: int


class LoadImage(Node, category="image", display_name="Load Image"):
    """Load a picture, all its frames; what is transparent becomes the mask."""

    image: PictureFile

    def run(self, ctx: Context) -> ImageAndMask:
        from executor.pictures import read

        picture = read(ctx.find("input", self.image), ctx.max_picture_pixels)
        return ImageAndMask(picture.frames.to(ctx.device), picture.mask.to(ctx.device))


class LoadImageMask(Node, category="mask", display_name="Load Image (as Mask)"):
    """Load one channel of a picture as a mask; of alpha, 1 where it is transparent."""

    image: PictureFile
    channel: Literal["alpha", "red", "green", "blue"] = "alpha"

    def run(self, ctx: Context) -> Mask:
        from executor.pictures import read

        picture = read(ctx.find("input", self.image), ctx.max_picture_pixels)
        return picture.channel(self.channel)[:1].to(ctx.device)


class EmptyImage(Node, category="image"):
    """Make pictures of one colour, given as 0xRRGGBB."""

    width: Side = 512
    height: Side = 512
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    color: Annotated[int, Field(ge=0, le=0xFFFFFF), Widget({"step": 1, "display": "color"})] = 0

    def run(self, ctx: Context) -> Image:
        import torch

        colour = torch.tensor([*self.color.to_bytes(3, "big")], device=ctx.device) / 255
        return colour.expand(self.batch_size, self.height, self.width, 3).contiguous()


class ImageInvert(Node, category="image", display_name="Invert Image"):
    """Invert the colours."""

    image: Image

    def run(self, ctx: Context) -> Image:
        return 1.0 - self.image


class ImageCrop(Node, category="image/transform", display_name="Image Crop"):
    """Cut a rectangle out of pictures."""

    image: Image
    width: Side = 512
    height: Side = 512
    x: Offset = 0
    y: Offset = 0

    def run(self, ctx: Context) -> Image:
        from executor.compositing import cropped

        return cropped(self.image, x=self.x, y=self.y, width=self.width, height=self.height)


class ImageFlip(Node, category="image/transform", display_name="Flip Image"):
    """Mirror pictures."""

    image: Image
    flip_method: Literal["x-axis: vertically", "y-axis: horizontally"] = "x-axis: vertically"

    def run(self, ctx: Context) -> Image:
        return self.image.flip(1 if self.flip_method == "x-axis: vertically" else 2)


class ImageRotate(Node, category="image/transform", display_name="Rotate Image"):
    """Turn pictures clockwise."""

    image: Image
    rotation: Literal["none", "90 degrees", "180 degrees", "270 degrees"] = "none"

    def run(self, ctx: Context) -> Image:
        turns = ("none", "90 degrees", "180 degrees", "270 degrees").index(self.rotation)
        return self.image.rot90(turns, (2, 1))


class GetImageSize(Node, category="image", display_name="Get Image Size"):
    """Tell how large pictures are, and how many."""

    image: Image

    def run(self, ctx: Context) -> Size:
        count, height, width = self.image.shape[:3]
        return Size(width, height, count)
