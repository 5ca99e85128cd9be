"""Nodes that choose a sampler, with its options."""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from executor import Context, InputError, Model, Node, Sampler, Widget
from nodes.sampling import SamplerName

_CATEGORY = "sampling/custom_sampling/samplers"
_FINE = Widget({"step": 0.01, "round": False})

Amount = Annotated[float, Field(ge=0, le=100), _FINE]
Percent = Annotated[float, Field(ge=0, le=1), Widget({"step": 0.001})]
NoiseDevice = Literal["gpu", "cpu"]


class KSamplerSelect(Node, category=_CATEGORY):
    """Choose a sampler by its name."""

    sampler_name: SamplerName = "euler"

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.samplers import sampler_named

        return sampler_named(self.sampler_name)


class SamplerEulerAncestral(Node, category=_CATEGORY):
    """Euler steps that replace a part of the noise."""

    eta: Amount = 1.0
    s_noise: Amount = 1.0

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.ancestral import euler_ancestral

        return Sampler(partial(euler_ancestral, eta=self.eta, s_noise=self.s_noise), "gaussian")


class SamplerEulerAncestralCFGPP(
    Node, category=_CATEGORY, display_name="SamplerEulerAncestralCFG++"
):
    """Euler steps along the unguided noise, of which a part is replaced."""

    eta: Annotated[float, Field(ge=0, le=1), _FINE] = 1.0
    s_noise: Annotated[float, Field(ge=0, le=10), _FINE] = 1.0

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.cfg_pp import euler_ancestral_cfg_pp

        sample = partial(euler_ancestral_cfg_pp, eta=self.eta, s_noise=self.s_noise)
        return Sampler(sample, "gaussian", uses_unguided=True)


class SamplerLMS(Node, category=_CATEGORY):
    """Linear multistep of any order."""

    order: Annotated[int, Field(ge=1, le=100)] = 4

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.multistep import lms

        return Sampler(partial(lms, order=self.order))


class SamplerDPMPP_2S_Ancestral(Node, category=_CATEGORY):
    """DPM-Solver++(2S) that replaces a part of the noise."""

    eta: Amount = 1.0
    s_noise: Amount = 1.0

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.ancestral import dpmpp_2s_ancestral

        sample = partial(dpmpp_2s_ancestral, eta=self.eta, s_noise=self.s_noise)
        return Sampler(sample, "gaussian")


class SamplerDPMPP_SDE(Node, category=_CATEGORY):
    """DPM-Solver++(2S) along an SDE; ``r`` is how far its second look is on the way."""

    eta: Amount = 1.0
    s_noise: Amount = 1.0
    r: Amount = 0.5
    noise_device: NoiseDevice = "gpu"

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.ancestral import dpmpp_sde

        if self.r == 0:
            raise InputError("r must be above 0, got 0; 0.5 is half-way")
        sample = partial(dpmpp_sde, eta=self.eta, s_noise=self.s_noise, r=self.r)
        return _along_brownian_path(Sampler(sample), self.noise_device)


class SamplerDPMPP_2M_SDE(Node, category=_CATEGORY):
    """DPM-Solver++(2M) along an SDE."""

    solver_type: Literal["midpoint", "heun"] = "midpoint"
    eta: Amount = 1.0
    s_noise: Amount = 1.0
    noise_device: NoiseDevice = "gpu"

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.sde import dpmpp_2m_sde

        sample = partial(dpmpp_2m_sde, eta=self.eta, s_noise=self.s_noise, solver=self.solver_type)
        return _along_brownian_path(Sampler(sample), self.noise_device)


class SamplerDPMPP_3M_SDE(Node, category=_CATEGORY):
    """DPM-Solver++(3M) along an SDE."""

    eta: Amount = 1.0
    s_noise: Amount = 1.0
    noise_device: NoiseDevice = "gpu"

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.sde import dpmpp_3m_sde

        sample = partial(dpmpp_3m_sde, eta=self.eta, s_noise=self.s_noise)
        return _along_brownian_path(Sampler(sample), self.noise_device)


class SamplerDPMAdaptative(Node, category=_CATEGORY):
    """DPM-Solver with steps as long as a tolerance allows."""

    order: Annotated[int, Field(ge=2, le=3)] = 3
    rtol: Amount = 0.05
    atol: Amount = 0.0078
    h_init: Amount = 0.05
    pcoeff: Amount = 0.0
    icoeff: Amount = 1.0
    dcoeff: Amount = 0.0
    accept_safety: Amount = 0.81
    eta: Amount = 0.0
    s_noise: Amount = 1.0

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.dpm_solver import dpm_adaptive

        sample = partial(
            dpm_adaptive,
            order=self.order,
            rtol=self.rtol,
            atol=self.atol,
            h_init=self.h_init,
            pcoeff=self.pcoeff,
            icoeff=self.icoeff,
            dcoeff=self.dcoeff,
            accept_safety=self.accept_safety,
            eta=self.eta,
            s_noise=self.s_noise,
        )
        return Sampler(sample, "gaussian" if self.eta else "none")


class SamplerER_SDE(Node, category=_CATEGORY):
    """Extended reverse-time SDE solver; ``eta`` is for ``Reverse-time SDE`` alone."""

    solver_type: Literal["ER-SDE", "Reverse-time SDE", "ODE"] = "ER-SDE"
    max_stage: Annotated[int, Field(ge=1, le=3)] = 3
    eta: Amount = 1.0
    s_noise: Amount = 1.0

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.sde import er_noise_scale, er_sde

        if self.solver_type == "ER-SDE":
            sample = partial(er_sde, scale=er_noise_scale, s_noise=self.s_noise)
        else:
            eta = self.eta if self.solver_type == "Reverse-time SDE" else 0.0
            s_noise = self.s_noise if eta else 0.0
            sample = partial(er_sde, scale=lambda sigma: sigma ** (eta + 1), s_noise=s_noise)
        return Sampler(partial(sample, order=self.max_stage), "gaussian")


class SamplerSASolver(Node, category=_CATEGORY):
    """Stochastic Adams solver; it replaces noise in a part of the sampling."""

    model: Model
    eta: Annotated[float, Field(ge=0, le=10), _FINE] = 1.0
    sde_start_percent: Percent = 0.2
    sde_end_percent: Percent = 0.8
    s_noise: Amount = 1.0
    predictor_order: Annotated[int, Field(ge=1, le=6)] = 3
    corrector_order: Annotated[int, Field(ge=0, le=6)] = 4
    use_pece: bool = False
    simple_order_2: bool = False

    def run(self, ctx: Context) -> Sampler:
        from executor.sampling.sa_solver import noisy_between, sa_solver

        to_sigma = self.model.schedule.percent_to_sigma
        start, end = to_sigma(self.sde_start_percent), to_sigma(self.sde_end_percent)
        sample = partial(
            sa_solver,
            predictor_order=self.predictor_order,
            corrector_order=self.corrector_order,
            evaluates_twice=self.use_pece,
            is_simple=self.simple_order_2,
            tau=noisy_between(start, end, self.eta),
            s_noise=self.s_noise,
        )
        return Sampler(sample, "gaussian")


def _along_brownian_path(sampler: Sampler, device: NoiseDevice) -> Sampler:
    return replace(sampler, noise="brownian" if device == "cpu" else "brownian_on_device")
