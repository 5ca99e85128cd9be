"""The twelve colours and eight kinds of shape that the tiny model knows, and how they are drawn.

Coordinates are fractions of the picture's side, so a drawing looks the same at every size.
Nothing here anti-aliases: whoever draws does so at twice the size and reduces.
"""

import hashlib
import math
import random

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]

PALETTE: dict[str, Rgb] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 215, 50),
    "orange": (240, 130, 30),
    "purple": (140, 60, 180),
    "pink": (245, 150, 195),
    "cyan": (60, 205, 220),
    "brown": (125, 75, 40),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
    "gray": (130, 130, 130),
}
COLOURS = tuple(PALETTE)
KINDS = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")

# Too near to each other to be told apart where they touch.
LOOKALIKES = {
    frozenset(pair)
    for pair in (
        ("white", "gray"),
        ("white", "pink"),
        ("yellow", "orange"),
        ("red", "orange"),
        ("red", "brown"),
        ("orange", "brown"),
        ("black", "brown"),
        ("pink", "purple"),
    )
}


def are_apart(*colours: str) -> bool:
    """Whether every two of these colours can be told apart at a glance."""
    return all(
        a != b and frozenset((a, b)) not in LOOKALIKES
        for i, a in enumerate(colours)
        for b in colours[:i]
    )


def colours_apart(rng: random.Random, count: int) -> tuple[str, ...]:
    """Draws ``count`` colours that can be told apart."""
    while True:
        colours = tuple(rng.choice(COLOURS) for _ in range(count))
        if are_apart(*colours):
            return colours


def is_held_out(colour: str, kind: str, background: str) -> bool:
    """Whether a single shape of these three is kept out of training: 15 % are, by a hash."""
    return hashlib.md5(f"{colour}|{kind}|{background}".encode()).digest()[0] < 38


def tint(rng: random.Random, colour: str | Rgb, spread: int = 8) -> Rgb:
    """The colour, each channel moved by at most ``spread``."""
    red, green, blue = PALETTE[colour] if isinstance(colour, str) else colour

    def moved(channel: int) -> int:
        return max(0, min(255, channel + rng.randint(-spread, spread)))

    return moved(red), moved(green), moved(blue)


def outline(kind: str, x: float, y: float, size: float) -> list[Point]:
    """The corners of a shape around (x, y); ``size`` is half its height, about."""
    if kind == "square":
        h = 0.86 * size
        return [(x - h, y - h), (x + h, y - h), (x + h, y + h), (x - h, y + h)]
    if kind == "triangle":
        return [(x, y - size), (x + size, y + 0.85 * size), (x - size, y + 0.85 * size)]
    if kind == "diamond":
        return [(x, y - size), (x + 0.75 * size, y), (x, y + size), (x - 0.75 * size, y)]
    if kind == "star":
        radii = [1.08 * size, 0.42 * 1.08 * size] * 5
        angles = [i * math.pi / 5 for i in range(10)]
        return [
            (x + r * math.sin(a), y - r * math.cos(a)) for r, a in zip(radii, angles, strict=True)
        ]
    if kind == "heart":
        angles = [i * math.pi / 24 for i in range(48)]
        return [
            (
                x + 0.98 * size * math.sin(a) ** 3,
                y
                - 0.98
                / 15.5
                * size
                * (
                    13 * math.cos(a)
                    - 5 * math.cos(2 * a)
                    - 2 * math.cos(3 * a)
                    - math.cos(4 * a)
                    + 1
                ),
            )
            for a in angles
        ]
    if kind == "cross":
        thin, long = 0.34 * size, 0.97 * size
        quarter = [(thin, -long), (thin, -thin), (long, -thin)]
        turned = [quarter]
        for _ in range(3):
            turned.append([(-dy, dx) for dx, dy in turned[-1]])
        return [(x + dx, y + dy) for corners in turned for dx, dy in corners]
    raise ValueError(f"no corners for a {kind!r}")


def draw_shape(canvas: Image.Image, kind: str, x: float, y: float, size: float, fill: Rgb) -> None:
    """Draws a shape of ``kind`` around (x, y) onto the canvas."""
    side = canvas.width
    if kind == "circle":
        ImageDraw.Draw(canvas).ellipse(disc(x, y, size, side), fill=fill)
    elif kind == "ring":
        mask = Image.new("L", canvas.size, 0)
        pen = ImageDraw.Draw(mask)
        pen.ellipse(disc(x, y, size, side), fill=255)
        pen.ellipse(disc(x, y, size / 2, side), fill=0)
        canvas.paste(fill, mask=mask)
    else:
        corners = [(px * side, py * side) for px, py in outline(kind, x, y, size)]
        ImageDraw.Draw(canvas).polygon(corners, fill=fill)


def disc(x: float, y: float, radius: float, side: int) -> list[Point]:
    """The box in pixels around a disc, as PIL's ``ellipse`` wants it."""
    return [
        ((x - radius) * side, (y - radius) * side),
        ((x + radius) * side, (y + radius) * side),
    ]
