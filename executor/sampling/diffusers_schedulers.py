"""diffusers' schedulers as samplers, for those who want that algorithm with that library's numbers.

A scheduler keeps its state in itself, so every run makes one of its own; what it needs of the
model is yielded like any sampler's requests and shares batches with them. Schedulers step either
in our variables (x = x₀ + σ·noise) or in variance preserving ones, x / √(σ² + 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from executor.errors import InputError, nearest
from executor.ports import Canvas, Latent, NoiseSchedule
from executor.sampling.guidance import repeated, resized
from executor.sampling.ksampler import Memory, free_at, masked, prepared, remembered
from executor.sampling.noise import initial
from executor.sampling_ports import Denoiser, Guidance
from executor.steps import Steps


@dataclass(frozen=True, slots=True)
class Kind:
    """One of diffusers' schedulers."""

    module: str  # below diffusers.schedulers
    name: str
    is_exploding: bool = False  # steps in our variables, and scales what the model sees itself
    lag: int = 0  # of its list of sigmas between steps, behind its place


SCHEDULERS: Mapping[str, Kind] = {
    "DDIM": Kind("scheduling_ddim", "DDIMScheduler"),
    "DDPM": Kind("scheduling_ddpm", "DDPMScheduler"),
    "DPM-M": Kind("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler"),
    "DPM-S": Kind("scheduling_dpmsolver_singlestep", "DPMSolverSinglestepScheduler"),
    "EULER-A": Kind(
        "scheduling_euler_ancestral_discrete",
        "EulerAncestralDiscreteScheduler",
        is_exploding=True,
    ),
    "EULER-D": Kind("scheduling_euler_discrete", "EulerDiscreteScheduler", is_exploding=True),
    "HEUN": Kind("scheduling_heun_discrete", "HeunDiscreteScheduler", is_exploding=True),
    "IPNDM": Kind("scheduling_ipndm", "IPNDMScheduler"),
    "KDPM2-A": Kind(
        "scheduling_k_dpm_2_ancestral_discrete",
        "KDPM2AncestralDiscreteScheduler",
        is_exploding=True,
        lag=1,
    ),
    "KDPM2-D": Kind("scheduling_k_dpm_2_discrete", "KDPM2DiscreteScheduler", is_exploding=True),
    "PNDM": Kind("scheduling_pndm", "PNDMScheduler"),
    "K-LMS": Kind("scheduling_lms_discrete", "LMSDiscreteScheduler", is_exploding=True),
}
"""By the names that RunPod's endpoint of Stable Diffusion gives them."""

USUAL: Mapping[str, Any] = {
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}
"""What Stable Diffusion 1.5's own configuration says, where a scheduler has such an argument."""


def scheduler_for(name: str, schedule: NoiseSchedule) -> Any:
    """A scheduler for a model's noise schedule. Raises InputError for an unknown name."""
    if name not in SCHEDULERS:
        raise InputError(
            f"there is no scheduler {name!r}{nearest(name, SCHEDULERS)}; "
            f"there are {', '.join(SCHEDULERS)}"
        )
    kind = SCHEDULERS[name]
    made = getattr(import_module(f"diffusers.schedulers.{kind.module}"), kind.name)
    known = signature(made.__init__).parameters
    options = {key: value for key, value in USUAL.items() if key in known}
    if name == "IPNDM":  # it has a schedule of its own
        return made()
    kept = 1 / (1 + schedule.sigmas.double() ** 2)  # ᾱ
    betas = 1 - kept / torch.cat((kept.new_ones(1), kept[:-1]))
    return made(num_train_timesteps=len(betas), trained_betas=betas.tolist(), **options)


def sample(
    guider: Guidance, latent: Latent, *, scheduler: str, steps: int, seed: int, denoise: float = 1.0
) -> Steps[Latent]:
    """Noise a latent and denoise it as diffusers' pipelines do.

    ``denoise`` below 1 begins so much of the way from the end; of a latent that holds something,
    whatever it is, the start is that with noise. What schedulers add on their way is drawn on the
    CPU from ``seed + 1``.
    """
    model = guider.model
    latent = prepared(model, latent)
    made = scheduler_for(scheduler, model.schedule)
    made.set_timesteps(steps)
    first = steps - min(int(steps * denoise), steps)
    if first == steps:
        return latent
    timesteps = made.timesteps[first * made.order :]
    if hasattr(made, "set_begin_index"):
        made.set_begin_index(first * made.order)
    clean = latent.samples * model.latent_scale  # (B, C, h, w)
    noise = initial(latent.samples.shape, seed, latent.batch_index).to(clean)
    scale = _Scale.of(scheduler, made, model.schedule)
    marks = torch.tensor([scale.sigma(t) for t in timesteps] + [0.0])
    free = None
    if latent.noise_mask is not None:
        free = repeated(resized(latent.noise_mask, *clean.shape[-2:]), len(clean))[:, None]
        free = free.to(clean)  # (B, 1, h, w)
    denoiser = guider.denoiser(Canvas(clean, free), marks, uses_unguided=False)
    if free is not None:
        denoiser = masked(denoiser, free_at(model, free, marks), clean, noise)
    denoiser = remembered(denoiser, Memory(), marks[-2])
    x = noise * made.init_noise_sigma
    if first or clean.count_nonzero():
        x = scale.noised(clean, noise, timesteps[:1])
    x = yield from _walk(made, scale, denoiser, x, timesteps, seed)
    return replace(latent, samples=x / model.latent_scale)


def _walk(
    made: Any, scale: "_Scale", model: Denoiser, x: Tensor, timesteps: Tensor, seed: int
) -> Steps[Tensor]:
    """Through the timesteps, from a latent in the scheduler's variables to the last one."""
    generator = torch.Generator().manual_seed((seed + 1) % 2**64)
    further = {"generator": generator} if "generator" in signature(made.step).parameters else {}
    for timestep in timesteps:
        made.scale_model_input(x, timestep)  # some ask that it is called, and note where they are
        sigma = torch.tensor(scale.sigma_now(timestep))
        seen = x if scale.kind.is_exploding else x * torch.sqrt(sigma**2 + 1)
        denoised = yield from model(seen, sigma)
        predicted = scale.predicted(timestep, x, seen, sigma, denoised)
        x = made.step(predicted, timestep, x, **further).prev_sample
    return x


@dataclass(frozen=True, slots=True)
class _Scale:
    """How much noise there is at a scheduler's timesteps, and what it wants to be told."""

    made: Any
    kind: Kind
    sigmas: Tensor  # of the training timesteps, rising
    sigma_max: float

    @classmethod
    def of(cls, name: str, made: Any, schedule: NoiseSchedule) -> "_Scale":
        """The scale of a scheduler that was made for a model's schedule."""
        kind = SCHEDULERS[name]
        if name == "IPNDM":
            return _ContinuousScale(made, kind, made.betas, schedule.sigma_max)
        return cls(made, kind, schedule.sigmas.double(), schedule.sigma_max)

    def sigma(self, timestep: Tensor) -> float:
        """At a timestep, between those of training interpolated in log sigma."""
        at = float(timestep)
        low = min(int(at), len(self.sigmas) - 1)
        high = min(low + 1, len(self.sigmas) - 1)
        logs = self.sigmas[[low, high]].log()
        return float(logs[0].lerp(logs[1], at - low).exp())

    def sigma_now(self, timestep: Tensor) -> float:
        """At a timestep that the scheduler has been told to be at."""
        if not self.kind.is_exploding:
            return self.sigma(timestep)
        made = self.made
        between = getattr(made, "sigmas_interpol", None)
        if between is None or made.state_in_first_order:
            return float(made.sigmas[made.step_index])
        return float(between[made.step_index - self.kind.lag])

    def noised(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """A latent with the noise of a timestep."""
        return self.made.add_noise(clean, noise, timestep)

    def predicted(
        self, timestep: Tensor, x: Tensor, seen: Tensor, sigma: Tensor, denoised: Tensor
    ) -> Tensor:
        """The noise that is in ``x``, as a network would have predicted it."""
        return (seen - denoised) / sigma


class _ContinuousScale(_Scale):
    """IPNDM's, whose timesteps go from 1 to 0 and whose networks predict v (Liu et al. 2022)."""

    __slots__ = ()

    def _place(self, timestep: Tensor) -> tuple[float, float]:
        """How much of the picture and of the noise there is."""
        index = int((self.made.timesteps == timestep).nonzero()[0])
        return float(self.made.alphas[index]), float(self.made.betas[index])

    def sigma(self, timestep: Tensor) -> float:
        """At most what the model was trained with: the first is infinite."""
        alpha, beta = self._place(timestep)
        return min(beta / max(alpha, 1e-12), self.sigma_max)

    def sigma_now(self, timestep: Tensor) -> float:
        return self.sigma(timestep)

    def noised(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        alpha, beta = self._place(timestep[0])
        return alpha * clean + beta * noise

    def predicted(
        self, timestep: Tensor, x: Tensor, seen: Tensor, sigma: Tensor, denoised: Tensor
    ) -> Tensor:
        """v = α ε − β x₀ (Salimans & Ho 2022)."""
        alpha, beta = self._place(timestep)
        noise = (x - alpha * denoised) / beta
        return alpha * noise - beta * denoised
