"""Lists of sigmas: their formulas a second time, published figures, and what cannot be."""

import math

import numpy as np
import pytest
import torch

from executor.errors import InputError
from executor.sampling import sigma_lists

LOW, HIGH = 0.0291675, 14.614642
FIVE = torch.tensor([9.0, 5.0, 3.0, 1.0, 0.0])


@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_lists_begin_at_the_top_fall_and_end_in_zero(steps: int):
    for sigmas in (
        sigma_lists.karras(steps, LOW, HIGH, rho=5.0),
        sigma_lists.exponential(steps, LOW, HIGH),
        sigma_lists.polyexponential(steps, LOW, HIGH, rho=1.5),
        sigma_lists.variance_preserving(steps),
        sigma_lists.align_your_steps("SDXL", steps),
    ):
        assert len(sigmas) == steps + 1
        assert sigmas.dtype == torch.float32
        assert sigmas[-1] == 0
        assert (sigmas.diff() < 0).all()
    assert float(sigma_lists.karras(steps, LOW, HIGH)[0]) == pytest.approx(HIGH)


def test_each_follows_its_formula():
    ramp = np.linspace(0, 1, 9)
    karras = (HIGH ** (1 / 3) + ramp * (LOW ** (1 / 3) - HIGH ** (1 / 3))) ** 3
    poly = np.exp((1 - ramp) ** 2 * np.log(HIGH / LOW) + np.log(LOW))
    t = 1 + ramp * (1e-3 - 1)
    vp = np.sqrt(np.exp(19.9 * t**2 / 2 + 0.1 * t) - 1)
    # 1e-5: float32, whose exponents of about 10 carry 1e-6.
    np.testing.assert_allclose(sigma_lists.karras(9, LOW, HIGH, 3)[:-1], karras, rtol=1e-5)
    np.testing.assert_allclose(sigma_lists.polyexponential(9, LOW, HIGH, 2)[:-1], poly, rtol=1e-5)
    np.testing.assert_allclose(sigma_lists.variance_preserving(9)[:-1], vp, rtol=1e-5)


def test_polyexponential_of_power_1_is_exponential():
    torch.testing.assert_close(
        sigma_lists.polyexponential(12, LOW, HIGH), sigma_lists.exponential(12, LOW, HIGH)
    )


def test_laplace_takes_quantiles_of_log_sigma_and_ends_with_noise_left():
    sigmas = sigma_lists.laplace(101, LOW, HIGH, mu=0.3, beta=0.7)
    assert len(sigmas) == 101
    assert sigmas[0] == pytest.approx(HIGH)
    assert sigmas[-1] == pytest.approx(LOW)
    assert (sigmas.diff() <= 0).all()
    # A Laplace distribution leaves ½·exp(−|λ − μ| / β) beyond λ.
    for place in (10, 25, 40, 50):
        beyond = 0.5 * math.exp(-(math.log(float(sigmas[place])) - 0.3) / 0.7)
        assert beyond == pytest.approx(place / 100, abs=1e-4)  # 1e-5 keeps its ends finite
    torch.testing.assert_close(sigmas[60].log() - 0.3, 0.3 - sigmas[40].log(), rtol=0, atol=1e-4)


def test_ten_steps_aligned_are_the_published_ones():
    for name, published in sigma_lists.ALIGN_YOUR_STEPS.items():
        sigmas = sigma_lists.align_your_steps(name, 10)
        torch.testing.assert_close(sigmas[:-1], torch.tensor(published[:-1]))
        assert sigmas[-1] == 0
        twenty = sigma_lists.align_your_steps(name, 20)
        torch.testing.assert_close(twenty[:-1:2], sigmas[:-1])
        between = (twenty[0] * twenty[2]).sqrt()
        torch.testing.assert_close(twenty[1], between)


def test_denoising_less_takes_the_last_of_the_aligned_steps():
    whole = sigma_lists.align_your_steps("SD1", 10)
    assert torch.equal(sigma_lists.align_your_steps("SD1", 10, 0.36), whole[-5:])
    assert len(sigma_lists.align_your_steps("SD1", 10, 0.0)) == 0


@pytest.mark.parametrize(
    ("denoise", "high", "low"),
    [(1.0, 1, 5), (0.5, 3, 3), (0.24, 4, 2), (0.0, 0, 1)],
)
def test_a_list_is_split_where_the_last_share_begins(denoise: float, high: int, low: int):
    before, after = sigma_lists.split_at_denoise(FIVE, denoise)
    assert torch.equal(before, FIVE[:high])
    assert torch.equal(after, FIVE[5 - low :])


def test_a_flipped_list_rises_from_what_is_almost_zero():
    assert sigma_lists.flipped(FIVE).tolist() == pytest.approx([0.0001, 1, 3, 5, 9])
    assert sigma_lists.flipped(FIVE[:2]).tolist() == [5, 9]
    assert sigma_lists.flipped(FIVE[:0]).tolist() == []
    assert FIVE.tolist() == [9, 5, 3, 1, 0]  # which nothing has written to


def test_a_first_sigma_can_be_set():
    assert sigma_lists.with_first(FIVE, 20.0).tolist() == [20, 5, 3, 1, 0]
    assert sigma_lists.with_first(FIVE[:0], 20.0).tolist() == []
    assert FIVE[0] == 9


def test_steps_are_divided_where_they_begin_in_the_range():
    linear = sigma_lists.extended(FIVE, 2, 5.0, 3.0, "linear")
    assert linear.tolist() == [9, 5, 4, 3, 2, 1, 0]
    assert sigma_lists.extended(FIVE, 2, -1.0, 8.0, "linear").tolist() == [9, 7, 5, 3, 1, 0]
    assert torch.equal(sigma_lists.extended(FIVE, 1, -1.0, 0.0, "sine"), FIVE)
    cosine = sigma_lists.extended(FIVE[:2], 2, -1.0, 0.0, "cosine")
    sine = sigma_lists.extended(FIVE[:2], 2, -1.0, 0.0, "sine")
    assert cosine[1] == pytest.approx(9 - 4 * math.sin(math.pi / 4))
    assert sine[1] == pytest.approx(9 - 4 * (1 - math.cos(math.pi / 4)))


def test_lists_that_cannot_be_are_refused_with_what_would_do():
    for make in (sigma_lists.karras, sigma_lists.exponential, sigma_lists.laplace):
        with pytest.raises(InputError, match="above 0, got 0 and 14"):
            make(5, 0.0, 14.0)
    with pytest.raises(InputError, match="rho must be above 0, got 0"):
        sigma_lists.karras(5, LOW, HIGH, 0.0)
    with pytest.raises(InputError, match=r"give sigmas of 152\.167 to 0;"):
        sigma_lists.variance_preserving(5, least_time=0.0)
    with pytest.raises(InputError, match="give sigmas of inf"):
        sigma_lists.variance_preserving(5, beta_d=5000.0)
