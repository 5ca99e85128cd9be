"""Pictures put together from tiles: where tiles lie, and that no seam is seen."""

from fractions import Fraction
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from executor.tiling import tiled, windows

# float32 rounding of weights that sum to 1
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def enlarged(samples: Tensor, times: int) -> Tensor:
    return samples.repeat_interleave(times, 2).repeat_interleave(times, 3)


@pytest.mark.parametrize("scale", [Fraction(1), Fraction(4), Fraction(1, 8)])
@pytest.mark.parametrize(("size", "tile", "overlap"), [(64, 64, 8), (200, 64, 16), (64, 16, 0)])
def test_every_place_is_covered_with_a_weight_of_1(
    size: int, tile: int, overlap: int, scale: Fraction
) -> None:
    total = torch.zeros(round(size * scale))
    for window in windows(size, tile, overlap, scale):
        assert 0 <= window.start < window.start + window.length <= size
        total[window.out_start : window.out_start + len(window.weights)] += window.weights
    assert_close(total, torch.ones_like(total))


def test_tiles_lie_a_tile_less_the_overlap_apart() -> None:
    found = windows(20, 8, 2, Fraction(2))
    assert [(w.start, w.length, w.out_start) for w in found] == [(0, 8, 0), (6, 8, 12), (12, 8, 24)]
    # Ramps of 4 meet over 4 pixels: 1/4 … 4/4 against 4/4 … 1/4, which sum to 5/4.
    assert_close(found[1].weights[:5], torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]))


@pytest.mark.parametrize("tile", [(8, 8), (4, 16), (64, 5), (64, 64)])
def test_what_looks_at_single_pixels_gives_the_same_in_tiles(tile: tuple[int, int]) -> None:
    samples = noise(2, 3, 21, 30)
    put_together = tiled(
        samples, lambda part: enlarged(part, 2) ** 2, tile=tile, overlap=3, scale=Fraction(2)
    )
    assert_close(put_together, enlarged(samples, 2) ** 2)


def test_what_looks_around_gives_the_same_but_for_the_overlaps() -> None:
    samples, kernel = noise(1, 1, 32, 32), noise(1, 1, 3, 3)
    seen: list[tuple[int, ...]] = []

    def compute(part: Tensor) -> Tensor:
        seen.append(tuple(part.shape))
        return conv2d(part, kernel, padding=1)

    whole = conv2d(samples, kernel, padding=1)
    put_together = tiled(samples, compute, tile=(20, 20), overlap=8, scale=Fraction(1))
    assert seen == [(1, 1, 20, 20)] * 4
    is_near_seam = torch.zeros(32, dtype=torch.bool)
    is_near_seam[12:20] = True
    away = ~is_near_seam[:, None] & ~is_near_seam
    assert_close(put_together[..., away], whole[..., away])
    assert not torch.allclose(put_together, whole)


def test_a_seam_is_a_linear_fade() -> None:
    parts = iter([0.0, 1.0])
    faded = tiled(
        noise(1, 1, 5, 12),
        lambda part: torch.full_like(part, next(parts)),
        tile=(5, 8),
        overlap=4,
        scale=Fraction(1),
    )
    # 1/4 … 4/4 of the second against 4/4 … 1/4 of the first
    assert_close(faded[0, 0, 0], torch.tensor([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]))


def test_a_picture_of_one_tile_is_computed_as_it_is() -> None:
    samples = noise(2, 3, 8, 8)
    seen: list[Tensor] = []
    tiled(
        samples, lambda part: seen.append(part) or part, tile=(8, 8), overlap=2, scale=Fraction(1)
    )
    assert torch.equal(torch.cat(seen), samples)
