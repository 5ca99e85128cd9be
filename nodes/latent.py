"""Nodes that make, resize, cut, turn and keep latents; ``executor.latents`` computes."""

from dataclasses import replace
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field

from executor import Context, FileChoice, Latent, Mask, Node, Widget
from nodes.output import FilenamePrefix

Side = Annotated[int, Field(ge=16, le=16384), Widget({"step": 8})]
SideOrZero = Annotated[int, Field(ge=0, le=16384), Widget({"step": 8})]
Offset = Annotated[int, Field(ge=0, le=16384), Widget({"step": 8})]
CropSide = Annotated[int, Field(ge=64, le=16384), Widget({"step": 8})]
Method = Literal["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]


class EmptyLatent(
    Node, category="latent", aliases=("EmptyLatentImage",), display_name="Empty Latent Image"
):
    """Make a batch of empty latents for text to image; the size is that of the picture."""

    width: Side = 512
    height: Side = 512
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1

    def run(self, ctx: Context) -> Latent:
        import torch

        shape = (self.batch_size, 4, self.height // 8, self.width // 8)
        return Latent(torch.zeros(shape, device=ctx.device))


class SetLatentNoiseMask(Node, category="latent/inpaint", display_name="Set Latent Noise Mask"):
    """Let samplers change a latent only where the mask is; the rest stays as it is."""

    samples: Latent
    mask: Mask

    def run(self, ctx: Context) -> Latent:
        return replace(self.samples, noise_mask=self.mask)


class LatentUpscale(Node, category="latent", display_name="Upscale Latent"):
    """Bring latents to a picture size; a side of 0 follows from the other."""

    samples: Latent
    upscale_method: Method = "nearest-exact"
    width: SideOrZero = 512
    height: SideOrZero = 512
    crop: Literal["disabled", "center"] = "disabled"

    def run(self, ctx: Context) -> Latent:
        from executor.latents import pixel_size
        from executor.resampling import resize

        width, height = pixel_size(self.samples, self.width, self.height)
        resized = resize(
            self.samples.samples, width // 8, height // 8, self.upscale_method, self.crop
        )
        return replace(self.samples, samples=resized)


class LatentUpscaleBy(Node, category="latent", display_name="Upscale Latent By"):
    """Scale latents by a factor."""

    samples: Latent
    upscale_method: Method = "nearest-exact"
    scale_by: Annotated[float, Field(ge=0.01, le=8), Widget({"step": 0.01})] = 1.5

    def run(self, ctx: Context) -> Latent:
        from executor.resampling import resize

        height, width = (
            max(1, round(side * self.scale_by)) for side in self.samples.samples.shape[-2:]
        )
        resized = resize(self.samples.samples, width, height, self.upscale_method, "disabled")
        return replace(self.samples, samples=resized)


class LatentCrop(Node, category="latent/transform", display_name="Crop Latent"):
    """Cut a rectangle out of latents; it is given in pixels of the picture."""

    samples: Latent
    width: CropSide = 512
    height: CropSide = 512
    x: Offset = 0
    y: Offset = 0

    def run(self, ctx: Context) -> Latent:
        from executor.latents import cropped

        return cropped(
            self.samples,
            x=self.x // 8,
            y=self.y // 8,
            width=self.width // 8,
            height=self.height // 8,
        )


class LatentFlip(Node, category="latent/transform", display_name="Flip Latent"):
    """Mirror latents."""

    samples: Latent
    flip_method: Literal["x-axis: vertically", "y-axis: horizontally"] = "x-axis: vertically"

    def run(self, ctx: Context) -> Latent:
        side = 2 if self.flip_method == "x-axis: vertically" else 3
        return replace(self.samples, samples=self.samples.samples.flip(side))


class LatentRotate(Node, category="latent/transform", display_name="Rotate Latent"):
    """Turn latents clockwise."""

    samples: Latent
    rotation: Literal["none", "90 degrees", "180 degrees", "270 degrees"] = "none"

    def run(self, ctx: Context) -> Latent:
        turns = ("none", "90 degrees", "180 degrees", "270 degrees").index(self.rotation)
        return replace(self.samples, samples=self.samples.samples.rot90(turns, (3, 2)))


class SaveLatent(Node, category="latent/file", is_output=True, display_name="Save Latent"):
    """Keep latents in a file, with the workflow that made them."""

    samples: Latent
    filename_prefix: FilenamePrefix = "latents/ComfyUI"

    def run(self, ctx: Context) -> None:
        from executor.latent_file import SUFFIX, to_bytes

        metadata: dict[str, Any] = {"prompt": ctx.prompt, **ctx.extra_pnginfo}
        content = to_bytes(self.samples.samples, metadata)

        def write(file: BinaryIO) -> None:
            file.write(content)

        ctx.save(self.filename_prefix, SUFFIX, write, kind="latents")


class LoadLatent(Node, category="latent/file", display_name="Load Latent"):
    """Load latents that SaveLatent kept, from the folder of inputs."""

    latent: Annotated[str, FileChoice("latents")]

    def run(self, ctx: Context) -> Latent:
        from executor.latent_file import read

        return Latent(read(ctx.find("latents", self.latent)).to(ctx.device))
