"""Nodes that load models; ``executor.models`` finds out what a file holds."""

from typing import Annotated, NamedTuple

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


class VAELoader(Node, category="loaders", display_name="Load VAE"):
    """Load a VAE from a file of its own."""

    vae_name: Annotated[str, FileChoice("vae")]

    def run(self, ctx: Context) -> Vae:
        return ctx.models.vae(self.vae_name)
