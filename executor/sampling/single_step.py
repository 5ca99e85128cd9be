"""Deterministic samplers that remember nothing from one step to the next."""

from itertools import pairwise

import torch
from torch import Tensor

from executor.sampling_ports import AddedNoise, Denoiser
from executor.steps import Steps


def euler(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """Karras et al. (2022), algorithm 1 without its correction: first order, deterministic."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        x = x + (x - denoised) / sigma * (sigma_next - sigma)
    return x


def heun(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
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


def heunpp2(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """Heun++ (Carzit's, without a paper): looks up to three Euler steps ahead, then takes one.

    A slope ahead counts with its sigma's share of the run's first, the present one with the rest;
    so the weights are those of no quadrature, and the order is 1.
    """
    for i in range(len(sigmas) - 1):
        ahead = x
        slopes: list[Tensor] = []
        for sigma, sigma_next in pairwise(sigmas[i : i + 4]):
            denoised = yield from model(ahead, sigma)
            slopes.append((ahead - denoised) / sigma)
            ahead = ahead + slopes[-1] * (sigma_next - sigma)
        weights = sigmas[i + 1 : i + len(slopes)] / (len(slopes) * sigmas[0])
        slope = slopes[0] * (1 - weights.sum())
        for weight, later in zip(weights, slopes[1:], strict=True):
            slope = slope + later * weight
        x = x + slope * (sigmas[i + 1] - sigmas[i])
    return x


def dpm_2(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """DPM-Solver-2 (Lu et al. 2022, algorithm 1): the slope half-way in log sigma."""
    for sigma, sigma_next in pairwise(sigmas):
        denoised = yield from model(x, sigma)
        slope = (x - denoised) / sigma
        if sigma_next > 0:
            slope = yield from slope_between(model, x, slope, sigma, sigma_next)
        x = x + slope * (sigma_next - sigma)
    return x


def slope_between(
    model: Denoiser, x: Tensor, slope: Tensor, sigma: Tensor, sigma_next: Tensor
) -> Steps[Tensor]:
    """dx/dσ half-way, in log sigma, to ``sigma_next``."""
    middle = torch.lerp(sigma.log(), sigma_next.log(), 0.5).exp()
    guess = x + slope * (middle - sigma)
    denoised = yield from model(guess, middle)
    return (guess - denoised) / middle
