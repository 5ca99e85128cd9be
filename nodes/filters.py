"""Nodes that filter pictures; ``executor.image_filters`` and ``executor.edges`` compute."""

from typing import Annotated, Literal

from pydantic import Field

from executor import Context, Image, Node, Seed, Widget

Radius = Annotated[int, Field(ge=1, le=31), Widget({"step": 1})]
Threshold = Annotated[float, Field(ge=0.01, le=0.99), Widget({"step": 0.01})]


class ImageBlur(Node, category="image/postprocessing", display_name="Image Blur"):
    """Blur pictures with a Gaussian; sigma is measured in radii."""

    image: Image
    blur_radius: Radius = 1
    sigma: Annotated[float, Field(ge=0.1, le=10), Widget({"step": 0.1})] = 1.0

    def run(self, ctx: Context) -> Image:
        from executor.image_filters import blurred

        return blurred(self.image, self.blur_radius, self.sigma)


class ImageSharpen(Node, category="image/postprocessing", display_name="Image Sharpen"):
    """Sharpen pictures: add what a blur takes away."""

    image: Image
    sharpen_radius: Radius = 1
    sigma: Annotated[float, Field(ge=0.1, le=10), Widget({"step": 0.01})] = 1.0
    alpha: Annotated[float, Field(ge=0, le=5), Widget({"step": 0.01})] = 1.0

    def run(self, ctx: Context) -> Image:
        from executor.image_filters import sharpened

        return sharpened(self.image, self.sharpen_radius, self.sigma, self.alpha)


class ImageQuantize(Node, category="image/postprocessing", display_name="Image Quantize"):
    """Reduce the colours of pictures, with or without dithering."""

    image: Image
    colors: Annotated[int, Field(ge=1, le=256), Widget({"step": 1})] = 256
    dither: Literal["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"] = "none"

    def run(self, ctx: Context) -> Image:
        from executor.image_filters import quantized

        return quantized(self.image, self.colors, self.dither)


class ImageAddNoise(Node, category="image", display_name="Add Noise to Image"):
    """Add Gaussian noise to pictures."""

    image: Image
    seed: Seed = 0
    strength: Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})] = 0.5

    def run(self, ctx: Context) -> Image:
        from executor.image_filters import with_noise

        return with_noise(self.image, self.seed, self.strength)


class Morphology(Node, category="image/postprocessing", display_name="ImageMorphology"):
    """Widen or narrow what is bright, or show where that changes pictures."""

    image: Image
    operation: Literal["erode", "dilate", "open", "close", "gradient", "bottom_hat", "top_hat"] = (
        "erode"
    )
    kernel_size: Annotated[int, Field(ge=3, le=999), Widget({"step": 1})] = 3

    def run(self, ctx: Context) -> Image:
        from executor.image_filters import morphed

        return morphed(self.image, self.operation, self.kernel_size)


class Canny(Node, category="image/preprocessors"):
    """Draw the edges of pictures, for a control network; from strong ones, weak ones go on."""

    image: Image
    low_threshold: Threshold = 0.4
    high_threshold: Threshold = 0.8

    def run(self, ctx: Context) -> Image:
        from executor.edges import canny

        edges = canny(self.image, self.low_threshold, self.high_threshold)
        return edges[..., None].repeat(1, 1, 1, 3)
