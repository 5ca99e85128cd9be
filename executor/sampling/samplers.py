"""Samplers: from noise to a latent, a few evaluations of a denoiser at a time.

Each is a generator written like its paper, with one signature: a denoiser, the noisy latent ``x``
at ``sigmas[0]``, the falling ``sigmas`` (a 1-d CPU tensor, often ending in 0) and a source of
noise; it returns the latent at ``sigmas[-1]``. They hold no state outside their frames, know
nothing of guidance, masks or models, and never write to ``x``. Variance-exploding notation
throughout (Karras et al. 2022): x = x₀ + σ·noise, λ = −log σ, and D(x; σ) is the denoiser.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from executor.sampling.noise import Noise, NoiseKind
from executor.steps import Steps


class Denoiser(Protocol):
    """What samplers see of a model: ``denoised = yield from model(x, sigma)``."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Steps[Tensor]:
        """The clean latent in ``x`` (B, C, h, w), as estimated at the scalar ``sigma``."""
        ...


def euler(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
    """Karras et al. (2022), algorithm 1 without its correction: first order, deterministic."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        x = x + (x - denoised) / sigma * (sigma_next - sigma)
    return x


def heun(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
    """Karras et al. (2022), algorithm 1: second order, two evaluations a step."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        slope, step = (x - denoised) / sigma, sigma_next - sigma
        if sigma_next > 0:
            guess = x + slope * step
            denoised = yield from model(guess, sigma_next)
            slope = (slope + (guess - denoised) / sigma_next) / 2
        x = x + slope * step
    return x


def dpm_2(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
    """DPM-Solver-2 (Lu et al. 2022, algorithm 1): the slope half-way in log sigma."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        slope = (x - denoised) / sigma
        if sigma_next > 0:
            slope = yield from _slope_between(model, x, slope, sigma, sigma_next)
        x = x + slope * (sigma_next - sigma)
    return x


def euler_ancestral(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) with Euler steps."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        sigma_down, sigma_up = _ancestral(sigma, sigma_next)
        if sigma_down == 0:
            x = denoised
        else:
            x = x + (x - denoised) / sigma * (sigma_down - sigma)
            x = x + noise(sigma, sigma_next) * sigma_up
    return x


def dpm_2_ancestral(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
    """Ancestral sampling with steps of ``dpm_2``."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        sigma_down, sigma_up = _ancestral(sigma, sigma_next)
        slope = (x - denoised) / sigma
        if sigma_down == 0:
            x = x + slope * (sigma_down - sigma)
        else:
            slope = yield from _slope_between(model, x, slope, sigma, sigma_down)
            x = x + slope * (sigma_down - sigma)
            x = x + noise(sigma, sigma_next) * sigma_up
    return x


def lms(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
    """Adams–Bashforth of order 4 in sigma; the last step to 0 takes the denoised latent."""
    slopes: list[Tensor] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = yield from model(x, sigma)
        if sigma_next == 0:
            return denoised
        slopes = [(x - denoised) / sigma, *slopes[:3]]
        weights = _multistep_weights(sigmas[i + 1 - len(slopes) : i + 2].flip(0))
        x = x + sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
    return x


def dpmpp_2m(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
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


def dpmpp_sde(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
    """SDE-DPM-Solver++(2S): Lu et al. (2022b), algorithm 1 with r = ½, its steps made ancestral."""
    r = 1 / 2
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        if sigma_next == 0:
            return denoised
        t, t_next = -sigma.log(), -sigma_next.log()
        middle = (-(t + r * (t_next - t))).exp()
        down, up = _ancestral(sigma, middle)
        guess = (down / sigma) * x - torch.expm1(t + down.log()) * denoised
        guess = guess + noise(sigma, middle) * up
        denoised_middle = yield from model(guess, middle)
        down, up = _ancestral(sigma, sigma_next)
        estimate = (1 - 1 / (2 * r)) * denoised + 1 / (2 * r) * denoised_middle
        x = (down / sigma) * x - torch.expm1(t + down.log()) * estimate
        x = x + noise(sigma, sigma_next) * up
    return x


def lcm(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1): denoise, noise again."""
    for sigma, sigma_next in pairwise(sigmas):
        x = yield from model(x, sigma)
        if sigma_next > 0:
            x = noise(sigma, sigma_next) * sigma_next + x
    return x


def uni_pc(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
    """UniPC-3 with B(h) = h: Zhao et al. (2023), multistep, data prediction."""
    return (yield from _uni_pc(model, x, sigmas, lambda h: h))


def uni_pc_bh2(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise) -> Steps[Tensor]:
    """UniPC-3 with B(h) = eʰ − 1."""
    return (yield from _uni_pc(model, x, sigmas, math.expm1))


Sample: TypeAlias = Callable[[Denoiser, Tensor, Tensor, Noise], Steps[Tensor]]


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler, and what it wants besides a denoiser."""

    sample: Sample
    noise: NoiseKind = "none"
    drops_penultimate: bool = False
    """The last step goes to 0 from the last but one sigma, where its order still counts."""
    has_own_mask_noise: bool = False
    """What a noise mask keeps is noised with ``seed + 1``, not with the initial noise."""


SAMPLERS: Mapping[str, Sampler] = {
    "euler": Sampler(euler),
    "euler_ancestral": Sampler(euler_ancestral, "gaussian"),
    "heun": Sampler(heun),
    "dpm_2": Sampler(dpm_2, drops_penultimate=True),
    "dpm_2_ancestral": Sampler(dpm_2_ancestral, "gaussian", drops_penultimate=True),
    "lms": Sampler(lms),
    "dpmpp_2m": Sampler(dpmpp_2m),
    "dpmpp_sde": Sampler(dpmpp_sde, "brownian"),
    # DDIM at η = 0 is Euler's method in these variables (Song et al. 2021, eq. 13).
    "ddim": Sampler(euler, has_own_mask_noise=True),
    "uni_pc": Sampler(uni_pc, drops_penultimate=True),
    "uni_pc_bh2": Sampler(uni_pc_bh2, drops_penultimate=True),
    "lcm": Sampler(lcm, "gaussian"),
}
"""Samplers by their names on the wire."""


def _ancestral(sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
    """Where to step down to, and the noise to add, so that ``sigma_next`` is reached in sum."""
    up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
    up = torch.minimum(sigma_next, up)
    return (sigma_next**2 - up**2) ** 0.5, up


def _slope_between(
    model: Denoiser, x: Tensor, slope: Tensor, sigma: Tensor, sigma_next: Tensor
) -> Steps[Tensor]:
    """dx/dσ half-way, in log sigma, to ``sigma_next``."""
    middle = sigma.log().lerp(sigma_next.log(), 0.5).exp()
    guess = x + slope * (middle - sigma)
    denoised = yield from model(guess, middle)
    return (guess - denoised) / middle


def _multistep_weights(sigmas: Tensor) -> list[float]:
    """Adams–Bashforth weights of slopes at ``sigmas[1:]``, latest first, to reach ``sigmas[0]``.

    Each is the integral over the step of a Lagrange polynomial of degree ≤ 3, for which two Gauss
    points are exact.
    """
    end, *at = sigmas.double().tolist()
    half, centre = (end - at[0]) / 2, (end + at[0]) / 2
    points = (centre - half / math.sqrt(3), centre + half / math.sqrt(3))

    def lagrange(j: int, point: float) -> float:
        return math.prod((point - s) / (at[j] - s) for k, s in enumerate(at) if k != j)

    return [half * sum(lagrange(j, point) for point in points) for j in range(len(at))]


def _uni_pc(
    model: Denoiser, x: Tensor, sigmas: Tensor, b: Callable[[float], float]
) -> Steps[Tensor]:
    """Predict with UniP, evaluate there, correct with UniC; the next prediction uses it again.

    λ is infinite at sigma 0, so the end is put at 0.001. Orders rise from 1 and fall again at the
    end.
    """
    ends = [*sigmas[:-1].double().tolist(), float(sigmas[-1]) or 0.001]
    steps = len(ends) - 1
    top_order = max(1, min(3, steps - 1))
    at = [-math.log(sigma) for sigma in ends]
    past = [(yield from model(x, sigmas[0]))]  # D at the latest three λ
    for i in range(1, steps + 1):
        order = min(i, top_order, steps + 1 - i)
        h = at[i] - at[i - 1]
        ratios = [(at[i - 1 - k] - at[i - 1]) / h for k in range(1, order)]
        slopes = [(past[-1 - k] - past[-1]) / ratio for k, ratio in enumerate(ratios, start=1)]
        start = (ends[i] / ends[i - 1]) * x - math.expm1(-h) * past[-1]
        predictor, corrector = _uni_pc_weights([*ratios, 1.0], -h, b(-h))
        x = start - b(-h) * _weighted(predictor, slopes)
        if i < steps:
            denoised = yield from model(x, sigmas[i])
            x = start - b(-h) * _weighted(corrector, [*slopes, denoised - past[-1]])
            past = [*past[-2:], denoised]
    return x


def _uni_pc_weights(ratios: list[float], h: float, b: float) -> tuple[list[float], list[float]]:
    """The weights of UniP and UniC, in float64 as the terms nearly cancel.

    They make the step exact for polynomials in λ up to the order. For UniP's second and UniC's
    first order the authors' code takes ½ instead; so does this.
    """
    order = len(ratios)
    phi, factorial, right = math.expm1(h) / h - 1, 1, list[float]()
    for k in range(1, order + 1):
        right.append(phi * factorial / b)
        factorial *= k + 1
        phi = phi / h - 1 / factorial
    powers = torch.tensor(ratios, dtype=torch.float64) ** torch.arange(order)[:, None]
    wanted = torch.tensor(right, dtype=torch.float64)
    predictor = torch.linalg.solve(powers[:-1, :-1], wanted[:-1]).tolist() if order > 2 else [0.5]
    corrector = torch.linalg.solve(powers, wanted).tolist() if order > 1 else [0.5]
    return (predictor if order > 1 else []), corrector


def _weighted(weights: Sequence[float], terms: Sequence[Tensor]) -> Tensor | float:
    """The weighted sum; 0 of nothing."""
    return sum((w * term for w, term in zip(weights, terms, strict=True)), start=0.0)
