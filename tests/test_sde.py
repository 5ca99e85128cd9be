"""SDE samplers: exact where their polynomials are, and ODE solvers where no noise is replaced."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sampler_toys import SD, SHAPE, one_blob, run, start, two_blobs, watched, waves
from scipy.integrate import quad
from torch import Tensor

from executor.sampling import noise as noises
from executor.sampling.multistep import dpmpp_2m, res_multistep
from executor.sampling.schedules import SCHEDULERS
from executor.sampling.sde import (
    dpmpp_2m_sde,
    dpmpp_3m_sde,
    er_noise_scale,
    er_sde,
    seeds_2,
    seeds_3,
)
from executor.sampling_ports import Sample

SIGMAS = torch.tensor([9.0, 7.0, 4.0, 3.0, 1.5, 1.0], dtype=torch.float64)


def silence(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    return torch.zeros(())


def path_of(sample: Sample, denoised: Callable[[Any], Any]) -> list[float]:
    """The latent where each step begins and at the end, if D depends on sigma alone."""
    seen: dict[float, float] = {}

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen[float(sigma)] = float(x.flatten()[0])
        return denoised(float(sigma)) * torch.ones_like(x)

    result, _ = run(sample, SIGMAS, denoise, silence)
    return [*(seen[sigma] for sigma in SIGMAS[:-1].tolist()), float(result.flatten()[0])]


def exact(path: list[float], denoised: Callable[[Any], Any], eta: float) -> list[float]:
    """Where each step should lead from where it began: the SDE's mean, by quadrature.

    With dx = (1 + η) (x − D) / σ dσ it is x times the power 1 + η of the sigmas' ratio, and D
    against what is left of it.
    """
    power = 1 + eta
    reached: list[float] = []
    for x, (sigma, sigma_next) in zip(path[:-1], pairwise(SIGMAS.tolist()), strict=True):
        drift = quad(
            lambda s, end=sigma_next: -power * denoised(s) * (end / s) ** power / s,
            *(sigma, sigma_next),
            epsabs=1e-12,
        )
        reached.append(x * (sigma_next / sigma) ** power + drift[0])
    return reached


def straight(sigma: Any) -> Any:
    return 0.3 - 0.7 * np.log(sigma)


def bent(sigma: Any) -> Any:
    return straight(sigma) + 0.4 * np.log(sigma) ** 2


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_slope_of_d_in_lambda_is_followed_exactly(eta: float):
    for sample in (partial(dpmpp_2m_sde, solver="heun"), dpmpp_3m_sde):
        path = path_of(partial(sample, eta=eta), straight)
        np.testing.assert_allclose(path[2:], exact(path, straight, eta)[1:], rtol=1e-9)
    # The midpoint's is second-order, but not exact.
    path = path_of(partial(dpmpp_2m_sde, eta=eta), straight)
    assert abs(path[2] - exact(path, straight, eta)[1]) > 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_third_order_counts_half_of_a_bend_of_d_as_its_original_does(eta: float):
    """In k-diffusion and ComfyUI, too, what is missed of a parabola is half of its bend's part."""
    path = path_of(partial(dpmpp_3m_sde, eta=eta), bent)
    missed = np.array(path[3:]) - exact(path, bent, eta)[2:]
    h = -np.diff(np.log(SIGMAS.numpy()))[2:]
    reach = h * (1 + eta)
    first = 1 + np.expm1(-reach) / reach
    np.testing.assert_allclose(missed, (first / reach - 0.5) * 0.4 * h**2, rtol=1e-9)


def test_the_exponential_ode_is_the_multistep_one_without_noise():
    plain, _ = run(res_multistep, SIGMAS)
    silent, _ = run(partial(dpmpp_2m_sde, solver="heun", eta=0.0), SIGMAS)
    torch.testing.assert_close(silent, plain, rtol=0, atol=1e-12)
    midpoint, _ = run(partial(dpmpp_2m_sde, eta=0.0), SIGMAS)
    torch.testing.assert_close(midpoint, run(dpmpp_2m, SIGMAS)[0], rtol=0, atol=1e-12)


def test_an_ancestral_step_of_the_exponential_integrator_is_that_of_the_sde():
    x = torch.ones(1, 4, dtype=torch.float64) * 9
    ancestral, _ = run(partial(res_multistep, eta=1.0), SIGMAS, two_blobs, waves(x), x)
    sde, _ = run(partial(dpmpp_2m_sde, solver="heun"), SIGMAS, two_blobs, waves(x), x)
    torch.testing.assert_close(ancestral, sde, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sample", [seeds_2, seeds_3])
def test_stages_look_where_they_say_in_lambda(sample: Sample):
    seen: list[float] = []
    run(sample, SIGMAS[1:3], watched(two_blobs, seen), silence)
    parts = 2 if sample is seeds_2 else 3
    np.testing.assert_allclose(seen, 7 * (4 / 7) ** (np.arange(parts) / parts))


@pytest.mark.parametrize(("sample", "order"), [(seeds_2, 2), (seeds_3, 3)])
def test_stages_without_noise_are_of_their_order(sample: Any, order: int):
    def error(steps: int) -> float:
        sigmas = torch.logspace(1.1, -1, steps + 1, dtype=torch.float64)
        shape = start(sigmas) * ((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2)).sqrt()
        result, _ = run(partial(sample, eta=0.0), sigmas, one_blob)
        return float((result - shape).abs().max())

    # 0.85: the order is a limit, and these steps are still finite.
    assert np.log2(error(32) / error(64)) > 0.85 * order


def test_noise_of_stages_adds_up_to_that_of_the_step():
    """What the middle has seen stays in the end: so the step's noise is one path, seen twice."""
    sigmas, shape = torch.tensor([8.0, 2.0]), (1, 4, 64, 64)
    drawn = noises.gaussian(torch.zeros(shape), 1)
    for sample in (seeds_2, seeds_3):
        seen: list[Tensor] = []

        def denoise(x: Tensor, sigma: Any, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x)
            return torch.zeros_like(x)

        result, _ = run(sample, sigmas, denoise, drawn, torch.zeros(shape))
        middle, place = seen[1], (1 / 2 if sample is seeds_2 else 1 / 3)
        here = 8 * (2 / 8) ** place
        # Of noise at ``here`` the SDE keeps (σ / here)² until σ: their covariance follows.
        fresh = here**2 * (1 - (here / 8) ** 2)
        expected = fresh * (2 / here) ** 2
        # 16,384 samples of a product of deviations here and 2: four deviations of its mean.
        assert float((result * middle).mean()) == pytest.approx(expected, abs=4 * here * 2 / 128)
        assert float(middle.std()) == pytest.approx(fresh**0.5, rel=0.025)


@pytest.mark.parametrize("power", [1.0, 1.7, 2.0])
def test_any_sde_of_the_family_ends_with_the_same_variance(power: float):
    """σ^power of noise scales: 1 is the ODE, 2 the diffusion's own reverse."""
    sigmas = SCHEDULERS["karras"](SD, 60)
    x = noises.initial((1, 4, 64, 64), 1) * (1 + sigmas[0] ** 2).sqrt()
    sample = partial(er_sde, scale=lambda sigma: sigma**power)
    result, _ = run(sample, sigmas, one_blob, noises.gaussian(x, 2), x)
    # 16,384 samples: 0.006 of chance; the rest is what 60 steps miss.
    assert float(result.std()) == pytest.approx(1, abs=0.03)


def test_the_extended_sde_of_an_ode_is_an_ode_of_its_order():
    def error(steps: int, order: int) -> float:
        sigmas = torch.logspace(1.1, -1, steps + 1, dtype=torch.float64)
        shape = start(sigmas) * ((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2)).sqrt()
        sample = partial(er_sde, scale=lambda sigma: sigma, s_noise=0.0, order=order)
        return float((run(sample, sigmas, one_blob)[0] - shape).abs().max())

    # 0.85: the order is a limit; sums of 200 points a step hide what is above 2.
    assert np.log2(error(32, 1) / error(64, 1)) == pytest.approx(1, abs=0.15)
    assert np.log2(error(32, 2) / error(64, 2)) > 0.85 * 2
    assert error(32, 3) < error(32, 2) < error(32, 1)


def test_the_extended_sde_replaces_less_noise_where_there_is_little():
    """φ(σ) rises almost as σ near 0, as the ODE's, and steeply above, as the SDE's."""
    sigma = torch.tensor([0.01, 0.02, 5.0, 10.0], dtype=torch.float64)
    log = er_noise_scale(sigma).log().diff() / sigma.log().diff()
    assert 1 < float(log[0]) < 1.05
    assert 1.1 < float(log[2]) < 2


def test_noise_asked_for_is_that_between_the_sigmas():
    asked: list[tuple[float, float]] = []

    def noted(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        asked.append((round(float(sigma), 4), round(float(sigma_next), 4)))
        return torch.zeros(SHAPE)

    run(dpmpp_3m_sde, SIGMAS, noise=noted)
    assert asked == list(pairwise(SIGMAS.tolist()))
    asked.clear()
    run(seeds_2, SIGMAS[1:3], noise=noted)
    middle = round((7 * 4) ** 0.5, 4)
    assert asked == [(7, middle), (middle, 4)]
