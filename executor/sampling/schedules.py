"""How much noise there is: a model's noise schedule, and the ways to step down along it.

``sigma`` is the standard deviation of the noise on a latent whose data has variance about 1. A
model knows sigma at its 1,000 training timesteps (``DiscreteSchedule``); a scheduler picks the
falling list of sigmas that a sampler walks, which ends in 0. All tensors are float32 and on the
CPU: samplers mix them, as scalars, with latents anywhere.

Agreement with ComfyUI rests on details: tables made in float64 and cast once, timesteps rounded to
the nearest in log sigma, its rounding in ``simple`` and ``ddim_uniform``.
``tests/test_schedules.py`` holds them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from executor.errors import InputError, nearest
from executor.ports import NoiseSchedule
from executor.sampling import sigma_lists
from executor.sampling.sigma_lists import then_zero

BEFORE_ALL_NOISE = 999_999_999.9
"""A sigma above every sigma: where 0 % of the sampling is done."""

MOST_STEPS = 1_000_000
"""More than anybody waits for; a tiny ``denoise`` would ask for a list of any length."""


@dataclass(frozen=True, slots=True, eq=False)
class DiscreteSchedule:
    """Sigma at each of a model's training timesteps; in between, log sigma is linear."""

    sigmas: Tensor  # (T,) float32, rising
    log_sigmas: Tensor  # (T,) float32
    _log_sigmas_on: dict[torch.device, Tensor] = field(default_factory=dict[torch.device, Tensor])

    @classmethod
    def scaled_linear(
        cls, start: float = 0.00085, end: float = 0.012, timesteps: int = 1000
    ) -> "DiscreteSchedule":
        """Stable Diffusion's schedule: √β rises linearly."""
        return cls.from_betas(scaled_linear_betas(start, end, timesteps))

    @classmethod
    def from_betas(cls, betas: Tensor) -> "DiscreteSchedule":
        """From the variance that each forward diffusion step adds (Ho et al. 2020, eq. 2)."""
        return cls.from_alphas_cumprod(torch.cumprod(1 - betas.double(), dim=0))

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> "DiscreteSchedule":
        """From the share of the signal's variance left at each timestep; all above 0."""
        share = alphas_cumprod.double()
        sigmas = ((1 - share) / share) ** 0.5
        return cls(sigmas.float(), sigmas.log().float())

    @property
    def sigma_min(self) -> float:
        """The least sigma that the model was trained on."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """The largest sigma that the model was trained on."""
        return float(self.sigmas[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        """The nearest training timestep in log sigma: whole numbers, as float32."""
        table = self._log_sigmas_on.get(sigma.device)
        if table is None:
            table = self._log_sigmas_on[sigma.device] = self.log_sigmas.to(sigma.device)
        distance = (sigma.float().log().reshape(1, -1) - table[:, None]).abs()  # (T, B)
        return distance.argmin(dim=0).float().reshape(sigma.shape)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Sigma at a fractional timestep, interpolated in log sigma; beyond the table, its ends."""
        t = timestep.float().cpu().clamp(0, len(self.sigmas) - 1)
        low, high, part = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - part) * self.log_sigmas[low] + part * self.log_sigmas[high]).exp()

    def percent_to_sigma(self, percent: float) -> float:
        """Sigma when so much (0…1) of the timesteps is done."""
        if percent <= 0:
            return BEFORE_ALL_NOISE
        if percent >= 1:
            return 0.0
        return float(self.sigma(torch.tensor((1 - percent) * (len(self.sigmas) - 1))))


def scaled_linear_betas(
    start: float = 0.00085, end: float = 0.012, timesteps: int = 1000
) -> Tensor:
    """What each forward diffusion step adds where √β rises linearly, float64."""
    return torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2


def normal(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced timesteps from the most to the least noise, both included."""
    start, end = _timestep_range(schedule)
    return then_zero(schedule.sigma(torch.linspace(start, end, steps)))


def sgm_uniform(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced timesteps, the least noise left out: 0 stands in its place."""
    start, end = _timestep_range(schedule)
    return then_zero(schedule.sigma(torch.linspace(start, end, steps + 1)[:-1]))


def simple(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Every n-th training timestep from the top, rounded down."""
    stride = len(schedule.sigmas) / steps
    back = (torch.arange(steps, dtype=torch.float64) * stride).long()
    return then_zero(schedule.sigmas[len(schedule.sigmas) - 1 - back])


def ddim_uniform(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Every n-th training timestep from the second one up (Song et al. 2021).

    As the stride is a whole number and counted from below, it may give more steps than asked for,
    and few steps begin far below the largest sigma: 4 steps at 4.1 instead of 14.6. So do
    ComfyUI's.
    """
    stride = max(len(schedule.sigmas) // steps, 1)
    return then_zero(schedule.sigmas[1::stride].flip(0))


def karras(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Karras et al. (2022), eq. 5, with ρ = 7."""
    return sigma_lists.karras(steps, schedule.sigma_min, schedule.sigma_max)


def exponential(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Log sigma falls linearly."""
    return sigma_lists.exponential(steps, schedule.sigma_min, schedule.sigma_max)


def beta(schedule: NoiseSchedule, steps: int, shape: float = 0.6) -> Tensor:
    """Timesteps at quantiles of Beta(0.6, 0.6), dense at both ends (Lee et al. 2024).

    Steps that fall on the same timestep are merged, so there may be fewer than asked for.
    """
    last = len(schedule.sigmas) - 1
    borders = (torch.arange(last, dtype=torch.float64) + 0.5) / last  # between the timesteps' cells
    quantiles = 1 - torch.arange(steps, dtype=torch.float64) / steps
    # The median of a table of even length lies on a border: it goes to the upper cell.
    timesteps = torch.searchsorted(_beta_cdf(borders, shape), quantiles + 1e-12, right=True)
    return then_zero(schedule.sigmas[timesteps.unique_consecutive()])


def beta_shaped(schedule: NoiseSchedule, steps: int, a: float, b: float) -> Tensor:
    """The same at quantiles of Beta(a, b). Raises InputError for a shape that is not above 0."""
    from scipy.stats import beta as distribution  # here, as it takes as long to load as all else

    if a <= 0 or b <= 0:
        raise InputError(f"the shape of a beta distribution is above 0, got {a:g} and {b:g}")
    quantiles = 1 - torch.arange(steps, dtype=torch.float64) / steps
    places = torch.from_numpy(distribution.ppf(quantiles.numpy(), a, b))
    timesteps = (places * (len(schedule.sigmas) - 1)).round().long()
    return then_zero(schedule.sigmas[timesteps.unique_consecutive()])


def linear_quadratic(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Falls a little, linearly, for half of the steps, and quadratically for the rest.

    Polyak et al. (2024, Movie Gen), on sigma: linear until 0.025 of the largest is gone, and on
    from there with no kink.
    """
    if steps == 1:
        return torch.tensor([schedule.sigma_max, 0.0])
    linear = steps // 2
    slope = LINEAR_SHARE / linear
    place = torch.arange(steps + 1, dtype=torch.float64)
    # Zero at the end, and the slope at the kink, fix the parabola.
    beyond = (place - linear).clamp(min=0)
    rest = steps - linear
    gone = place * slope + (1 - steps * slope) * (beyond / rest) ** 2
    return ((1 - gone) * schedule.sigma_max).float()


def turbo(schedule: NoiseSchedule, steps: int, denoise: float = 1.0) -> Tensor:
    """The first of the timesteps 999, 899 … 99 that SD-Turbo was distilled to (Sauer et al. 2023).

    ``denoise`` below 1 begins further down, by whole tenths.
    """
    skipped = 10 - int(10 * denoise)
    timesteps = torch.arange(999, 0, -100)[skipped : skipped + steps]
    return then_zero(schedule.sigma(timesteps))


def kl_optimal(schedule: NoiseSchedule, steps: int) -> Tensor:
    """arctan σ falls linearly: best for normal data (Sabour et al. 2024, Align Your Steps)."""
    high, low = math.atan(schedule.sigma_max), math.atan(schedule.sigma_min)
    return then_zero(torch.linspace(high, low, steps).tan())


LINEAR_SHARE = 0.025
"""The part of the noise that goes in ``linear_quadratic``'s first half."""

Scheduler = Callable[[NoiseSchedule, int], Tensor]

SCHEDULERS: Mapping[str, Scheduler] = {
    "simple": simple,
    "sgm_uniform": sgm_uniform,
    "karras": karras,
    "exponential": exponential,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "normal": normal,
    "linear_quadratic": linear_quadratic,
    "kl_optimal": kl_optimal,
}
"""Schedulers by their names on the wire."""


def sigmas_for(
    schedule: NoiseSchedule,
    scheduler: str,
    steps: int,
    denoise: float = 1.0,
    *,
    drops_penultimate: bool = False,
) -> Tensor:
    """The falling sigmas of a run, 0 at the end; none at all if ``denoise`` is 0.

    ``denoise`` below 1 takes the tail of a longer schedule (SDEdit, Meng et al. 2022): ``steps`` of
    ``int(steps / denoise)``. ``drops_penultimate`` leaves out the least positive sigma, one step
    being added for it. Raises InputError for an unknown scheduler or an impossible number of steps.
    """
    if scheduler not in SCHEDULERS:
        hint = nearest(scheduler, SCHEDULERS)
        raise InputError(
            f"there is no scheduler {scheduler!r}{hint or ': ' + ', '.join(SCHEDULERS)}"
        )
    if denoise <= 0:
        return torch.empty(0)
    is_partial = denoise <= 0.9999  # as ComfyUI: what rounds to 1 is 1
    total = int(steps / denoise) if is_partial else steps
    if steps < 1 or total > MOST_STEPS:
        raise InputError(
            f"{steps} steps with denoise {denoise:g} need a schedule of {total:,} steps;"
            f" there can be 1 to {MOST_STEPS:,}"
        )
    if drops_penultimate:
        sigmas = SCHEDULERS[scheduler](schedule, total + 1)
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    else:
        sigmas = SCHEDULERS[scheduler](schedule, total)
    return sigmas[-(steps + 1) :] if is_partial else sigmas


def _timestep_range(schedule: NoiseSchedule) -> tuple[float, float]:
    """The timesteps of the largest and of the least sigma."""
    ends = schedule.timestep(torch.tensor([schedule.sigma_max, schedule.sigma_min]))
    return float(ends[0]), float(ends[1])


def _beta_cdf(x: Tensor, a: float) -> Tensor:
    """The cumulative distribution of Beta(a, a): its power series below ½ (DLMF 8.17.7), mirrored
    above.
    """
    n = torch.arange(
        64, dtype=torch.float64
    )  # at ½ a term is half the one before: 64 exhaust float64
    rising = torch.cat([n.new_ones(1), ((n + 1 - a) / (n + 1)).cumprod(0)[:-1]])
    low = torch.minimum(x, 1 - x)
    series = (low[:, None] ** n * rising / (a + n)).sum(dim=1)
    tail = low**a * series * math.exp(math.lgamma(2 * a) - 2 * math.lgamma(a))
    return torch.where(x <= 0.5, tail, 1 - tail)
