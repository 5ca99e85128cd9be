"""Ancestral samplers: plain ones where nothing is replaced, Ho et al.'s posterior where all is."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sampler_toys import SHAPE, run, start, two_blobs, watched, waves
from torch import Tensor

from executor.sampling import ancestral
from executor.sampling.samplers import SAMPLERS
from executor.sampling.single_step import euler
from executor.sampling_ports import Sample

SIGMAS = torch.tensor([9.0, 5.0, 3.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_down_and_its_noise_make_the_sigma_that_was_asked_for(eta: float):
    for sigma, sigma_next in pairwise(SIGMAS):
        down, up = ancestral.ancestral_step(sigma, sigma_next, eta)
        assert float(down**2 + up**2) == pytest.approx(float(sigma_next**2))
        # Song et al. (2021), eq. 16, in variance-exploding terms.
        expected = eta * sigma_next * (1 - sigma_next**2 / sigma**2).sqrt()
        assert float(up) == pytest.approx(float(expected))


def test_more_noise_than_there_is_room_for_is_cut_off():
    down, up = ancestral.ancestral_step(SIGMAS[0], SIGMAS[1], 5.0)
    assert (float(down), float(up)) == (0, 5)


def test_without_replacement_steps_are_deterministic():
    expected, _ = run(euler, SIGMAS)
    made, _ = run(partial(ancestral.euler_ancestral, eta=0.0), SIGMAS, noise=waves(start(SIGMAS)))
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-12)


def test_ddpm_is_the_posterior_of_its_paper():
    """Ho et al. (2020), eqs. 7 and 11, in their own variance-preserving terms."""
    x = start(SIGMAS)
    noise = waves(x)
    made, _ = run(SAMPLERS["ddpm"].sample, SIGMAS, two_blobs, noise, x)
    noise, expected = waves(x), x
    share = (1 / (1 + SIGMAS**2)).tolist()  # what is left of the signal's variance
    for i, (sigma, sigma_next) in enumerate(pairwise(SIGMAS)):
        a, a_next = share[i], share[i + 1]
        beta = 1 - a / a_next
        clean, seen = two_blobs(expected, sigma), expected * a**0.5
        mean = a_next**0.5 * beta / (1 - a) * clean
        mean = mean + (1 - beta) ** 0.5 * (1 - a_next) / (1 - a) * seen
        variance = (1 - a_next) / (1 - a) * beta
        expected = (mean + variance**0.5 * noise(sigma, sigma_next)) / a_next**0.5
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-10)


STAGES: list[tuple[Sample, float]] = [
    (ancestral.dpmpp_2s_ancestral, (9 * 25 / 9) ** 0.5),  # half-way down, in log sigma
    (ancestral.dpm_2_ancestral, (9 * 25 / 9) ** 0.5),
    (ancestral.dpmpp_sde, (9 * 5) ** 0.5),  # half-way to the next
    (partial(ancestral.dpmpp_sde, r=0.25), 9**0.75 * 5**0.25),
]


@pytest.mark.parametrize(("sample", "middle"), STAGES)
def test_second_stages_look_half_way_in_log_sigma(sample: Sample, middle: float):
    seen: list[float] = []
    run(sample, SIGMAS[:2], watched(two_blobs, seen))
    np.testing.assert_allclose(seen, [9, middle])


def test_second_stages_are_of_second_order_without_noise():
    for sample in (ancestral.dpmpp_2s_ancestral, ancestral.dpmpp_sde):

        def error(steps: int, sample: Any = sample) -> float:
            sigmas = torch.logspace(1.1, -1, steps + 1, dtype=torch.float64)
            expected = start(sigmas) * ((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2)).sqrt()
            made, _ = run(partial(sample, eta=0.0), sigmas, lambda x, s: x / (1 + s**2))
            return float((made - expected).abs().max())

        # 0.85: the order is a limit, and these steps are still finite.
        assert np.log2(error(32) / error(64)) > 0.85 * 2


def test_a_scale_of_noise_of_0_leaves_the_steps_down():
    def loud(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.full(SHAPE, 1e3, dtype=torch.float64)

    for sample in (
        ancestral.euler_ancestral,
        ancestral.dpmpp_2s_ancestral,
        ancestral.dpmpp_sde,
    ):
        quiet, _ = run(partial(sample, s_noise=0.0), SIGMAS, noise=loud)
        silent, _ = run(sample, SIGMAS, noise=lambda sigma, sigma_next: torch.zeros(SHAPE))
        torch.testing.assert_close(quiet, silent)
