"""Samplers that step down too far and make up for it with fresh noise.

Ancestral sampling (Ho et al. 2020, algorithm 2) around a deterministic step: go down to less noise
than asked for, then add what is missing. ``eta`` scales how much is made anew (Song et al. 2021,
eq. 16; 0: nothing), ``s_noise`` the added noise itself (Karras et al. 2022, algorithm 2).
"""

from itertools import pairwise

import torch
from torch import Tensor

from executor.sampling.single_step import slope_between
from executor.sampling_ports import AddedNoise, Denoiser
from executor.steps import Steps


def ancestral_step(sigma: Tensor, sigma_next: Tensor, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Where to step down to, and the noise to add, so that ``sigma_next`` is reached in sum."""
    if not eta:
        return sigma_next, torch.zeros_like(sigma_next)
    up = eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
    up = torch.minimum(sigma_next, up)
    return (sigma_next**2 - up**2) ** 0.5, up


def euler_ancestral(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Steps[Tensor]:
    """Ancestral sampling with Euler steps; with η = 1 that of Ho et al. (2020), algorithm 2."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        down, up = ancestral_step(sigma, sigma_next, eta)
        if down == 0:
            x = denoised
        else:
            x = x + (x - denoised) / sigma * (down - sigma)
            x = x + noise(sigma, sigma_next) * s_noise * up
    return x


def dpm_2_ancestral(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """Ancestral sampling with steps of ``dpm_2``."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        down, up = ancestral_step(sigma, sigma_next)
        slope = (x - denoised) / sigma
        if down == 0:
            x = x + slope * (down - sigma)
        else:
            slope = yield from slope_between(model, x, slope, sigma, down)
            x = x + slope * (down - sigma)
            x = x + noise(sigma, sigma_next) * up
    return x


def dpmpp_2s_ancestral(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Steps[Tensor]:
    """Ancestral sampling with steps of DPM-Solver++(2S): Lu et al. (2022b), algorithm 1, r = ½."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        down, up = ancestral_step(sigma, sigma_next, eta)
        if down == 0:
            x = x + (x - denoised) / sigma * (down - sigma)
        else:
            half = (sigma.log() - down.log()) / 2  # of the step in λ
            middle = (sigma.log() - half).exp()
            guess = (middle / sigma) * x - torch.expm1(-half) * denoised
            denoised = yield from model(guess, middle)
            x = (down / sigma) * x - torch.expm1(-2 * half) * denoised
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * s_noise * up
    return x


def dpmpp_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 1 / 2,
) -> Steps[Tensor]:
    """SDE-DPM-Solver++(2S): Lu et al. (2022b), algorithm 1, its steps made ancestral.

    ``r`` is how far the second evaluation is on the way, in λ.
    """
    adds_noise = eta > 0 and s_noise > 0
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        if sigma_next == 0:
            return denoised
        t, t_next = -sigma.log(), -sigma_next.log()
        middle = (-(t + r * (t_next - t))).exp()
        down, up = ancestral_step(sigma, middle, eta)
        guess = (down / sigma) * x - torch.expm1(t + down.log()) * denoised
        if adds_noise:
            guess = guess + noise(sigma, middle) * s_noise * up
        denoised_middle = yield from model(guess, middle)
        down, up = ancestral_step(sigma, sigma_next, eta)
        estimate = (1 - 1 / (2 * r)) * denoised + 1 / (2 * r) * denoised_middle
        x = (down / sigma) * x - torch.expm1(t + down.log()) * estimate
        if adds_noise:
            x = x + noise(sigma, sigma_next) * s_noise * up
    return x


def lcm(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1): denoise, noise again."""
    for sigma, sigma_next in pairwise(sigmas):
        x = yield from model(x, sigma)
        if sigma_next > 0:
            x = noise(sigma, sigma_next) * sigma_next + x
    return x
