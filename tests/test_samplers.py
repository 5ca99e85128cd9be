"""Samplers: against diffusers where it is right, against closed forms, and by their order."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
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
from torch import Tensor
from toy_model import ToyModel

from executor.ports import DiffusionModel
from executor.sampling import noise as noises
from executor.sampling.noise import Noise
from executor.sampling.samplers import SAMPLERS, Denoiser
from executor.sampling.schedules import SCHEDULERS, DiscreteSchedule
from executor.steps import Eval, Inputs, Steps

SD = DiscreteSchedule.scaled_linear()
DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if sampler.noise == "none"]
SHAPE = (2, 4, 8, 8)


def two_blobs(x: Tensor, sigma: Any) -> Tensor:
    """The exact denoiser of data around +1 and −1 with variance ¼: no sampler is exact on it."""
    variance = 0.25 + sigma**2
    return (0.25 * x + sigma**2 * torch.tanh(x / variance)) / variance


def one_blob(x: Tensor, sigma: Any) -> Tensor:
    """The exact denoiser of data that are normal with variance 1."""
    return x / (1 + sigma**2)


def silent(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    return torch.zeros(SHAPE)


def requesting(denoise: Callable[[Tensor, Tensor], Tensor]) -> Denoiser:
    """A denoiser that makes one request for each call, as a model would, and answers itself."""
    model: DiffusionModel = ToyModel()

    def call(x: Tensor, sigma: Tensor) -> Steps[Tensor]:
        yield Eval(model, x, sigma.expand(len(x)), Inputs(x.new_zeros(len(x), 1, 1)))
        return denoise(x, sigma)

    return call


def start(sigmas: Tensor, seed: int = 0) -> Tensor:
    return noises.initial(SHAPE, seed).to(sigmas.dtype) * sigmas[0]


def run(
    name: str,
    sigmas: Tensor,
    denoise: Callable[[Tensor, Tensor], Tensor] = two_blobs,
    noise: Noise = silent,
    x: Tensor | None = None,
) -> tuple[Tensor, int]:
    """What a sampler returns, and how many evaluations it took."""
    x = start(sigmas) if x is None else x
    steps = SAMPLERS[name].sample(requesting(denoise), x, sigmas, noise)
    count, answer = 0, None
    while True:
        try:
            steps.send(answer)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            return end.value, count
        count, answer = count + 1, x


# --- against diffusers -------------------------------------------------------------------------


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


def diffusers_uni_pc(sigmas: Tensor, solver_type: Literal["bh1", "bh2"] = "bh1") -> Tensor:
    scheduler = UniPCMultistepScheduler(solver_order=3, solver_type=solver_type)
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = torch.cat([sigmas[:-1], torch.tensor([0.001])])
    return theirs(scheduler, sigmas, sigmas[:-1], is_scaled=True)


# Both sides are float32, where rounding alone is worth 5e-7 over 20 steps, and more where latents
# are still as large as sigma at the end. The last three work on rescaled latents there, and UniPC
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
        name,
        sigmas[:-1] if name in STOPS_EARLY else sigmas,
        noise=lambda sigma, sigma_next: torch.randn(SHAPE, generator=generator),
    )
    torch.testing.assert_close(ours, theirs_of(sigmas), rtol=0, atol=tolerance)


# --- closed forms ------------------------------------------------------------------------------


def geometric(steps: int) -> Tensor:
    return torch.logspace(math.log10(14.0), math.log10(0.1), steps + 1, dtype=torch.float64)


def error(name: str, steps: int) -> float:
    """The distance from the exact flow of ``one_blob``, on which x grows with √(1 + σ²)."""
    sigmas = geometric(steps)
    exact = start(sigmas) * ((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2)).sqrt()
    result, _ = run(name, sigmas, one_blob)
    return float((result - exact).abs().max())


# The orders of their papers; LMS and UniPC begin with lower ones (UniPC also ends), which tells.
ORDERS = {
    "euler": 1,
    "ddim": 1,
    "heun": 2,
    "dpm_2": 2,
    "dpmpp_2m": 2,
    "lms": 2,
    "uni_pc": 2,
    "uni_pc_bh2": 2,
}


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_halving_the_steps_divides_the_error_by_the_order(name: str):
    # 0.85: the order is a limit, and these steps are still finite.
    assert math.log2(error(name, 64) / error(name, 128)) > 0.85 * ORDERS[name]


# Consistency sampling is left out: it asks the denoiser to be the whole flow; this one is not.
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "lcm"])
def test_data_of_variance_1_come_out_with_variance_1(name: str):
    kind = SAMPLERS[name].noise
    sigmas = SCHEDULERS["karras"](SD, 30 if kind == "brownian" else 100)
    x = noises.initial((1, 4, 64, 64), 1) * (1 + sigmas[0] ** 2).sqrt()
    result, _ = run(name, sigmas, one_blob, noises.for_sampler(kind, x, sigmas, 1), x)
    # 16,384 samples: 0.006 of chance; the rest is what first-order samplers miss in 100 steps.
    assert float(result.std()) == pytest.approx(1, abs=0.05)
    assert float(result.mean()) == pytest.approx(0, abs=0.03)


def test_more_steps_refine_the_same_picture_where_noise_is_brownian():
    def picture(steps: int) -> Tensor:
        # One path for all: every number of steps has the same largest and least sigma.
        sigmas = SCHEDULERS["karras"](SD, steps)
        x = noises.initial((1, 4, 8, 8), 3) * sigmas[0]
        return run("dpmpp_sde", sigmas, one_blob, noises.brownian(x, sigmas, 3), x)[0]

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
    result, _ = run("lcm", sigmas, one_blob, lambda sigma, sigma_next: torch.ones(SHAPE))
    torch.testing.assert_close(result, expected)


def test_ancestral_steps_keep_the_variance_of_the_noise():
    """With all data at 0 the latent is noise alone: at each sigma its variance is σ²."""
    sigmas = torch.tensor([10.0, 6.0, 3.0, 1.0])
    x = noises.initial((4, 4, 64, 64), 1) * sigmas[0]
    for name in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_sde"):
        noise = noises.for_sampler("gaussian", x, sigmas, 2)
        result, _ = run(name, sigmas, lambda x, sigma: torch.zeros_like(x), noise, x)
        assert float(result.std()) == pytest.approx(1, abs=0.012)  # four deviations of 65,536


# --- laws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_to_zero_is_what_the_denoiser_says(name: str):
    sigmas = torch.tensor([5.0, 0.0])
    result, count = run(name, sigmas)
    # UniPC ends at 0.001, not at 0: of x that share, a fifth of a thousandth, is left.
    tolerance = 1e-2 if name.startswith("uni_pc") else 1e-5
    torch.testing.assert_close(result, two_blobs(start(sigmas), 5.0), rtol=0, atol=tolerance)
    assert count == 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_step_costs_what_its_order_says(name: str):
    _, count = run(name, SCHEDULERS["normal"](SD, 6))
    two_stage = name in ("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_sde")
    assert count == (11 if two_stage else 6)  # the step to 0 needs no second evaluation


@pytest.mark.parametrize("name", SAMPLERS)
def test_neither_the_latent_nor_the_sigmas_are_written_to(name: str):
    sigmas = SCHEDULERS["normal"](SD, 5)
    x = start(sigmas)
    versions = x._version, sigmas._version
    run(name, sigmas, x=x)
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
        assert torch.equal(result, run(name, sigmas, x=start(sigmas, seed))[0])


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
    for name in DETERMINISTIC:
        run(name, sigmas, noise=noises.for_sampler("none", start(sigmas), sigmas, 0))
    with pytest.raises(AssertionError, match="without noise"):
        run("lcm", sigmas, noise=noises.for_sampler("none", start(sigmas), sigmas, 0))


def test_samplers_have_the_names_that_workflows_use():
    wanted = (
        "euler euler_ancestral heun dpm_2 dpm_2_ancestral lms dpmpp_2m dpmpp_sde ddim uni_pc lcm"
    )
    assert set(wanted.split()) <= set(SAMPLERS)
    dropping = {name for name, sampler in SAMPLERS.items() if sampler.drops_penultimate}
    assert dropping == {"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"}


def test_linear_multistep_is_exact_where_the_slope_is_a_cubic_in_sigma():
    """Four slopes determine a cubic, so from the fifth sigma on there is no error to see."""
    sigmas = torch.tensor([9.0, 7.0, 6.0, 4.0, 1.5, 1.0], dtype=torch.float64)

    def polynomial(sigma: Any) -> Any:
        return 0.1 * sigma**3 - sigma**2 + 2 * sigma - 3

    def integral(sigma: Any) -> Any:
        return 0.025 * sigma**4 - sigma**3 / 3 + sigma**2 - 3 * sigma

    seen: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return x - sigma * polynomial(sigma)

    result, _ = run("lms", sigmas, denoise)
    path = [*seen, result]
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        if i >= 3:
            step = integral(sigma_next) - integral(sigma)
            torch.testing.assert_close(path[i + 1] - path[i], step.expand(SHAPE))
