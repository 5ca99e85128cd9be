"""Noise schedules of models that were not trained on Stable Diffusion's own 1,000 timesteps.

As ``schedules.DiscreteSchedule``: float32 tables on the CPU. ``schedule_for`` gives the schedule of
any objective.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from executor.errors import InputError
from executor.ports import NoiseSchedule, Objective
from executor.sampling.schedules import BEFORE_ALL_NOISE, DiscreteSchedule, scaled_linear_betas

LAST_SIGNAL = 4.8973451890853435e-08
"""Share of the signal's variance that stands for none, whose sigma would be infinite: ComfyUI's."""

DISTILLED = 50
"""Timesteps of the thousand that consistency distillation was trained on (Luo et al. 2023)."""

_TIMESTEPS = 1000


def schedule_for(objective: Objective) -> NoiseSchedule:
    """The schedule that a network with this objective was trained on."""
    if objective.sigmas is not None:
        return ContinuousSchedule.between(*objective.sigmas)
    betas = scaled_linear_betas()
    of_betas = zero_terminal if objective.has_zero_terminal_snr else DiscreteSchedule.from_betas
    schedule = of_betas(betas)
    return DistilledSchedule.of(schedule) if objective.prediction == "lcm" else schedule


def zero_terminal(betas: Tensor) -> DiscreteSchedule:
    """The schedule of these variances, shifted and scaled until its last timestep is all noise.

    Lin et al. (2023), algorithm 1: the square root of the signal's share keeps its first value and
    falls to 0.
    """
    signal = torch.cumprod(1 - betas.double(), dim=0).sqrt()
    signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
    share = signal**2
    share[-1] = LAST_SIGNAL
    return DiscreteSchedule.from_alphas_cumprod(share)


@dataclass(frozen=True, slots=True, eq=False)
class DistilledSchedule:
    """Every twentieth timestep of a schedule, and nothing between them."""

    table: DiscreteSchedule  # of the timesteps that are left
    stride: int

    @classmethod
    def of(cls, schedule: DiscreteSchedule) -> "DistilledSchedule":
        """The last of each ``stride`` timesteps stays."""
        stride = len(schedule.sigmas) // DISTILLED
        sigmas = schedule.sigmas[stride - 1 :: stride]
        return cls(DiscreteSchedule(sigmas, sigmas.log()), stride)

    @property
    def sigmas(self) -> Tensor:
        """Rising, (50,) float32."""
        return self.table.sigmas

    @property
    def sigma_min(self) -> float:
        """The least sigma that the model was trained on."""
        return self.table.sigma_min

    @property
    def sigma_max(self) -> float:
        """The largest sigma that the model was trained on."""
        return self.table.sigma_max

    def timestep(self, sigma: Tensor) -> Tensor:
        """The nearest timestep in log sigma, of those that are left."""
        return self.table.timestep(sigma) * self.stride + (self.stride - 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Sigma at a fractional timestep, interpolated in log sigma; beyond the table, its ends."""
        return self.table.sigma((timestep.float() - (self.stride - 1)) / self.stride)

    def percent_to_sigma(self, percent: float) -> float:
        """Sigma when so much (0…1) of the thousand timesteps is done."""
        if percent <= 0:
            return BEFORE_ALL_NOISE
        if percent >= 1:
            return 0.0
        return float(self.sigma(torch.tensor((1 - percent) * (_TIMESTEPS - 1))))


@dataclass(frozen=True, slots=True, eq=False)
class ContinuousSchedule:
    """Every sigma in a range; a timestep is ln(σ) / 4 (Karras et al. 2022, table 1)."""

    sigmas: Tensor  # (1000,) float32, rising, even in log sigma: what some schedulers pick from

    @classmethod
    def between(cls, least: float, largest: float) -> "ContinuousSchedule":
        """Raises InputError for what is no range of positive numbers."""
        if not 0 < least < largest:
            raise InputError(
                f"sigma_min must be above 0 and below sigma_max, got {least:g} and {largest:g}"
            )
        return cls(torch.linspace(math.log(least), math.log(largest), _TIMESTEPS).exp())

    @property
    def sigma_min(self) -> float:
        """The least sigma that the model was trained on."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """The largest sigma that the model was trained on."""
        return float(self.sigmas[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the network is told in place of a timestep."""
        return 0.25 * sigma.float().log()

    def sigma(self, timestep: Tensor) -> Tensor:
        """The sigma of such a timestep."""
        return (timestep.float().cpu() / 0.25).exp()

    def percent_to_sigma(self, percent: float) -> float:
        """Sigma when so much (0…1) of the way down in log sigma is done."""
        if percent <= 0:
            return BEFORE_ALL_NOISE
        if percent >= 1:
            return 0.0
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return math.exp(low + (high - low) * (1 - percent))
