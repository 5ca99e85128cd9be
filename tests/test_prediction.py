"""What a network predicts, as a denoised latent: right predictions give the very data."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from executor.models.prediction import data_std, denoised, shown
from executor.ports import Prediction

KINDS: tuple[Prediction, ...] = get_args(Prediction)
SIGMAS = torch.tensor([0.03, 0.7, 3.0, 80.0])[:, None, None, None]
TIMESTEPS = torch.tensor([3.0, 100.0, 500.0, 999.0])


def drawn(seed: int) -> Tensor:
    return torch.randn(4, 4, 2, 3, generator=torch.Generator().manual_seed(seed))


def right(kind: Prediction, data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """What a perfect network answers, from the definition of what it predicts."""
    if kind == "x0":
        return data
    if kind == "v":  # Salimans & Ho (2022): v = α ε − σ' x₀ with α² + σ'² = 1
        signal, share = 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5
        return signal * noise - share * data
    if kind == "edm":  # Karras et al. (2022), eq. 7 and table 1
        std, x = data_std(kind), data + sigma * noise
        skip = std**2 / (sigma**2 + std**2)
        out = sigma * std / (sigma**2 + std**2) ** 0.5
        return (data - skip * x) / out
    return noise


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lcm"])
def test_a_right_prediction_gives_the_data(kind: Prediction) -> None:
    data, noise = drawn(0), drawn(1)
    x = data + SIGMAS * noise
    found = denoised(kind, x, SIGMAS, TIMESTEPS, right(kind, data, noise, SIGMAS))
    # float32 at sigma 80: the data is a small difference of numbers around 200
    torch.testing.assert_close(found, data, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_sees_numbers_as_large_as_data_or_one(kind: Prediction) -> None:
    std = data_std(kind)
    x = drawn(0) * (SIGMAS**2 + std**2) ** 0.5
    torch.testing.assert_close(shown(kind, x, SIGMAS), drawn(0))


def test_a_consistency_model_gives_back_what_it_sees_at_timestep_nought() -> None:
    x, noise = drawn(0), drawn(1)
    found = denoised("lcm", x, SIGMAS, torch.zeros(4), noise)
    torch.testing.assert_close(found, x)


def test_a_consistency_model_gives_the_data_at_late_timesteps() -> None:
    data, noise = drawn(0), drawn(1)
    x = data + noise
    found = denoised("lcm", x, torch.ones(4, 1, 1, 1), TIMESTEPS, noise)
    # its boundary has c_out = 10 t / √(100 t² + ¼): at t = 100 both coefficients differ from 1
    # and 0 by less than 1e-6
    torch.testing.assert_close(found[1:], data[1:], rtol=1e-5, atol=1e-5)
    skip = 0.25 / (30**2 + 0.25)
    torch.testing.assert_close(found[0], (1 - skip) ** 0.5 * data[0] + skip * x[0])
