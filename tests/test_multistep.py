"""Multistep samplers: exact where their polynomials are, by integrals taken another way."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sampler_toys import SHAPE, run, two_blobs
from scipy.integrate import quad
from torch import Tensor

from executor.sampling import multistep
from executor.sampling.single_step import euler
from executor.sampling_ports import Sample

EVEN = torch.linspace(12.0, 1.0, 12, dtype=torch.float64)
UNEVEN = torch.tensor([9.0, 7.0, 6.0, 4.0, 1.5, 1.0], dtype=torch.float64)


def path_of(sample: Sample, sigmas: Tensor, slope: Callable[[Any], Any]) -> list[float]:
    """The latent at each sigma, where its slope in sigma is a function of sigma alone."""
    seen: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(float(x[0, 0, 0, 0]))
        return x - sigma * slope(sigma)

    result, _ = run(sample, sigmas, denoise)
    return [*seen, float(result[0, 0, 0, 0])]


def cubic(sigma: Any) -> Any:
    return 0.1 * sigma**3 - sigma**2 + 2 * sigma - 3


def areas(sigmas: Tensor, slope: Callable[[float], float]) -> list[float]:
    """What each step should add: the slope's integral."""
    return [quad(slope, *step)[0] for step in pairwise(sigmas.tolist())]


@pytest.mark.parametrize("order", [2, 3, 4, 6])
def test_linear_multistep_is_exact_where_the_slope_is_a_polynomial_of_its_order(order: int):
    """So many slopes determine a polynomial; from as many sigmas on there is no error to see."""
    slope = np.polynomial.Polynomial([-3, 2, -1, 0.1, 0.05, -0.01][:order])
    path = path_of(partial(multistep.lms, order=order), EVEN, slope)
    done = np.diff(path)[order - 1 :]
    np.testing.assert_allclose(done, areas(EVEN, slope)[order - 1 :], rtol=1e-9)


def test_linear_multistep_knows_how_long_its_steps_are():
    path = path_of(multistep.lms, UNEVEN, cubic)
    np.testing.assert_allclose(np.diff(path)[3:], areas(UNEVEN, cubic)[3:], rtol=1e-9)


def test_pndm_is_linear_multistep_where_steps_are_even():
    expected, _ = run(multistep.lms, EVEN)
    torch.testing.assert_close(run(multistep.ipndm, EVEN)[0], expected, rtol=0, atol=1e-12)
    uneven = run(multistep.ipndm, UNEVEN)[0] - run(multistep.lms, UNEVEN)[0]
    assert uneven.abs().max() > 1e-3


@pytest.mark.parametrize("sigmas", [UNEVEN[:3], EVEN[:4]])
def test_pndm_that_knows_its_steps_is_linear_multistep_of_order_2_and_of_3_on_even_steps(
    sigmas: Tensor,
):
    expected, _ = run(multistep.lms, sigmas)
    torch.testing.assert_close(run(multistep.ipndm_v, sigmas)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigmas", [UNEVEN[:4], EVEN[:5]])
def test_its_further_weights_are_others_as_comfyui_has_them(sigmas: Tensor):
    """``test_sampler_goldens.py`` has the figures."""
    expected, _ = run(multistep.lms, sigmas)
    assert (run(multistep.ipndm_v, sigmas)[0] - expected).abs().max() > 1e-6


def vp_time(sigma: float) -> float:
    """When a VP SDE of β from 0.1 to 20 or so has come to a sigma: σ² + 1 = exp(∫β)."""
    low, high, least = np.log1p(0.002**2), np.log1p(80.0**2), 1e-3
    beta_d = 2 * (low / least - high) / (least - 1)  # such that σ(0.001) = 0.002 and σ(1) = 80
    beta_min = high - beta_d / 2
    return float((np.sqrt(beta_min**2 + 2 * beta_d * np.log1p(sigma**2)) - beta_min) / beta_d)


def test_deis_is_exact_where_the_slope_is_a_parabola_in_the_time_of_a_vp_sde():
    def slope(sigma: Any) -> Any:
        t = vp_time(float(sigma))
        return 3 * t**2 - 2 * t + 0.5

    sigmas = torch.tensor([14.0, 9.0, 5.0, 2.0, 0.8, 0.1], dtype=torch.float64)
    path = path_of(multistep.deis, sigmas, slope)
    # Sums over 10,000 points, as theirs, miss as much of a step.
    np.testing.assert_allclose(np.diff(path)[2:], areas(sigmas, slope)[2:], rtol=2e-4)


def linear_in_lambda(x: Tensor, sigma: Any) -> Tensor:
    return (0.3 - 0.7 * sigma.log()) * torch.ones_like(x)


def flow(sigmas: Tensor, denoised: Callable[[Any], Any]) -> list[float]:
    """Each step of x / σ is the integral of −D / σ² dσ, from any x."""
    return [
        quad(lambda sigma: -float(denoised(sigma)) / sigma**2, *step, epsabs=1e-12)[0]
        for step in pairwise(sigmas.tolist())
    ]


def test_the_exponential_integrator_is_exact_where_d_is_linear_in_log_sigma():
    seen: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(float(x[0, 0, 0, 0] / sigma))
        return linear_in_lambda(x, sigma)

    result, _ = run(multistep.res_multistep, UNEVEN, denoise)
    path = [*seen, float(result[0, 0, 0, 0] / UNEVEN[-1])]
    exact = flow(UNEVEN, lambda sigma: 0.3 - 0.7 * np.log(sigma))
    np.testing.assert_allclose(np.diff(path)[1:], exact[1:], rtol=1e-9)
    # DPM-Solver++(2M) takes the same slope to first order only.
    assert (run(multistep.dpmpp_2m, UNEVEN, linear_in_lambda)[0] - result).abs().max() > 1e-3


def test_gradient_estimation_with_a_gamma_of_1_is_eulers_method():
    plain, _ = run(partial(multistep.gradient_estimation, gamma=1.0), UNEVEN)
    torch.testing.assert_close(plain, run(euler, UNEVEN)[0], rtol=0, atol=1e-12)


def test_gradient_estimation_goes_along_what_the_slope_becomes():
    """Two steps of slopes 1 and 3: γ = 2 makes the second 2 · 3 − 1."""
    slopes = {9.0: 1.0, 7.0: 3.0}
    path = path_of(multistep.gradient_estimation, UNEVEN[:3], lambda sigma: slopes[float(sigma)])
    assert np.diff(path).tolist() == pytest.approx([-2 * 1.0, -1 * 5.0])


def test_equal_sigmas_are_steps_of_no_length():
    """As ``LaplaceScheduler`` makes them at both ends."""
    twice = torch.tensor([9.0, 9.0, 4.0, 1.0], dtype=torch.float64)
    once = twice[1:]
    x = torch.ones(SHAPE, dtype=torch.float64)
    result, _ = run(multistep.res_multistep, twice, two_blobs, x=x)
    assert result.isfinite().all()
    torch.testing.assert_close(
        run(euler, twice, x=x)[0], run(euler, once, x=x)[0], rtol=0, atol=1e-12
    )
