"""Whole runs: seeds, masks, parts of a run, and errors that say what would do."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_model import ToyModel, drive, drive_together, prompt

from executor.errors import InputError
from executor.ports import Area, Latent
from executor.sampling import noise as noises
from executor.sampling.forward import evaluate
from executor.sampling.guiders import CfgGuider
from executor.sampling.ksampler import Sampled, first_scale, sample, sample_along, section
from executor.sampling.noise import NoNoise, SeededNoise
from executor.sampling.samplers import SAMPLERS
from executor.sampling.schedules import SCHEDULERS, sigmas_for
from executor.steps import Eval

SD = ToyModel.schedule


def arguments(**changes: Any) -> dict[str, Any]:
    common: dict[str, Any] = {
        "model": ToyModel(),
        "positive": (prompt(1.0),),
        "negative": (prompt(0.0),),
        "latent": empty(),
        "seed": 5,
        "steps": 4,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "normal",
    }
    return common | changes


def sampled(**changes: Any) -> Latent:
    return drive(sample(**arguments(**changes)))


def empty(batch: int = 1) -> Latent:
    return Latent(torch.zeros(batch, 4, 8, 8))


def picture(batch: int = 1, **more: Any) -> Latent:
    generator = torch.Generator().manual_seed(9)
    return Latent(torch.randn(batch, 4, 8, 8, generator=generator), **more)


# --- seeds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler_name", SAMPLERS)
def test_the_same_seed_gives_the_same_latent_and_another_another(sampler_name: str):
    first = sampled(sampler_name=sampler_name)
    assert torch.equal(sampled(sampler_name=sampler_name).samples, first.samples)
    assert not torch.equal(sampled(sampler_name=sampler_name, seed=6).samples, first.samples)
    assert first.samples.dtype == torch.float32


def test_one_picture_of_a_batch_can_be_made_again_alone():
    batch = sampled(latent=empty(4))
    again = sampled(latent=Latent(torch.zeros(2, 4, 8, 8), batch_index=(2, 0)))
    torch.testing.assert_close(again.samples, batch.samples[[2, 0]])
    assert again.batch_index == (2, 0)


@pytest.mark.parametrize("sampler_name", ["euler_ancestral", "dpm_2_ancestral", "lcm"])
def test_the_offset_of_the_ancestral_seed_matters_to_samplers_that_add_noise(sampler_name: str):
    plain = sampled(sampler_name=sampler_name)
    other = sampled(sampler_name=sampler_name, ancestral_seed_offset=0)
    assert not torch.equal(plain.samples, other.samples)
    assert torch.equal(
        sampled(ancestral_seed_offset=0).samples, sampled(ancestral_seed_offset=1).samples
    )


def test_runs_of_different_samplers_and_lengths_share_batches_and_get_what_they_get_alone():
    model = ToyModel()
    plans = [
        {"sampler_name": "euler", "steps": 6},
        {"sampler_name": "heun", "steps": 3, "scheduler": "karras", "cfg": 7.0},
        {"sampler_name": "dpmpp_2m", "steps": 4, "denoise": 0.5, "latent": picture()},
        {"sampler_name": "euler_ancestral", "steps": 5, "cfg": 1.0},
    ]
    together = drive_together([sample(**arguments(model=model, **plan)) for plan in plans])
    assert len(model.shapes) == 6  # as many rounds as the longest run has
    for result, plan in zip(together, plans, strict=True):
        # The toy model works row by row, so a batch changes nothing at all.
        assert torch.equal(result.samples, sampled(**plan).samples)


def test_a_closed_run_asks_for_nothing_more():
    run = sample(**arguments())
    next(run)
    run.close()
    with pytest.raises(StopIteration):
        next(run)


# --- where a run begins and ends ---------------------------------------------------------------


def test_a_run_ends_where_the_exact_flow_ends():
    model = ToyModel()
    result = sampled(model=model, cfg=1.0, steps=100, sampler_name="heun")
    noise = noises.initial((1, 4, 8, 8), 5) * math.sqrt(1 + SD.sigma_max**2)
    exact = 1 + (noise - 1) / math.sqrt(1 + SD.sigma_max**2)
    # 2e-2: what 100 steps of second order leave, in latents that are scaled by ½ on their way out.
    torch.testing.assert_close(result.samples, exact / model.latent_scale, rtol=0, atol=2e-2)


def test_the_first_noise_has_the_variance_that_training_saw():
    top = torch.tensor(SD.sigma_max)
    assert float(first_scale(SD, top)) == pytest.approx(math.sqrt(1 + SD.sigma_max**2))
    assert float(first_scale(SD, top * (1 + 5e-6))) > SD.sigma_max * 1.001
    assert float(first_scale(SD, top * 2)) > SD.sigma_max * 2
    assert float(first_scale(SD, top * 0.99)) == pytest.approx(SD.sigma_max * 0.99)


def test_a_run_with_little_denoising_stays_near_its_picture():
    near = sampled(latent=picture(), denoise=0.1, scheduler="karras")
    far = sampled(latent=picture(), denoise=0.9, scheduler="karras")
    start = picture().samples
    assert (near.samples - start).norm() < 0.2 * (far.samples - start).norm()


@pytest.mark.parametrize(
    "nothing",
    [
        {"denoise": 0.0},
        {"start_step": 4},
        {"start_step": 99},
        {"last_step": 0, "start_step": 0, "force_full_denoise": True},
        {"start_step": 3, "last_step": 2},
    ],
)
def test_a_run_of_no_steps_gives_its_latent_back(nothing: dict[str, Any]):
    model = ToyModel()
    result = sampled(model=model, latent=picture(), **nothing)
    assert model.shapes == []
    assert torch.equal(result.samples, picture().samples)


@pytest.mark.parametrize("sampler_name", ["euler", "heun", "dpm_2"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_two_parts_of_a_run_make_the_whole(sampler_name: str, scheduler: str):
    """Only for samplers without a memory; the others forget at the seam."""
    whole = {"sampler_name": sampler_name, "scheduler": scheduler, "steps": 5}
    first = sampled(**whole, start_step=0, last_step=2)
    both = sampled(**whole, latent=first, start_step=2, last_step=10_000, disable_noise=True)
    # 1e-5: the latent was divided by its scale and multiplied again at the seam.
    torch.testing.assert_close(both.samples, sampled(**whole).samples, rtol=1e-5, atol=1e-5)


def test_a_part_may_end_without_noise_or_with_what_is_left():
    noisy = sampled(last_step=2)
    clean = sampled(last_step=2, force_full_denoise=True)
    assert noisy.samples.std() > 2 * clean.samples.std()
    sigmas = sigmas_for(SD, "normal", 4)
    assert section(sigmas, 1, 3).tolist() == sigmas[1:4].tolist()
    assert section(sigmas, 1, 3, force_full_denoise=True).tolist() == [*sigmas[1:3].tolist(), 0]
    assert section(sigmas, None, 99, force_full_denoise=True).tolist() == sigmas.tolist()
    assert sigmas[3] > 0  # which the part did not write to


def test_a_latent_without_noise_is_taken_as_it_is():
    model = ToyModel()
    run = sample(**arguments(model=model, latent=picture(), disable_noise=True))
    request = next(run)
    torch.testing.assert_close(request.x[:1], picture().samples * model.latent_scale)


def test_sigmas_sampler_and_noise_can_be_given_directly():
    named = sampled(scheduler="karras", sampler_name="dpmpp_2m")
    guider = CfgGuider(ToyModel(), (prompt(1.0),), (prompt(0.0),), 2.0)
    given = drive(
        sample_along(
            guider,
            empty(),
            sampler=SAMPLERS["dpmpp_2m"],
            sigmas=sigmas_for(SD, "karras", 4),
            noise=SeededNoise(5),
        )
    )
    assert torch.equal(given.output.samples, named.samples)


def along(sigmas: list[float], *, sampler: str = "euler", **latent: Any) -> Sampled:
    """A run along these sigmas from a picture, its first noise that of seed 5."""
    guider = CfgGuider(ToyModel(), (prompt(1.0),), (prompt(0.0),), 1.0)
    run = sample_along(
        guider,
        picture(**latent),
        sampler=SAMPLERS[sampler],
        sigmas=torch.tensor(sigmas),
        noise=SeededNoise(5),
    )
    return drive(run)


def test_of_a_single_sigma_comes_the_noised_latent_and_of_none_the_latent():
    assert torch.equal(along([]).output.samples, picture().samples)
    noised = along([3.0])
    noise = noises.initial((1, 4, 8, 8), 5) * 3.0 / ToyModel.latent_scale
    torch.testing.assert_close(noised.output.samples, picture().samples + noise)
    assert noised.denoised is noised.output


def test_what_the_last_step_predicted_is_given_beside_the_noisy_rest():
    result = along([8.0, 4.0, 2.0])
    before = along([8.0, 4.0]).output.samples * ToyModel.latent_scale
    predicted = (1 + (before - 1) / (1 + 4.0**2)) / ToyModel.latent_scale
    torch.testing.assert_close(result.denoised.samples, predicted, rtol=0, atol=1e-5)
    clean = along([8.0, 4.0, 2.0, 0.0])
    torch.testing.assert_close(clean.denoised.samples, clean.output.samples, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", ["heun", "dpm_2"])
def test_of_a_last_step_of_several_stages_the_first_prediction_is_given(sampler: str):
    begun = along([8.0, 4.0], sampler=sampler).output.samples * ToyModel.latent_scale
    predicted = (1 + (begun - 1) / (1 + 4.0**2)) / ToyModel.latent_scale
    result = along([8.0, 4.0, 0.5], sampler=sampler)
    torch.testing.assert_close(result.denoised.samples, predicted, rtol=0, atol=1e-5)


def test_a_mask_and_places_in_a_batch_stay_on_both_results():
    result = along([8.0, 4.0], noise_mask=half())
    for latent in result:
        assert latent.noise_mask is not None
        torch.testing.assert_close(
            result.denoised.samples[..., :4], picture().samples[..., :4], rtol=0, atol=1e-5
        )


def test_sigmas_that_rise_lead_back_to_the_noise():
    """The flow goes both ways: what noise became a picture, the picture becomes again."""
    down = sigmas_for(SD, "karras", 200)[40:-1].tolist()
    noised = along(down[:1]).output
    there = along(down).output

    def back(latent: Latent) -> Latent:
        guider = CfgGuider(ToyModel(), (prompt(1.0),), (prompt(0.0),), 1.0)
        sigmas = torch.tensor(down[::-1])
        run = sample_along(guider, latent, sampler=SAMPLERS["heun"], sigmas=sigmas, noise=NoNoise())
        return drive(run).output

    # 160 steps of first order down, of second order up.
    again = back(there).samples
    assert (again - noised.samples).norm() < 0.05 * noised.samples.norm()


# --- noise masks -------------------------------------------------------------------------------


def half() -> Tensor:
    mask = torch.zeros(1, 8, 8)
    mask[..., 4:] = 1
    return mask


@pytest.mark.parametrize("sampler_name", SAMPLERS)
def test_a_mask_of_ones_is_no_mask(sampler_name: str):
    masked = sampled(latent=picture(noise_mask=torch.ones(1, 8, 8)), sampler_name=sampler_name)
    plain = sampled(latent=picture(), sampler_name=sampler_name)
    torch.testing.assert_close(masked.samples, plain.samples)
    assert masked.noise_mask is not None


@pytest.mark.parametrize("sampler_name", SAMPLERS)
def test_what_the_mask_keeps_comes_out_as_it_went_in(sampler_name: str):
    result = sampled(latent=picture(noise_mask=half()), sampler_name=sampler_name)
    # UniPC ends at sigma 0.001, DPM-Solver at the least positive one, 0.03, and not at 0. Of 1e-5
    # else: one rounding of a latent of 100 on its way.
    ends = {"uni_pc": 1e-2, "uni_pc_bh2": 1e-2, "dpm_fast": 0.3, "dpm_adaptive": 0.3}
    tolerance = ends.get(sampler_name, 1e-5)
    kept, start = result.samples[..., :4], picture().samples[..., :4]
    torch.testing.assert_close(kept, start, rtol=0, atol=tolerance)
    assert (result.samples[..., 4:] - picture().samples[..., 4:]).abs().max() > 0.1


def test_the_model_sees_the_kept_part_at_the_noise_of_each_step():
    model, latent = ToyModel(), picture(noise_mask=half())
    run = sample(**arguments(model=model, latent=latent, cfg=1.0))
    request = next(run)
    noise = noises.initial((1, 4, 8, 8), 5)
    while True:
        sigma = request.sigma.reshape(-1, 1, 1, 1)
        expected = latent.samples * model.latent_scale + noise * sigma
        torch.testing.assert_close(request.x[..., :4], expected[..., :4])
        try:
            request = run.send(model.denoise(request.x, request.sigma, request.inputs))
        except StopIteration:
            break


def test_ddim_is_euler_but_for_the_noise_on_what_a_mask_keeps():
    plain, masked = picture(), picture(noise_mask=half())
    assert torch.equal(
        sampled(latent=plain, sampler_name="ddim").samples, sampled(latent=plain).samples
    )
    first: dict[str, Tensor] = {}
    for name in ("ddim", "euler"):
        first[name] = next(sample(**arguments(latent=masked, sampler_name=name, cfg=1.0))).x
    seen = first["ddim"][..., :4] - first["euler"][..., :4]
    noise = noises.initial((1, 4, 8, 8), 6) - noises.initial((1, 4, 8, 8), 5)
    # 1e-4: differences of numbers of about 50.
    torch.testing.assert_close(seen, noise[..., :4] * SD.sigma_max, rtol=0, atol=1e-4)
    torch.testing.assert_close(first["ddim"][..., 4:], first["euler"][..., 4:])


def test_a_soft_mask_of_any_size_blends_before_and_after():
    model, soft = ToyModel(), torch.full((1, 64, 64), 0.25)
    result = sampled(model=model, latent=picture(noise_mask=soft), steps=1, cfg=1.0)
    clean, noise = picture().samples * model.latent_scale, noises.initial((1, 4, 8, 8), 5)
    free = clean + noise * math.sqrt(1 + SD.sigma_max**2)
    seen = 0.25 * free + 0.75 * (clean + noise * SD.sigma_max)
    denoised = 1 + (seen - 1) / (1 + SD.sigma_max**2)
    expected = (0.25 * denoised + 0.75 * clean) / model.latent_scale
    # 1e-5: one Euler step from 14.6 to 0 takes differences of numbers of about 50.
    torch.testing.assert_close(result.samples, expected, rtol=0, atol=1e-5)


def test_a_mask_for_each_picture_of_a_batch():
    masks = torch.cat([half(), 1 - half()])
    result = sampled(latent=picture(3, noise_mask=masks)).samples
    start = picture(3).samples
    torch.testing.assert_close(result[0, ..., :4], start[0, ..., :4], rtol=0, atol=1e-5)
    torch.testing.assert_close(result[1, ..., 4:], start[1, ..., 4:], rtol=0, atol=1e-5)
    torch.testing.assert_close(result[2, ..., :4], start[2, ..., :4], rtol=0, atol=1e-5)


# --- what a run shows of itself ----------------------------------------------------------------


def requests_of(**changes: Any) -> tuple[list[Eval], list[Tensor], Latent]:
    """What a run asked for, what it was answered, and its result."""
    requests: list[Eval] = []
    answers: list[Tensor] = []
    steps = sample(**arguments(**changes))
    try:
        request = next(steps)
        while True:
            requests.append(request)
            answers += evaluate([request])
            request = steps.send(answers[-1])
    except StopIteration as end:
        return requests, answers, end.value


@pytest.mark.parametrize("sampler_name", SAMPLERS)
def test_each_request_carries_what_the_one_before_came_to(sampler_name: str):
    requests, answers, result = requests_of(cfg=1.0, sampler_name=sampler_name)
    assert requests[0].denoised is None
    for request, answer in zip(requests[1:], answers, strict=False):
        assert request.denoised is not None
        # CFG++ asks both sides even at scale 1, where guidance leads to the positive by a rounding.
        assert len(answer) == (2 if SAMPLERS[sampler_name].uses_unguided else 1)
        torch.testing.assert_close(request.denoised, answer[:1], rtol=0, atol=1e-5)
    assert torch.equal(result.samples, sampled(cfg=1.0, sampler_name=sampler_name).samples)


def test_what_a_request_carries_is_guided_and_keeps_what_the_mask_keeps():
    latent = picture(noise_mask=half())
    requests, answers, _ = requests_of(latent=latent, cfg=3.0)
    assert len(answers[0]) == 2  # both sides at once
    wanted, unwanted = answers[0].split(1)
    guided = unwanted + 3 * (wanted - unwanted)
    shown = requests[1].denoised
    assert shown is not None
    clean = latent.samples * ToyModel.latent_scale
    torch.testing.assert_close(shown[..., 4:], guided[..., 4:], rtol=0, atol=1e-5)
    assert torch.equal(shown[..., :4], clean[..., :4])


def test_with_several_requests_a_step_all_carry_the_same():
    areas = [prompt(1.0, area=Area(8, 4, 0, 0)), prompt(1.0, area=Area(4, 8, 0, 0))]
    requests, _, _ = requests_of(positive=tuple(areas), cfg=1.0, steps=2)
    assert len(requests) == 4
    assert requests[0].denoised is requests[1].denoised is None
    assert requests[2].denoised is requests[3].denoised is not None


def test_a_failed_evaluation_fails_the_run():
    steps = sample(**arguments())
    next(steps)
    with pytest.raises(RuntimeError, match="it had to be"):
        steps.throw(RuntimeError("it had to be"))


# --- inputs ------------------------------------------------------------------------------------


def test_nothing_that_is_given_is_written_to():
    latent = picture(2, noise_mask=half())
    given = arguments(latent=latent, sampler_name="euler_ancestral")
    assert latent.noise_mask is not None
    tensors = [latent.samples, latent.noise_mask, given["positive"][0].tokens]
    versions = [tensor._version for tensor in tensors]
    drive(sample(**given))
    assert [tensor._version for tensor in tensors] == versions


def test_an_empty_latent_gets_the_channels_that_the_model_wants():
    result = sampled(latent=Latent(torch.zeros(1, 16, 8, 8)))
    assert result.samples.shape == (1, 4, 8, 8)


def test_a_latent_that_the_model_cannot_take_is_refused():
    with pytest.raises(InputError, match="16 channels, the model works on 4"):
        sampled(latent=Latent(torch.ones(1, 16, 8, 8)))
    with pytest.raises(InputError, match=r"got shape \(1, 4, 2, 8, 8\)"):
        sampled(latent=Latent(torch.zeros(1, 4, 2, 8, 8)))


def test_unknown_samplers_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="'eular'; did you mean 'euler'"):
        sampled(sampler_name="eular")
    with pytest.raises(InputError, match=r"'x': .*euler_ancestral"):
        sampled(sampler_name="x")
