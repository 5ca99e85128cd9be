"""CFG++: where guidance has nothing to say they are the plain ones; what they do where it has."""

from functools import partial
from typing import Any

import pytest
import torch
from sampler_toys import requesting, run, two_blobs, waves
from torch import Tensor

from executor.sampling import cfg_pp
from executor.sampling.samplers import SAMPLERS
from executor.sampling_ports import Sample

SIGMAS = torch.tensor([9.0, 5.0, 3.0, 1.0, 0.0], dtype=torch.float64)
X = 9 * torch.tensor([[-1.5, -0.2, 0.4, 1.7]], dtype=torch.float64)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name.endswith("_cfg_pp")])
def test_without_guidance_each_is_the_sampler_that_it_is_named_after(name: str):
    plain, _ = run(SAMPLERS[name.removesuffix("_cfg_pp")].sample, SIGMAS, two_blobs, waves(X), X)
    made, _ = run(SAMPLERS[name].sample, SIGMAS, two_blobs, waves(X), X)
    torch.testing.assert_close(made, plain, rtol=0, atol=1e-12)


def constant(value: float) -> Any:
    return lambda x, sigma: torch.full_like(x, value)


def test_a_step_keeps_the_unguided_noise_and_moves_what_is_under_it():
    """With D = 2 guided and −1 unguided: 2 + σ' (x + 1) / σ."""
    result, _ = run(cfg_pp.euler_cfg_pp, SIGMAS[:2], requesting(constant(2.0), constant(-1.0)), x=X)
    torch.testing.assert_close(result, 2 + 5 / 9 * (X + 1))


DETERMINISTIC = ["euler_cfg_pp", "dpmpp_2m_cfg_pp", "gradient_estimation_cfg_pp"]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_run_ends_at_what_is_guided(name: str):
    model = requesting(constant(2.0), constant(-1.0))
    result, count = run(SAMPLERS[name].sample, SIGMAS, model, x=X)
    torch.testing.assert_close(result, torch.full_like(X, 2.0))
    assert count == 4


def test_the_second_stage_goes_from_a_moved_latent_towards_guided_estimates():
    seen: list[Tensor] = []

    def guided(x: Tensor, sigma: Any) -> Tensor:
        seen.append(x)
        return torch.full_like(x, 2.0)

    model = requesting(guided, constant(-1.0))
    sigmas = torch.tensor([9.0, 5.0], dtype=torch.float64)
    result, _ = run(cfg_pp.dpmpp_2s_ancestral_cfg_pp, sigmas, model, lambda a, b: X * 0, X)
    moved, down = X + 3, 5.0**2 / 9.0
    middle = (9 * down) ** 0.5
    torch.testing.assert_close(seen[1], 2 + middle / 9 * (moved - 2))
    torch.testing.assert_close(result, 2 + down / 9 * (moved - 2))


@pytest.mark.parametrize(
    "sample", [cfg_pp.euler_ancestral_cfg_pp, partial(cfg_pp.res_multistep_cfg_pp, eta=1.0)]
)
def test_ancestral_ones_draw_noise_but_for_the_last_step(sample: Sample):
    drawn: list[tuple[float, float]] = []

    def noted(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        drawn.append((float(sigma), float(sigma_next)))
        return torch.zeros_like(X)

    run(sample, SIGMAS, two_blobs, noted, X)
    assert drawn == [(9, 5), (5, 3), (3, 1)]
