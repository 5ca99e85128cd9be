"""Patches of guidance that ask for nothing: other ways from two estimates to one.

All work on denoised values, each row by itself.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from executor.patches import GuidancePatch, Moment, Stage
from executor.sampling.combining import apart

_ROW = (1, 2, 3)  # the dimensions of one
_LITTLE = 1e-8  # keeps what is divided by from being 0


@dataclass(frozen=True, slots=True)
class RescaledGuidance(GuidancePatch):
    """What guidance gives, brought back to the positive estimate's contrast.

    Lin et al. (2023, §3.4): in v, the guided estimate is scaled to the positive one's standard
    deviation and mixed with itself unscaled, ``multiplier`` being the scaled one's share (eq. 15,
    16). As in ComfyUI, v is that of Salimans & Ho (2022) whatever the model predicts.
    """

    multiplier: float
    stage: ClassVar[Stage] = "instead"

    def applied(self, moment: Moment) -> Moment:
        """Combines the estimates."""
        x, sigma = moment.x, moment.sigma.to(moment.x)
        variance = sigma**2 + 1

        def velocity(denoised: Tensor) -> Tensor:
            return (x / variance - denoised) * variance**0.5 / sigma

        towards = velocity(moment.towards)
        guided = apart(towards, velocity(moment.away), moment.cfg)
        scaled = guided * (_deviation(towards) / _deviation(guided))
        mixed = self.multiplier * scaled + (1 - self.multiplier) * guided
        return replace(moment, denoised=x / variance - mixed * sigma / variance**0.5)


@dataclass(frozen=True, slots=True)
class RenormedGuidance(GuidancePatch):
    """What guidance gives, no longer than ``most`` times the positive estimate; 0: of any length.

    Qin et al. (2025, Lumina-Image 2.0). From ``least_sigma`` upwards there is no guidance.
    """

    most: float
    least_sigma: float
    stage: ClassVar[Stage] = "instead"

    def applied(self, moment: Moment) -> Moment:
        """Combines the estimates."""
        if float(moment.sigma) >= self.least_sigma:
            return replace(moment, denoised=moment.towards)
        guided = apart(moment.towards, moment.away, moment.cfg)
        if self.most > 0:
            longest = _length(moment.towards) * self.most
            guided = guided * (longest / _length(guided).clamp_min(_LITTLE)).clamp_max(1)
        return replace(moment, denoised=guided)


@dataclass(frozen=True, slots=True)
class TangentialDamping(GuidancePatch):
    """The negative estimate without what the positive one knows nothing of (Kwon et al. 2025).

    Of both scores' singular vectors only the first stays in the negative one.
    """

    stage: ClassVar[Stage] = "before"

    def applied(self, moment: Moment) -> Moment:
        """Changes the negative estimate."""
        if not moment.has_away:
            return moment
        away = moment.x - moment.away
        scores = torch.stack((away.flatten(1), (moment.x - moment.towards).flatten(1)), dim=1)
        first = torch.linalg.svd(scores.float(), full_matrices=False).Vh[:, 0]  # (B, C · h · w)
        kept = (away.flatten(1) * first).sum(dim=1, keepdim=True) * first
        return replace(moment, away=moment.x - kept.reshape_as(away))


@dataclass(frozen=True, slots=True)
class ZeroStar(GuidancePatch):
    """The negative estimate is scaled by what brings its noise nearest to the positive one's.

    Fan et al. (2025, CFG-Zero*), but no step is left out.
    """

    stage: ClassVar[Stage] = "after"

    def applied(self, moment: Moment) -> Moment:
        """Corrects what guidance gave."""
        towards, away = moment.x - moment.towards, moment.x - moment.away
        product = (towards * away).sum(dim=_ROW, keepdim=True)
        scale = product / ((away**2).sum(dim=_ROW, keepdim=True) + _LITTLE)
        correction = moment.away * (scale - 1) * (1 - moment.cfg)
        return replace(moment, denoised=moment.denoised + correction)


@dataclass(frozen=True, slots=True)
class NormedGuidance(GuidancePatch):
    """At each latent pixel no longer than the positive estimate there; ``strength`` times that."""

    strength: float
    stage: ClassVar[Stage] = "after"

    def applied(self, moment: Moment) -> Moment:
        """Shortens what guidance gave."""
        longest = moment.towards.norm(dim=1, keepdim=True)
        scale = longest / (moment.denoised.norm(dim=1, keepdim=True) + _LITTLE)
        return replace(moment, denoised=moment.denoised * scale.clamp(0, 1) * self.strength)


@dataclass(frozen=True, slots=True)
class Mahiro(GuidancePatch):
    """Less guidance, and more of the positive estimate scaled, the less alike both sides are.

    ComfyUI's node of this name; there is no paper.
    """

    stage: ClassVar[Stage] = "after"

    def applied(self, moment: Moment) -> Moment:
        """Mixes what guidance gave with the positive estimate alone."""
        leap = moment.towards * moment.cfg
        middle = (leap + moment.denoised) / 2
        alike = cosine_similarity(_root(moment.away * moment.cfg), _root(middle), dim=1)
        share = (alike.mean(dim=(1, 2))[:, None, None, None] + 1) / 2
        return replace(moment, denoised=share * moment.denoised + (1 - share) * leap)


def _root(numbers: Tensor) -> Tensor:
    """Square roots that keep the sign."""
    return numbers.abs().sqrt() * numbers.sign()


def _deviation(rows: Tensor) -> Tensor:
    return rows.std(dim=_ROW, keepdim=True)


def _length(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=_ROW, keepdim=True).sqrt()
