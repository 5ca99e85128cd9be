"""Deterministic samplers that remember what they saw at earlier steps: one evaluation a step.

``res_multistep`` can also step ancestrally.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from executor.sampling.ancestral import ancestral_step
from executor.sampling_ports import AddedNoise, Denoiser
from executor.steps import Steps

DEIS_POINTS = 10_000
"""How many points of a step DEIS' integrals are taken at: as the code that its authors point to,
so that results agree with ComfyUI's. What is missed is 1e-5 of a step."""


def lms(
    model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise, *, order: int = 4
) -> Steps[Tensor]:
    """Adams–Bashforth in sigma; the last step to 0 takes the denoised latent."""
    slopes: list[Tensor] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = yield from model(x, sigma)
        if sigma_next == 0:
            return denoised
        slopes = [(x - denoised) / sigma, *slopes[: order - 1]]
        weights = _adams_bashforth(sigmas[i + 1 - len(slopes) : i + 2].flip(0))
        x = x + weighted(weights, slopes)
    return x


def ipndm(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """iPNDM (Zhang & Chen 2023, appendix): PNDM's weights (Liu et al. 2022, eq. 9) from step 1 on.

    They are Adams and Bashforth's for steps of equal length, whatever the steps are.
    """
    slopes: list[Tensor] = []
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        if sigma_next == 0:
            return denoised
        slopes = [(x - denoised) / sigma, *slopes[:3]]
        step = sigma_next - sigma
        x = x + step * weighted(EQUAL_STEPS[len(slopes)], slopes)
    return x


EQUAL_STEPS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
"""Adams–Bashforth weights for steps of one length, latest slope first, by order."""


def ipndm_v(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """iPNDM with weights that know of the steps' lengths.

    The weights are those of the diff-sampler toolbox (Zhou et al. 2024), which ComfyUI has too.
    They are not Adams and Bashforth's (``lms``): those of order 3 differ where lengths do, those of
    order 4 everywhere.
    """
    slopes: list[Tensor] = []
    at = sigmas.double()
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = yield from model(x, sigma)
        if sigma_next == 0:
            return denoised
        slopes = [(x - denoised) / sigma, *slopes[:3]]
        steps = at[i + 1 - len(slopes) : i + 2].diff().flip(0)  # latest first
        x = x + (sigma_next - sigma) * weighted(_toolbox_weights(steps), slopes)
    return x


def deis(
    model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise, *, order: int = 3
) -> Steps[Tensor]:
    """tAB-DEIS (Zhang & Chen 2023, eqs. 14 and 15): slopes as a polynomial in the time of a VP SDE.

    Adams–Bashforth would have them one in sigma. The first step and one to 0 are Euler's.
    """
    slopes: list[Tensor] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = yield from model(x, sigma)
        slopes = [(x - denoised) / sigma, *slopes[: order - 1]]
        if len(slopes) == 1 or sigma_next <= 0:
            x = x + slopes[0] * (sigma_next - sigma)
        else:
            weights = _deis_weights(sigmas[i + 1 - len(slopes) : i + 2].flip(0))
            x = x + weighted(weights, slopes)
    return x


def dpmpp_2m(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """DPM-Solver++(2M), Lu et al. (2022b), algorithm 2."""
    previous: tuple[Tensor, Tensor] | None = None  # λ and D one step back
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        t, t_next = -sigma.log(), -sigma_next.log()
        estimate = denoised
        if previous is not None and sigma_next > 0:
            t_previous, denoised_previous = previous
            r = (t - t_previous) / (t_next - t)
            estimate = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * denoised_previous
        x = (sigma_next / sigma) * x - torch.expm1(t - t_next) * estimate
        previous = t, denoised
    return x


def res_multistep(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Steps[Tensor]:
    """The second-order multistep scheme of RES (Zhang et al. 2023); ancestral where ``eta`` > 0.

    Exponential Adams–Bashforth in λ: what ``dpmpp_2m`` takes to first order is exact here.
    """
    previous: tuple[Tensor, Tensor, Tensor] | None = None  # D, and from where to where it led
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        down, up = ancestral_step(sigma, sigma_next, eta)
        if down == 0 or previous is None:
            x = x + (x - denoised) / sigma * (down - sigma)
        else:
            denoised_previous, *step_previous = previous
            now, before, decay = res_weights(sigma, down, step_previous)
            x = decay * x + now * denoised + before * denoised_previous
        if sigma_next > 0 and eta > 0:
            x = x + noise(sigma, sigma_next) * s_noise * up
        previous = denoised, sigma, down
    return x


def res_weights(
    sigma: Tensor, down: Tensor, previous: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """What the present and the last D and x count in a step to ``down``.

    After an ancestral step the last length is that of the way down, not the distance between the
    two D's: ComfyUI's choice.
    """
    h = (sigma.double() / down.double()).log()
    h_previous = (previous[0].double() / previous[1].double()).log()
    whole = -torch.expm1(-h)  # h φ₁(−h)
    slope = (1 - whole / h) * h / h_previous  # h φ₂(−h) h / h_previous
    # Between equal sigmas nothing happens, and nothing is known of the slope.
    slope = torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)
    return whole + slope, -slope, torch.exp(-h)


def gradient_estimation(
    model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise, *, gamma: float = 2.0
) -> Steps[Tensor]:
    """Permenter & Yuan (2024), algorithm 2: Euler along γ times the slope's change since before."""
    slope_previous: Tensor | None = None
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        if sigma_next == 0:
            return denoised
        slope = (x - denoised) / sigma
        estimate = slope
        if slope_previous is not None:
            estimate = slope + (gamma - 1) * (slope - slope_previous)
        x = x + estimate * (sigma_next - sigma)
        slope_previous = slope
    return x


def weighted(weights: Sequence[float | Tensor], terms: Sequence[Tensor]) -> Tensor:
    """The weighted sum of one term or more."""
    total = terms[0] * weights[0]
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total = total + term * weight
    return total


def _adams_bashforth(sigmas: Tensor) -> list[float]:
    """Weights of slopes at ``sigmas[1:]``, latest first, to reach ``sigmas[0]``.

    Each is the integral over the step of a Lagrange polynomial, for which so many Gauss points are
    exact.
    """
    end, *at = sigmas.double().tolist()
    half, centre = (end - at[0]) / 2, (end + at[0]) / 2
    points, shares = np.polynomial.legendre.leggauss(max(2, math.ceil(len(at) / 2)))

    def lagrange(j: int, point: float) -> float:
        return math.prod((point - s) / (at[j] - s) for k, s in enumerate(at) if k != j)

    return [
        half
        * sum(
            share * lagrange(j, centre + half * point)
            for point, share in zip(points.tolist(), shares.tolist(), strict=True)
        )
        for j in range(len(at))
    ]


def _toolbox_weights(steps: Tensor) -> list[Tensor]:
    """What ``ipndm_v`` weights its latest slopes with, from the lengths of as many steps."""
    a, b, c, d = (*steps, *steps.new_full((4 - len(steps),), torch.nan))  # latest first
    weights = [torch.ones_like(a)]
    if len(steps) > 1:
        change = a / b / 2
        weights = [1 + change, -change]
    if len(steps) > 2:
        second = (1 - a**2 / (3 * b * (b + c))) / 2
        changes = (1, -(1 + b / c), b / c)
        weights = [w + second * x for w, x in zip((*weights, 0), changes, strict=True)]
    if len(steps) > 3:
        third = (1 - a / (3 * (a + b))) / 2 + (1 - a / (2 * (a + b))) * a / (6 * (a + b + c))
        third = third * a * (a + b) * (a + b + c) / (b * (b + c) * (b + c + d))
        ratio = b * (b + c) / (c * (c + d))
        changes = (1, -(1 + b / c + ratio), b / c + ratio * (1 + c / d), -ratio * b / c)
        weights = [w + third * x for w, x in zip((*weights, 0), changes, strict=True)]
    return weights


def _deis_weights(sigmas: Tensor) -> list[Tensor]:
    """Weights of slopes at ``sigmas[1:]``, latest first, to reach ``sigmas[0]``.

    Integrals of Lagrange polynomials in the time t of the VP SDE for which σ is 0.002 at t = 0.001
    and 80 at 1 (Karras et al. 2022, table 1): σ² + 1 = exp(β_d t² / 2 + β_min t).
    """
    low, high, least_time = math.log1p(0.002**2), math.log1p(80.0**2), 1e-3
    beta_d = 2 * (low / least_time - high) / (least_time - 1)
    beta_min = high - beta_d / 2
    log_variance = torch.log1p(sigmas.double() ** 2)
    end, *at = ((beta_min**2 + 2 * beta_d * log_variance).sqrt() - beta_min) / beta_d
    t = at[0] + (end - at[0]) * torch.linspace(0, 1, DEIS_POINTS, dtype=torch.float64)
    exponent = beta_d * t**2 / 2 + beta_min * t
    slope = (beta_d * t + beta_min) * exponent.exp() / (2 * torch.expm1(exponent).sqrt())  # dσ/dt

    def lagrange(j: int) -> Tensor:
        factors = [(t - s) / (at[j] - s) for k, s in enumerate(at) if k != j]
        return torch.stack(factors).prod(dim=0)

    return [(slope * lagrange(j)).mean() * (end - at[0]) for j in range(len(at))]
