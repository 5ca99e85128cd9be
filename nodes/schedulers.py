"""Nodes that make lists of sigmas. The formulas are in ``executor.sampling``."""

from typing import Annotated, Literal

from pydantic import Field

from executor import Context, Model, Node, Sigmas, Widget
from nodes.sampling import SchedulerName, StepCount

_CATEGORY = "sampling/custom_sampling/schedulers"
_FINE = Widget({"step": 0.01, "round": False})

Sigma = Annotated[float, Field(ge=0, le=5000), _FINE]
Power = Annotated[float, Field(ge=0, le=100), _FINE]
Shape = Annotated[float, Field(ge=0, le=50), _FINE]
Share = Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})]


class BasicScheduler(Node, category=_CATEGORY):
    """Make a model's sigmas, as KSampler does."""

    model: Model
    scheduler: SchedulerName = "simple"
    steps: StepCount = 20
    denoise: Share = 1.0

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.schedules import sigmas_for

        sigmas = sigmas_for(self.model.schedule, self.scheduler, self.steps, self.denoise)
        return sigmas[-(self.steps + 1) :]  # also of those that make more than asked for


class KarrasScheduler(Node, category=_CATEGORY):
    """Make sigmas that are dense where there is little noise."""

    steps: StepCount = 20
    sigma_max: Sigma = 14.614642
    sigma_min: Sigma = 0.0291675
    rho: Power = 7.0

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.sigma_lists import karras

        return karras(self.steps, self.sigma_min, self.sigma_max, self.rho)


class ExponentialScheduler(Node, category=_CATEGORY):
    """Make sigmas of which each is the same share of the one before."""

    steps: StepCount = 20
    sigma_max: Sigma = 14.614642
    sigma_min: Sigma = 0.0291675

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.sigma_lists import exponential

        return exponential(self.steps, self.sigma_min, self.sigma_max)


class PolyexponentialScheduler(Node, category=_CATEGORY):
    """Make sigmas whose logarithm falls as a power of the steps left."""

    steps: StepCount = 20
    sigma_max: Sigma = 14.614642
    sigma_min: Sigma = 0.0291675
    rho: Power = 1.0

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.sigma_lists import polyexponential

        return polyexponential(self.steps, self.sigma_min, self.sigma_max, self.rho)


class LaplaceScheduler(Node, category=_CATEGORY):
    """Make sigmas that are dense around a middle one; they do not end in 0."""

    steps: StepCount = 20
    sigma_max: Sigma = 14.614642
    sigma_min: Sigma = 0.0291675
    mu: Annotated[float, Field(ge=-10, le=10), Widget({"step": 0.1, "round": False})] = 0.0
    beta: Annotated[float, Field(ge=0, le=10), Widget({"step": 0.1, "round": False})] = 0.5

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.sigma_lists import laplace

        return laplace(self.steps, self.sigma_min, self.sigma_max, self.mu, self.beta)


class VPScheduler(Node, category=_CATEGORY):
    """Make the sigmas of even times of a variance-preserving diffusion."""

    steps: StepCount = 20
    beta_d: Sigma = 19.9
    beta_min: Sigma = 0.1
    eps_s: Annotated[float, Field(ge=0, le=1), Widget({"step": 0.0001, "round": False})] = 0.001

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.sigma_lists import variance_preserving

        return variance_preserving(self.steps, self.beta_d, self.beta_min, self.eps_s)


class BetaSamplingScheduler(Node, category=_CATEGORY):
    """Make a model's sigmas at quantiles of a beta distribution of its timesteps."""

    model: Model
    steps: StepCount = 20
    alpha: Shape = 0.6
    beta: Shape = 0.6

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.schedules import beta_shaped

        return beta_shaped(self.model.schedule, self.steps, self.alpha, self.beta)


class SDTurboScheduler(Node, category=_CATEGORY):
    """Make the sigmas of the few steps that a turbo model was distilled to."""

    model: Model
    steps: Annotated[int, Field(ge=1, le=10)] = 1
    denoise: Share = 1.0

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.schedules import turbo

        return turbo(self.model.schedule, self.steps, self.denoise)


class AlignYourStepsScheduler(Node, category=_CATEGORY):
    """Make sigmas that were optimized for ten steps of a kind of model."""

    model_type: Literal["SD1", "SDXL", "SVD"] = "SD1"
    steps: StepCount = 10
    denoise: Share = 1.0

    def run(self, ctx: Context) -> Sigmas:
        from executor.sampling.sigma_lists import align_your_steps

        return align_your_steps(self.model_type, self.steps, self.denoise)
