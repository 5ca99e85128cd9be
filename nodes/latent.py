"""Nodes that make, encode, decode, combine and keep latents; ``executor.latents`` computes."""

from dataclasses import replace
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field

from executor import Context, FileChoice, Image, Latent, Mask, Node, Vae, Widget
from nodes.output import FilenamePrefix

Side = Annotated[int, Field(ge=16, le=16384), Widget({"step": 8})]
SideOrZero = Annotated[int, Field(ge=0, le=16384), Widget({"step": 8})]
Offset = Annotated[int, Field(ge=0, le=16384), Widget({"step": 8})]
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


class VAEEncode(Node, category="latent", display_name="VAE Encode"):
    """Encode pictures; sides are cropped to multiples of 8."""

    pixels: Image
    vae: Vae

    def run(self, ctx: Context) -> Latent:
        from executor.latents import cropped_to_latent

        return Latent(self.vae.encode(cropped_to_latent(self.pixels[..., :3])))


class VAEEncodeForInpaint(
    Node, category="latent/inpaint", display_name="VAE Encode (for Inpainting)"
):
    """Encode pictures with what the mask covers greyed out, to be painted from nothing."""

    pixels: Image
    vae: Vae
    mask: Mask
    grow_mask_by: Annotated[int, Field(ge=0, le=64), Widget({"step": 1})] = 6

    def run(self, ctx: Context) -> Latent:
        from executor.latents import repaint

        ready = repaint(self.pixels, self.mask, self.grow_mask_by)
        return Latent(self.vae.encode(ready.pixels), ready.noise_mask)


class VAEDecode(Node, category="latent", display_name="VAE Decode"):
    """Decode latents into pictures."""

    samples: Latent
    vae: Vae

    def run(self, ctx: Context) -> Image:
        return self.vae.decode(self.samples.samples)


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


class LatentFromBatch(Node, category="latent/batch", display_name="Latent From Batch"):
    """Take some latents of a batch; sampled alone, they get the noise that they had in it."""

    samples: Latent
    batch_index: Annotated[int, Field(ge=0, le=63)] = 0
    length: Annotated[int, Field(ge=1, le=64)] = 1

    def run(self, ctx: Context) -> Latent:
        from executor.latents import rows

        return rows(self.samples, self.batch_index, self.length)


class RepeatLatentBatch(Node, category="latent/batch", display_name="Repeat Latent Batch"):
    """Repeat a batch of latents, to vary one picture."""

    samples: Latent
    amount: Annotated[int, Field(ge=1, le=64)] = 1

    def run(self, ctx: Context) -> Latent:
        from executor.latents import repeated

        return repeated(self.samples, self.amount)


class LatentComposite(Node, category="latent", display_name="Latent Composite"):
    """Paste latents into others; place and feather are in pixels of the picture."""

    samples_to: Latent
    samples_from: Latent
    x: Offset = 0
    y: Offset = 0
    feather: Offset = 0

    def run(self, ctx: Context) -> Latent:
        from executor.latents import composite

        return composite(
            self.samples_to,
            self.samples_from,
            x=self.x // 8,
            y=self.y // 8,
            feather=self.feather // 8,
        )


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
