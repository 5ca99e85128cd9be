"""Patches of noise masks, by themselves and in a whole run."""

import pytest
import torch
from torch import Tensor
from toy_model import ToyModel, drive, prompt

from executor.patches import MaskPatch
from executor.ports import Latent
from executor.sampling.ksampler import sample
from executor.sampling.mask_patches import DifferentialDiffusion
from executor.sampling.schedules import DiscreteSchedule

SCHEDULE = DiscreteSchedule.scaled_linear()
GREY = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).reshape(1, 1, 1, 5)


def free(timestep: float, patch: MaskPatch, *, last: float = 0.0) -> Tensor:
    """What is free at a timestep of a run from timestep 800."""
    first, now = SCHEDULE.sigma(torch.tensor([800.0, timestep]))
    return patch.applied(GREY, now, torch.stack((first, torch.tensor(last))), SCHEDULE).flatten()


def test_places_become_free_as_their_grey_says():
    patch = DifferentialDiffusion()
    assert free(800, patch).tolist() == [0, 0, 0, 0, 1]
    assert free(500, patch).tolist() == [0, 0, 0, 1, 1]
    assert free(390, patch).tolist() == [0, 0, 1, 1, 1]
    assert free(10, patch).tolist() == [0, 1, 1, 1, 1]
    assert free(0, patch).tolist() == [1, 1, 1, 1, 1]


def test_a_run_that_ends_with_noise_counts_to_its_end():
    sigma = float(SCHEDULE.sigma(torch.tensor(400.0)))
    assert free(590, DifferentialDiffusion(), last=sigma).tolist() == [0, 0, 1, 1, 1]
    assert free(400, DifferentialDiffusion(), last=sigma).tolist() == [1, 1, 1, 1, 1]


def test_a_run_of_no_length_frees_all():
    sigma = float(SCHEDULE.sigma(torch.tensor(800.0)))
    assert free(800, DifferentialDiffusion(), last=sigma).tolist() == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(("strength", "share"), [(0.25, 0.25), (1.0, 1.0), (0.0, 1.0)])
def test_a_share_of_the_mask_stays_grey(strength: float, share: float):
    found = free(500, DifferentialDiffusion(strength))
    binary = free(500, DifferentialDiffusion())
    torch.testing.assert_close(found, share * binary + (1 - share) * GREY.flatten())


class Patched(ToyModel):
    """A toy with a patch."""

    patches = (DifferentialDiffusion(),)


def run(model: ToyModel, mask: Tensor) -> Tensor:
    latent = Latent(torch.full((1, 4, 8, 8), 3.0), noise_mask=mask)
    settings = {"seed": 1, "steps": 6, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    steps = sample(model, [prompt(1.0)], [prompt(0.0)], latent, **settings)  # pyright: ignore
    return drive(steps).samples


def test_in_a_run_a_grey_place_is_kept_until_its_time_has_come():
    mask = torch.ones(1, 8, 8)
    mask[:, :, :2], mask[:, :, 2:4], mask[:, :, 4:6] = 0.0, 0.3, 0.7
    found, plain = run(Patched(), mask), run(ToyModel(), torch.ones(1, 8, 8))
    distance = [(found - plain)[..., 2 * at : 2 * at + 2].abs().mean() for at in range(4)]
    assert distance[0] > distance[1] > distance[2] > distance[3] == 0
    torch.testing.assert_close(found[..., :2], torch.full((1, 4, 8, 2), 3.0))


def test_a_mask_without_grey_is_what_it_was():
    mask = (torch.arange(8) % 2).float().expand(1, 8, 8)
    torch.testing.assert_close(run(Patched(), mask), run(ToyModel(), mask))
