"""The sampler nodes: choices, seeds, and that several of them make one run."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from laws import left_alone
from torch import Tensor

from executor import Cond, Context, Inputs, Latent, Steps
from executor.ports import Canvas
from executor.sampling.forward import evaluate
from executor.sampling.guidance import repeated
from executor.sampling.samplers import SAMPLERS
from executor.sampling.schedules import SCHEDULERS, DiscreteSchedule
from executor.settings import Settings
from executor.workspace import Workspace
from nodes.batch import LatentFromBatch
from nodes.sampling import KSampler, KSamplerAdvanced, SamplerName, SchedulerName


class Blob:
    """The exact denoiser of data that is normal around the prompt's mean with variance ¼."""

    key = "blob"
    schedule = DiscreteSchedule.scaled_linear()
    latent_channels, latent_scale, device = 4, 0.5, torch.device("cpu")
    patches = ()

    def inputs(self, cond: Cond, canvas: Canvas, *, is_negative: bool) -> Inputs:
        return Inputs(repeated(cond.tokens, len(canvas.clean)))

    def denoise(self, x: Tensor, sigma: Tensor, inputs: Inputs) -> Tensor:
        mean = inputs.tokens.mean(dim=(1, 2)).view(-1, 1, 1, 1)
        variance = sigma.view(-1, 1, 1, 1) ** 2
        return (x * 0.25 + mean * variance) / (0.25 + variance)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Workspace(Settings(base_directory=tmp_path, device="cpu")).context()


def driven(steps: Steps[Latent]) -> Latent:
    """Answer every evaluation at once, as an engine with nothing else to do."""
    answer: Any = None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration as end:
            return end.value
        (answer,) = evaluate([request])


def prompt(mean: float) -> tuple[Cond, ...]:
    return (Cond(torch.full((1, 77, 6), mean)),)


def empty(batch: int = 1) -> Latent:
    return Latent(torch.zeros(batch, 4, 6, 8))


def inputs(**changes: Any) -> dict[str, Any]:
    common: dict[str, Any] = {
        "model": Blob(),
        "positive": prompt(1.0),
        "negative": prompt(-0.5),
        "cfg": 1.5,
    }
    return {**common, "latent_image": empty(), "steps": 6, **changes}


def test_the_choices_are_the_samplers_and_schedulers_that_there_are() -> None:
    assert set(get_args(SamplerName)) == set(SAMPLERS)
    assert set(get_args(SchedulerName)) == set(SCHEDULERS)


def test_input_names_order_and_defaults_are_comfyuis() -> None:
    assert list(KSampler.inputs()) == [
        *("model", "seed", "steps", "cfg", "sampler_name", "scheduler"),
        *("positive", "negative", "latent_image", "denoise"),
    ]
    assert list(KSamplerAdvanced.inputs()) == [
        *("model", "add_noise", "noise_seed", "steps", "cfg", "sampler_name", "scheduler"),
        *("positive", "negative", "latent_image", "start_at_step", "end_at_step"),
        "return_with_leftover_noise",
    ]
    cfg = KSampler.inputs()["cfg"]
    assert (cfg.default, cfg.at_least, cfg.at_most) == (8.0, 0, 100)
    assert cfg.options == {"step": 0.1, "round": 0.01}
    assert KSampler.inputs()["seed"].at_most == 2**64 - 1


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_the_seed_decides_and_inputs_are_left_alone(ctx, sampler: Any) -> None:
    given = inputs(sampler_name=sampler, scheduler="karras")
    with left_alone(*given.values()):
        first, second, other = (
            driven(KSampler(seed=seed, **given).run(ctx)).samples for seed in (3, 3, 4)
        )
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)
    assert first.isfinite().all()
    assert first.shape == (1, 4, 6, 8)


@pytest.mark.parametrize("mean", [-2.0, 1.0])
def test_the_prompt_decides_where_the_latent_ends_up(ctx, mean: float) -> None:
    # With cfg 1 the prompt alone holds. Sampling starts at zero and not at the mean under the
    # noise, of which the exact solution keeps as much as of the noise: its standard deviation's
    # share, ½ of √(¼ + σ²).
    given = inputs(positive=prompt(mean), cfg=1, steps=20, latent_image=empty(8))
    made = driven(KSampler(seed=1, **given).run(ctx))
    kept = 0.5 / (0.25 + Blob.schedule.sigma_max**2) ** 0.5
    # The mean of 1,536 values of standard deviation ½, unscaled by ½, is within 0.1 (4 σ).
    assert made.samples.mean().item() == pytest.approx(mean * (1 - kept) / 0.5, abs=0.1)


def test_denoise_zero_gives_the_latent_back(ctx) -> None:
    before = Latent(torch.randn(1, 4, 6, 8), batch_index=(4,))
    after = driven(KSampler(**inputs(latent_image=before), denoise=0).run(ctx))
    assert torch.equal(after.samples, before.samples)


def test_less_denoising_stays_nearer_to_the_latent(ctx) -> None:
    before = Latent(torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(1)))
    distances = [
        (driven(KSampler(**inputs(latent_image=before), denoise=d).run(ctx)).samples)
        .sub(before.samples)
        .norm()
        .item()
        for d in (0.2, 0.5, 1.0)
    ]
    assert distances == sorted(distances)


def test_a_noise_mask_keeps_what_it_does_not_cover(ctx) -> None:
    mask = torch.zeros(1, 48, 64)
    mask[:, :, :16] = 1
    before = Latent(torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(1)), mask)
    after = driven(KSampler(**inputs(latent_image=before)).run(ctx))
    # Scaling by latent_scale and back is a rounding each way.
    torch.testing.assert_close(after.samples[..., 2:], before.samples[..., 2:])
    assert (after.samples[..., :2] - before.samples[..., :2]).abs().mean() > 0.1
    assert after.noise_mask is mask


def test_one_picture_of_a_batch_can_be_made_again_alone(ctx) -> None:
    batch = empty(3)
    together = driven(KSampler(**inputs(latent_image=batch), seed=11).run(ctx)).samples
    for place in range(3):
        alone = LatentFromBatch(samples=batch, batch_index=place).run(ctx)
        again = driven(KSampler(**inputs(latent_image=alone), seed=11).run(ctx)).samples
        # The arithmetic is element by element, but vector units may round in another order.
        torch.testing.assert_close(again, together[place : place + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim"])
def test_two_samplers_that_take_turns_make_the_run_of_one(ctx, sampler: Any) -> None:
    given = inputs(sampler_name=sampler, scheduler="normal", steps=8, noise_seed=5)
    whole = driven(KSamplerAdvanced(**given).run(ctx))
    half = driven(
        KSamplerAdvanced(**given, end_at_step=3, return_with_leftover_noise="enable").run(ctx)
    )
    given["latent_image"] = half
    rest = KSamplerAdvanced(**given, add_noise="disable", start_at_step=3).run(ctx)
    torch.testing.assert_close(driven(rest).samples, whole.samples, rtol=1e-5, atol=1e-5)


def test_ksampler_is_the_advanced_one_over_all_steps(ctx) -> None:
    simple = driven(KSampler(**inputs(), seed=9).run(ctx))
    advanced = driven(KSamplerAdvanced(**inputs(), noise_seed=9).run(ctx))
    assert torch.equal(simple.samples, advanced.samples)


def test_leftover_noise_stays_only_if_it_is_asked_for(ctx) -> None:
    def spread(leftover: Any) -> float:
        node = KSamplerAdvanced(
            **inputs(steps=10), end_at_step=3, return_with_leftover_noise=leftover
        )
        return driven(node.run(ctx)).samples.std().item()

    assert spread("enable") > 2 * spread("disable")
