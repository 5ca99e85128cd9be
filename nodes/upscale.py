"""Nodes that change the size of pictures."""

from typing import Annotated, Literal

from pydantic import Field

from executor import Context, FileChoice, Image, Node, UpscaleModel, Widget

LARGEST = 16384
SideOrZero = Annotated[int, Field(ge=0, le=LARGEST), Widget({"step": 1})]
Method = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]


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


class ImageScaleToMaxDimension(
    Node, category="image/upscaling", display_name="Scale Image to Largest Side"
):
    """Resize pictures so that their longer side is so many pixels, in their proportions."""

    image: Image
    upscale_method: Literal["area", "lanczos", "bilinear", "nearest-exact", "bicubic"] = "area"
    largest_size: SideOrZero = 512

    def run(self, ctx: Context) -> Image:
        from executor.resampling import resize_picture, with_longest

        height, width = self.image.shape[1:3]
        width, height = with_longest(width, height, self.largest_size)
        return resize_picture(self.image, width, height, self.upscale_method)


class UpscaleModelLoader(Node, category="loaders", display_name="Load Upscale Model"):
    """Load a network that makes pictures larger: ESRGAN, Real-ESRGAN, or what spandrel knows."""

    model_name: Annotated[str, FileChoice("upscale_models")]

    def run(self, ctx: Context) -> UpscaleModel:
        return ctx.models.upscaler(self.model_name)


class ImageUpscaleWithModel(
    Node, category="image/upscaling", display_name="Upscale Image (using Model)"
):
    """Make pictures larger by the network's own factor; in tiles, where they are large."""

    upscale_model: UpscaleModel
    image: Image

    def run(self, ctx: Context) -> Image:
        return self.upscale_model.upscale(self.image)
