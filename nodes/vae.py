"""Nodes between pictures and latents: a VAE encodes and decodes."""

from typing import Annotated

from pydantic import Field

from executor import Context, Image, Latent, Mask, Node, Vae, Widget


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
