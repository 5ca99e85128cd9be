"""Samplers against diffusers' schedulers, where those do the same thing."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_k_dpm_2_ancestral_discrete import (
    KDPM2AncestralDiscreteScheduler,
)
from diffusers.schedulers.scheduling_k_dpm_2_discrete import KDPM2DiscreteScheduler
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from sampler_toys import SD, SHAPE, run, start, two_blobs
from torch import Tensor

from executor.sampling.samplers import SAMPLERS
from executor.sampling.schedules import SCHEDULERS


def theirs(
    scheduler: Any, sigmas: Tensor, evaluated_at: Tensor, *, is_scaled: bool, **step: Any
) -> Tensor:
    """What a diffusers scheduler makes of ``two_blobs``, evaluated at the sigmas given.

    ``is_scaled``: it works on x / √(1 + σ²), whose variance stays the same.
    """
    scheduler.set_begin_index(0)
    x = start(sigmas)
    if is_scaled:
        x = x / (1 + sigmas[0] ** 2) ** 0.5
    for t, sigma in zip(scheduler.timesteps, evaluated_at, strict=False):
        raw = x * (1 + sigma**2) ** 0.5 if is_scaled else x
        scheduler.is_scale_input_called = True
        x = scheduler.step((raw - two_blobs(raw, sigma)) / sigma, t, x, **step).prev_sample
    return x * (1 + scheduler.sigmas[-1] ** 2) ** 0.5 if is_scaled else x


def doubled(tensor: Tensor) -> Tensor:
    """Each value for both halves of a second-order step, as diffusers keeps them."""
    return torch.cat([tensor[:1], tensor[1:].repeat_interleave(2), tensor[-1:]])


def diffusers_euler(sigmas: Tensor) -> Tensor:
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    return theirs(scheduler, sigmas, sigmas[:-1], is_scaled=False)


def diffusers_euler_ancestral(sigmas: Tensor) -> Tensor:
    scheduler = EulerAncestralDiscreteScheduler()
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas
    generator = torch.Generator().manual_seed(6)
    return theirs(scheduler, sigmas, sigmas[:-1], is_scaled=False, generator=generator)


def diffusers_heun(sigmas: Tensor) -> Tensor:
    scheduler = HeunDiscreteScheduler()
    scheduler.set_timesteps(len(sigmas) - 1)
    twice = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.sigmas = twice
    return theirs(scheduler, sigmas, twice[:-1], is_scaled=False)


def diffusers_dpm_2(sigmas: Tensor) -> Tensor:
    """To the last but one sigma only: its middle of a step to 0 is 0."""
    sigmas = sigmas[:-1]
    scheduler = KDPM2DiscreteScheduler()
    scheduler.set_timesteps(len(sigmas))
    middles = sigmas.log().lerp(sigmas.roll(1).log(), 0.5).exp()
    scheduler.sigmas, scheduler.sigmas_interpol = doubled(sigmas), doubled(middles)
    at = torch.stack([sigmas[:-1], middles[1:]], dim=1).flatten()
    return theirs(scheduler, sigmas, at, is_scaled=False)


def diffusers_dpm_2_ancestral(sigmas: Tensor) -> Tensor:
    """To the last but one sigma only, as above."""
    sigmas = sigmas[:-1]
    scheduler = KDPM2AncestralDiscreteScheduler()
    scheduler.set_timesteps(len(sigmas))
    below = sigmas[1:]
    up = below * (1 - below**2 / sigmas[:-1] ** 2).sqrt()
    down = (below**2 - up**2).sqrt()
    middles = (sigmas[:-1] * down).sqrt()
    scheduler.sigmas, scheduler.sigmas_interpol = doubled(sigmas), doubled(middles)
    scheduler.sigmas_up, scheduler.sigmas_down = doubled(up), doubled(down)
    at = torch.stack([sigmas[:-1], middles], dim=1).flatten()
    generator = torch.Generator().manual_seed(6)
    return theirs(scheduler, sigmas, at, is_scaled=False, generator=generator)


def diffusers_lms(sigmas: Tensor) -> Tensor:
    """To the last but one sigma only: for the last step it has another rule."""
    sigmas = sigmas[:-1]
    scheduler = LMSDiscreteScheduler()
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas
    return theirs(scheduler, sigmas, sigmas[:-1], is_scaled=False)


def diffusers_dpmpp_2m(sigmas: Tensor) -> Tensor:
    scheduler = DPMSolverMultistepScheduler(
        final_sigmas_type="zero", solver_order=2, lower_order_final=False
    )
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas
    return theirs(scheduler, sigmas, sigmas[:-1], is_scaled=True)


def diffusers_dpmpp_2m_sde(
    sigmas: Tensor, solver_type: Literal["midpoint", "heun"] = "midpoint"
) -> Tensor:
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++",
        solver_type=solver_type,
        final_sigmas_type="zero",
        solver_order=2,
        lower_order_final=False,
    )
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas
    generator = torch.Generator().manual_seed(6)
    return theirs(scheduler, sigmas, sigmas[:-1], is_scaled=True, generator=generator)


def diffusers_uni_pc(sigmas: Tensor, solver_type: Literal["bh1", "bh2"] = "bh1") -> Tensor:
    scheduler = UniPCMultistepScheduler(solver_order=3, solver_type=solver_type)
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = torch.cat([sigmas[:-1], torch.tensor([0.001])])
    return theirs(scheduler, sigmas, sigmas[:-1], is_scaled=True)


# Both sides are float32, where rounding alone is worth 5e-7 over 20 steps, and more where latents
# are still as large as sigma at the end. The last five work on rescaled latents there, and UniPC
# solves in float32 for weights that nearly cancel, we in float64.
THEIRS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "euler": (diffusers_euler, 2e-6),
    "ddim": (diffusers_euler, 2e-6),
    "euler_ancestral": (diffusers_euler_ancestral, 2e-6),
    "heun": (diffusers_heun, 2e-6),
    "dpm_2": (diffusers_dpm_2, 2e-6),
    "dpm_2_ancestral": (diffusers_dpm_2_ancestral, 2e-5),
    "lms": (diffusers_lms, 5e-6),
    "dpmpp_2m": (diffusers_dpmpp_2m, 5e-6),
    "dpmpp_2m_sde": (diffusers_dpmpp_2m_sde, 2e-5),
    "dpmpp_2m_sde_heun": (lambda sigmas: diffusers_dpmpp_2m_sde(sigmas, "heun"), 2e-5),
    "uni_pc": (diffusers_uni_pc, 5e-4),
    "uni_pc_bh2": (lambda sigmas: diffusers_uni_pc(sigmas, "bh2"), 5e-4),
}
STOPS_EARLY = ("dpm_2", "dpm_2_ancestral", "lms")


# diffusers 0.42 converts its tables to numpy in a way that numpy 2 frowns upon.
@pytest.mark.filterwarnings("ignore:__array_.*:DeprecationWarning")
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("scheduler", ["karras", "normal"])
@pytest.mark.parametrize("name", THEIRS)
def test_results_are_those_of_diffusers(name: str, scheduler: str, steps: int):
    sigmas = SCHEDULERS[scheduler](SD, steps)
    theirs_of, tolerance = THEIRS[name]
    generator = torch.Generator().manual_seed(6)
    ours, _ = run(
        SAMPLERS[name].sample,
        sigmas[:-1] if name in STOPS_EARLY else sigmas,
        noise=lambda sigma, sigma_next: torch.randn(SHAPE, generator=generator),
    )
    torch.testing.assert_close(ours, theirs_of(sigmas), rtol=0, atol=tolerance)
