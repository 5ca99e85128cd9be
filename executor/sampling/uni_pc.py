"""UniPC: a predictor and a corrector of any order, which share their evaluations.

Zhao et al. (2023), multistep form with data prediction. ComfyUI's default order is 3.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from executor.sampling_ports import AddedNoise, Denoiser
from executor.steps import Steps


def uni_pc(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """UniPC-3 with B(h) = h: Zhao et al. (2023), multistep, data prediction."""
    return (yield from _uni_pc(model, x, sigmas, lambda h: h))


def uni_pc_bh2(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """UniPC-3 with B(h) = eʰ − 1."""
    return (yield from _uni_pc(model, x, sigmas, math.expm1))


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
