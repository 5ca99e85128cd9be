"""Nodes that show a model the picture to change, for models that were trained to see it."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from executor import Conditioning, Context, Image, Latent, Mask, Node, Vae

if TYPE_CHECKING:
    from torch import Tensor


class Shown(NamedTuple):
    """Both prompts with the picture beside them, and the latent to start from."""

    positive: Conditioning
    negative: Conditioning
    latent: Latent


class InpaintModelConditioning(Node, category="conditioning/inpaint"):
    """Show an inpainting model a picture and where to paint; by default it changes nothing else."""

    positive: Conditioning
    negative: Conditioning
    vae: Vae
    pixels: Image
    mask: Mask
    noise_mask: bool = True  # keep what is outside of the mask while sampling

    def run(self, ctx: Context) -> Shown:
        from executor.latents import greyed

        ready = greyed(self.pixels, self.mask)
        around = self.vae.encode(ready.pixels)
        whole = Latent(self.vae.encode(self.pixels), ready.noise_mask if self.noise_mask else None)
        return Shown(
            _beside(self.positive, around, ready.noise_mask),
            _beside(self.negative, around, ready.noise_mask),
            whole,
        )


class InstructPixToPixConditioning(Node, category="conditioning/instructpix2pix"):
    """Show InstructPix2Pix the picture that the prompt says how to edit."""

    positive: Conditioning
    negative: Conditioning
    vae: Vae
    pixels: Image

    def run(self, ctx: Context) -> Shown:
        import torch

        picture = self.vae.encode(self.pixels)
        empty = Latent(torch.zeros_like(picture))
        return Shown(_beside(self.positive, picture), _beside(self.negative, picture), empty)


def _beside(side: Conditioning, picture: "Tensor", mask: Mask | None = None) -> Conditioning:
    """The prompts with an encoded picture beside them, and which part of it is to be painted."""
    return tuple(replace(cond, concat=picture, concat_mask=mask) for cond in side)
