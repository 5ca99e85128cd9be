"""Schedules of other objectives: their laws, and diffusers' where it has the same."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.schedulers.scheduling_lcm import LCMScheduler

from executor.errors import InputError
from executor.ports import NoiseSchedule, Objective
from executor.sampling.noise_schedules import (
    DISTILLED,
    LAST_SIGNAL,
    ContinuousSchedule,
    DistilledSchedule,
    schedule_for,
)
from executor.sampling.schedules import DiscreteSchedule, scaled_linear_betas, sigmas_for

SD = schedule_for(Objective())
ZERO = schedule_for(Objective("v", has_zero_terminal_snr=True))
LCM = schedule_for(Objective("lcm"))
COSXL = schedule_for(Objective("v", sigmas=(0.002, 120.0)))


def test_what_stable_diffusion_predicts_has_no_say_in_its_schedule() -> None:
    for objective in (Objective("v"), Objective("x0"), Objective("edm")):
        assert torch.equal(schedule_for(objective).sigmas, SD.sigmas)
    assert isinstance(SD, DiscreteSchedule)


def test_with_zero_terminal_snr_the_signal_starts_as_before_and_ends_in_nothing() -> None:
    share, before = (1 / (1 + s.sigmas.double() ** 2) for s in (ZERO, SD))
    torch.testing.assert_close(share[0], before[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(share[-1], torch.tensor(LAST_SIGNAL).double(), rtol=1e-6, atol=0)
    assert (share.diff() < 0).all()
    assert ZERO.sigma_max == pytest.approx(4518.7, abs=0.1)


def test_zero_terminal_snr_is_diffusers_rescaling() -> None:
    betas = rescale_zero_terminal_snr(scaled_linear_betas())
    share = torch.cumprod(1 - betas, dim=0)
    expected = ((1 - share) / share)[:-1] ** 0.5  # their last sigma is infinite
    torch.testing.assert_close(ZERO.sigmas[:-1].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_distilled_schedule_has_the_timesteps_that_lcm_was_trained_on() -> None:
    scheduler = LCMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        original_inference_steps=50,
    )
    scheduler.set_timesteps(DISTILLED)
    assert len(LCM.sigmas) == DISTILLED
    assert torch.equal(LCM.timestep(LCM.sigmas).flip(0), scheduler.timesteps.float())
    assert torch.equal(LCM.sigmas, SD.sigmas[19::20])
    assert isinstance(LCM, DistilledSchedule)


def test_a_distilled_schedule_can_have_zero_terminal_snr() -> None:
    both = schedule_for(Objective("lcm", has_zero_terminal_snr=True))
    assert torch.equal(both.sigmas, ZERO.sigmas[19::20])


@pytest.mark.parametrize("schedule", [SD, ZERO, LCM, COSXL], ids=["sd", "zero", "lcm", "cosxl"])
def test_sigma_and_timestep_undo_each_other(schedule: NoiseSchedule) -> None:
    back = schedule.sigma(schedule.timestep(schedule.sigmas))
    torch.testing.assert_close(back, schedule.sigmas, rtol=1e-4, atol=0)
    assert (schedule.timestep(schedule.sigmas).diff() > 0).all()
    assert (schedule.sigma_min, schedule.sigma_max) == (
        float(schedule.sigmas[0]),
        float(schedule.sigmas[-1]),
    )


@pytest.mark.parametrize("schedule", [SD, ZERO, LCM, COSXL], ids=["sd", "zero", "lcm", "cosxl"])
def test_sigma_falls_as_sampling_goes_on(schedule: NoiseSchedule) -> None:
    marks = [schedule.percent_to_sigma(percent / 10) for percent in range(11)]
    assert marks == sorted(marks, reverse=True)
    assert (marks[0] > schedule.sigma_max, marks[-1]) == (True, 0)
    assert schedule.sigma_min < marks[5] < schedule.sigma_max


@pytest.mark.parametrize("schedule", [ZERO, LCM, COSXL], ids=["zero", "lcm", "cosxl"])
@pytest.mark.parametrize(
    "scheduler", ["simple", "sgm_uniform", "karras", "exponential", "beta", "normal"]
)
def test_every_scheduler_walks_down_each(schedule: NoiseSchedule, scheduler: str) -> None:
    sigmas = sigmas_for(schedule, scheduler, 8)
    assert (sigmas.diff() < 0).all()
    assert float(sigmas[0]) == pytest.approx(schedule.sigma_max, rel=1e-3)
    assert float(sigmas[-1]) == 0


def test_continuous_noise_is_even_in_its_logarithm() -> None:
    assert isinstance(COSXL, ContinuousSchedule)
    assert (COSXL.sigma_min, COSXL.sigma_max) == (pytest.approx(0.002), pytest.approx(120))
    steps = COSXL.sigmas.log().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-3, atol=0)
    assert COSXL.percent_to_sigma(0.5) == pytest.approx(math.sqrt(0.002 * 120), rel=1e-4)
    # Karras et al. (2022), table 1: c_noise = ln(σ) / 4
    assert float(COSXL.timestep(torch.tensor(math.e))) == pytest.approx(0.25)


@pytest.mark.parametrize(("least", "largest"), [(0, 1), (2, 1), (1, 1), (-1, 1)])
def test_no_range_is_no_schedule(least: float, largest: float) -> None:
    with pytest.raises(InputError, match="sigma_min must be above 0 and below sigma_max"):
        schedule_for(Objective(sigmas=(least, largest)))
