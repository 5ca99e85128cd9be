"""Nodes that take batches of pictures and latents apart and put them together."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from executor import Context, Image, Latent, Node


class ImageBatch(Node, category="image", display_name="Batch Images"):
    """Put two batches of pictures into one; the second takes the size of the first."""

    image1: Image
    image2: Image

    def run(self, ctx: Context) -> Image:
        from executor.compositing import batched

        return batched(self.image1, self.image2)


class ImageFromBatch(Node, category="image/batch", display_name="Image From Batch"):
    """Take some pictures of a batch."""

    image: Image
    batch_index: Annotated[int, Field(ge=0, le=4095)] = 0
    length: Annotated[int, Field(ge=1, le=4096)] = 1

    def run(self, ctx: Context) -> Image:
        first = min(self.batch_index, len(self.image) - 1)
        return self.image[first : first + self.length].clone()  # so that the others can go


class RepeatImageBatch(Node, category="image/batch", display_name="Repeat Image Batch"):
    """Repeat a batch of pictures."""

    image: Image
    amount: Annotated[int, Field(ge=1, le=4096)] = 1

    def run(self, ctx: Context) -> Image:
        return self.image.repeat(self.amount, 1, 1, 1)


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


class LatentBatch(Node, category="latent/batch", display_name="Latent Batch"):
    """Put two batches of latents into one; the second takes the size of the first."""

    samples1: Latent
    samples2: Latent

    def run(self, ctx: Context) -> Latent:
        from executor.latents import batched

        return batched(self.samples1, self.samples2)


class LatentBatchSeedBehavior(
    Node, category="latent/advanced", display_name="Latent Batch Seed Behavior"
):
    """Give each latent of a batch noise of its own, or all the same."""

    samples: Latent
    seed_behavior: Literal["random", "fixed"] = "fixed"

    def run(self, ctx: Context) -> Latent:
        if self.seed_behavior == "random":
            return replace(self.samples, batch_index=None)
        first = (self.samples.batch_index or (0,))[0]
        return replace(self.samples, batch_index=(first,) * len(self.samples.samples))
