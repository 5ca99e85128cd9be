"""Canny's edges, held to a slow one written pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from laws import noise
from torch import Tensor

from executor import Context
from executor.edges import canny
from nodes.filters import Canny


def reference(picture: np.ndarray, low: float, high: float) -> np.ndarray:
    """Canny's detector over a picture (H, W, 3), a pixel at a time, in double precision."""
    grey = picture.astype(float) @ [0.299, 0.587, 0.114]
    height, width = grey.shape
    bell = [math.exp(-(place**2) / 2) for place in range(-2, 3)]
    mirrored = np.pad(grey, 2, mode="reflect")
    smooth = np.zeros_like(grey)
    for y in range(height):
        for x in range(width):
            window = mirrored[y : y + 5, x : x + 5] * np.outer(bell, bell)
            smooth[y, x] = window.sum() / sum(bell) ** 2
    edged = np.pad(smooth, 1, mode="edge")
    length, angle = np.zeros((height + 2, width + 2)), np.zeros((height, width))
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    for y in range(height):
        for x in range(width):
            window = edged[y : y + 3, x : x + 3]
            across, down = (window * sobel).sum(), (window * sobel.T).sum()
            length[y + 1, x + 1] = math.sqrt(across**2 + down**2 + 1e-6)
            angle[y, x] = math.degrees(math.atan2(down, across))
    edges = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            eighth = math.radians(round(angle[y, x] / 45) * 45)
            dy, dx = round(math.sin(eighth)), round(math.cos(eighth))
            here = length[y + 1, x + 1]
            if here > max(length[y + 1 + dy, x + 1 + dx], length[y + 1 - dy, x + 1 - dx]):
                edges[y, x] = int(here > low) + int(here > high)
    waiting = list(zip(*np.nonzero(edges == 2), strict=True))
    while waiting:
        y, x = waiting.pop()
        for v in range(max(0, y - 1), min(height, y + 2)):
            for u in range(max(0, x - 1), min(width, x + 2)):
                if edges[v, u] == 1:
                    edges[v, u] = 2
                    waiting.append((v, u))
    return edges == 2


def landscape() -> Tensor:
    """Soft hills (1, 24, 32, 3): no two gradients along an edge are equal."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 24), torch.linspace(0, 4, 32), indexing="ij")
    hills = torch.stack([(3 * x + y**2).sin(), (x * y).cos(), (2 * y - x).sin()], dim=-1)
    return (hills[None] + 1) / 2


@pytest.mark.parametrize("thresholds", [(0.4, 0.8), (0.1, 0.2), (0.05, 0.9)])
@pytest.mark.parametrize("picture", [landscape(), noise(1, 24, 32, 3)], ids=["hills", "noise"])
def test_edges_are_those_of_the_reference(picture: Tensor, thresholds: tuple[float, float]) -> None:
    expected = reference(picture[0].numpy(), *thresholds)
    found = canny(picture, *thresholds)[0].numpy()
    assert (found == expected).all()


def test_thresholds_that_fit_find_some_edges_and_not_all() -> None:
    assert 0 < reference(landscape()[0].numpy(), 0.1, 0.2).mean() < 0.5


def test_a_square_has_an_outline_of_one_pixel(ctx: Context) -> None:
    image = torch.zeros(1, 20, 20, 3)
    image[:, 6:14, 6:14] = 1
    edges = Canny(image=image).run(ctx)
    assert edges.shape == (1, 20, 20, 3)
    assert edges.unique().tolist() == [0, 1]
    for line in (edges[0, 10, :, 0], edges[0, :, 10, 0]):
        left, right = line.nonzero().flatten().tolist()
        # on either side of the edge the gradient is the same, up to rounding
        assert left in (5, 6)
        assert right in (13, 14)


def test_a_flat_picture_has_no_edges_and_a_brighter_one_has_no_fewer(ctx: Context) -> None:
    assert not Canny(image=torch.full((2, 9, 9, 3), 0.7)).run(ctx).any()
    faint = canny(landscape() / 4, 0.1, 0.2)
    assert (canny(landscape(), 0.1, 0.2) >= faint).all()


def test_weak_edges_count_where_they_go_on_from_strong_ones() -> None:
    weak, strong = canny(landscape(), 0.1, 0.1), canny(landscape(), 0.4, 0.4)
    both = canny(landscape(), 0.1, 0.4)
    assert (strong <= both).all()
    assert (both <= weak).all()
    assert float(strong.sum()) < float(both.sum()) < float(weak.sum())


def test_pictures_of_a_batch_are_each_by_themselves() -> None:
    pictures = torch.cat([landscape(), landscape().flip(2)])
    alone = torch.cat([canny(one[None], 0.1, 0.2) for one in pictures])
    assert torch.equal(canny(pictures, 0.1, 0.2), alone)
