"""Every one of diffusers' schedulers gives here what it gives in that library's own loop."""

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any, get_args

import pytest
import torch
from sampler_toys import SD, requesting, two_blobs
from torch import Tensor
from toy_model import ToyModel, drive, drive_together

from executor.errors import InputError
from executor.ports import Canvas, Latent
from executor.sampling.diffusers_schedulers import SCHEDULERS, USUAL, sample
from executor.sampling.noise import initial
from executor.sampling_ports import Denoiser
from nodes.diffusers_sampling import SchedulerName

# diffusers asks numpy for what its newer versions spell otherwise
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SHAPE = (1, 4, 8, 8)
STEPS = 12

TOLERANCES: Mapping[str, float] = {
    **dict.fromkeys(SCHEDULERS, 2e-5),  # float32 over a dozen steps; the results are of size 1
    # These evaluate between timesteps, where sigma is interpolated here and there.
    **dict.fromkeys(("KDPM2-A", "KDPM2-D"), 1e-3),
    # Its first sigma is infinite; here it is what the model was trained with.
    "IPNDM": 1e-4,
}
"""Greatest absolute difference."""


class Guider:
    """The exact denoiser of two blobs, as a guider."""

    model: Any = ToyModel()

    def denoiser(self, canvas: Canvas, sigmas: Tensor, *, uses_unguided: bool) -> Denoiser:
        return requesting(two_blobs)


def ours(name: str, latent: Tensor, **more: Any) -> Tensor:
    run = sample(Guider(), Latent(latent), scheduler=name, steps=STEPS, seed=3, **more)
    return drive(run).samples * Guider.model.latent_scale


def sigma_at(timestep: Tensor) -> Tensor:
    return SD.sigma(timestep.double()).float()


def predicted(name: str, seen: Tensor, timestep: Tensor) -> Tensor:
    """What a network of the right kind says of what it is shown."""
    if name == "IPNDM":  # v, at an angle from 0 to π/2
        angle = timestep * math.pi / 2
        alpha, beta = torch.cos(angle), torch.sin(angle)
        sigma = min(beta / alpha.clamp(min=1e-12), torch.tensor(SD.sigma_max))
        denoised = two_blobs(seen * torch.sqrt(sigma**2 + 1), sigma)
        return alpha * (seen - alpha * denoised) / beta - beta * denoised
    sigma = sigma_at(timestep)
    x = seen * torch.sqrt(sigma**2 + 1)
    return (x - two_blobs(x, sigma)) / sigma


def theirs(name: str, clean: Tensor, first: int = 0) -> Tensor:
    """The loop of diffusers' pipelines, with Stable Diffusion's own configuration."""
    kind = SCHEDULERS[name]
    made = getattr(import_module(f"diffusers.schedulers.{kind.module}"), kind.name)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = made() if name == "IPNDM" else made.from_config({**betas, **USUAL})
    scheduler.set_timesteps(STEPS)
    timesteps = scheduler.timesteps[first * scheduler.order :]
    noise = initial(SHAPE, 3)
    x = noise * scheduler.init_noise_sigma
    if first:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first * scheduler.order)
        x = scheduler.add_noise(clean, noise, timesteps[:1])
    generator = torch.Generator().manual_seed(4)
    draws = name in ("DDPM", "EULER-A", "KDPM2-A")
    for timestep in timesteps:
        answer = predicted(name, scheduler.scale_model_input(x, timestep), timestep)
        more = {"generator": generator} if draws else {}
        x = scheduler.step(answer, timestep, x, **more).prev_sample
    return x


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_run_is_diffusers_own(name: str) -> None:
    found = ours(name, torch.zeros(SHAPE))
    assert (found - theirs(name, torch.zeros(SHAPE))).abs().max() <= TOLERANCES[name]
    assert found.abs().mean() > 0.5, "it came to the data"


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "IPNDM"])
def test_a_run_from_a_picture_is_diffusers_own(name: str) -> None:
    clean = torch.linspace(-1, 1, 256).reshape(SHAPE)
    found = ours(name, clean / Guider.model.latent_scale, denoise=0.5)
    assert (found - theirs(name, clean, first=STEPS // 2)).abs().max() <= TOLERANCES[name]


def test_runs_side_by_side_share_requests_and_give_what_they_give_alone() -> None:
    names = list(SCHEDULERS)
    runs = [
        sample(Guider(), Latent(torch.zeros(SHAPE)), scheduler=name, steps=STEPS, seed=3)
        for name in names
    ]
    for name, latent in zip(names, drive_together(runs), strict=True):
        together = latent.samples * Guider.model.latent_scale
        assert torch.equal(together, ours(name, torch.zeros(SHAPE)))


def test_what_a_mask_keeps_is_kept() -> None:
    clean = torch.full(SHAPE, 0.7)
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    latent = Latent(clean / Guider.model.latent_scale, mask)
    run = sample(Guider(), latent, scheduler="EULER-D", steps=STEPS, seed=3)
    found = drive(run).samples * Guider.model.latent_scale
    assert torch.allclose(found[..., :4], clean[..., :4], atol=1e-5)
    assert not torch.allclose(found[..., 4:], clean[..., 4:], atol=0.1)


def test_the_node_offers_them_all() -> None:
    assert list(get_args(SchedulerName)) == list(SCHEDULERS)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="K-LMS"):
        drive(sample(Guider(), Latent(torch.zeros(SHAPE)), scheduler="KLMS", steps=2, seed=0))
