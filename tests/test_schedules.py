"""Schedules: laws, formulas written a second time, and figures that another program gave."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from executor.errors import InputError
from executor.sampling.schedules import (
    SCHEDULERS,
    DiscreteSchedule,
    beta_shaped,
    kl_optimal,
    linear_quadratic,
    sigmas_for,
    turbo,
)

SD = DiscreteSchedule.scaled_linear()

# ComfyUI 0.3.64, an SD 1.x model, 5 steps of each scheduler, rounded to 7 decimals.
FIVE_STEPS = {
    "normal": [14.6146402, 4.086081, 1.6155803, 0.6951495, 0.0291672, 0],
    "karras": [14.6146431, 4.7965345, 1.2741008, 0.24795, 0.0291672, 0],
    "exponential": [14.6146402, 3.0889764, 0.6528918, 0.1379964, 0.0291672, 0],
    "sgm_uniform": [14.6146402, 5.0924082, 2.2797306, 1.1628646, 0.5711889, 0],
    "simple": [14.6146412, 5.0877633, 2.276463, 1.1605784, 0.5692849, 0],
    "ddim_uniform": [5.1344309, 2.2928538, 1.168216, 0.5740502, 0.0413144, 0],
    "beta": [14.6146412, 7.3718443, 2.6152358, 1.0273293, 0.3955097, 0],
}


def table() -> np.ndarray:
    """Sigma at the 1,000 timesteps of Stable Diffusion, in float64."""
    betas = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2
    share = np.cumprod(1 - betas)
    return np.sqrt((1 - share) / share)


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 31, 100])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_sigmas_fall_strictly_and_end_in_zero(scheduler: str, steps: int):
    sigmas = SCHEDULERS[scheduler](SD, steps)
    assert sigmas.dtype == torch.float32
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    if scheduler != "ddim_uniform":  # which begins where its stride ends, whatever the model's most
        assert float(sigmas[0]) == pytest.approx(SD.sigma_max, rel=1e-5)


@pytest.mark.parametrize("scheduler", FIVE_STEPS)
def test_five_steps_are_those_of_comfyui(scheduler: str):
    # 1e-6: the figures are rounded to 7 decimals, float32 has as many.
    sigmas = SCHEDULERS[scheduler](SD, 5)
    torch.testing.assert_close(sigmas, torch.tensor(FIVE_STEPS[scheduler]), rtol=0, atol=1e-6)


def test_the_table_is_made_in_float64_and_cast_once():
    # One unit in the last place, for another library's order of multiplication.
    np.testing.assert_allclose(SD.sigmas.numpy(), table().astype(np.float32), rtol=1.2e-7)


@pytest.mark.parametrize("steps", [3, 20, 33])
def test_evenly_spaced_timesteps_are_interpolated_in_log_sigma(steps: int):
    def sigma(timesteps: np.ndarray) -> np.ndarray:
        return np.exp(np.interp(timesteps, np.arange(1000), np.log(table())))

    # 1e-5: float32 timesteps near 1000 carry 3e-5, and log sigma moves by 0.007 for each.
    normal, sgm = (SCHEDULERS[name](SD, steps)[:-1] for name in ("normal", "sgm_uniform"))
    np.testing.assert_allclose(normal, sigma(np.linspace(999, 0, steps)), rtol=1e-5)
    np.testing.assert_allclose(sgm, sigma(np.linspace(999, 0, steps + 1)[:-1]), rtol=1e-5)


@pytest.mark.parametrize("steps", [3, 20, 33])
def test_karras_and_exponential_follow_their_formulas(steps: int):
    low, high = table()[0], table()[-1]
    ramp = np.linspace(0, 1, steps)
    karras = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    # 3e-6: seventh powers in float32.
    np.testing.assert_allclose(SCHEDULERS["karras"](SD, steps)[:-1], karras, rtol=3e-6)
    exponential = np.geomspace(high, low, steps)
    np.testing.assert_allclose(SCHEDULERS["exponential"](SD, steps)[:-1], exponential, rtol=3e-6)


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 33, 98, 500])
def test_beta_takes_the_timesteps_nearest_to_the_quantiles(steps: int):
    quantiles = stats.beta.ppf(1 - np.arange(steps) / steps, 0.6, 0.6)
    timesteps = np.unique(np.rint(quantiles * 999).astype(int))[::-1].copy()
    assert torch.equal(SCHEDULERS["beta"](SD, steps)[:-1], SD.sigmas[torch.from_numpy(timesteps)])


def test_a_beta_distribution_may_have_another_shape():
    for steps in (1, 7, 20):
        assert torch.equal(beta_shaped(SD, steps, 0.6, 0.6), SCHEDULERS["beta"](SD, steps))
    # Beta(1, 1) is uniform; Beta(2, 1) has density 2t, so it is √q at quantile q.
    uniform = SD.sigmas[torch.tensor([999, 749, 500, 250])]
    assert torch.equal(beta_shaped(SD, 4, 1.0, 1.0)[:-1], uniform)
    high = SD.sigmas[torch.tensor([round(math.sqrt(q) * 999) for q in (1, 0.75, 0.5, 0.25)])]
    assert torch.equal(beta_shaped(SD, 4, 2.0, 1.0)[:-1], high)
    with pytest.raises(InputError, match=r"above 0, got 0 and 0\.6"):
        beta_shaped(SD, 4, 0.0, 0.6)


def test_linear_quadratic_falls_evenly_and_then_as_a_parabola_without_a_kink():
    sigmas = linear_quadratic(SD, 20).double() / SD.sigma_max
    falls = -sigmas.diff()
    torch.testing.assert_close(falls[:10], falls.new_full((10,), 0.0025), rtol=0, atol=1e-6)
    assert 1 - float(sigmas[10]) == pytest.approx(0.025, abs=1e-6)
    bends = falls[9:].diff()  # a parabola's second differences: half the first, as it begins there
    torch.testing.assert_close(bends[1:], bends.new_full((9,), float(bends[1])), rtol=0, atol=1e-5)
    assert float(bends[0]) == pytest.approx(float(bends[1]) / 2, abs=1e-5)


def test_kl_optimal_falls_linearly_in_the_arc_tangent():
    sigmas = kl_optimal(SD, 9)[:-1]
    # 1e-6: the tangent of an angle near π/2, in float32.
    angles = np.linspace(math.atan(SD.sigma_max), math.atan(SD.sigma_min), 9)
    np.testing.assert_allclose(sigmas.atan(), angles, rtol=0, atol=1e-6)


def test_turbo_takes_every_hundredth_timestep_from_where_denoising_begins():
    assert torch.equal(turbo(SD, 1), torch.tensor([float(SD.sigma(torch.tensor(999.0))), 0.0]))
    # 1e-6: exp(log(σ)) in float32.
    torch.testing.assert_close(turbo(SD, 10)[:-1], SD.sigmas[99::100].flip(0), rtol=1e-6, atol=0)
    assert torch.equal(turbo(SD, 2, 0.5), torch.cat([turbo(SD, 10)[5:7], torch.zeros(1)]))
    assert turbo(SD, 3, 0.0).tolist() == [0]


def test_simple_counts_down_and_ddim_uniform_counts_up():
    down = [999 - int(k * 1000 / 7) for k in range(7)]
    assert torch.equal(SCHEDULERS["simple"](SD, 7)[:-1], SD.sigmas[down])
    up = list(range(1, 1000, 1000 // 30))[::-1]
    assert len(up) == 31  # one more than asked for: the stride is a whole number
    assert torch.equal(SCHEDULERS["ddim_uniform"](SD, 30)[:-1], SD.sigmas[up])


def test_timesteps_are_the_nearest_in_log_sigma():
    assert torch.equal(SD.timestep(SD.sigmas), torch.arange(1000.0))
    # ComfyUI 0.3.64 gives these for an SD 1.x model.
    asked = torch.tensor([0.05, 0.5, 1, 5, 14])
    assert SD.timestep(asked).tolist() == [2, 169, 354, 795, 992]
    assert SD.timestep(torch.tensor(0.01)).item() == 0
    assert SD.timestep(torch.full((2, 3), 99.0)).tolist() == [[999.0] * 3] * 2


def test_sigma_is_the_table_at_whole_timesteps_and_geometric_between():
    # 1e-6: exp(log(σ)) in float32.
    torch.testing.assert_close(SD.sigma(torch.arange(1000)), SD.sigmas, rtol=1e-6, atol=0)
    middle = float(SD.sigma(torch.tensor(10.5)))
    assert middle == pytest.approx(math.sqrt(SD.sigmas[10] * SD.sigmas[11]), rel=1e-6)
    assert float(SD.sigma(torch.tensor(2000.0))) == pytest.approx(SD.sigma_max, rel=1e-6)


def test_percents_count_timesteps_from_all_noise_to_none():
    assert SD.percent_to_sigma(0) > 1e6
    assert SD.percent_to_sigma(1) == 0
    assert SD.percent_to_sigma(0.5) == pytest.approx(float(SD.sigma(torch.tensor(499.5))))
    falling = [SD.percent_to_sigma(percent / 10) for percent in range(11)]
    assert falling == sorted(falling, reverse=True)


def test_a_schedule_can_be_built_from_betas_or_from_what_is_left_of_the_signal():
    betas = torch.tensor([0.1, 0.5])
    share = torch.tensor([0.9, 0.45])
    one, other = DiscreteSchedule.from_betas(betas), DiscreteSchedule.from_alphas_cumprod(share)
    torch.testing.assert_close(one.sigmas, other.sigmas)
    assert one.sigma_max == pytest.approx(math.sqrt(0.55 / 0.45))


@pytest.mark.parametrize("scheduler", ["normal", "karras", "simple", "beta"])
def test_denoise_takes_the_tail_of_a_longer_schedule(scheduler: str):
    part, whole = sigmas_for(SD, scheduler, 6, 0.6), sigmas_for(SD, scheduler, 10)
    assert torch.equal(part, whole[-7:])
    assert len(sigmas_for(SD, scheduler, 6, 0)) == 0


def test_denoise_cuts_even_where_it_asks_for_no_more_steps():
    # int(30 / 0.99) is 30, of which ddim_uniform makes 31: only a denoise of 1 keeps them all.
    assert len(sigmas_for(SD, "ddim_uniform", 30, 0.99)) == 31
    assert len(sigmas_for(SD, "ddim_uniform", 30)) == 32


def test_a_dropped_sigma_is_the_last_but_one_of_one_more_step():
    whole = sigmas_for(SD, "normal", 5)
    dropped = sigmas_for(SD, "normal", 4, drops_penultimate=True)
    assert torch.equal(dropped, torch.cat([whole[:4], whole[5:]]))


def test_impossible_schedules_are_refused_with_what_would_do():
    with pytest.raises(InputError, match=r"'karas'; did you mean 'karras'\?"):
        sigmas_for(SD, "karas", 5)
    with pytest.raises(InputError, match="0 steps"):
        sigmas_for(SD, "normal", 0)
    with pytest.raises(InputError, match="denoise 1e-07 need a schedule of 200,000,000 steps"):
        sigmas_for(SD, "normal", 20, 1e-7)
