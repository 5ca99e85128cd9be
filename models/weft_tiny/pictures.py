"""Endless pictures with captions, drawn by a program: what the tiny model learns from.

A seed gives one picture and always the same one. The captions leave out the background (15 %) or
the colour (10 %) so that short prompts work, and use synonyms so that more words do. Held-out
triples of colour, kind and background are for the scores: no single shape, no count and no first
shape of a pair has one.

    python -m models.weft_tiny.pictures sheet.png
"""

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.weft_tiny.scenes import article, draw_scene
from models.weft_tiny.shapes import (
    COLOURS,
    KINDS,
    PALETTE,
    Rgb,
    are_apart,
    colours_apart,
    draw_shape,
    is_held_out,
    tint,
)

SYNONYMS = {
    "circle": ("circle", "circle", "disc", "ball"),
    "square": ("square", "square", "box"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "donut"),
    "diamond": ("diamond", "rhombus"),
    "gray": ("gray", "grey"),
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise"),
}
PLURALS = {"box": "boxes", "cross": "crosses", "plus": "plus signs", "rhombus": "rhombuses"}
OPENINGS = ("",) * 6 + ("a picture of ", "a drawing of ", "an image of ", "a photo of ")
NUMBERS = ("one", "two", "three", "four")
PLACES = {
    "on the left": (0.27, 0.5),
    "on the right": (0.73, 0.5),
    "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73),
}
# Where the shapes of a count stand, and their size: near, but never touching.
ROWS: dict[int, list[tuple[list[tuple[float, float]], float]]] = {
    1: [([(0.5, 0.5)], 0.25)],
    2: [([(0.28, 0.5), (0.72, 0.5)], 0.16)] * 2 + [([(0.3, 0.3), (0.7, 0.7)], 0.17)],
    3: [
        ([(0.17, 0.5), (0.5, 0.5), (0.83, 0.5)], 0.12),
        ([(0.5, 0.28), (0.27, 0.7), (0.73, 0.7)], 0.17),
    ],
    4: [([(0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72)], 0.16)],
}
# Where the first and the second of a pair stand.
PAIRS = {
    "left of": ((0.27, 0.5), (0.73, 0.5)),
    "right of": ((0.73, 0.5), (0.27, 0.5)),
    "above": ((0.5, 0.27), (0.5, 0.73)),
    "below": ((0.5, 0.73), (0.5, 0.27)),
    "and": ((0.27, 0.5), (0.73, 0.5)),
}


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels (S, S, 3) uint8 and what they show."""

    pixels: NDArray[np.uint8]
    caption: str


def said(rng: random.Random, word: str) -> str:
    """The word or a synonym."""
    return rng.choice(SYNONYMS.get(word, (word,)))


def with_article(words: str) -> str:
    return f"{article(words)} {words}"


def plural(word: str) -> str:
    return PLURALS.get(word, word + "s")


def background_words(rng: random.Random, background: str) -> str:
    """The end of a caption that names the background; 15 % do not."""
    if rng.random() < 0.15:
        return ""
    word = said(rng, background)
    full = f" on {with_article(word)} background"
    return rng.choice([full, full, f" on {word}", f", {word} background"])


def plain(side: int, fill: Rgb) -> Image.Image:
    return Image.new("RGB", (side, side), fill)


def draw_plain(rng: random.Random, side: int) -> tuple[Image.Image, str]:
    """Nothing but a colour."""
    colour = rng.choice(COLOURS)
    word = said(rng, colour)
    words = rng.choice([word, f"{with_article(word)} background", f"nothing on {word}"])
    return plain(side, tint(rng, colour)), words


def draw_single(rng: random.Random, side: int) -> tuple[Image.Image, str]:
    """One shape, of some size, somewhere."""
    while True:
        colour, background = colours_apart(rng, 2)
        kind = rng.choice(KINDS)
        if not is_held_out(colour, kind, background):
            break
    canvas, words = draw_single_of(rng, side, colour, kind, background)
    return canvas, words + background_words(rng, background)


def draw_single_of(
    rng: random.Random, side: int, colour: str, kind: str, background: str
) -> tuple[Image.Image, str]:
    """One shape of this colour and kind; the words leave the background out."""
    word = rng.choice(["", "", "", "small", "large"])
    place = rng.choice(["", "", "", *PLACES]) if word != "large" else ""
    spread = 0.04
    if word:
        size = rng.uniform(0.36, 0.42) if word == "large" else rng.uniform(0.13, 0.17)
    else:
        size = rng.uniform(0.19, 0.24) if place else rng.uniform(0.23, 0.31)
    if not place and word != "large":
        # Some stand anywhere: inpainting asks for that.
        spread = 0.5 - size - 0.05 if rng.random() < 0.3 else 0.09
    x, y = PLACES.get(place, (0.5, 0.5))
    x, y = x + rng.uniform(-spread, spread), y + rng.uniform(-spread, spread)
    canvas = plain(side, tint(rng, background))
    draw_shape(canvas, kind, x, y, size, tint(rng, colour))
    shown = said(rng, kind) if rng.random() < 0.1 else f"{said(rng, colour)} {said(rng, kind)}"
    if word:
        shown = rng.choice({"small": ["small", "small", "tiny"], "large": ["large", "large", "big"]}
                           [word]) + " " + shown  # fmt: skip
    words = with_article(shown)
    if place:
        words += " " + place
    elif not word and spread < 0.1 and rng.random() < 0.15:
        words += " in the center"
    return canvas, words


def draw_pattern(rng: random.Random, side: int) -> tuple[Image.Image, str]:
    """Stripes, a gradient or a checkerboard, half of them with a shape on it."""
    colour, first, second = colours_apart(rng, 3)
    canvas = plain(side, tint(rng, first))
    pen, fill = ImageDraw.Draw(canvas), tint(rng, second)
    is_vertical = rng.random() < 0.5
    pattern = rng.choice(["stripes", "gradient", "checkerboard"])
    if pattern == "stripes":
        count = rng.choice([3, 4])
        for i in range(count):
            start, end = (i + 0.5) * side / count, (i + 1) * side / count - 1
            pen.rectangle([start, 0, end, side] if is_vertical else [0, start, side, end], fill)
        words = f"{first} and {second} {'vertical' if is_vertical else 'horizontal'} stripes"
    elif pattern == "gradient":
        blend = np.linspace(0, 1, side)[:, None]
        ramp = np.array(PALETTE[first]) * (1 - blend) + np.array(PALETTE[second]) * blend
        rows = np.repeat(ramp[:, None], side, 1)  # (S, S, 3), changing from top to bottom
        ramp_pixels = (rows if is_vertical else rows.swapaxes(0, 1)).astype(np.uint8)
        canvas = Image.fromarray(np.ascontiguousarray(ramp_pixels))
        words = f"a gradient from {first} to {second}"
    else:
        cell = side / 4
        for i, j in ((i, j) for i in range(4) for j in range(4) if (i + j) % 2):
            pen.rectangle([i * cell, j * cell, (i + 1) * cell - 1, (j + 1) * cell - 1], fill)
        words = f"a {first} and {second} checkerboard"
    if rng.random() < 0.5:
        return canvas, words
    kind = rng.choice(KINDS)
    x, y = rng.uniform(0.44, 0.56), rng.uniform(0.44, 0.56)
    draw_shape(canvas, kind, x, y, rng.uniform(0.25, 0.33), tint(rng, colour))
    return canvas, f"{with_article(colour)} {said(rng, kind)} on {words}"


def draw_count(rng: random.Random, side: int) -> tuple[Image.Image, str]:
    """One to four shapes alike."""
    colour, background = colours_apart(rng, 2)
    kind, count = rng.choice(KINDS), rng.choice([1, 2, 2, 3, 3, 3, 4, 4, 4])
    while is_held_out(colour, kind, background):
        colour, background = colours_apart(rng, 2)
    canvas, fill = plain(side, tint(rng, background)), tint(rng, colour)
    spots, size = rng.choice(ROWS[count])
    for x, y in spots:
        dx, dy = rng.uniform(-0.02, 0.02), rng.uniform(-0.02, 0.02)
        draw_shape(canvas, kind, x + dx, y + dy, size * rng.uniform(0.92, 1.08), fill)
    noun = said(rng, kind)
    shown = f"{said(rng, colour)} " if rng.random() > 0.1 else ""
    words = f"{NUMBERS[count - 1]} {shown}{plural(noun) if count > 1 else noun}"
    return canvas, words + background_words(rng, background)


def draw_pair(rng: random.Random, side: int) -> tuple[Image.Image, str]:
    """Two shapes beside, above or inside each other."""
    while True:
        first, second, background = rng.choices(COLOURS, k=3)
        kinds = rng.choice(KINDS), rng.choice(KINDS)
        are_seen = are_apart(first, background) and are_apart(second, background)
        if are_seen and not is_held_out(first, kinds[0], background):
            break
    relation = rng.choice([*PAIRS, "inside"])
    if relation == "inside":
        while not are_apart(first, second):
            first, second, background = colours_apart(rng, 3)
        kinds = kinds[0], rng.choice(["circle", "square"])
    canvas = plain(side, tint(rng, background))

    def near(middle: float) -> float:
        return middle + rng.uniform(-0.03, 0.03)

    if relation == "inside":
        for colour, kind, low, high in (
            (second, kinds[1], 0.36, 0.42),
            (first, kinds[0], 0.16, 0.21),
        ):
            size = rng.uniform(low, high)
            draw_shape(canvas, kind, near(0.5), near(0.5), size, tint(rng, colour))
    else:
        for colour, kind, (x, y) in zip((first, second), kinds, PAIRS[relation], strict=True):
            size = rng.uniform(0.15, 0.18)
            draw_shape(canvas, kind, near(x), near(y), size, tint(rng, colour))
    one, two = (
        with_article(f"{said(rng, colour)} {said(rng, kind)}")
        for colour, kind in zip((first, second), kinds, strict=True)
    )
    return canvas, f"{one} {relation} {two}" + background_words(rng, background)


Draw = Callable[[random.Random, int], tuple[Image.Image, str]]
SHARES: dict[Draw, float] = {
    draw_single: 0.37,
    draw_plain: 0.03,
    draw_pattern: 0.08,
    draw_count: 0.16,
    draw_pair: 0.18,
    draw_scene: 0.18,
}


def picture(seed: int, side_px: int = 128) -> Picture:
    """The picture that belongs to a seed."""
    rng = random.Random(seed)
    (draw,) = rng.choices(list(SHARES), weights=list(SHARES.values()))
    canvas, words = draw(rng, 2 * side_px)
    return Picture(np.asarray(canvas.reduce(2)).copy(), rng.choice(OPENINGS) + words)


def recoloured(seed: int, side_px: int = 128) -> tuple[Picture, Picture]:
    """A single shape, and the same one at the same place in other colours, all of them named."""
    rng = random.Random(seed)
    kind, place = rng.choice(KINDS), rng.getrandbits(60)

    def drawn(colour: str, background: str) -> Picture:
        # The same seed again: all but the colours comes out the same.
        canvas, _ = draw_single_of(random.Random(place), 2 * side_px, colour, kind, background)
        words = with_article(f"{said(rng, colour)} {said(rng, kind)}")
        ground = with_article(f"{said(rng, background)} background")
        return Picture(np.asarray(canvas.reduce(2)).copy(), f"{words} on {ground}")

    while True:
        before, after = colours_apart(rng, 2), colours_apart(rng, 2)
        kept = rng.random()
        if kept < 0.2 and are_apart(before[0], after[1]):
            after = before[0], after[1]
        elif kept < 0.4 and are_apart(after[0], before[1]):
            after = after[0], before[1]
        if not is_held_out(after[0], kind, after[1]):
            return drawn(*before), drawn(*after)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a sheet of 8 × 8 pictures.")
    parser.add_argument("path", type=Path, help="where the PNG goes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first picture")
    options = parser.parse_args()
    drawn = [picture(options.seed + i) for i in range(64)]
    rows = np.stack([p.pixels for p in drawn]).reshape(8, 8, 128, 128, 3)
    Image.fromarray(rows.swapaxes(1, 2).reshape(1024, 1024, 3)).save(options.path)
    for i in range(0, 64, 8):
        print(" | ".join(p.caption for p in drawn[i : i + 8]))


if __name__ == "__main__":
    main()
