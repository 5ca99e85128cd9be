"""A whole sampling run, from a latent to a latent: what the node ``KSampler`` does.

Brings together a schedule, a sampler, noise, guidance and the latent's noise mask, and keeps to
ComfyUI's rules where they decide what comes out. ``sample`` takes names and numbers,
``sample_along`` the parts themselves.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from executor.errors import InputError
from executor.patches import MaskPatch
from executor.ports import Canvas, Conditioning, DiffusionModel, Latent, NoiseSchedule
from executor.sampling import noise as noises
from executor.sampling.guidance import repeated, resized
from executor.sampling.guiders import CfgGuider
from executor.sampling.noise import NoNoise, SeededNoise
from executor.sampling.samplers import sampler_named
from executor.sampling.schedules import sigmas_for
from executor.sampling_ports import Denoiser, Estimate, FirstNoise, Guidance, Sampler
from executor.steps import Steps


def sample(
    model: DiffusionModel,
    positive: Conditioning,
    negative: Conditioning,
    latent: Latent,
    *,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float = 1.0,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
    disable_noise: bool = False,
    ancestral_seed_offset: int = 1,
) -> Steps[Latent]:
    """Noise a latent and denoise it, towards ``positive`` and away from ``negative``.

    ``start_step`` and ``last_step`` cut a part out of the steps; ``force_full_denoise`` makes the
    part end without noise. ``disable_noise`` takes the latent as noised already. The noise mask and
    batch index stay on the result. Raises InputError for unknown names and for values that no
    schedule has.
    """
    sampler = sampler_named(sampler_name)
    sigmas = sigmas_for(
        model.schedule, scheduler, steps, denoise, drops_penultimate=sampler.drops_penultimate
    )
    sigmas = section(sigmas, start_step, last_step, force_full_denoise=force_full_denoise)
    latent = prepared(model, latent)
    if len(sigmas) < 2:
        return latent
    sampled = yield from sample_along(
        CfgGuider(model, positive, negative, cfg),
        latent,
        sampler=sampler,
        sigmas=sigmas,
        noise=NoNoise(seed) if disable_noise else SeededNoise(seed),
        ancestral_seed_offset=ancestral_seed_offset,
    )
    return sampled.output


class Sampled(NamedTuple):
    """What a run makes."""

    output: Latent
    denoised: Latent
    """What the model took it to be without its noise, at the beginning of the last step."""


def sample_along(
    guider: Guidance,
    latent: Latent,
    *,
    sampler: Sampler,
    sigmas: Tensor,
    noise: FirstNoise,
    ancestral_seed_offset: int = 1,
) -> Steps[Sampled]:
    """The same along given ``sigmas``: of a single one the noised latent, of none the latent."""
    model = guider.model
    latent = prepared(model, latent)
    if not len(sigmas):
        return Sampled(latent, latent)
    clean = latent.samples * model.latent_scale  # (B, C, h, w)
    first = noise.draw(latent).to(clean)
    sigmas = sigmas.float().cpu()
    x = clean + first * first_scale(model.schedule, sigmas[0])
    memory = Memory()
    if len(sigmas) > 1:
        free = None
        if latent.noise_mask is not None:
            free = repeated(resized(latent.noise_mask, *clean.shape[-2:]), len(clean))[:, None]
            free = free.to(clean)  # (B, 1, h, w)
        canvas = Canvas(clean, free, noise.seed)
        denoiser = guider.denoiser(canvas, sigmas, uses_unguided=sampler.uses_unguided)
        if free is not None:
            own = sampler.has_own_mask_noise
            kept = noises.initial(clean.shape, noise.seed + 1).to(clean) if own else first
            denoiser = masked(denoiser, free_at(model, free, sigmas), clean, kept)
        added = noises.for_sampler(
            sampler.noise, clean, sigmas, noise.seed, ancestral_seed_offset=ancestral_seed_offset
        )
        x = yield from sampler.sample(remembered(denoiser, memory, sigmas[-2]), x, sigmas, added)
    output = replace(latent, samples=x / model.latent_scale)
    denoised = memory.last_step if memory.last_step is not None else memory.latest
    if denoised is None:
        return Sampled(output, output)
    return Sampled(output, replace(latent, samples=denoised / model.latent_scale))


def noised(model: DiffusionModel, latent: Latent, sigmas: Tensor, noise: FirstNoise) -> Latent:
    """A latent with as much noise as the sigmas go through; without sigmas the latent."""
    if not len(sigmas):
        return latent
    latent = prepared(model, latent)
    scale = float(sigmas[0] if len(sigmas) == 1 else (sigmas[0] - sigmas[-1]).abs())
    added = noise.draw(latent).to(latent.samples) * scale / model.latent_scale
    return replace(latent, samples=latent.samples + added)


def section(
    sigmas: Tensor,
    start_step: int | None,
    last_step: int | None,
    *,
    force_full_denoise: bool = False,
) -> Tensor:
    """The sigmas from one step to another; fewer than two if nothing is to be done between them."""
    if last_step is not None and last_step < len(sigmas) - 1:
        sigmas = sigmas[: last_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    return sigmas if start_step is None else sigmas[start_step:]


def first_scale(schedule: NoiseSchedule, sigma: Tensor) -> Tensor:
    """By how much unit noise is multiplied at the start.

    At the largest sigma training saw pure noise of that variance *and* a trace of the picture: √(1
    + σ²) stands for both.
    """
    is_all_noise = float(sigma) > schedule.sigma_max or math.isclose(
        float(sigma), schedule.sigma_max, rel_tol=1e-5
    )
    return torch.sqrt(1 + sigma**2) if is_all_noise else sigma


def free_at(model: DiffusionModel, free: Tensor, sigmas: Tensor) -> Callable[[Tensor], Tensor]:
    """The mask (B, 1, h, w) at a sigma: the same at all, unless the model has a patch for it."""
    patches = [patch for patch in model.patches if isinstance(patch, MaskPatch)]

    def at(sigma: Tensor) -> Tensor:
        return patches[-1].applied(free, sigma, sigmas, model.schedule) if patches else free

    return at


def masked(
    model: Denoiser, free_at: Callable[[Tensor], Tensor], clean: Tensor, noise: Tensor
) -> Denoiser:
    """A denoiser that changes a latent where it is free, 1, and sees the given one elsewhere.

    The blend before and after each evaluation that Lugmayr et al. (2022, RePaint, eq. 8) describe,
    soft masks included. ``free_at`` a sigma is (B, 1, h, w), of the latent's size.
    """

    def both(x: Tensor, sigma: Tensor) -> Steps[Estimate]:
        free = free_at(sigma)
        kept = 1 - free
        x = x * free + (noise * sigma + clean) * kept
        estimate = yield from model.both(x, sigma)
        # What CFG++ takes the noise from is not blended, as in ComfyUI.
        return estimate._replace(guided=estimate.guided * free + clean * kept)

    return replace(model, both=both)


@dataclass(slots=True)
class Memory:
    """Guided estimates of a run."""

    latest: Tensor | None = None
    last_step: Tensor | None = None  # at the sigma from which its last step goes


def remembered(model: Denoiser, memory: Memory, last_step: Tensor) -> Denoiser:
    """The same denoiser; each of its requests carries what it has answered last.

    Samplers that step where they like never ask at ``last_step``.
    """

    def both(x: Tensor, sigma: Tensor) -> Steps[Estimate]:
        requests = model.both(x, sigma)
        try:
            request = next(requests)
            while True:
                request = requests.send((yield replace(request, denoised=memory.latest)))
        except StopIteration as end:
            estimate: Estimate = end.value
        memory.latest = estimate.guided
        if sigma == last_step:
            memory.last_step = estimate.guided
        return estimate

    return replace(model, both=both)


def prepared(model: DiffusionModel, latent: Latent) -> Latent:
    """The latent on the model's device in float32; an empty one gets the model's channels."""
    samples = latent.samples
    if samples.ndim != 4:
        raise InputError(f"a latent is (B, C, H/8, W/8); got shape {tuple(samples.shape)}")
    if samples.shape[1] != model.latent_channels:
        if samples.count_nonzero():
            raise InputError(
                f"the latent has {samples.shape[1]} channels, the model works on"
                f" {model.latent_channels}: encode the picture with the model's own VAE"
            )
        samples = samples.new_zeros(len(samples), model.latent_channels, *samples.shape[2:])
    return replace(latent, samples=samples.to(model.device, torch.float32))
