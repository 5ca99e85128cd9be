"""Nodes that make one latent of two; ``executor.latent_mixing`` computes."""

import operator
from dataclasses import replace
from functools import partial
from typing import Annotated

from pydantic import Field

from executor import Context, Latent, Mask, Node, Widget

Offset = Annotated[int, Field(ge=0, le=16384), Widget({"step": 8})]
Share = Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})]


class LatentComposite(Node, category="latent", display_name="Latent Composite"):
    """Paste latents into others; place and feather are in pixels of the picture."""

    samples_to: Latent
    samples_from: Latent
    x: Offset = 0
    y: Offset = 0
    feather: Offset = 0

    def run(self, ctx: Context) -> Latent:
        from executor.latent_mixing import composite

        return composite(
            self.samples_to,
            self.samples_from,
            x=self.x // 8,
            y=self.y // 8,
            feather=self.feather // 8,
        )


class LatentCompositeMasked(Node, category="latent", display_name="Latent Composite Masked"):
    """Paste latents into others, where a mask lets them show; the place is in pixels."""

    destination: Latent
    source: Latent
    x: Offset = 0
    y: Offset = 0
    resize_source: bool = False
    mask: Mask | None = None

    def run(self, ctx: Context) -> Latent:
        from executor.latent_mixing import masked

        return masked(
            self.destination,
            self.source,
            x=self.x,
            y=self.y,
            mask=self.mask,
            resize_source=self.resize_source,
        )


class LatentBlend(Node, category="latent/advanced", display_name="Latent Blend"):
    """Mix latents: so much of the first, the rest of the second."""

    samples1: Latent
    samples2: Latent
    blend_factor: Share = 0.5

    def run(self, ctx: Context) -> Latent:
        from executor.latent_mixing import blended

        return blended(self.samples1, self.samples2, self.blend_factor)


class LatentAdd(Node, category="latent/advanced", display_name="Latent Add"):
    """Add latents."""

    samples1: Latent
    samples2: Latent

    def run(self, ctx: Context) -> Latent:
        from executor.latent_mixing import combined

        return combined(self.samples1, self.samples2, operator.add)


class LatentSubtract(Node, category="latent/advanced", display_name="Latent Subtract"):
    """Take the second latents from the first."""

    samples1: Latent
    samples2: Latent

    def run(self, ctx: Context) -> Latent:
        from executor.latent_mixing import combined

        return combined(self.samples1, self.samples2, operator.sub)


class LatentMultiply(Node, category="latent/advanced", display_name="Latent Multiply"):
    """Multiply latents with a number."""

    samples: Latent
    multiplier: Annotated[float, Field(ge=-10, le=10), Widget({"step": 0.01})] = 1.0

    def run(self, ctx: Context) -> Latent:
        return replace(self.samples, samples=self.samples.samples * self.multiplier)


class LatentInterpolate(Node, category="latent/advanced", display_name="Latent Interpolate"):
    """Mix directions and lengths of latents: so much of the first, the rest of the second."""

    samples1: Latent
    samples2: Latent
    ratio: Share = 1.0

    def run(self, ctx: Context) -> Latent:
        from executor.latent_mixing import combined, interpolated

        mixed = partial(interpolated, share=self.ratio)
        return combined(self.samples1, self.samples2, mixed)
