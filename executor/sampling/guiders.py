"""Guiders: a model with its prompts, and how what they say is combined (``GUIDER`` on the wire)."""

from dataclasses import dataclass
from math import isclose

from torch import Tensor

from executor.ports import Canvas, Conditioning, DiffusionModel
from executor.sampling.combining import apart, asks_away
from executor.sampling.guidance import Side, guided, mixtures
from executor.sampling_ports import Denoiser, Estimate
from executor.steps import Steps


@dataclass(frozen=True, slots=True, eq=False)
class CfgGuider:
    """Towards one set of prompts and away from another."""

    model: DiffusionModel
    positive: Conditioning
    negative: Conditioning
    cfg: float  # 1: no guidance

    def denoiser(self, canvas: Canvas, sigmas: Tensor, *, uses_unguided: bool) -> Denoiser:
        """Classifier-free guidance."""
        return guided(
            self.model,
            self.positive,
            self.negative,
            cfg=self.cfg,
            canvas=canvas,
            sigmas=sigmas,
            uses_unguided=uses_unguided,
        )


@dataclass(frozen=True, slots=True, eq=False)
class BasicGuider:
    """One set of prompts, nothing to go away from."""

    model: DiffusionModel
    conditioning: Conditioning

    def denoiser(self, canvas: Canvas, sigmas: Tensor, *, uses_unguided: bool) -> Denoiser:
        """No guidance; unguided is then the same. (ComfyUI takes it for 0, hence no picture.)"""
        sides = (Side(self.conditioning, is_negative=False),)
        estimates = mixtures(self.model, sides, canvas, sigmas)

        def both(x: Tensor, sigma: Tensor) -> Steps[Estimate]:
            answers = yield from estimates.at(x, sigma)
            return (yield from estimates.combined(x, sigma, answers, 1.0, towards=0, away=None))

        return Denoiser(both, self.model.schedule)


@dataclass(frozen=True, slots=True, eq=False)
class DualCfgGuider:
    """Two scales: towards ``first`` from ``second``, and towards ``second`` from ``negative``.

    Brooks et al. (2023, InstructPix2Pix), eq. 3, whose text and picture stand in ``first`` and
    whose picture alone in ``second``. Nested, the second scale leads from ``negative`` to where the
    first has led.
    """

    model: DiffusionModel
    first: Conditioning
    second: Conditioning
    negative: Conditioning
    cfg_first: float
    cfg_second: float
    is_nested: bool = False

    def denoiser(self, canvas: Canvas, sigmas: Tensor, *, uses_unguided: bool) -> Denoiser:
        """Sides that would count for nothing are not evaluated."""
        asks_all = uses_unguided or self.is_nested or asks_away(self.model, 1.0)
        asks_negative = asks_all or not isclose(self.cfg_second, 1.0)
        asks_second = asks_negative or not isclose(self.cfg_first, 1.0)
        sides = (
            Side(self.first, is_negative=False),
            Side(self.second, is_asked=asks_second),
            Side(self.negative, is_asked=asks_negative),
        )
        estimates = mixtures(self.model, sides, canvas, sigmas)

        def both(x: Tensor, sigma: Tensor) -> Steps[Estimate]:
            answers = yield from estimates.at(x, sigma)
            first = answers[0][:, : x.shape[1]]
            second = answers[1][:, : x.shape[1]] if asks_second else first
            if self.is_nested:
                negative = answers[2][:, : x.shape[1]]
                scale = self.cfg_first
                inner = yield from estimates.combined(x, sigma, answers, scale, towards=0, away=1)
                return Estimate(apart(inner.guided, negative, self.cfg_second), second)
            towards, away = int(asks_second), 2 if asks_negative else None
            outer = yield from estimates.combined(
                x, sigma, answers, self.cfg_second, towards=towards, away=away
            )
            guided = outer.guided + (first - second) * self.cfg_first
            return Estimate(guided, outer.unguided if asks_negative else second)

        return Denoiser(both, self.model.schedule)
