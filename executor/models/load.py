"""Model files become networks: memory-mapped, onto modules built without storage, or not at all.

A tensor goes from the mapped file to its device and precision in one step; where neither changes,
it stays a view of the file (so replace a file by renaming another over it, never in place).
Everything is checked against the header before a weight is read. No network access, ever.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from executor.context import Checkpoint
from executor.devices import Devices
from executor.errors import InputError
from executor.models import configs, detect, layout
from executor.models.families import Family
from executor.models.header import Header, read_header
from executor.models.latent_rgb import KEY, LatentRgb
from executor.models.load_text import load_text
from executor.models.model_file import ModelFile
from executor.models.part import Part
from executor.models.text import FindEmbedding, no_embeddings
from executor.models.unclip import read_picture_noise
from executor.models.unet import UNet
from executor.models.unet_place import unet_place
from executor.models.vae import Autoencoder, MissingAutoencoder
from executor.residency import Turn

log = logging.getLogger(__name__)

_SHOWN = 3  # of the tensors that are of no use


def load_checkpoint(
    path: Path, devices: Devices, find_embedding: FindEmbedding = no_embeddings
) -> Checkpoint:
    """All parts of a checkpoint file or diffusers folder. Raises ModelFileError."""
    file = detect.inspect(path)
    family = detect.family_of(file)
    return Checkpoint(
        load_unet(file, family, devices),
        load_text(file, family, devices, find_embedding),
        load_checkpoint_vae(file, devices),
    )


def load_vae(path: Path, devices: Devices) -> Autoencoder:
    """The autoencoder in a VAE's own file, or in a checkpoint. Raises ModelFileError."""
    file = detect.inspect(path)
    detect.require_vae(file)
    return _load_vae(file, devices)


def load_unet(
    file: ModelFile, family: Family, devices: Devices, *, rounded: torch.dtype | None = None
) -> UNet:
    """The U-Net of a checkpoint, or of a file of its own.

    Weights ``rounded`` to a type of 8 bits are those of ComfyUI's; they are kept in the precision
    that is computed in.
    """
    header = file.headers["unet"] if file.is_folder else file.header
    place = unet_place(header)
    assert place is not None, "a family was told from it"
    shapes = place.shapes()
    part = Part("U-Net", header, place.stored)
    network = part.build(
        lambda: UNet2DConditionModel(**configs.unet_config(shapes, family, file.hints))
    )
    dtype = devices.unet_dtype(part.stored_dtype(network))
    part.fill(network, devices, dtype, rounded=rounded, turn=Turn.DIFFUSION)
    unused = sorted(set(shapes) - set(layout.unet_names(network.state_dict()).values()))
    if unused:  # another loader may know what they do; here the picture may differ from its
        log.warning(
            "%s: %d tensors of its U-Net are of no use here: %s",
            file.path.name,
            len(unused),
            ", ".join(unused[:_SHOWN]),
        )
    return UNet(
        network,
        family=family,
        objective=file.objective,
        key=("unet", file.identity, dtype, rounded),
        latent_rgb=_latent_rgb(file, network.config["out_channels"]),
        picture_noise=read_picture_noise(header),
    )


def _latent_rgb(file: ModelFile, channels: int) -> LatentRgb | None:
    """The map for previews that a file brings; one that cannot be read is left out."""
    said = file.metadata.get(KEY)
    if said is None:
        return None
    try:
        return LatentRgb.from_text(said, channels)
    except InputError as error:
        log.warning("%s: %s; its previews may have wrong colours", file.path.name, error)
        return None


def load_checkpoint_vae(file: ModelFile, devices: Devices) -> Autoencoder | MissingAutoencoder:
    """The autoencoder of a checkpoint, or what says that there is none once it is needed."""
    return _load_vae(file, devices) if file.parts.get("vae") else MissingAutoencoder(file.path)


def load_preview_decoder(path: Path, devices: Devices) -> DecoderTiny:
    """The decoder of a tiny autoencoder for previews, in TAESD's own layout.

    It takes latents scaled as the U-Net sees them to (B, 3, 8h, 8w) in [-1, 1]. Raises
    ModelFileError.
    """
    header = read_header(path)
    part = Part("preview decoder", header, layout.preview_decoder_names)
    network = part.build(lambda: DecoderTiny(**configs.PREVIEW_DECODER))
    part.fill(network, devices, devices.vae_dtype)
    return network


def _load_vae(file: ModelFile, devices: Devices) -> Autoencoder:
    header = file.headers["vae"] if file.is_folder else file.header
    prefix = detect.vae_prefix(header) or ""
    is_diffusers = any(name.startswith(f"{prefix}decoder.up_blocks.") for name in header.tensors)
    shapes = (
        _renamed_shapes(header, layout.vae_names) if is_diffusers else header.shapes_below(prefix)
    )

    def key(names: Iterable[str]) -> Mapping[str, str]:
        names = list(names)
        if not is_diffusers:
            return {name: prefix + ldm for name, ldm in layout.vae_names(names).items()}
        old = layout.old_vae_names(names)
        return {name: name if name in header.tensors else old.get(name, name) for name in names}

    part = Part("VAE", header, key)
    network = part.build(lambda: AutoencoderKL(**configs.vae_config(shapes, file.hints)))
    part.fill(network, devices, devices.vae_dtype, turn=Turn.AUTOENCODER)
    return Autoencoder(network)


def _renamed_shapes(
    header: Header, rename: Callable[[Iterable[str]], Mapping[str, str]]
) -> dict[str, tuple[int, ...]]:
    """Shapes of a diffusers file by the names that they would have in a single file."""
    try:
        names = rename(header.tensors)
    except ValueError:  # not one block of the kind that tells its depth
        return {}
    return {ldm: header.tensors[name].shape for name, ldm in names.items()}
