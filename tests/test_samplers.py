"""What holds for every sampler: its order, its variance, its cost, and that it disturbs nobody."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sampler_toys import SD, SHAPE, one_blob, requesting, run, silent, start, two_blobs
from torch import Tensor

from executor.errors import InputError
from executor.sampling import noise as noises
from executor.sampling.samplers import SAMPLERS, sampler_named
from executor.sampling.schedules import SCHEDULERS
from executor.sampling.sde import er_noise_scale

DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if sampler.noise == "none"]

STEPS_AS_IT_LIKES = ("dpm_fast", "dpm_adaptive")
"""They end at the least positive sigma and step where they like: ``test_dpm_solver.py``."""

WALKING = [name for name in SAMPLERS if name not in STEPS_AS_IT_LIKES]
"""All others: they go from each sigma to the next."""

# --- closed forms ------------------------------------------------------------------------------


def geometric(steps: int) -> Tensor:
    return torch.logspace(math.log10(14.0), math.log10(0.1), steps + 1, dtype=torch.float64)


def error(name: str, steps: int) -> float:
    """The distance from the exact flow of ``one_blob``, on which x grows with √(1 + σ²)."""
    sigmas = geometric(steps)
    exact = start(sigmas) * ((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2)).sqrt()
    result, _ = run(SAMPLERS[name].sample, sigmas, one_blob)
    return float((result - exact).abs().max())


# Multistep samplers begin with an Euler step, which tells in the long run: 2 is all they come to.
# Heun++ and gradient estimation are first-order by their weights.
FIRST_ORDER = (
    *("euler", "euler_cfg_pp", "ddim", "heunpp2"),
    *("gradient_estimation", "gradient_estimation_cfg_pp"),
)


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name != "dpm_adaptive"])
def test_halving_the_steps_divides_the_error_by_the_order(name: str):
    order = 1 if name in FIRST_ORDER else 2
    # 0.85: the order is a limit, and these steps are still finite.
    assert math.log2(error(name, 64) / error(name, 128)) > 0.85 * order


# Consistency sampling is left out: it asks the denoiser to be the whole flow; this one is not.
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "lcm"])
def test_data_of_variance_1_come_out_with_variance_1(name: str):
    kind = SAMPLERS[name].noise
    is_slow = kind.startswith("brownian")  # to draw
    sigmas = SCHEDULERS["karras"](SD, 30 if is_slow else 100)
    side = 32 if is_slow else 64
    x = noises.initial((1, 4, side, side), 1) * (1 + sigmas[0] ** 2).sqrt()
    added = noises.for_sampler(kind, x, sigmas, 1)
    result, _ = run(SAMPLERS[name].sample, sigmas, one_blob, added, x)
    # 4,096 samples or more: 0.011 of chance, 0.016 for the mean; the rest is what first-order
    # samplers miss in 100 steps.
    assert float(result.std()) == pytest.approx(1, abs=0.05)
    assert float(result.mean()) == pytest.approx(0, abs=0.05)


def test_more_steps_refine_the_same_picture_where_noise_is_brownian():
    def picture(steps: int) -> Tensor:
        # One path for all: every number of steps has the same largest and least sigma.
        sigmas = SCHEDULERS["karras"](SD, steps)
        x = noises.initial((1, 4, 8, 8), 3) * sigmas[0]
        sample = SAMPLERS["dpmpp_sde"].sample
        return run(sample, sigmas, one_blob, noises.brownian(x, sigmas, 3), x)[0]

    finest = picture(64)
    distances = [float((picture(steps) - finest).std()) for steps in (4, 8, 16, 32)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 3


def test_consistency_sampling_noises_each_estimate_again():
    sigmas = torch.tensor([8.0, 2.0, 0.5, 0.0])
    x = start(sigmas)
    expected = one_blob(x, 8.0)
    for sigma in (2.0, 0.5):
        expected = one_blob(expected + sigma, sigma)
    sample = SAMPLERS["lcm"].sample
    result, _ = run(sample, sigmas, one_blob, lambda sigma, sigma_next: torch.ones(SHAPE))
    torch.testing.assert_close(result, expected)


REPLACING = [
    *("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "ddpm"),
    *("res_multistep_ancestral", "res_multistep_ancestral_cfg_pp"),
    *("euler_ancestral_cfg_pp", "dpmpp_2s_ancestral_cfg_pp"),
    *("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "er_sde", "seeds_2", "seeds_3"),
    *("sa_solver", "sa_solver_pece"),
]


@pytest.mark.parametrize("name", REPLACING)
def test_steps_that_replace_noise_keep_its_variance_and_forget_the_old(name: str):
    """With all data at 0 the latent is noise alone: at each sigma its variance is σ²."""
    sigmas = torch.tensor([10.0, 6.0, 3.0, 1.0])
    x = noises.initial((4, 4, 64, 64), 1) * sigmas[0]
    noise = noises.for_sampler("gaussian", x, sigmas, 2)
    sample = SAMPLERS[name].sample
    result, _ = run(sample, sigmas, lambda x, sigma: torch.zeros_like(x), noise, x)
    assert float(result.std()) == pytest.approx(1, abs=0.012)  # four deviations of 65,536
    # What is left of the first noise falls as the variance does, where a step replaces noise.
    scale = er_noise_scale(sigmas)
    left = {
        "er_sde": 10 * float(scale[3] / scale[0]),
        "sa_solver": 10 * 6 / 10 * (1 / 6) ** 2,  # silent above sigma 5, at 20 %
        "sa_solver_pece": 10 * 6 / 10 * (1 / 6) ** 2,
    }
    share = float((result * x).mean()) / float(sigmas[0])
    assert share == pytest.approx(left.get(name, 10 * (1 / 10) ** 2), abs=0.016)  # four deviations


# --- laws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WALKING)
def test_one_step_to_zero_is_what_the_denoiser_says(name: str):
    sigmas = torch.tensor([5.0, 0.0])
    result, count = run(SAMPLERS[name].sample, sigmas)
    # UniPC ends at 0.001, not at 0: of x that share, a fifth of a thousandth, is left.
    tolerance = 1e-2 if name.startswith("uni_pc") else 1e-5
    torch.testing.assert_close(result, two_blobs(start(sigmas), 5.0), rtol=0, atol=tolerance)
    assert count == 1


TWO_STAGES = (
    *("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_sde", "dpmpp_sde_gpu", "seeds_2"),
    *("dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "sa_solver_pece"),
)


@pytest.mark.parametrize("name", WALKING)
def test_each_step_costs_what_its_stages_say(name: str):
    _, count = run(SAMPLERS[name].sample, SCHEDULERS["normal"](SD, 6))
    # The step to 0 needs no second evaluation; Heun++ looks ahead as far as there are steps.
    special = {"seeds_3": 5 * 3 + 1, "heunpp2": 4 * 3 + 2 + 1}
    assert count == special.get(name, 11 if name in TWO_STAGES else 6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_neither_the_latent_nor_the_sigmas_are_written_to(name: str):
    sigmas = SCHEDULERS["normal"](SD, 5)
    x = start(sigmas)
    versions = x._version, sigmas._version
    run(SAMPLERS[name].sample, sigmas, x=x)
    assert (x._version, sigmas._version) == versions


@pytest.mark.parametrize("name", SAMPLERS)
def test_runs_that_take_turns_do_not_disturb_each_other(name: str):
    sigmas = SCHEDULERS["karras"](SD, 5)
    sample = SAMPLERS[name].sample
    runs = [sample(requesting(two_blobs), start(sigmas, seed), sigmas, silent) for seed in (1, 2)]
    results: list[Tensor] = []
    turns: Iterator[int] = iter(range(10**6))
    waiting: list[Any] = [None, None]
    while len(results) < 2:
        index = next(turns) % 2
        try:
            waiting[index] = runs[index].send(waiting[index] and torch.zeros(SHAPE))
        except StopIteration as end:
            if end.value is not None:
                results.append(end.value)
    for result, seed in zip(results, (1, 2), strict=True):
        assert torch.equal(result, run(sample, sigmas, x=start(sigmas, seed))[0])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_that_is_closed_asks_for_nothing_more(name: str):
    sigmas = SCHEDULERS["karras"](SD, 5)
    steps = SAMPLERS[name].sample(requesting(two_blobs), start(sigmas), sigmas, silent)
    next(steps)
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


def test_a_sampler_without_noise_of_its_own_never_asks_for_any():
    sigmas = SCHEDULERS["normal"](SD, 5)
    none = noises.for_sampler("none", start(sigmas), sigmas, 0)
    for name in DETERMINISTIC:
        run(SAMPLERS[name].sample, sigmas, noise=none)
    with pytest.raises(AssertionError, match="without noise"):
        run(SAMPLERS["lcm"].sample, sigmas, noise=none)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in DETERMINISTIC])
def test_a_sampler_that_says_so_asks_for_noise_of_falling_steps(name: str):
    sigmas = SCHEDULERS["normal"](SD, 5)
    asked: list[tuple[float, float]] = []

    def noted(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        asked.append((float(sigma), float(sigma_next)))
        return torch.zeros(SHAPE)

    run(SAMPLERS[name].sample, sigmas, noise=noted)
    assert asked
    assert all(sigmas[0] >= sigma > sigma_next >= sigmas[-2] for sigma, sigma_next in asked)


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_cfg_pp_reads_what_is_unguided(name: str):
    sigmas = SCHEDULERS["normal"](SD, 5)
    plain, other = (
        run(SAMPLERS[name].sample, sigmas, requesting(two_blobs, unguided))[0]
        for unguided in (two_blobs, one_blob)
    )
    assert SAMPLERS[name].uses_unguided == name.endswith("cfg_pp")
    assert torch.equal(plain, other) != SAMPLERS[name].uses_unguided


def test_samplers_have_the_names_and_the_order_of_comfyui():
    assert " ".join(SAMPLERS) == (
        "euler euler_cfg_pp euler_ancestral euler_ancestral_cfg_pp heun heunpp2 dpm_2"
        " dpm_2_ancestral lms dpm_fast dpm_adaptive dpmpp_2s_ancestral dpmpp_2s_ancestral_cfg_pp"
        " dpmpp_sde dpmpp_sde_gpu dpmpp_2m dpmpp_2m_cfg_pp dpmpp_2m_sde dpmpp_2m_sde_gpu"
        " dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu dpmpp_3m_sde dpmpp_3m_sde_gpu ddpm lcm ipndm"
        " ipndm_v deis res_multistep res_multistep_cfg_pp res_multistep_ancestral"
        " res_multistep_ancestral_cfg_pp gradient_estimation gradient_estimation_cfg_pp er_sde"
        " seeds_2 seeds_3 sa_solver sa_solver_pece ddim uni_pc uni_pc_bh2"
    )
    dropping = {name for name, sampler in SAMPLERS.items() if sampler.drops_penultimate}
    assert dropping == {"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"}


def test_a_name_that_no_sampler_has_is_refused_with_the_nearest():
    assert sampler_named("heun") is SAMPLERS["heun"]
    with pytest.raises(InputError, match="'heunn'; did you mean 'heun'"):
        sampler_named("heunn")
