"""Noise: the same from the same seed, whatever else happens."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from executor.errors import InputError
from executor.ports import Latent
from executor.sampling import noise

SIGMAS = torch.tensor([14.0, 7.0, 3.0, 1.0, 0.0])


def test_initial_noise_is_what_torch_draws_from_the_seed():
    drawn = noise.initial((2, 4, 8, 8), 1234)
    assert torch.equal(drawn, torch.randn(2, 4, 8, 8, generator=torch.manual_seed(1234)))


def test_no_global_generator_moves():
    before = torch.get_rng_state()
    noise.initial((1, 4, 8, 8), 1)
    noise.gaussian(torch.zeros(1, 4, 8, 8), 1)(SIGMAS[0], SIGMAS[1])
    noise.brownian(torch.zeros(1, 4, 8, 8), SIGMAS, 1)(SIGMAS[0], SIGMAS[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_one_picture_of_a_batch_gets_its_noise_again_alone():
    batch = noise.initial((4, 4, 8, 8), 7)
    assert torch.equal(noise.initial((1, 4, 8, 8), 7, (2,)), batch[2:3])
    chosen = noise.initial((5, 4, 8, 8), 7, (3, 0, 0, 2, 3))
    assert torch.equal(chosen, batch[[3, 0, 0, 2, 3]])


def test_an_index_for_each_latent_is_asked_for():
    with pytest.raises(InputError, match="each of the 2 latents"):
        noise.initial((2, 4, 8, 8), 7, (1,))
    with pytest.raises(InputError, match="≥ 0"):
        noise.initial((1, 4, 8, 8), 7, (-1,))


def test_added_noise_repeats_the_initial_noise_only_without_an_offset():
    x = torch.zeros(1, 4, 8, 8)
    initial = noise.initial(x.shape, 5)
    assert torch.equal(noise.gaussian(x, 5, offset=0)(SIGMAS[0], SIGMAS[1]), initial)
    added = noise.gaussian(x, 5)(SIGMAS[0], SIGMAS[1])
    assert torch.equal(added, noise.initial(x.shape, 6))


def test_added_noise_is_new_at_each_call():
    draw = noise.gaussian(torch.zeros(1, 4, 8, 8), 5)
    assert not torch.equal(draw(SIGMAS[0], SIGMAS[1]), draw(SIGMAS[0], SIGMAS[1]))


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_every_seed_draws(seed: int):
    x = torch.zeros(1, 4, 4, 4)
    for kind in ("gaussian", "brownian"):
        drawn = noise.for_sampler(kind, x, SIGMAS, seed)(SIGMAS[0], SIGMAS[1])
        assert drawn.shape == x.shape
        assert drawn.isfinite().all()


def test_brownian_noise_depends_on_the_interval_and_not_on_the_order_of_questions():
    x = torch.zeros(1, 4, 8, 8)
    one, other = noise.brownian(x, SIGMAS, 3), noise.brownian(x, SIGMAS, 3)
    first = one(SIGMAS[0], SIGMAS[1])
    other(SIGMAS[2], SIGMAS[3])
    # 1e-5: the same seeds halve the interval, but partial sums round in another order.
    torch.testing.assert_close(other(SIGMAS[0], SIGMAS[1]), first, rtol=0, atol=1e-5)


def test_brownian_noise_adds_up_over_adjacent_intervals():
    draw = noise.brownian(torch.zeros(1, 4, 8, 8), SIGMAS, 3)
    high, middle, low = SIGMAS[0], SIGMAS[1], SIGMAS[3]
    parts = draw(high, middle) * (high - middle).sqrt() + draw(middle, low) * (middle - low).sqrt()
    # 1e-4: the tree resolves sigma to 1e-6, where the path moves by 1e-3 of a unit at most.
    torch.testing.assert_close(draw(high, low) * (high - low).sqrt(), parts, rtol=0, atol=1e-4)
    torch.testing.assert_close(draw(low, high), -draw(high, low))


@pytest.mark.parametrize("kind", ["gaussian", "brownian", "brownian_on_device"])
def test_added_noise_has_unit_variance(kind: noise.NoiseKind):
    x = torch.zeros(4, 4, 32, 32)
    draw = noise.for_sampler(kind, x, SIGMAS, 11)
    for sigma, sigma_next in pairwise(SIGMAS[:-1]):
        # 16,384 samples: the deviation of their standard deviation is 0.0055; four of those.
        assert float(draw(sigma, sigma_next).std()) == pytest.approx(1, abs=0.022)


def test_brownian_noise_is_that_of_torchsde_with_the_seed_as_entropy():
    import torchsde

    draw = noise.brownian(torch.zeros(1, 4, 4, 4), SIGMAS, 42)
    tree: Any = torchsde.BrownianTree(SIGMAS[3], torch.zeros(1, 4, 4, 4), SIGMAS[0], entropy=42)
    expected = -tree(SIGMAS[1], SIGMAS[0]) / (SIGMAS[0] - SIGMAS[1]).sqrt()
    torch.testing.assert_close(draw(SIGMAS[0], SIGMAS[1]), expected)


def test_first_noise_is_drawn_for_a_latent_and_its_places():
    latent = Latent(torch.zeros(2, 4, 8, 8), batch_index=(3, 1))
    drawn = noise.SeededNoise(7).draw(latent)
    assert torch.equal(drawn, noise.initial((4, 4, 8, 8), 7)[[3, 1]])
    silent = noise.NoNoise(7)
    assert silent.seed == 7
    assert noise.NoNoise().seed == 0
    assert torch.equal(silent.draw(latent), latent.samples)


def test_brownian_noise_of_the_device_is_the_same_path_where_the_device_is_the_cpu():
    x = torch.zeros(1, 4, 8, 8)
    here, there = (
        noise.for_sampler(kind, x, SIGMAS, 3)(SIGMAS[0], SIGMAS[1])
        for kind in ("brownian", "brownian_on_device")
    )
    assert torch.equal(here, there)


def test_brownian_noise_of_no_interval_is_none():
    draw = noise.brownian(torch.zeros(1, 4, 8, 8), SIGMAS, 3)
    assert not draw(SIGMAS[1], SIGMAS[1]).any()
