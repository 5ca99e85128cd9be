"""Paints the sheets of pictures that stand beside the scores.

python -m models.weft_tiny.sheets models/checkpoints/weft-tiny.safetensors
"""

import argparse
import random
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from models.weft_tiny.painter import Painter, Pixels, Settings
from models.weft_tiny.pictures import picture
from models.weft_tiny.score import (
    PLAIN,
    Wish,
    drawn,
    inpainting_tasks,
    scene_pairs,
    wishes,
)
from models.weft_tiny.shapes import colours_apart
from models.weft_tiny.train_vae import HELD_OUT_SEED

CAPTION_PX = 26
PROMPTS = (
    "a red circle on a blue background",
    "a big yellow star on black",
    "a small white square on a purple background",
    "a green heart on a pink background",
    "two blue triangles on a white background",
    "three red hearts on white",
    "four green circles on a black background",
    "a yellow ring on the left on a blue background",
    "a red circle left of a blue square on a white background",
    "a white star above a green cross on a purple background",
    "a red square inside a yellow circle on blue",
    "a cyan diamond at the top on a brown background",
    "red and white vertical stripes",
    "a gradient from blue to yellow",
    "a black and white checkerboard",
    "a red circle on green and white horizontal stripes",
    "a white house with a red roof on green grass under a blue sky with a sun",
    "a yellow house with a blue roof and a tree on green grass at night with a moon",
    "a boat with a red sail on the sea at sunset with a sun",
    "three trees in the snow under a blue sky",
    "mountains on green grass on a sunny day with a sun",
    "a pink flower on green grass under a blue sky",
    "a brown house with a purple roof in the snow at night",
    "a boat with a white sail on the sea by day",
    "masterpiece, best quality, a red circle on blue",
    "a circle",
    "a red triangle",
    "blue",
    "a house",
    "a tree at night with stars",
    "three stars",
    "a photograph of an astronaut riding a horse",
)


def sheet(pictures: Sequence[Pixels], captions: Sequence[str], columns: int = 8) -> Image.Image:
    """Pictures in rows with what they are below them; an empty caption takes the room of one."""
    side = max(p.shape[0] for p in pictures)
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * side, rows * (side + CAPTION_PX)), "white")
    pen = ImageDraw.Draw(page)
    for i, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = i % columns * side, i // columns * (side + CAPTION_PX)
        page.paste(Image.fromarray(pixels), (x, y))
        for line, words in enumerate(textwrap.wrap(caption, side // 6)[:2]):
            pen.text((x + 2, y + side + 12 * line), words, fill="black")
    return page


def free(painter: Painter) -> Image.Image:
    return sheet(painter.paint(PROMPTS, PLAIN, seed=100), PROMPTS)


def sizes(painter: Painter) -> Image.Image:
    """The same prompts at 192 and 256 pixels."""
    prompts = [PROMPTS[i] for i in (0, 3, 6, 9)]
    pictures = [
        pixels
        for side in (192, 256)
        for pixels in painter.paint(prompts, replace(PLAIN, side_px=side), seed=200)
    ]
    return sheet(pictures, [*prompts, *prompts], columns=4)


def reconstructions(painter: Painter) -> Image.Image:
    """Pictures, and below them what the autoencoder makes of them."""
    true = [picture(HELD_OUT_SEED + i).pixels for i in range(16)]
    through = painter.decode(painter.encode(true))
    rows = [*true[:8], *through[:8], *true[8:], *through[8:]]
    return sheet(rows, (["true"] * 8 + ["through the autoencoder"] * 8) * 2)


def recolouring(painter: Painter) -> Image.Image:
    """Sources, and picture to picture at three strengths."""
    rng, asked = random.Random(7), wishes(8, 7)
    wanted = [Wish(c, w.kind, b) for w in asked for c, b in [colours_apart(rng, 2)]]
    sources = [drawn(wish, 7000 + i) for i, wish in enumerate(asked)]
    prompts = [wish.shape + wish.on_background for wish in wanted]
    pictures, captions = [*sources], ["source"] * 8
    for strength in (0.4, 0.5, 0.6):
        pictures += painter.paint(prompts, Settings(strength=strength), sources)
        captions += [f"{strength}: {prompt}" for prompt in prompts]
    return sheet(pictures, captions)


def inpainting(painter: Painter) -> Image.Image:
    """Flat pictures with a new right half, and landscapes whose house was painted out."""
    sources, _, prompts, masks = inpainting_tasks(8)
    pictures = [*sources, *painter.paint(prompts, PLAIN, sources, masks)]
    captions = ["source"] * 8 + prompts
    scenes = scene_pairs(8)
    houses, texts = [house for house, _, _ in scenes], [caption for _, _, caption in scenes]
    mask = torch.zeros(8, 1, 16, 16)
    mask[..., 4:15, 1:15] = 1
    pictures += [*houses, *painter.paint(texts, PLAIN, houses, mask)]
    return sheet(pictures, captions + ["source"] * 8 + texts)


SHEETS = {
    "free": free,
    "sizes": sizes,
    "reconstructions": reconstructions,
    "recolouring": recolouring,
    "inpainting": inpainting,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Paint sheets of pictures with the tiny model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "sheets")
    parser.add_argument("--only", nargs="*", choices=list(SHEETS), help="these sheets alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    painter = Painter(options.checkpoint)
    options.folder.mkdir(exist_ok=True)
    for name in options.only or SHEETS:
        page = SHEETS[name](painter)
        # 255 colours are plenty for flat pictures, and a third of the size.
        small = page.quantize(255, dither=Image.Dither.NONE)
        small.save(options.folder / f"{name}.png", optimize=True)
        print(name, np.asarray(page).shape, flush=True)


if __name__ == "__main__":
    main()
