"""Nodes that let a model compute otherwise, its weights untouched: inside the network."""

from typing import Annotated, Literal

from pydantic import Field

from executor import Context, Model, Node, Widget

Scale = Annotated[float, Field(ge=0, le=10), Widget({"step": 0.01})]
Fraction = Annotated[float, Field(ge=0, le=1), Widget({"step": 0.001})]
ScaleMethod = Literal["bicubic", "nearest-exact", "bilinear", "area", "bislerp"]


class FreeU(Node, category="model_patches/unet"):
    """Let the network trust its own features more than its skip connections."""

    model: Model
    b1: Scale = 1.1
    b2: Scale = 1.2
    s1: Scale = 0.9
    s2: Scale = 0.2

    def run(self, ctx: Context) -> Model:
        from executor.models import freeu

        return self.model.patched(freeu.FreeU(self.b1, self.b2, self.s1, self.s2))


class FreeU_V2(Node, category="model_patches/unet"):
    """As FreeU, but as much as the features themselves say at each place."""

    model: Model
    b1: Scale = 1.3
    b2: Scale = 1.4
    s1: Scale = 0.9
    s2: Scale = 0.2

    def run(self, ctx: Context) -> Model:
        from executor.models import freeu

        patch = freeu.FreeU(self.b1, self.b2, self.s1, self.s2, is_second_version=True)
        return self.model.patched(patch)


class HyperTile(Node, category="model_patches/unet"):
    """Let the network's largest attentions see tiles of the picture only, which is faster."""

    model: Model
    tile_size: Annotated[int, Field(ge=1, le=2048)] = 256
    swap_size: Annotated[int, Field(ge=1, le=128)] = 2
    max_depth: Annotated[int, Field(ge=0, le=10)] = 0
    scale_depth: bool = False

    def run(self, ctx: Context) -> Model:
        from executor.models import hypertile

        patch = hypertile.HyperTile(
            self.tile_size, self.swap_size, self.max_depth, scales_with_depth=self.scale_depth
        )
        return self.model.patched(patch)


class TomePatchModel(Node, category="model_patches/unet"):
    """Merge so much of what is alike in the network's largest attentions, which is faster."""

    model: Model
    ratio: Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})] = 0.3

    def run(self, ctx: Context) -> Model:
        from executor.models.token_merging import TokenMerging

        return self.model.patched(TokenMerging(self.ratio))


class PatchModelAddDownscale(
    Node,
    category="model_patches/unet",
    display_name="PatchModelAddDownscale (Kohya Deep Shrink)",
):
    """Do the first steps of a large picture with smaller features, so that it shows one thing."""

    model: Model
    block_number: Annotated[int, Field(ge=1, le=32)] = 3
    downscale_factor: Annotated[float, Field(ge=0.1, le=9), Widget({"step": 0.001})] = 2.0
    start_percent: Fraction = 0.0
    end_percent: Fraction = 0.35
    downscale_after_skip: bool = True
    downscale_method: ScaleMethod = "bicubic"
    upscale_method: ScaleMethod = "bicubic"

    def run(self, ctx: Context) -> Model:
        from executor.models.deep_shrink import DeepShrink

        to_sigma = self.model.schedule.percent_to_sigma
        patch = DeepShrink(
            self.block_number,
            self.downscale_factor,
            to_sigma(self.start_percent),
            to_sigma(self.end_percent),
            spares_skip=self.downscale_after_skip,
            down=self.downscale_method,
            up=self.upscale_method,
        )
        return self.model.patched(patch)
