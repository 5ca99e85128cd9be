"""Nodes that cut, turn and change lists of sigmas."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from executor import Context, Model, Node, Sigmas, Widget

_CATEGORY = "sampling/custom_sampling/sigmas"


class HighAndLow(NamedTuple):
    high_sigmas: Sigmas
    low_sigmas: Sigmas


class SplitSigmas(Node, category=_CATEGORY):
    """Cut a list at a step; the sigma there is in both parts."""

    sigmas: Sigmas
    step: Annotated[int, Field(ge=0, le=10_000)] = 0

    def run(self, ctx: Context) -> HighAndLow:
        return HighAndLow(self.sigmas[: self.step + 1], self.sigmas[self.step :])


class SplitSigmasDenoise(Node, category=_CATEGORY):
    """Cut a list so that the low part holds a share of the steps."""

    sigmas: Sigmas
    denoise: Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})] = 1.0

    def run(self, ctx: Context) -> HighAndLow:
        from executor.sampling.sigma_lists import split_at_denoise

        return HighAndLow(*split_at_denoise(self.sigmas, self.denoise))


class FlipSigmas(Node, category=_CATEGORY):
    """Turn a list round, which makes a picture noise again."""

    sigmas: Sigmas

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.sigma_lists import flipped

        return flipped(self.sigmas)


class SetFirstSigma(Node, category=_CATEGORY):
    """Begin a list with another sigma."""

    sigmas: Sigmas
    sigma: Annotated[float, Field(ge=0, le=20_000), Widget({"step": 0.001, "round": False})] = 136.0

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.sigma_lists import with_first

        return with_first(self.sigmas, self.sigma)


class ExtendIntermediateSigmas(Node, category=_CATEGORY):
    """Divide each step that begins between two sigmas into several."""

    sigmas: Sigmas
    steps: Annotated[int, Field(ge=1, le=100)] = 2
    start_at_sigma: Annotated[
        float, Field(ge=-1, le=20_000), Widget({"step": 0.01, "round": False})
    ] = -1.0  # below 0: the largest
    end_at_sigma: Annotated[
        float, Field(ge=0, le=20_000), Widget({"step": 0.01, "round": False})
    ] = 12.0
    spacing: Literal["linear", "cosine", "sine"] = "linear"

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.sigma_lists import extended

        return extended(
            self.sigmas, self.steps, self.start_at_sigma, self.end_at_sigma, self.spacing
        )


class SigmaValue(NamedTuple):
    sigma_value: float


class SamplingPercentToSigma(Node, category=_CATEGORY):
    """Tell the sigma at which so much of a model's sampling is done."""

    model: Model
    sampling_percent: Annotated[float, Field(ge=0, le=1), Widget({"step": 0.0001})] = 0.0
    return_actual_sigma: bool = False  # at 0 and 1 the model's ends, not what is beyond them

    def run(self, ctx: Context) -> SigmaValue:
        schedule = self.model.schedule
        if self.return_actual_sigma and self.sampling_percent == 0:
            return SigmaValue(schedule.sigma_max)
        if self.return_actual_sigma and self.sampling_percent == 1:
            return SigmaValue(schedule.sigma_min)
        return SigmaValue(schedule.percent_to_sigma(self.sampling_percent))
