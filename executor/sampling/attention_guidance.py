"""Guidance by what a model says with worse attention, or of a picture where it looks blurred.

Both lead away from a bad picture that the model makes itself, in one evaluation more a step. It
stands in batches like any other.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from executor.errors import InputError
from executor.patches import GuidancePatch, Moment, NetworkPatch, Stage
from executor.steps import Steps

_BLUR = 9  # latent pixels that are blurred into one, along a side


@dataclass(frozen=True, slots=True)
class PerturbedAttentionGuidance(GuidancePatch):
    """Away from what the model says of the positive prompt when its attention is perturbed.

    Ahn et al. (2024), beside classifier-free guidance.
    """

    scale: float
    perturbation: NetworkPatch
    stage: ClassVar[Stage] = "after"

    def applied(self, moment: Moment) -> Steps[Moment]:
        """Adds to what guidance gave."""
        if self.scale == 0:
            return moment
        worse = yield from moment.ask("towards", moment.x, self.perturbation)
        denoised = moment.denoised + (moment.towards - worse) * self.scale
        return replace(moment, denoised=denoised)


@dataclass(frozen=True, slots=True)
class SelfAttentionGuidance(GuidancePatch):
    """Away from what the model says when the picture is blurred where it pays attention.

    Hong et al. (2023), algorithm 1, for the negative prompts.
    """

    scale: float
    blur_sigma: float  # in latent pixels
    watching: NetworkPatch  # reports 1 where there is attention
    stage: ClassVar[Stage] = "after"
    needs_away: ClassVar[bool] = True

    @property
    def watch(self) -> NetworkPatch:
        """What tells where the model looks."""
        return self.watching

    def applied(self, moment: Moment) -> Steps[Moment]:
        """Adds to what guidance gave; of a latent too small to be blurred it leaves it."""
        if min(moment.x.shape[-2:]) <= _BLUR // 2:
            return moment
        looked, away = moment.report, moment.away
        if looked is None:
            raise InputError(
                "SelfAttentionGuidance blurs what negative prompts give, and there are none: use a "
                "guider that has some, as CFGGuider"
            )
        degraded = blurred(away, self.blur_sigma) * looked + away * (1 - looked)
        said = yield from moment.ask("away", degraded + moment.x - away, None)
        return replace(moment, denoised=moment.denoised + (degraded - said) * self.scale)


def blurred(rows: Tensor, sigma: float) -> Tensor:
    """Rows (B, C, h, w), more than 4 pixels a side, under a Gaussian of 9 × 9; at 0 as they are."""
    if sigma == 0:
        return rows
    places = torch.arange(_BLUR) - _BLUR // 2
    weights = torch.exp(-0.5 * (places / sigma) ** 2)
    weights = (weights / weights.sum()).to(rows)
    kernel = torch.outer(weights, weights).expand(rows.shape[1], 1, _BLUR, _BLUR)
    edge = _BLUR // 2
    return conv2d(pad(rows, (edge,) * 4, mode="reflect"), kernel, groups=rows.shape[1])
