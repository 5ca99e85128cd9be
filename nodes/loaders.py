"""Nodes that load models; ``executor.models`` finds out what a file holds."""

from typing import Annotated, Literal, NamedTuple

from executor import Clip, Context, FileChoice, Model, Node, Vae


class LoadedCheckpoint(NamedTuple):
    """The parts of a checkpoint file."""

    MODEL: Model
    CLIP: Clip
    VAE: Vae


class CheckpointLoader(
    Node, category="loaders", aliases=("CheckpointLoaderSimple",), display_name="Load Checkpoint"
):
    """Load a diffusion model with its text encoder and its VAE from one file."""

    ckpt_name: Annotated[str, FileChoice("checkpoints")]

    def run(self, ctx: Context) -> LoadedCheckpoint:
        return LoadedCheckpoint(*ctx.models.checkpoint(self.ckpt_name))


class DiffusersLoader(Node, category="advanced/loaders/deprecated"):
    """Load a diffusion model with its text encoder and its VAE from a diffusers folder."""

    model_path: Annotated[str, FileChoice("diffusers")]

    def run(self, ctx: Context) -> LoadedCheckpoint:
        return LoadedCheckpoint(*ctx.models.diffusers(self.model_path))


class UNETLoader(Node, category="advanced/loaders", display_name="Load Diffusion Model"):
    """Load a diffusion model from a file of its own.

    Its weights can be rounded to 8 bits: so are the pictures of those who have no more memory. Here
    they take no less.
    """

    unet_name: Annotated[str, FileChoice("diffusion_models")]
    weight_dtype: Literal["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"] = "default"

    def run(self, ctx: Context) -> Model:
        return ctx.models.diffusion_model(self.unet_name, self.weight_dtype)


class CLIPLoader(Node, category="advanced/loaders", display_name="Load CLIP"):
    """Load the text encoder of Stable Diffusion 1.x, 2.x or the SDXL refiner from its own file."""

    clip_name: Annotated[str, FileChoice("text_encoders")]
    type: Literal["stable_diffusion"] = "stable_diffusion"  # the other types are other models'
    device: Literal["default", "cpu"] = "default"

    def run(self, ctx: Context) -> Clip:
        return ctx.models.text_encoder([self.clip_name], on_cpu=self.device == "cpu")


class DualCLIPLoader(Node, category="advanced/loaders"):
    """Load the two text encoders of SDXL from files of their own, in any order."""

    clip_name1: Annotated[str, FileChoice("text_encoders")]
    clip_name2: Annotated[str, FileChoice("text_encoders")]
    type: Literal["sdxl"] = "sdxl"  # the other types are other models'
    device: Literal["default", "cpu"] = "default"

    def run(self, ctx: Context) -> Clip:
        names = [self.clip_name1, self.clip_name2]
        return ctx.models.text_encoder(names, on_cpu=self.device == "cpu")


class VAELoader(Node, category="loaders", display_name="Load VAE"):
    """Load a VAE from a file of its own."""

    vae_name: Annotated[str, FileChoice("vae")]

    def run(self, ctx: Context) -> Vae:
        return ctx.models.vae(self.vae_name)
