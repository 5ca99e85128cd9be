"""Single steps whose weights are not those of any quadrature; the others: see ``test_samplers``."""

import torch
from sampler_toys import run, start, two_blobs, watched
from torch import Tensor

from executor.sampling.single_step import heunpp2

SIGMAS = torch.tensor([8.0, 6.0, 4.0, 2.0, 0.0], dtype=torch.float64)


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """Slopes double from sigma to sigma."""
    return x - sigma * {8.0: 1, 6.0: 2, 4.0: 4, 2.0: 8}[float(sigma)]


def test_heunpp_weights_a_slope_ahead_by_its_sigma():
    """Three, three, two and one of them are looked at."""
    slopes = [
        1 * (1 - 6 / 24 - 4 / 24) + 2 * 6 / 24 + 4 * 4 / 24,
        2 * (1 - 4 / 24 - 2 / 24) + 4 * 4 / 24 + 8 * 2 / 24,
        4 * (1 - 2 / 16) + 8 * 2 / 16,
        8,
    ]
    result, _ = run(heunpp2, SIGMAS, denoise)
    torch.testing.assert_close(result, start(SIGMAS) - 2 * sum(slopes))


def test_heunpp_ends_with_an_euler_step_wherever_it_ends():
    slopes = [
        1 * (1 - 6 / 24 - 4 / 24) + 2 * 6 / 24 + 4 * 4 / 24,
        2 * (1 - 4 / 16) + 4 * 4 / 16,
        4,
    ]
    result, _ = run(heunpp2, SIGMAS[:-1], denoise)
    torch.testing.assert_close(result, start(SIGMAS) - 2 * sum(slopes))


def test_heunpp_looks_ahead_along_euler_steps():
    seen: list[float] = []
    run(heunpp2, SIGMAS, watched(two_blobs, seen))
    assert seen == [8, 6, 4, 6, 4, 2, 4, 2, 2]
