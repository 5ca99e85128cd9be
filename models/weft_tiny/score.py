"""Scores a checkpoint automatically, on prompts and pictures that training never had.

Prompts ask for held-out triples of colour, kind and background; what was painted is judged by
``judge.py``. Also drawn: sheets of pictures, to be looked at.

    python -m models.weft_tiny.score models/checkpoints/weft-tiny.safetensors --prompts 200
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.weft_tiny.judge import Seen, overlap, seen_in
from models.weft_tiny.painter import Painter, Pixels, Settings
from models.weft_tiny.pictures import NUMBERS, PAIRS, plural, with_article
from models.weft_tiny.scenes import draw_scene
from models.weft_tiny.shapes import KINDS, are_apart, colours_apart, draw_shape, is_held_out, tint
from models.weft_tiny.train_vae import held_out, measured_psnr_db

Scores = dict[str, float]
PLAIN = Settings()


@dataclass(frozen=True, slots=True)
class Wish:
    """One shape that a prompt asks for, and its background."""

    colour: str
    kind: str
    background: str

    @property
    def shape(self) -> str:
        return with_article(f"{self.colour} {self.kind}")

    @property
    def on_background(self) -> str:
        return f" on {with_article(self.background)} background"


def wishes(count: int, seed: int) -> list[Wish]:
    """Held-out triples."""
    rng = random.Random(seed)
    found: list[Wish] = []
    while len(found) < count:
        colour, background = colours_apart(rng, 2)
        kind = rng.choice(KINDS)
        if is_held_out(colour, kind, background):
            found.append(Wish(colour, kind, background))
    return found


def shares(checks: Sequence[dict[str, bool]]) -> Scores:
    """How often each check held, and how often all of them did."""
    rows = [check | {"all": all(check.values())} for check in checks]
    return {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}


def check_single(wish: Wish, seen: Seen) -> dict[str, bool]:
    first = seen.shapes[0] if seen.shapes else None
    return {
        "background": seen.background == wish.background,
        "colour": first is not None and first.colour == wish.colour,
        "kind": first is not None and first.kind == wish.kind,
    }


def drawn(wish: Wish, seed: int, side_px: int = 128) -> Pixels:
    """A true picture of a wish, as the training's are drawn."""
    rng = random.Random(seed)
    canvas = Image.new("RGB", (2 * side_px, 2 * side_px), tint(rng, wish.background))
    x, y, size = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6), rng.uniform(0.23, 0.31)
    draw_shape(canvas, wish.kind, x, y, size, tint(rng, wish.colour))
    return np.asarray(canvas.reduce(2)).copy()


def score_autoencoder(painter: Painter, count: int) -> Scores:
    """PSNR by size, and what the judge makes of true pictures that went through it."""
    asked = wishes(count, 1)
    true = [drawn(wish, i) for i, wish in enumerate(asked)]
    through = painter.decode(painter.encode(true))
    decibels = {
        f"psnr_{side}px_db": round(measured_psnr_db(painter.vae, held_out(number, side)), 2)
        for side, number in ((128, count), (192, count // 2), (256, count // 4))
    }
    judged = shares([check_single(w, seen_in(p)) for w, p in zip(asked, through, strict=True)])
    return decibels | {f"through_it_{name}": share for name, share in judged.items()}


def score_singles(painter: Painter, count: int, settings: Settings = PLAIN) -> Scores:
    """One shape on a background."""
    asked = wishes(count, 2)
    painted = painter.paint([w.shape + w.on_background for w in asked], settings)
    return shares([check_single(w, seen_in(p)) for w, p in zip(asked, painted, strict=True)])


def score_without_background(painter: Painter, count: int) -> Scores:
    """One shape, of any background that is not its colour."""
    asked = wishes(count, 3)
    checks: list[dict[str, bool]] = []
    for wish, pixels in zip(asked, painter.paint([w.shape for w in asked], PLAIN), strict=True):
        seen = seen_in(pixels)
        found = check_single(wish, seen)
        checks.append({name: found[name] for name in ("colour", "kind")})
        checks[-1]["one_shape"] = len(seen.shapes) == 1
    return shares(checks)


def score_without_colour(painter: Painter, count: int) -> Scores:
    """One shape of any colour, half of them on a named background."""
    asked = wishes(count, 4)
    prompts = [
        with_article(wish.kind) + (wish.on_background if i % 2 else "")
        for i, wish in enumerate(asked)
    ]
    checks: list[dict[str, bool]] = []
    for i, (wish, pixels) in enumerate(zip(asked, painter.paint(prompts, PLAIN), strict=True)):
        seen = seen_in(pixels)
        found = check_single(wish, seen)
        checks.append({"background": i % 2 == 0 or found["background"], "kind": found["kind"]})
        checks[-1]["one_shape"] = len(seen.shapes) == 1
    return shares(checks)


def score_counts(painter: Painter, count: int) -> Scores:
    """One to four shapes alike, as many prompts of each number."""
    asked = wishes(count, 5)
    numbers = [1 + i % 4 for i in range(count)]
    prompts = [
        f"{NUMBERS[n - 1]} {w.colour} {w.kind if n == 1 else plural(w.kind)}{w.on_background}"
        for n, w in zip(numbers, asked, strict=True)
    ]
    checks: list[dict[str, bool]] = []
    for n, wish, pixels in zip(numbers, asked, painter.paint(prompts, PLAIN), strict=True):
        shapes = seen_in(pixels).shapes
        checks.append(
            {
                "number": len(shapes) == n,
                "colours": all(shape.colour == wish.colour for shape in shapes),
                "kinds": bool(shapes) and all(shape.kind == wish.kind for shape in shapes),
            }
        )
    by_number = {
        f"number_{n}": round(float(np.mean([c["number"] for c in checks[n - 1 :: 4]])), 3)
        for n in range(1, 5)
    }
    return shares(checks) | by_number


def score_pairs(painter: Painter, count: int) -> Scores:
    """Two shapes in a relation."""
    rng = random.Random(6)
    asked: list[tuple[Wish, str, Wish]] = []
    for wish in wishes(count, 6):
        while True:
            (colour,) = colours_apart(rng, 1)
            if are_apart(colour, wish.colour, wish.background):
                break
        relation = rng.choice([name for name in PAIRS if name != "and"])
        asked.append((wish, relation, Wish(colour, rng.choice(KINDS), wish.background)))
    prompts = [f"{a.shape} {relation} {b.shape}{a.on_background}" for a, relation, b in asked]
    checks: list[dict[str, bool]] = []
    for (a, relation, b), pixels in zip(asked, painter.paint(prompts, PLAIN), strict=True):
        found = {shape.colour: shape for shape in seen_in(pixels).shapes}
        one, two = found.get(a.colour), found.get(b.colour)
        check = {"both": False, "order": False, "kinds": False}
        if one and two:
            order = {
                "left of": one.x < two.x,
                "right of": one.x > two.x,
                "above": one.y < two.y,
                "below": one.y > two.y,
            }
            kinds = one.kind == a.kind and two.kind == b.kind
            check = {"both": True, "order": order[relation], "kinds": kinds}
        checks.append(check)
    return shares(checks)


def score_recolouring(painter: Painter, count: int, strength: float) -> Scores:
    """Picture to picture: the same shape in other colours, at the same place."""
    asked = wishes(count, 7)
    rng = random.Random(7)
    wanted = [Wish(c, w.kind, b) for w in asked for c, b in [colours_apart(rng, 2)]]
    sources = [drawn(wish, 7000 + i) for i, wish in enumerate(asked)]
    settings = replace(PLAIN, strength=strength)
    prompts = [wish.shape + wish.on_background for wish in wanted]
    painted = painter.paint(prompts, settings, sources)
    checks: list[dict[str, bool]] = []
    overlaps: list[float] = []
    for wish, source, pixels in zip(wanted, sources, painted, strict=True):
        seen = seen_in(pixels)
        checks.append(check_single(wish, seen))
        before = seen_in(source).shapes[0].mask
        overlaps.append(overlap(before, seen.shapes[0].mask) if seen.shapes else 0.0)
    return shares(checks) | {"mean_iou": round(float(np.mean(overlaps)), 3)}


def inpainting_tasks(count: int) -> tuple[list[Pixels], list[Wish], list[str], torch.Tensor]:
    """Flat pictures of two shapes, what shall stand on the right, the prompts, and the masks."""
    rng = random.Random(8)
    wanted: list[Wish] = []
    sources: list[Pixels] = []
    prompts: list[str] = []
    for old in wishes(count, 8):
        while True:
            (colour,) = colours_apart(rng, 1)
            if are_apart(colour, old.colour, old.background):
                break
        new = Wish(colour, rng.choice(KINDS), old.background)
        wanted.append(new)
        sources.append(drawn_pair(old, new, rng))
        prompts.append(f"{old.shape} left of {new.shape}{new.on_background}")
    masks = torch.zeros(count, 1, 16, 16)
    masks[..., 8:] = 1
    return sources, wanted, prompts, masks


def score_inpainting(painter: Painter, count: int) -> Scores:
    """The right half of a flat picture painted anew: a shape that is not there yet."""
    sources, wanted, prompts, masks = inpainting_tasks(count)
    painted = painter.paint(prompts, PLAIN, sources, masks)
    kept = painter.decode(painter.encode(sources))
    checks: list[dict[str, bool]] = []
    outside: list[float] = []
    for new, pixels, before in zip(wanted, painted, kept, strict=True):
        inside = [shape for shape in seen_in(pixels).shapes if shape.x > 0.5]
        shape = inside[0] if inside else None
        checks.append(
            {
                "colour": shape is not None and shape.colour == new.colour,
                "kind": shape is not None and shape.kind == new.kind,
            }
        )
        outside.append(np.abs(pixels[:, :60].astype(float) - before[:, :60]).mean())
    return shares(checks) | {"mean_change_outside_of_255": round(float(np.mean(outside)), 2)}


def drawn_pair(old: Wish, new: Wish, rng: random.Random) -> Pixels:
    """A shape on the left, and on the right one of another kind than will be asked for."""
    canvas = Image.new("RGB", (256, 256), tint(rng, old.background))
    draw_shape(canvas, old.kind, 0.27, 0.5, 0.17, tint(rng, old.colour))
    other = rng.choice([kind for kind in KINDS if kind != new.kind])
    draw_shape(canvas, other, 0.73, 0.5, 0.17, tint(rng, old.colour))
    return np.asarray(canvas.reduce(2)).copy()


def scene_pairs(count: int) -> list[tuple[Pixels, Pixels, str]]:
    """Landscapes with a house and empty, and the captions of the empty ones."""
    found: list[tuple[Pixels, Pixels, str]] = []
    seed = 400_000
    while len(found) < count:
        with_house, words = draw_scene(random.Random(seed), 256, "house")
        empty, caption = draw_scene(random.Random(seed), 256, "nothing")
        seed += 1
        if "tree" not in words:  # one would reach the edge, which is to be kept
            pixels = [np.asarray(canvas.reduce(2)).copy() for canvas in (with_house, empty)]
            found.append((pixels[0], pixels[1], caption))
    return found


# A scene is clean if what was painted is as near as this, on average, to the true empty one.
CLEAN_OF_255 = 12.0


def score_scenes(painter: Painter, count: int) -> Scores:
    """A house painted out of a landscape: the asked-for empty one is known exactly."""
    scenes = scene_pairs(count)
    mask = torch.zeros(count, 1, 16, 16)
    mask[..., 4:15, 1:15] = 1
    captions = [caption for _, _, caption in scenes]
    painted = painter.paint(captions, PLAIN, [house for house, _, _ in scenes], mask)
    inside = slice(32, 120), slice(8, 120)
    errors = [
        np.abs(pixels[inside].astype(float) - empty[inside]).mean()
        for pixels, (_, empty, _) in zip(painted, scenes, strict=True)
    ]
    clean = np.mean([error < CLEAN_OF_255 for error in errors])
    return {
        "clean": round(float(clean), 3),
        "mean_error_of_255": round(float(np.mean(errors)), 2),
    }


def all_scores() -> dict[str, Callable[[Painter, int], Scores]]:
    """Every score by its name; each takes the painter and the number of prompts."""

    def singles(settings: Settings) -> Callable[[Painter, int], Scores]:
        return lambda painter, count: score_singles(painter, count, settings)

    def recolouring(strength: float) -> Callable[[Painter, int], Scores]:
        return lambda painter, count: score_recolouring(painter, count, strength)

    return {
        "autoencoder": score_autoencoder,
        "one shape": singles(PLAIN),
        "one shape, guidance 2": singles(replace(PLAIN, guidance=2.0)),
        "one shape, guidance 7": singles(replace(PLAIN, guidance=7.0)),
        "one shape, Euler": singles(replace(PLAIN, sampler="euler")),
        "one shape, 192 px": singles(replace(PLAIN, side_px=192)),
        "one shape, 256 px": singles(replace(PLAIN, side_px=256)),
        "no background": score_without_background,
        "no colour": score_without_colour,
        "counts": score_counts,
        "pairs": score_pairs,
        "img2img 0.5": recolouring(0.5),
        "img2img 0.6": recolouring(0.6),
        "inpainting": score_inpainting,
        "scenes": score_scenes,
    }


def main() -> None:
    scores = all_scores()
    parser = argparse.ArgumentParser(description="Score a checkpoint of the tiny model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prompts", type=int, default=200, help="prompts a score")
    parser.add_argument("--only", nargs="*", choices=list(scores), help="these scores alone")
    parser.add_argument("--json", type=Path, help="where the scores go as JSON as well")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    painter = Painter(options.checkpoint)
    results: dict[str, Scores] = {}
    for name in options.only or scores:
        since = time.monotonic()
        results[name] = scores[name](painter, options.prompts)
        print(f"{name}: {results[name]} ({time.monotonic() - since:.0f} s)", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
