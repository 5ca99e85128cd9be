"""Nodes between pictures and latents: a VAE encodes and decodes."""

from typing import Annotated

from pydantic import Field

from executor import Context, Image, Latent, Mask, Node, Tiling, Vae, Widget

DecodedTile = Annotated[int, Field(ge=64, le=4096), Widget({"step": 32})]
EncodedTile = Annotated[int, Field(ge=64, le=4096), Widget({"step": 64})]
Overlap = Annotated[int, Field(ge=0, le=4096), Widget({"step": 32})]
# Frames of a video at once: ComfyUI's inputs, which no VAE of pictures has a use for.
Frames = Annotated[int, Field(ge=8, le=4096), Widget({"step": 4, "tooltip": "for videos only"})]
FrameOverlap = Annotated[
    int, Field(ge=4, le=4096), Widget({"step": 4, "tooltip": "for videos only"})
]


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


class VAEDecodeTiled(Node, category="latent", display_name="VAE Decode (Tiled)"):
    """Decode latents tile by tile, in less memory; sizes are in pixels of the picture."""

    samples: Latent
    vae: Vae
    tile_size: DecodedTile = 512
    overlap: Overlap = 64
    temporal_size: Frames = 64
    temporal_overlap: FrameOverlap = 8

    def run(self, ctx: Context) -> Image:
        overlap = min(self.overlap, self.tile_size // 4)
        return self.vae.decode(self.samples.samples, Tiling(self.tile_size, overlap))


class VAEEncodeTiled(Node, category="latent", display_name="VAE Encode (Tiled)"):
    """Encode pictures tile by tile, in less memory; sides are cropped to multiples of 8."""

    pixels: Image
    vae: Vae
    tile_size: EncodedTile = 512
    overlap: Overlap = 64
    temporal_size: Frames = 64
    temporal_overlap: FrameOverlap = 8

    def run(self, ctx: Context) -> Latent:
        from executor.latents import cropped_to_latent

        pixels = cropped_to_latent(self.pixels[..., :3])
        return Latent(self.vae.encode(pixels, Tiling(self.tile_size, self.overlap)))
