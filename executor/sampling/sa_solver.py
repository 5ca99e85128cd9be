"""SA-Solver: Adams methods for a reverse-time SDE whose noise is turned on for a while.

Xue et al. (2023), algorithm 1, data prediction, in λ = −log σ: D is a polynomial through its last
values, integrated exactly against the SDE's exponential. Each step is predicted, evaluated there,
and corrected with what was seen. Scalars are float64: their terms nearly cancel.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from executor.sampling.multistep import weighted
from executor.sampling_ports import AddedNoise, Denoiser
from executor.steps import Steps

NOISY_PERCENTS = (0.2, 0.8)
"""The part of a run in which noise is replaced, where nobody says another."""


def sa_solver(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    predictor_order: int = 3,
    corrector_order: int = 4,
    evaluates_twice: bool = False,
    is_simple: bool = False,
    tau: Callable[[float], float] | None = None,
    s_noise: float = 1.0,
) -> Steps[Tensor]:
    """Predictor of eq. 14, corrector of eq. 17, with lower orders at the beginning and the end.

    ``evaluates_twice`` asks for D again where the correction led (PECE); ``is_simple`` takes the
    weights of appendix D for order 2. ``tau`` says by sigma how much noise a step there replaces.
    """
    if tau is None:
        start, end = (model.schedule.percent_to_sigma(percent) for percent in NOISY_PERCENTS)
        tau = noisy_between(start, end, 1.0)
    precise, steps = sigmas.double(), len(sigmas) - 1
    at = -precise.log()
    ends_clean = bool(sigmas[-1] == 0)
    most = max(predictor_order, corrector_order)
    past: list[Tensor] = []  # the last D's, oldest first
    predicted, now, decay = x, 0.0, torch.ones(())
    added: Tensor | None = None
    for i in range(steps):
        denoised = yield from model(predicted, sigmas[i])
        past = [*past, denoised][-most:]
        is_last = bool(sigmas[i + 1] == 0)
        order = min(corrector_order, len(past), steps - i if ends_clean else most)
        if i == 0 or order == 0 or (is_last and not evaluates_twice):
            x = predicted
        else:
            weights = _weights(at[i - order + 1 : i + 1], at[i - 1], at[i], now, is_simple)
            x = decay * x + weighted([*weights], past[-order:])
            if added is not None:
                x = x + added
            if evaluates_twice:
                denoised = yield from model(x, sigmas[i])
                past[-1] = denoised
        if is_last:
            return denoised
        now = tau(float(sigmas[i + 1]))
        h = at[i + 1] - at[i]
        order = min(predictor_order, len(past), steps - 1 - i if ends_clean else most)
        weights = _weights(at[i - order + 1 : i + 1], at[i], at[i + 1], now, is_simple)
        decay = precise[i + 1] / precise[i] * torch.exp(-(now**2) * h)
        predicted = decay * x + weighted([*weights], past[-order:])
        added = None
        if now > 0 and s_noise > 0:
            spread = precise[i + 1] * (-torch.expm1(-2 * now**2 * h)).sqrt() * s_noise
            added = noise(sigmas[i], sigmas[i + 1]) * spread
            predicted = predicted + added
    return predicted


sa_solver_pece = partial(sa_solver, evaluates_twice=True)
"""SA-Solver that evaluates once more after each correction."""


def noisy_between(start: float, end: float, eta: float) -> Callable[[float], float]:
    """A ``tau`` that is ``eta`` from one sigma down to another, both included, and 0 elsewhere."""
    return lambda sigma: eta if start >= sigma >= end else 0.0


def _weights(knots: Tensor, start: Tensor, end: Tensor, tau: float, is_simple: bool) -> Tensor:
    """The weights of D at ``knots`` in a step of λ: eqs. 15 and 18 without their common factor σ.

    Moments of the exponential against powers of λ − end come by parts, each from the one before.
    """
    rate, h, order = 1 + tau**2, end - start, len(knots)
    fade = torch.exp(-rate * h)
    if is_simple and order == 2:
        is_correction = bool(knots[1] == end)
        share = rate * h / 2 if is_correction else rate * h**2 / 2 / (start - knots[0])
        newest = share if is_correction else 1 - fade + share
        return torch.stack([1 - fade - newest, newest])
    moments = [1 - fade]
    for power in range(1, order):
        moments.append(-((-h) ** power) * fade - power / rate * moments[-1])
    powers = (knots - end) ** torch.arange(order)[:, None]
    # Without a check: of equal sigmas comes NaN, as everywhere, and no error of linear algebra.
    return torch.linalg.solve_ex(powers, torch.stack(moments)).result
