"""The autoencoder as nodes see it: pictures in [0, 1], unscaled latents."""

import logging
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from executor import devices, testing
from executor.devices import Devices
from executor.errors import InputError
from executor.models import vae as models_vae
from executor.models.load import load_vae
from executor.models.vae import Autoencoder
from executor.ports import Tiling

# float32 rounding of another order of sums; measured: 1e-6
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    path = tmp_path_factory.mktemp("models") / "vae.safetensors"
    testing.write_tiny_vae(path)
    return load_vae(path, Devices.choose("cpu"))


@pytest.fixture(scope="module")
def reference() -> Any:
    """The same weights in a module that diffusers built."""
    network = AutoencoderKL(**testing.VAE)
    network.load_state_dict(testing.random_weights(AutoencoderKL, testing.VAE, seed=0))
    return network.eval()


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_it_encodes_to_the_mode_as_diffusers_does(vae: Autoencoder, reference: Any) -> None:
    pixels = pictures(2, 16, 24, 3)
    expected = reference.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mean
    assert expected.shape == (2, 4, 2, 3)
    assert_close(vae.encode(pixels), expected)
    assert torch.equal(vae.encode(pixels), vae.encode(pixels))


@torch.no_grad()
def test_it_decodes_as_diffusers_does(vae: Autoencoder, reference: Any) -> None:
    samples = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = (reference.decode(samples).sample.movedim(1, -1) + 1) / 2
    decoded = vae.decode(samples)
    assert decoded.shape == (2, 16, 24, 3)
    assert_close(decoded, expected.clamp(0, 1))


def test_decoded_pictures_stay_within_0_and_1(vae: Autoencoder) -> None:
    decoded = vae.decode(torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)) * 50)
    assert decoded.min() == 0
    assert decoded.max() == 1
    assert decoded.dtype == torch.float32


def test_sides_that_are_no_multiple_of_8_lose_their_rim_at_both_ends(vae: Autoencoder) -> None:
    pixels = pictures(1, 21, 16 + 7, 3)
    assert torch.equal(vae.encode(pixels), vae.encode(pixels[:, 2:18, 3:19]))


def test_alpha_is_left_out_and_grey_is_all_colours(vae: Autoencoder) -> None:
    pixels = pictures(1, 16, 16, 4)
    assert torch.equal(vae.encode(pixels), vae.encode(pixels[..., :3]))
    grey = pixels[..., :1]
    assert_close(vae.encode(grey), vae.encode(grey.repeat(1, 1, 1, 3)))


def test_what_cannot_be_encoded_or_decoded_is_said(vae: Autoencoder) -> None:
    with pytest.raises(InputError, match="at least 8 pixels"):
        vae.encode(pictures(1, 7, 64, 3))
    with pytest.raises(InputError, match="channels, got 2"):
        vae.encode(pictures(1, 16, 16, 2))
    with pytest.raises(InputError, match="latents of 4 channels, got 16"):
        vae.decode(torch.zeros(1, 16, 2, 2))


def test_inputs_are_left_alone(vae: Autoencoder) -> None:
    pixels, samples = pictures(1, 16, 16, 3), torch.zeros(1, 4, 2, 2)
    kept = pixels.clone()
    vae.encode(pixels)
    vae.decode(samples)
    assert torch.equal(pixels, kept)
    assert torch.equal(samples, torch.zeros(1, 4, 2, 2))


def test_a_batch_gives_the_same_in_slices(
    vae: Autoencoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = pictures(5, 16, 16, 3)
    whole = vae.encode(pixels)
    bytes_per_picture = 5 * 32 * 4 * 16 * 16
    monkeypatch.setattr(devices, "free_bytes", lambda device: 3 * bytes_per_picture)
    with caplog.at_level(logging.INFO):
        assert_close(vae.encode(pixels), whole)
    assert "2 of 5 at once" in caplog.text


# -- tiles -------------------------------------------------------------------------------------


def in_tiles(
    rows: Tensor, compute: Any, sides: tuple[int, int], overlap: int, scale: Fraction
) -> Tensor:
    """One way to cut, pixel by pixel: the mean of the tiles, weighted by the nearest border."""
    height, width = (round(side * scale) for side in rows.shape[2:])
    total, weights = torch.zeros(()), torch.zeros(height, width)
    ramp = round(overlap * scale)
    ys, xs = (
        range(0, side - overlap, tile - overlap) if side > tile else [0]
        for side, tile in zip(rows.shape[2:], sides, strict=True)
    )
    for y in ys:
        for x in xs:
            part = compute(rows[:, :, y : y + sides[0], x : x + sides[1]])
            down, across = (
                [
                    min(1, (at + 1) / ramp) * min(1, (n - at) / ramp) if ramp < n else 1
                    for at in range(n)
                ]
                for n in part.shape[2:]
            )
            weight = torch.tensor(down)[:, None] * torch.tensor(across)
            placed = torch.zeros(*part.shape[:2], height, width)
            top, left = round(y * scale), round(x * scale)
            window = (slice(top, top + part.shape[2]), slice(left, left + part.shape[3]))
            placed[:, :, *window] = part * weight
            total = total + placed
            weights[window] += weight
    return total / weights


@torch.no_grad()
def test_decoding_in_tiles_is_the_mean_of_three_ways_to_cut(
    vae: Autoencoder, reference: Any
) -> None:
    samples = torch.randn(1, 4, 7, 9, generator=torch.Generator().manual_seed(0))

    def compute(rows: Tensor) -> Tensor:
        return reference.decode(rows).sample

    ways = [in_tiles(samples, compute, sides, 1, Fraction(8)) for sides in ((4, 4), (8, 2), (2, 8))]
    expected = ((torch.stack(ways).mean(dim=0) + 1) / 2).clamp(0, 1).movedim(1, -1)
    assert_close(vae.decode(samples, Tiling(size=32, overlap=8)), expected)


@torch.no_grad()
def test_encoding_in_tiles_is_the_mean_of_three_ways_to_cut(
    vae: Autoencoder, reference: Any
) -> None:
    pixels = pictures(1, 56, 72, 3)

    def compute(rows: Tensor) -> Tensor:
        return reference.encode(rows).latent_dist.mean

    rows = pixels.movedim(-1, 1) * 2 - 1
    ways = [
        in_tiles(rows, compute, sides, 8, Fraction(1, 8))
        for sides in ((32, 32), (64, 16), (16, 64))
    ]
    assert_close(vae.encode(pixels, Tiling(size=32, overlap=8)), torch.stack(ways).mean(dim=0))


@pytest.mark.parametrize(
    "tiling", [Tiling(128, 32), Tiling(64, 4096), Tiling(70, 33), Tiling(1, 0)]
)
def test_tiles_of_any_size_make_a_picture_of_the_right_size(
    vae: Autoencoder, tiling: Tiling
) -> None:
    assert vae.decode(torch.zeros(2, 4, 5, 3), tiling).shape == (2, 40, 24, 3)
    assert vae.encode(pictures(1, 43, 26, 3), tiling).shape == (1, 4, 5, 3)


def test_a_picture_of_one_tile_is_the_whole(vae: Autoencoder) -> None:
    samples, tiling = torch.ones(2, 4, 2, 3), Tiling(size=64, overlap=16)
    assert_close(vae.decode(samples, tiling), vae.decode(samples))
    pixels = pictures(2, 17, 26, 3)
    assert_close(vae.encode(pixels, tiling), vae.encode(pixels))


def test_what_needs_more_memory_than_there_is_is_done_in_tiles(
    vae: Autoencoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models_vae, "FALLBACK", Tiling(size=32, overlap=8))
    monkeypatch.setattr(devices, "free_bytes", lambda device: 5 * 32 * 4 * 32 * 32)
    samples, pixels = torch.ones(2, 4, 6, 4), pictures(1, 48, 40, 3)
    assert torch.equal(vae.decode(samples), vae.decode(samples, Tiling(32, 8)))
    assert torch.equal(vae.encode(pixels), vae.encode(pixels, Tiling(32, 8)))
    assert caplog.text.count("doing it in tiles") == 2
    assert "decoding a latent of 0.0 megapixels takes about" in caplog.text


def test_what_runs_out_of_memory_is_tried_again_in_tiles(
    vae: Autoencoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models_vae, "FALLBACK", Tiling(size=32, overlap=8))
    samples = torch.ones(2, 4, 6, 4)
    expected = vae.decode(samples, Tiling(32, 8))
    decode = vae.network.decode

    def limited(rows: Any, **options: Any) -> Any:
        if rows.numel() > 4 * 16:
            raise torch.OutOfMemoryError("out of memory")
        return decode(rows, **options)

    monkeypatch.setattr(vae.network, "decode", limited)
    assert torch.equal(vae.decode(samples), expected)
    assert "going on with 1 at once" in caplog.text
    assert "out of memory decoding a latent of 0.0 megapixels; going on in tiles" in caplog.text


def test_what_does_not_fit_even_in_tiles_is_an_error(
    vae: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(rows: Tensor, **options: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(vae.network, "decode", exhausted)
    for tiling in (None, Tiling(64, 16)):
        with pytest.raises(InputError, match="out of memory decoding a latent"):
            vae.decode(torch.ones(1, 4, 6, 4), tiling)
