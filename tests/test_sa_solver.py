"""SA-Solver: its weights by quadrature, its noise where it is turned on."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sampler_toys import SD, one_blob, run, silent, start, two_blobs
from scipy.integrate import quad
from torch import Tensor

from executor.sampling.sa_solver import _weights, noisy_between, sa_solver

SIGMAS = torch.tensor([9.0, 7.0, 4.0, 3.0, 1.5, 1.0], dtype=torch.float64)
AT = -SIGMAS.log()


def integrals(knots: Tensor, start: float, end: float, tau: float) -> list[float]:
    """Eq. 15 by quadrature: Lagrange polynomials of λ against the SDE's exponential."""
    rate, places = 1 + tau**2, knots.tolist()

    def lagrange(j: int, at: float) -> float:
        factors = [(at - k) / (places[j] - k) for i, k in enumerate(places) if i != j]
        return float(np.prod(factors))

    return [
        quad(lambda at, j=j: rate * np.exp(rate * (at - end)) * lagrange(j, at), start, end)[0]
        for j in range(len(places))
    ]


@pytest.mark.parametrize("tau", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_weights_are_integrals_of_polynomials_against_the_exponential(order: int, tau: float):
    for last in (4, 5):  # the predictor's do not know the end, the corrector's do
        knots = AT[last - order + 1 : last + 1]
        weights = _weights(knots, AT[4], AT[5], tau, is_simple=False)
        expected = integrals(knots, float(AT[4]), float(AT[5]), tau)
        np.testing.assert_allclose(weights, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("last", [4, 5])
def test_simple_weights_of_order_2_are_the_exact_ones_to_first_order(last: int):
    knots = AT[last - 1 : last + 1]
    exact, simple = (_weights(knots, AT[4], AT[5], 1.0, is_simple=flag) for flag in (False, True))
    assert float(simple.sum()) == pytest.approx(float(exact.sum()))
    assert 0.01 < float((simple - exact).abs().max()) < 0.2
    short = AT[4] + (AT[5] - AT[4]) / 100
    knots = torch.stack([AT[3], AT[4]]) if last == 4 else torch.stack([AT[4], short])
    exact, simple = (_weights(knots, AT[4], short, 1.0, is_simple=flag) for flag in (False, True))
    np.testing.assert_allclose(simple, exact, rtol=0, atol=1e-4)


def error(steps: int, **options: Any) -> float:
    """The distance from the exact flow of ``one_blob``, without noise of its own."""
    sigmas = torch.logspace(1.1, -1, steps + 1, dtype=torch.float64)
    expected = start(sigmas) * ((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2)).sqrt()
    sample = partial(sa_solver, tau=lambda sigma: 0.0, **options)
    return float((run(sample, sigmas, one_blob)[0] - expected).abs().max())


@pytest.mark.parametrize(("predictor", "corrector", "order"), [(1, 0, 1), (2, 0, 2), (1, 1, 1)])
def test_without_noise_it_is_an_ode_solver_of_its_order(predictor: int, corrector: int, order: int):
    orders = {"predictor_order": predictor, "corrector_order": corrector}
    # 0.85: the order is a limit, and these steps are still finite.
    assert np.log2(error(32, **orders) / error(64, **orders)) > 0.85 * order


def test_each_correction_and_each_second_evaluation_helps():
    predicted = error(30, predictor_order=1, corrector_order=0)
    corrected = error(30, predictor_order=1, corrector_order=2)
    again = error(30, predictor_order=1, corrector_order=2, evaluates_twice=True)
    assert corrected < predicted / 5
    assert again < predicted / 5
    assert error(30) < corrected  # of orders 3 and 4


def test_noise_is_asked_for_in_the_middle_of_the_run_alone():
    asked: list[tuple[float, float]] = []

    def noted(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        asked.append((float(sigma), float(sigma_next)))
        return silent(sigma, sigma_next)

    sigmas = torch.tensor([14.0, 10.0, 4.0, 2.0, 1.0, 0.3, 0.1, 0.0])
    run(sa_solver, sigmas, two_blobs, noted)
    high, low = SD.percent_to_sigma(0.2), SD.percent_to_sigma(0.8)
    assert (high, low) == pytest.approx((5.09, 0.57), abs=0.02)
    assert asked == [(10, 4), (4, 2), (2, 1)]  # whose ends are within
    asked.clear()
    run(partial(sa_solver, tau=noisy_between(20.0, 0.1, 0.5)), sigmas, two_blobs, noted)
    assert len(asked) == 6
    asked.clear()
    run(partial(sa_solver, tau=noisy_between(20.0, 0.1, 0.0)), sigmas, two_blobs, noted)
    assert not asked


def test_orders_fall_towards_a_clean_end():
    """The last step but one is of order 1: from what was seen last, with no polynomial."""
    sigmas = torch.tensor([9.0, 5.0, 3.0, 2.0, 0.0], dtype=torch.float64)
    seen: list[Tensor] = []

    def denoise(x: Tensor, sigma: Any) -> Tensor:
        seen.append(x)
        return two_blobs(x, sigma)

    run(partial(sa_solver, corrector_order=0, tau=lambda sigma: 0.0), sigmas, denoise)
    denoised = two_blobs(seen[2], 3.0)
    torch.testing.assert_close(seen[3], seen[2] * 2 / 3 + denoised / 3)
