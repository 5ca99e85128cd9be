"""DPM-Solver with steps of its own choosing, of orders 1 to 3 in noise prediction.

Lu et al. (2022): given sigmas only tell where to begin and to end, and how many evaluations are
wanted. As λ = −log σ is infinite at 0, runs end at the least positive sigma, with that noise left.
"""

import math

import torch
from torch import Tensor

from executor.errors import InputError
from executor.sampling.ancestral import ancestral_step
from executor.sampling_ports import AddedNoise, Denoiser
from executor.steps import Steps

MOST_REJECTIONS = 100
"""Attempts at one step after which no length will do; each may be a fifth of the one before."""

LEAST_STEP = 1e-5
"""A run that is so near its end in λ is done; shorter steps would be a hundred thousand."""

LEAST = 1e-30
"""Below every tolerance that is meant; keeps errors finite where none is given."""


def dpm_fast(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """DPM-Solver-fast (§3.4): steps even in λ, of order 3 as far as the evaluations go.

    There are as many evaluations as ``sigmas`` has steps.
    """
    start, end = _ends(sigmas)
    thirds, rest = divmod(len(sigmas) - 1, 3)
    orders = [3] * thirds + [rest] if rest else [3] * (thirds - 1) + [2, 1]
    times = torch.linspace(float(start), float(end), len(orders) + 1, dtype=sigmas.dtype)
    for order, t, t_next in zip(orders, times, times[1:], strict=False):
        x = (yield from _solutions(model, x, t, t_next, order))[-1]
    return x


def dpm_adaptive(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Steps[Tensor]:
    """DPM-Solver-12 and -23 (appendix C): steps as long as two orders agree about.

    Their distance, in tolerances, sets the next step's length through a PID controller; one that
    would have to shrink below ``accept_safety`` is made again. Tolerances are for the batch as a
    whole. Raises InputError where no length satisfies them.
    """
    start, end = _ends(sigmas)
    direction = 1 if end > start else -1
    if eta and direction < 0:
        raise InputError("dpm_adaptive adds noise only where sigmas fall: set eta to 0")
    accuracy = 1.5 if eta else order
    gains = (pcoeff + icoeff + dcoeff, -(pcoeff + 2 * dcoeff), dcoeff)
    h, t, x_previous = direction * abs(h_init), start, x
    logs: tuple[float, float] | None = None  # of the inverse errors of the last steps accepted
    rejections = 0
    while (end - t) * direction > LEAST_STEP:
        t_next = torch.minimum(end, t + h) if direction > 0 else torch.maximum(end, t + h)
        if (t_next - t) * direction <= LEAST_STEP or rejections == MOST_REJECTIONS:
            raise InputError(
                f"dpm_adaptive finds no step to take at sigma {float((-t).exp()):.3g}:"
                f" rtol {rtol:g} and atol {atol:g} are too small, or h_init {h_init:g} is,"
                f" or accept_safety {accept_safety:g} is too large"
            )
        down, _ = ancestral_step((-t).exp(), (-t_next).exp(), eta)
        target = torch.minimum(end, -down.log()) if eta else t_next
        *_, low, high = yield from _solutions(model, x, t, target, order)
        tolerance = (rtol * torch.maximum(low.abs(), x_previous.abs())).clamp(min=max(atol, LEAST))
        error = float(torch.linalg.vector_norm((low - high) / tolerance) / x.numel() ** 0.5)
        if math.isnan(error):
            return high  # which is no picture either: the model fails, at any length of step
        log = -math.log(min(error, 1 / LEAST) + 1e-8)
        logs = logs or (log, log)
        exponent = sum(
            gain * past / accuracy for gain, past in zip(gains, (log, *logs), strict=True)
        )
        factor = 1 + math.atan(math.exp(min(exponent, 700)) - 1)  # 700: as far as floats reach
        h *= factor
        rejections += 1
        if factor >= accept_safety:
            if eta:
                up = ((-2 * t_next).exp() - (-2 * target).exp()).clamp(min=0).sqrt()
                high = high + noise((-t).exp(), (-t_next).exp()) * s_noise * up
            x, x_previous, t = high, low, t_next
            logs, rejections = (log, logs[0]), 0
    return x


def _ends(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """λ where a run begins and where it ends."""
    last = sigmas[-1] if sigmas[-1] > 0 else sigmas[-2]
    return -sigmas[0].log(), -last.log()


def _solutions(
    model: Denoiser, x: Tensor, t: Tensor, t_next: Tensor, order: int
) -> Steps[list[Tensor]]:
    """What each order up to this one makes of a step of λ, with the same evaluations.

    Eqs. 3.7 and algorithms 1 and 2, with r₁ = ½ or ⅓ and r₂ = ⅔.
    """
    h, sigma_next = t_next - t, (-t_next).exp()
    whole = torch.expm1(h)
    slope = yield from _noise(model, x, t)
    reached = [x - sigma_next * whole * slope]
    if order == 1:
        return reached
    r_1, r_2 = 1 / order, 2 / 3
    s = t + r_1 * h
    guess = x - (-s).exp() * torch.expm1(r_1 * h) * slope
    change = (yield from _noise(model, guess, s)) - slope
    reached.append(reached[0] - sigma_next / (2 * r_1) * whole * change)
    if order == 2:
        return reached
    s = t + r_2 * h
    part = torch.expm1(r_2 * h)
    bend = r_2 / r_1 * (part / (r_2 * h) - 1)
    guess = x - (-s).exp() * part * slope - (-s).exp() * bend * change
    change = (yield from _noise(model, guess, s)) - slope
    reached.append(reached[0] - sigma_next / r_2 * (whole / h - 1) * change)
    return reached


def _noise(model: Denoiser, x: Tensor, t: Tensor) -> Steps[Tensor]:
    """The noise in ``x``, which is dx/dσ too."""
    sigma = (-t).exp()
    return (x - (yield from model(x, sigma))) / sigma
