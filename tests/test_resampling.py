"""Sizes: against torch's and Pillow's own arithmetic, and closed forms for the rest."""

from math import acos, sin
from typing import get_args

import numpy as np
import pytest
import torch
from laws import left_alone
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from executor.errors import InputError
from executor.resampling import Method, resize, resize_picture, with_aspect, with_pixels

METHODS: tuple[Method, ...] = get_args(Method)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(5, 7), (16, 3), (1, 1), (11, 13)])
def test_the_result_has_the_size_and_the_input_is_left_alone(
    method: Method, size: tuple[int, int]
) -> None:
    samples = noise(2, 4, 7, 5)
    with left_alone(samples):
        for crop in ("disabled", "center"):
            resized = resize(samples, *size, method, crop)
            assert resized.shape == (2, 4, size[1], size[0])
            assert resized.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_its_own_size_changes_nothing(method: Method) -> None:
    # Lanczos works on 8 bits: give it whole levels, which survive but for rounding in float32.
    samples = (noise(1, 3, 6, 4) * 255).floor().add(0.25) / 255
    off = (resize(samples, 4, 6, method) - samples).abs().max()
    assert off <= (0.26 / 255 if method == "lanczos" else 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_one_colour_stays_one_colour(method: Method) -> None:
    samples = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1).expand(1, 3, 5, 5)
    resized = resize(samples, 9, 4, method)
    assert (resized - samples[..., :1, :1]).abs().max() < 1e-6  # the colours are whole levels


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_resized_as_each_alone(method: Method) -> None:
    samples = noise(3, 4, 6, 5)
    alone = torch.cat([resize(row[None], 8, 9, method) for row in samples])
    assert torch.equal(resize(samples, 8, 9, method), alone)


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic"])
def test_plain_methods_are_torchs(method: Method) -> None:
    samples = noise(2, 3, 8, 6)
    expected = interpolate(samples, size=(5, 9), mode=method)
    assert torch.equal(resize(samples, 9, 5, method), expected)


def test_lanczos_is_pillows_on_8_bits() -> None:
    samples = noise(1, 3, 8, 6)
    levels = (samples[0].movedim(0, -1) * 255).to(torch.uint8).numpy()
    expected = Image.fromarray(levels).resize((9, 5), Image.Resampling.LANCZOS)
    found = resize(samples, 9, 5, "lanczos")[0].movedim(0, -1) * 255
    assert np.array_equal(found.round().numpy(), np.asarray(expected))


def test_lanczos_is_for_pictures() -> None:
    with pytest.raises(InputError, match="1, 3 or 4 channels; got 9"):
        resize(noise(1, 9, 4, 4), 8, 8, "lanczos")


def test_bislerp_turns_by_even_angles_and_mixes_lengths_evenly() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    samples = torch.stack([a, b], dim=1).view(1, 2, 1, 2)
    resized = resize(samples, 4, 1, "bislerp")[0, :, 0].T
    # Four columns over two lie at 0, 1/4, 3/4 and 1 of the way (-1/4 and 5/4, held at the border).
    for found, share in zip(resized, (0, 0.25, 0.75, 1), strict=True):
        angle, length = torch.pi / 2 * share, 2 * (1 - share) + 4 * share
        expected = length * torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)
        torch.testing.assert_close(found, expected)


def test_bislerp_agrees_with_the_formula_pixel_by_pixel() -> None:
    samples = torch.randn(1, 4, 5, 3, generator=torch.Generator().manual_seed(1))
    found = resize(samples, 7, 4, "bislerp")[0].double()

    def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
        la, lb = a.norm(), b.norm()
        angle = acos(float(a @ b / la / lb))
        unit = (sin((1 - share) * angle) * a / la + sin(share * angle) * b / lb) / sin(angle)
        return unit * ((1 - share) * la + share * lb)

    def place(index: int, new: int, old: int) -> tuple[int, int, float]:
        at = min(max((index + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        return int(at), min(int(at) + 1, old - 1), at - int(at)

    source = samples[0].double()
    for y in range(4):
        for x in range(7):
            left, right, across = place(x, 7, 3)
            up, low, down = place(y, 4, 5)
            rows = [
                source[:, row, left]
                if left == right
                else slerp(source[:, row, left], source[:, row, right], across)
                for row in (up, low)
            ]
            expected = rows[0] if up == low else slerp(rows[0], rows[1], down)
            # float32 against float64, twice through acos
            torch.testing.assert_close(found[:, y, x], expected, atol=2e-5, rtol=2e-5)


def test_bislerp_survives_zeros_and_opposite_directions() -> None:
    samples = torch.zeros(1, 4, 1, 4)
    samples[0, :, 0, 1], samples[0, :, 0, 2] = 1, -1
    assert resize(samples, 9, 3, "bislerp").isfinite().all()


def test_a_centre_cut_keeps_the_proportions() -> None:
    wide = torch.arange(12.0).view(1, 1, 1, 12).expand(1, 1, 4, 12)
    assert torch.equal(resize(wide, 4, 4, "nearest-exact", "center"), wide[..., 4:8])
    high = wide.transpose(2, 3)
    assert torch.equal(resize(high, 4, 4, "nearest-exact", "center"), high[..., 4:8, :])
    assert resize(noise(1, 3, 50, 1), 100, 1, "bilinear", "center").shape == (1, 3, 1, 100)


def test_pictures_have_their_channels_last() -> None:
    image = noise(2, 4, 6, 3)
    expected = resize(image.movedim(-1, 1), 5, 7, "bilinear").movedim(1, -1)
    assert torch.equal(resize_picture(image, 5, 7, "bilinear"), expected)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-1, 4)])
def test_a_size_of_nothing_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="at least 1×1"):
        resize(noise(1, 3, 4, 4), *size, "bilinear")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [((320, 0), (320, 240)), ((0, 1), (1, 1)), ((5, 7), (5, 7))],
)
def test_a_side_of_zero_follows_from_the_other(
    wanted: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert with_aspect(640, 480, *wanted) == expected


@pytest.mark.parametrize(("width", "height"), [(512, 512), (1920, 1080), (100, 3000)])
def test_so_many_megapixels_in_the_same_proportions(width: int, height: int) -> None:
    new_width, new_height = with_pixels(width, height, 0.5)
    # Rounding moves each side by half a pixel at most.
    half = 0.5 * 1024 * 1024
    assert abs(new_width * new_height - half) <= (new_width + new_height) / 2 + 1
    assert with_pixels(width, height, width * height / 1024 / 1024) == (width, height)
