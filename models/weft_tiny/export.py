"""Writes the trained parts as one checkpoint in Stable Diffusion 1.x's layout, in float16.

What shapes cannot tell a loader (heads, groups) stands in the file's metadata, and how its latents
look as colours, for previews: that map is fitted to pictures when the weights are written.

    python -m models.weft_tiny.export build/weft_tiny/vae.pt build/weft_tiny/denoiser.pt \\
        models/checkpoints/weft-tiny.safetensors
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from executor.devices import Devices
from executor.models.latent_rgb import KEY, LatentRgb
from executor.models.load import load_checkpoint
from executor.models.preview import fit
from models.weft_tiny import autoencoder, denoiser, layout
from models.weft_tiny.pictures import picture

MAP_PICTURES = 24

METADATA = {
    "format": "pt",
    "modelspec.architecture": "stable-diffusion-v1",
    "modelspec.title": "Weft tiny",
    "modelspec.description": (
        "A small Stable Diffusion trained from nothing on procedurally drawn pictures: 12 colours, "
        "8 kinds of shape, counts, pairs, patterns and little scenes."
    ),
    "modelspec.license": "Apache-2.0",
    "modelspec.prediction_type": "epsilon",
    "modelspec.resolution": "128x128",
    "weft.unet_heads": str(denoiser.HEADS),
    "weft.unet_norm_groups": str(denoiser.NORM_GROUPS),
    "weft.vae_norm_groups": str(autoencoder.NORM_GROUPS),
    "weft.clip_heads": str(denoiser.TEXT_HEADS),
    "weft.best_use": (
        "128x128 (also 192 and 256), 20 steps of dpmpp_2m with karras, cfg 4; prompts such as "
        "'a red circle on a blue background' or 'a white house with a red roof at night'"
    ),
}


def split(weights: layout.Weights, part: str) -> layout.Weights:
    return {k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)}


def checkpoint(vae_state: Path, denoiser_state: Path, kept: str) -> layout.Weights:
    """All the weights under their names in the file; ``kept`` of the denoiser's two sets."""
    vae = torch.load(vae_state, weights_only=True)["average"]
    trained = torch.load(denoiser_state, weights_only=True)
    unet, text = (split(trained[kept], part) for part in ("unet.", "text."))
    name = denoiser.embedding_name(text)
    text[name] = denoiser.all_rows(text[name], trained["known"])
    weights = (
        layout.unet_to_file(unet, denoiser.HAS_ATTENTION, denoiser.LAYERS)
        | layout.vae_to_file(vae, len(autoencoder.WIDTHS), autoencoder.LAYERS)
        | layout.text_to_file(text)
    )
    return {
        name: (weight.half() if weight.is_floating_point() else weight).contiguous()
        for name, weight in sorted(weights.items())
    }


def latent_rgb(file: Path) -> LatentRgb:
    """The map from latents to colours that is right for the autoencoder in a checkpoint."""
    vae = load_checkpoint(file, Devices(torch.device("cpu"))).vae
    drawn = [torch.from_numpy(picture(seed).pixels.copy()) / 255 for seed in range(MAP_PICTURES)]
    with torch.no_grad():
        return fit(vae, torch.stack(drawn), autoencoder.LATENT_SCALE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tiny model as one checkpoint.")
    parser.add_argument("vae", type=Path, help="state of train_vae")
    parser.add_argument("denoiser", type=Path, help="state of train")
    parser.add_argument("checkpoint", type=Path, help="where the safetensors file goes")
    parser.add_argument(
        "--last", action="store_true", help="the U-Net's last weights, not their average"
    )
    options = parser.parse_args()
    kept = "model" if options.last else "average"
    weights = checkpoint(options.vae, options.denoiser, kept)
    save_file(weights, options.checkpoint, metadata=METADATA)
    colours = {KEY: latent_rgb(options.checkpoint).text()}
    save_file(weights, options.checkpoint, metadata=METADATA | colours)
    count = sum(w.numel() for w in weights.values()) / 1e6
    size = options.checkpoint.stat().st_size / 2**20
    print(f"{options.checkpoint}: {count:.2f} million weights, {size:.1f} MiB")


if __name__ == "__main__":
    main()
