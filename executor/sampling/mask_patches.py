"""Patches of noise masks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from executor.patches import MaskPatch
from executor.ports import NoiseSchedule


@dataclass(frozen=True, slots=True)
class DifferentialDiffusion(MaskPatch):
    """A grey mask says when a place becomes free (Levin & Fried 2023, algorithm 1).

    1 from the first step on, less the later; 0 at the end of the last alone. How far a step is, its
    timestep says. ``strength`` is the share of this mask beside the grey one; as in ComfyUI, 0 is
    the same as 1.
    """

    strength: float = 1.0

    def applied(
        self, free: Tensor, sigma: Tensor, sigmas: Tensor, schedule: NoiseSchedule
    ) -> Tensor:
        """What is free at this sigma."""
        last = sigmas[-1].clamp_min(schedule.sigma_min)
        first, now, end = schedule.timestep(torch.stack((sigmas[0], sigma.to(sigmas), last)))
        left = float((now - end) / (first - end)) if first != end else 0.0
        is_free = (free >= left).to(free)
        if 0 < self.strength < 1:
            return self.strength * is_free + (1 - self.strength) * free
        return is_free
