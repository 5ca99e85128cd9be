"""Asks whether the U-Net listens to a word: how much worse it predicts when that word is wrong.

True pictures, much noise, and one word of the caption swapped. The rise of the error foretells what
the model will paint long before the pictures show it.

    python -m models.weft_tiny.probe models/checkpoints/weft-tiny.safetensors
"""

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor

from models.weft_tiny.denoiser import alphas_cumprod
from models.weft_tiny.painter import Painter
from models.weft_tiny.score import Wish, drawn, wishes
from models.weft_tiny.shapes import KINDS, colours_apart

TIMESTEPS = (400, 600, 750, 850, 950)


def swapped(wish: Wish, rng: random.Random) -> dict[str, Wish]:
    """The wish, and the wish with one word wrong."""
    colour, background = colours_apart(rng, 2)
    kind = rng.choice([kind for kind in KINDS if kind != wish.kind])
    return {
        "true": wish,
        "colour": Wish(colour, wish.kind, wish.background),
        "background": Wish(wish.colour, wish.kind, background),
        "kind": Wish(wish.colour, kind, wish.background),
    }


@torch.no_grad()
def error(painter: Painter, noisy: Tensor, timestep: int, context: Tensor, noise: Tensor) -> float:
    """Mean square error of the predicted noise."""
    parts = [
        painter.denoiser(x, torch.full((len(x),), timestep), c)
        for x, c in zip(noisy.split(16), context.split(16), strict=True)
    ]
    return (torch.cat(parts) - noise).square().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how much each word of a caption counts.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pictures", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    painter, rng = Painter(options.checkpoint), random.Random(0)
    asked = wishes(options.pictures, 9)
    latents = painter.encode([drawn(wish, i) for i, wish in enumerate(asked)])
    captions: dict[str, list[str]] = {}
    for wish in asked:
        for name, other in swapped(wish, rng).items():
            captions.setdefault(name, []).append(other.shape + other.on_background)
    contexts = {name: painter.context(texts) for name, texts in captions.items()}
    alphas = alphas_cumprod()
    for timestep in TIMESTEPS:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(timestep))
        alpha = alphas[timestep]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        errors = {n: error(painter, noisy, timestep, c, noise) for n, c in contexts.items()}
        rises = [f"{n} +{100 * (e / errors['true'] - 1):.1f} %" for n, e in errors.items()][1:]
        print(f"t {timestep}: true {errors['true']:.5f}, {', '.join(rises)}", flush=True)


if __name__ == "__main__":
    main()
