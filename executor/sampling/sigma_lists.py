"""Lists of sigmas made from numbers, and lists made from lists; models have no say in them.

All are float32 on the CPU, and fall unless somebody turns them round. The formulas are taken in
float32 where ComfyUI takes them so.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from executor.errors import InputError

ALIGN_YOUR_STEPS: Mapping[str, tuple[float, ...]] = {
    "SD1": (
        *(14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092),
        *(0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
    ),
    "SDXL": (
        *(14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141),
        *(0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
    ),
    "SVD": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""Ten steps optimized for each model, as NVIDIA published them with Sabour et al. (2024)."""

SPACINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda share: share,
    "cosine": lambda share: torch.sin(share * math.pi / 2),
    "sine": lambda share: 1 - torch.cos(share * math.pi / 2),
}
"""Ways to walk from 0 to 1, by their names on the wire."""


def karras(steps: int, low: float, high: float, rho: float = 7.0) -> Tensor:
    """Karras et al. (2022), eq. 5: σ^(1/ρ) falls linearly; then 0."""
    _check(low, high)
    if rho <= 0:
        raise InputError(f"rho must be above 0, got {rho:g}; Karras et al. (2022) take 7")
    low, high = low ** (1 / rho), high ** (1 / rho)
    return then_zero((high + torch.linspace(0, 1, steps) * (low - high)) ** rho)


def exponential(steps: int, low: float, high: float) -> Tensor:
    """Log sigma falls linearly; then 0."""
    _check(low, high)
    return then_zero(torch.linspace(math.log(high), math.log(low), steps).exp())


def polyexponential(steps: int, low: float, high: float, rho: float = 1.0) -> Tensor:
    """Log sigma falls as a power of the steps left; then 0."""
    _check(low, high)
    ramp = torch.linspace(1, 0, steps) ** rho
    return then_zero(torch.exp(ramp * (math.log(high) - math.log(low)) + math.log(low)))


def laplace(steps: int, low: float, high: float, mu: float = 0.0, beta: float = 0.5) -> Tensor:
    """Log sigma at quantiles of a Laplace distribution (Hang et al. 2024), within the range.

    There is no 0 at the end: so many sigmas as steps, as ComfyUI has it.
    """
    _check(low, high)
    place = 0.5 - torch.linspace(0, 1, steps)
    # 1e-5 keeps the ends finite; they are cut off anyway.
    log = mu - beta * place.sign() * (1 - 2 * place.abs() + 1e-5).log()
    return log.exp().clamp(min=low, max=high)


def variance_preserving(
    steps: int, beta_d: float = 19.9, beta_min: float = 0.1, least_time: float = 1e-3
) -> Tensor:
    """Even times of the continuous VP SDE (Song et al. 2021, eq. 32), from 1 down; then 0."""
    t = torch.linspace(1, least_time, steps)
    sigmas = torch.sqrt(torch.expm1(beta_d * t**2 / 2 + beta_min * t))
    if not (sigmas > 0).all() or not sigmas.isfinite().all():
        raise InputError(
            f"beta_d {beta_d:g}, beta_min {beta_min:g} and eps_s {least_time:g} give sigmas of"
            f" {float(sigmas[0]):g} to {float(sigmas[-1]):g}; they must be above 0 and finite"
        )
    return then_zero(sigmas)


def align_your_steps(model_type: str, steps: int, denoise: float = 1.0) -> Tensor:
    """The published ten steps, others by interpolation in log sigma; then 0.

    ``denoise`` below 1 takes the last of the steps, rounded. None at all if it is 0.
    """
    if denoise <= 0:
        return torch.empty(0)
    levels = np.array(ALIGN_YOUR_STEPS[model_type])
    if steps + 1 != len(levels):
        places = np.linspace(0, len(levels) - 1, steps + 1)
        levels = np.exp(np.interp(places, np.arange(len(levels)), np.log(levels)))
    wanted = round(steps * denoise) if denoise < 1 else steps
    return then_zero(torch.from_numpy(levels[-(wanted + 1) : -1]).float())


def split_at_denoise(sigmas: Tensor, denoise: float) -> tuple[Tensor, Tensor]:
    """The sigmas before the last share of the steps, and that share; both hold the one between.

    Of no share the first part is empty, as in ComfyUI.
    """
    wanted = round(max(len(sigmas) - 1, 0) * denoise)
    return sigmas[:-wanted] if wanted else sigmas[:0], sigmas[-(wanted + 1) :]


def flipped(sigmas: Tensor) -> Tensor:
    """From the least to the most noise; a 0 at the beginning becomes 0.0001, where λ is finite."""
    sigmas = sigmas.flip(0)
    if len(sigmas) and sigmas[0] == 0:
        sigmas[0] = 0.0001
    return sigmas


def with_first(sigmas: Tensor, sigma: float) -> Tensor:
    """The same, beginning elsewhere."""
    return torch.cat([sigmas.new_tensor([sigma]), sigmas[1:]]) if len(sigmas) else sigmas


def extended(sigmas: Tensor, steps: int, start: float, end: float, spacing: str) -> Tensor:
    """Each step that begins between two sigmas in so many; ``start`` below 0: whatever is above.

    ``spacing`` is one of ``SPACINGS``.
    """
    sigmas, start = sigmas.cpu(), math.inf if start < 0 else start
    shares = SPACINGS[spacing](torch.linspace(0, 1, steps + 1)[1:-1])
    parts: list[Tensor] = []
    for sigma, sigma_next in pairwise(sigmas):
        parts.append(sigma[None])
        if end <= sigma <= start:
            parts.append(shares * (sigma_next - sigma) + sigma)
    return torch.cat([*parts, sigmas[-1:]])


def then_zero(sigmas: Tensor) -> Tensor:
    """The same, and 0."""
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _check(low: float, high: float) -> None:
    if low <= 0 or high <= 0:
        raise InputError(
            f"sigma_min and sigma_max must be above 0, got {low:g} and {high:g};"
            " Stable Diffusion's are 0.0292 and 14.6"
        )
