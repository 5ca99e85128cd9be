"""Nodes that load, make, resize and combine pictures; ``executor`` has the arithmetic."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from executor import Context, FileChoice, Image, Mask, Node, Widget

LARGEST = 16384
Side = Annotated[int, Field(ge=1, le=LARGEST), Widget({"step": 1})]
SideOrZero = Annotated[int, Field(ge=0, le=LARGEST), Widget({"step": 1})]
Offset = Annotated[int, Field(ge=0, le=LARGEST), Widget({"step": 1})]
Border = Annotated[int, Field(ge=0, le=LARGEST), Widget({"step": 8})]
Method = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
PictureFile = Annotated[str, FileChoice("input", {"image_upload": True})]


class ImageAndMask(NamedTuple):
    """Pictures, and a mask that goes with them."""

    IMAGE: Image
    MASK: Mask


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


class ImageScale(Node, category="image/upscaling", display_name="Upscale Image"):
    """Resize pictures; a side of 0 follows from the other."""

    image: Image
    upscale_method: Method = "nearest-exact"
    width: SideOrZero = 512
    height: SideOrZero = 512
    crop: Literal["disabled", "center"] = "disabled"

    def run(self, ctx: Context) -> Image:
        from executor.resampling import resize_picture, with_aspect

        if self.width == self.height == 0:
            return self.image
        old_height, old_width = self.image.shape[1:3]
        width, height = with_aspect(old_width, old_height, self.width, self.height)
        return resize_picture(self.image, width, height, self.upscale_method, self.crop)


class ImageScaleBy(Node, category="image/upscaling", display_name="Upscale Image By"):
    """Resize pictures by a factor."""

    image: Image
    upscale_method: Method = "nearest-exact"
    scale_by: Annotated[float, Field(ge=0.01, le=8), Widget({"step": 0.01})] = 1.0

    def run(self, ctx: Context) -> Image:
        from executor.resampling import resize_picture

        height, width = (round(side * self.scale_by) for side in self.image.shape[1:3])
        return resize_picture(self.image, width, height, self.upscale_method)


class ImageScaleToTotalPixels(
    Node, category="image/upscaling", display_name="Scale Image to Total Pixels"
):
    """Resize pictures to so many megapixels, in their proportions."""

    image: Image
    upscale_method: Method = "nearest-exact"
    megapixels: Annotated[float, Field(ge=0.01, le=16), Widget({"step": 0.01})] = 1.0

    def run(self, ctx: Context) -> Image:
        from executor.resampling import resize_picture, with_pixels

        height, width = self.image.shape[1:3]
        width, height = with_pixels(width, height, self.megapixels)
        return resize_picture(self.image, width, height, self.upscale_method)


class ImageInvert(Node, category="image", display_name="Invert Image"):
    """Invert the colours."""

    image: Image

    def run(self, ctx: Context) -> Image:
        return 1.0 - self.image


class ImageBatch(Node, category="image", display_name="Batch Images"):
    """Put two batches of pictures into one; the second takes the size of the first."""

    image1: Image
    image2: Image

    def run(self, ctx: Context) -> Image:
        from executor.compositing import batched

        return batched(self.image1, self.image2)


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
