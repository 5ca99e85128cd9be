"""Samplers that follow a reverse-time SDE in λ = −log σ by exponential integrators.

Over a step of length h in λ the linear part of the SDE, noise included, has a closed form; what is
integrated numerically is D alone. ``eta`` is how much noise the SDE replaces (1: as the diffusion
itself; 0: none, an ODE), ``s_noise`` scales it. A last step to 0 takes the denoised latent. Scalars
are float64: their terms nearly cancel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from executor.sampling_ports import AddedNoise, Denoiser
from executor.steps import Steps

ER_POINTS = 200
"""How many points of a step ER-SDE's integrals are taken at, as in its authors' code."""

Past: TypeAlias = Sequence[tuple[Tensor, Tensor]]
"""Lengths in λ of steps done, latest first, and D at the beginning of each."""


def dpmpp_2m_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver: Literal["midpoint", "heun"] = "midpoint",
) -> Steps[Tensor]:
    """SDE-DPM-Solver++(2M): Lu et al. (2022b), algorithm 2 for the SDE.

    ``heun`` integrates D's slope exactly, ``midpoint`` as algorithm 2 does.
    """
    correction = partial(_second_order, is_exact=solver == "heun")
    return (yield from _multistep(model, x, sigmas, noise, eta, s_noise, correction))


def dpmpp_2m_sde_heun(
    model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise
) -> Steps[Tensor]:
    """SDE-DPM-Solver++(2M) that integrates D's slope exactly."""
    return (yield from dpmpp_2m_sde(model, x, sigmas, noise, solver="heun"))


def dpmpp_3m_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Steps[Tensor]:
    """SDE-DPM-Solver++(3M): D as a parabola in λ through its last three values (Crowson 2023).

    Its bend counts half of what it should, as in Crowson's code and in ComfyUI.
    """
    return (yield from _multistep(model, x, sigmas, noise, eta, s_noise, _third_order))


def _multistep(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    eta: float,
    s_noise: float,
    correction: Callable[[Tensor, Tensor, Tensor, Past], Tensor | float],
) -> Steps[Tensor]:
    """The exact step for a constant D, and a correction for its change, as the past shows it."""
    past: list[tuple[Tensor, Tensor]] = []
    for sigma, sigma_next in pairwise(sigmas.double()):
        denoised = yield from model(x, sigma.to(sigmas))
        if sigma_next == 0:
            return denoised
        h = (sigma / sigma_next).log()
        x = sigma_next / sigma * torch.exp(-h * eta) * x - torch.expm1(-h * (1 + eta)) * denoised
        x = x + correction(h * (1 + eta), h, denoised, past)
        if eta > 0 and s_noise > 0:
            spread = sigma_next * (-torch.expm1(-2 * h * eta)).sqrt()
            x = x + noise(sigma.to(sigmas), sigma_next.to(sigmas)) * spread * s_noise
        past = [(h, denoised), *past[:1]]
    return x


def _second_order(
    reach: Tensor, h: Tensor, denoised: Tensor, past: Past, *, is_exact: bool
) -> Tensor | float:
    """For a D that goes on as it went; ``reach`` is the step (1 + η) h of the exponential."""
    if not past:
        return 0.0
    h_previous, denoised_previous = past[0]
    whole = -torch.expm1(-reach)
    share = 1 - whole / reach if is_exact else whole / 2
    return share * h / h_previous * (denoised - denoised_previous)


def _third_order(reach: Tensor, h: Tensor, denoised: Tensor, past: Past) -> Tensor | float:
    """For a D that bends as it bent: Newton's divided differences over steps in units of h."""
    if len(past) < 2:
        return _second_order(reach, h, denoised, past, is_exact=True)
    (h_1, denoised_1), (h_2, denoised_2) = past
    r_1, r_2 = h_1 / h, h_2 / h
    slope, slope_previous = (denoised - denoised_1) / r_1, (denoised_1 - denoised_2) / r_2
    bend = (slope - slope_previous) / (r_1 + r_2)
    first = 1 + torch.expm1(-reach) / reach
    second = first / reach - 0.5
    return first * (slope + bend * r_1) - second * bend


def er_noise_scale(sigma: Tensor) -> Tensor:
    """The φ of the best of the paper's extended SDEs ("ER SDE 5")."""
    return sigma * ((sigma**0.3).exp() + 10)


def er_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    order: int = 3,
    s_noise: float = 1.0,
    scale: Callable[[Tensor], Tensor] = er_noise_scale,
) -> Steps[Tensor]:
    """VE ER-SDE-Solver-3 (Cui et al. 2023): D as a polynomial in σ, for any SDE of a family.

    The SDE is given by ``scale``, φ(σ): σ² stands for the diffusion's own reverse, σ for the ODE.
    Integrals are sums over ``ER_POINTS`` from the lower end.
    """
    before: list[tuple[Tensor, Tensor]] = []  # sigma and D, latest first
    slope_previous: Tensor | None = None
    for sigma, sigma_next in pairwise(sigmas.double()):
        denoised = yield from model(x, sigma.to(sigmas))
        if sigma_next == 0:
            return denoised
        ratio = scale(sigma_next) / scale(sigma)
        x = ratio * x + (1 - ratio) * denoised
        step = sigma_next - sigma
        width = -step / ER_POINTS
        points = sigma_next + torch.arange(ER_POINTS, dtype=torch.float64) * width
        if before and order > 1:
            slope = (denoised - before[0][1]) / (sigma - before[0][0])
            integral = (width / scale(points)).sum()
            x = x + (step + integral * scale(sigma_next)) * slope
            if slope_previous is not None and order > 2:
                bend = (slope - slope_previous) / ((sigma - before[1][0]) / 2)
                integral = (width * (points - sigma) / scale(points)).sum()
                x = x + (step**2 / 2 + integral * scale(sigma_next)) * bend
            slope_previous = slope
        if s_noise > 0:
            spread = (sigma_next**2 - sigma**2 * ratio**2).clamp(min=0).sqrt()
            x = x + noise(sigma.to(sigmas), sigma_next.to(sigmas)) * s_noise * spread
        before = [(sigma, denoised), *before[:1]]
    return x


def seeds_2(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 1 / 2,
) -> Steps[Tensor]:
    """SEEDS-2 (Gonzalez et al. 2023, algorithm 2), data prediction: D again at ``r`` of a step."""
    for sigma, sigma_next in pairwise(sigmas.double()):
        denoised = yield from model(x, sigma.to(sigmas))
        if sigma_next == 0:
            return denoised
        way = _Way(sigma, sigma_next, eta, s_noise, noise, sigmas)
        added = way.added(0.0, r, None)
        guess = way.reached(r, x, way.whole(r) * denoised, added)
        denoised_middle = yield from model(guess, way.at(r))
        estimate = torch.lerp(denoised, denoised_middle, 1 / (2 * r))
        added = way.added(r, 1.0, added)
        x = way.reached(1.0, x, way.whole(1.0) * estimate, added)
    return x


def seeds_3(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Steps[Tensor]:
    """SEEDS-3 (Gonzalez et al. 2023, algorithm 3), data prediction: D again at ⅓ and ⅔."""
    r_1, r_2 = 1 / 3, 2 / 3
    for sigma, sigma_next in pairwise(sigmas.double()):
        denoised = yield from model(x, sigma.to(sigmas))
        if sigma_next == 0:
            return denoised
        way = _Way(sigma, sigma_next, eta, s_noise, noise, sigmas)
        added = way.added(0.0, r_1, None)
        guess = way.reached(r_1, x, way.whole(r_1) * denoised, added)
        change = (yield from model(guess, way.at(r_1))) - denoised
        added = way.added(r_1, r_2, added)
        drift = way.whole(r_2) * denoised + way.slope(r_2) * (r_2 / r_1) * change
        guess = way.reached(r_2, x, drift, added)
        change = (yield from model(guess, way.at(r_2))) - denoised
        added = way.added(r_2, 1.0, added)
        drift = way.whole(1.0) * denoised + way.slope(1.0) / r_2 * change
        x = way.reached(1.0, x, drift, added)
    return x


@dataclass(frozen=True, slots=True)
class _Way:
    """A step of SEEDS; places on it are shares of its length in λ."""

    sigma: Tensor
    sigma_next: Tensor
    eta: float
    s_noise: float
    noise: AddedNoise
    like: Tensor  # of the dtype that denoisers are asked in

    @property
    def length(self) -> Tensor:
        return (self.sigma / self.sigma_next).log()

    def at(self, place: float) -> Tensor:
        """Sigma there."""
        return (self.sigma * torch.exp(-place * self.length)).to(self.like)

    def whole(self, place: float) -> Tensor:
        """What a constant D counts there."""
        return -torch.expm1(-place * self.length * (1 + self.eta))

    def slope(self, place: float) -> Tensor:
        """What D's change from the beginning to there counts there."""
        return 1 - self.whole(place) / (place * self.length * (1 + self.eta))

    def reached(self, place: float, x: Tensor, drift: Tensor, added: Tensor | None) -> Tensor:
        """The latent there, from the one at the beginning."""
        sigma = self.sigma * torch.exp(-place * self.length)
        x = sigma / self.sigma * torch.exp(-place * self.length * self.eta) * x + drift
        return x if added is None else x + added * sigma * self.s_noise

    def added(self, start: float, end: float, before: Tensor | None) -> Tensor | None:
        """The noise of the way until ``end``, from that until ``start``; None without noise."""
        if not (self.eta > 0 and self.s_noise > 0):
            return None
        reach = (end - start) * self.length * self.eta
        fresh = (-torch.expm1(-2 * reach)).sqrt() * self.noise(self.at(start), self.at(end))
        return fresh if before is None else before * torch.exp(-reach) + fresh
