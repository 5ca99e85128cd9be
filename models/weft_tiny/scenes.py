"""Little landscapes for the tiny model: a house, trees, a boat, mountains, a flower, or nothing.

Each part draws itself with fractions of the picture's side; ``draw_scene`` puts them together and
says in words what is to be seen. Captions leave things out now and then, as people do.
"""

import math
import random

from PIL import Image, ImageDraw

from models.weft_tiny.shapes import PALETTE, Rgb, disc, tint

SKIES: dict[str, Rgb] = {"day": (135, 195, 245), "night": (18, 22, 60), "sunset": (250, 160, 90)}
GROUNDS: dict[str, Rgb] = {
    "grass": (80, 170, 70),
    "sand": (230, 205, 140),
    "snow": (240, 245, 250),
    "sea": (30, 100, 180),
}
GROUND_WORDS = {
    "grass": "on green grass",
    "sand": "on sand",
    "snow": "in the snow",
    "sea": "on the sea",
}
EMPTY_WORDS = {"grass": "green grass", "sand": "sand", "snow": "snow", "sea": "the sea"}
WALLS = ("white", "yellow", "brown", "gray", "pink")
ROOFS = ("red", "blue", "green", "purple", "orange", "black")
SAILS = ("red", "white", "yellow", "green", "orange", "purple")
SUBJECTS = (
    *("house",) * 3, "trees", "trees", "boat", "mountains", "flower", "nothing"
)  # fmt: skip
PETALS = ("red", "pink", "purple", "orange", "yellow", "white")


def article(word: str) -> str:
    """``an`` before a vowel, else ``a``."""
    return "an" if word[0] in "aeiou" else "a"


class Brush:
    """Draws on a canvas in fractions of its side."""

    def __init__(self, canvas: Image.Image) -> None:
        self.side = canvas.width
        self.pen = ImageDraw.Draw(canvas)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Rgb) -> None:
        side = self.side
        self.pen.rectangle([left * side, top * side, right * side, bottom * side], fill=fill)

    def polygon(self, corners: list[tuple[float, float]], fill: Rgb) -> None:
        self.pen.polygon([(x * self.side, y * self.side) for x, y in corners], fill=fill)

    def dot(self, x: float, y: float, radius: float, fill: Rgb) -> None:
        self.pen.ellipse(disc(x, y, radius, self.side), fill=fill)

    def oval(self, left: float, top: float, right: float, bottom: float, fill: Rgb) -> None:
        side = self.side
        self.pen.ellipse([left * side, top * side, right * side, bottom * side], fill=fill)


def draw_tree(brush: Brush, rng: random.Random, x: float, y: float, height: float) -> None:
    """A tree that stands at (x, y): half of them firs."""
    brush.box(x - 0.1 * height, y - 0.45 * height, x + 0.1 * height, y, tint(rng, (110, 70, 40)))
    leaves, top, bottom = tint(rng, (30, 120, 50)), y - height, y - 0.32 * height
    if rng.random() < 0.5:
        corners = [(x, top), (x + 0.38 * height, bottom), (x - 0.38 * height, bottom)]
        brush.polygon(corners, leaves)
    else:
        brush.oval(x - 0.34 * height, top, x + 0.34 * height, bottom, leaves)


def draw_house(brush: Brush, x: float, y: float, size: float, wall: Rgb, roof: Rgb) -> None:
    """A house with a door and two windows that stands at (x, y)."""
    eaves = y - 1.3 * size
    brush.box(x - size, eaves, x + size, y, wall)
    brush.polygon([(x - 1.25 * size, eaves), (x + 1.25 * size, eaves), (x, y - 2.3 * size)], roof)
    brush.box(x - 0.22 * size, y - 0.7 * size, x + 0.22 * size, y, (90, 55, 30))
    for middle in (x - 0.6 * size, x + 0.6 * size):
        top, bottom = y - 1.05 * size, y - 0.65 * size
        brush.box(middle - 0.2 * size, top, middle + 0.2 * size, bottom, (190, 225, 250))


def draw_boat(brush: Brush, rng: random.Random, x: float, y: float, sail: str) -> None:
    """A sailing boat whose deck is at (x, y)."""
    hull = [(x - 0.22, y), (x + 0.22, y), (x + 0.14, y + 0.11), (x - 0.14, y + 0.11)]
    brush.polygon(hull, tint(rng, (120, 70, 40)))
    canvas = [(x - 0.01, y - 0.02), (x - 0.01, y - 0.4), (x + 0.2, y - 0.02)]
    brush.polygon(canvas, tint(rng, sail))
    brush.box(x - 0.03, y - 0.4, x - 0.012, y, (90, 60, 40))


def draw_flower(brush: Brush, rng: random.Random, x: float, y: float, petals: str) -> None:
    """A flower with six petals around (x, y)."""
    brush.box(x - 0.018, y, x + 0.018, 0.86, (40, 120, 40))
    fill = tint(rng, petals)
    for i in range(6):
        angle = i * math.pi / 3
        brush.dot(x + 0.13 * math.cos(angle), y + 0.13 * math.sin(angle), 0.085, fill)
    brush.dot(x, y, 0.075, (130, 80, 40) if petals == "yellow" else (250, 200, 40))


def draw_mountain(brush: Brush, rng: random.Random, horizon: float) -> None:
    """A mountain with snow on its top."""
    x, height, width = rng.uniform(0.2, 0.8), rng.uniform(0.32, 0.45), rng.uniform(0.3, 0.4)
    top, snow = horizon - height, horizon - 0.75 * height
    rock = tint(rng, (105, 105, 115), 12)
    brush.polygon([(x - width, horizon), (x + width, horizon), (x, top)], rock)
    cap = [(x - 0.25 * width, snow), (x + 0.25 * width, snow), (x, top)]
    brush.polygon(cap, (245, 248, 250))


def draw_sky(brush: Brush, rng: random.Random, sky: str, horizon: float) -> list[str]:
    """Moon, stars, sun and cloud, as the hour has them; returns their names."""
    seen: list[str] = []
    x = rng.choice([0.2, 0.8])
    if sky == "night":
        brush.dot(x, 0.18, 0.09, (240, 240, 210))
        seen.append("a moon")
        if rng.random() < 0.6:
            seen.append("stars")
            for _ in range(7):
                brush.dot(rng.uniform(0.05, 0.95), rng.uniform(0.04, 0.5), 0.014, (255, 255, 230))
    elif rng.random() < 0.75:
        seen.append("a sun")
        if sky == "day":
            brush.dot(x, 0.18, 0.1, (255, 215, 50))
        else:
            brush.dot(x, horizon - 0.08, 0.1, (250, 80, 50))
    if sky == "day" and rng.random() < 0.35:
        seen.append("a cloud")
        for offset, radius in ((-0.09, 0.06), (0.0, 0.085), (0.09, 0.06)):
            brush.dot(1 - x + offset, 0.2, radius, (250, 250, 252))
    return seen


def draw_subject(brush: Brush, rng: random.Random, subject: str, horizon: float) -> str:
    """The thing that the scene is of; returns it in words."""
    x = rng.uniform(0.35, 0.65)
    if subject == "house":
        wall, roof = rng.choice(WALLS), rng.choice(ROOFS)
        draw_house(brush, x, horizon + 0.14, 0.19, tint(rng, wall), tint(rng, roof))
        words = "a house"
        if rng.random() < 0.85:
            words = f"{article(wall)} {wall} house with {article(roof)} {roof} roof"
        if rng.random() < 0.5:
            draw_tree(brush, rng, 0.12 if x > 0.5 else 0.88, horizon + 0.12, 0.42)
            words += " and a tree"
        return words
    if subject == "trees":
        count = rng.choice([1, 2, 3])
        for i in range(count):
            middle = (i + 0.5) / count + rng.uniform(-0.05, 0.05)
            draw_tree(brush, rng, middle, horizon + rng.uniform(0.08, 0.16), rng.uniform(0.5, 0.6))
        return ("a tree", "two trees", "three trees")[count - 1]
    if subject == "boat":
        sail = rng.choice(SAILS)
        draw_boat(brush, rng, x, horizon + 0.06, sail)
        return "a boat" if rng.random() < 0.15 else f"a boat with {article(sail)} {sail} sail"
    if subject == "flower":
        petals = rng.choice(PETALS)
        draw_flower(brush, rng, x, 0.42, petals)
        return "a flower" if rng.random() < 0.15 else f"{article(petals)} {petals} flower"
    return ""


def draw_scene(
    rng: random.Random, side: int, subject: str | None = None
) -> tuple[Image.Image, str]:
    """A landscape of ``side`` × ``side`` pixels and its caption.

    The same seed gives the same sky and ground under every subject but a boat and a flower.
    """
    drawn, is_sea = rng.choice(SUBJECTS), rng.random() < 0.25
    is_sea = is_sea and subject is None and drawn == "nothing"
    subject = subject or drawn
    sky = rng.choice(["day", "day", "night", "sunset"])
    ground = rng.choice(["grass", "grass", "sand", "snow"])
    if subject == "boat" or is_sea:
        ground = "sea"
    if subject == "flower":
        sky, ground = "day", "grass"
    horizon = rng.uniform(0.6, 0.7)
    canvas = Image.new("RGB", (side, side), tint(rng, SKIES[sky]))
    brush = Brush(canvas)
    seen = draw_sky(brush, rng, sky, horizon)
    if subject == "mountains":
        draw_mountain(brush, rng, horizon)
        draw_mountain(brush, rng, horizon)
    brush.box(0, horizon, 1, 1, tint(rng, GROUNDS[ground]))
    words = draw_subject(brush, rng, subject, horizon)
    if subject == "nothing":
        words = rng.choice(["", "an empty landscape, "]) + EMPTY_WORDS[ground]
    else:
        words = words or "mountains"
        if rng.random() < 0.7:
            words += " " + GROUND_WORDS[ground]
    day = rng.choice(["under a blue sky", "on a sunny day" if "a sun" in seen else "by day"])
    if rng.random() < 0.85:
        words += " " + {"day": day, "night": "at night", "sunset": "at sunset"}[sky]
    if seen and rng.random() < 0.7:
        words += " with " + " and ".join(seen)
    return canvas, words


assert set(WALLS + ROOFS + SAILS + PETALS) <= set(PALETTE), "a scene has a colour without a name"
