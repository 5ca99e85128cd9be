"""The autoencoder as nodes see it: pictures in [0, 1], unscaled latents."""

import logging
from functools import partial
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from executor import devices, testing
from executor.devices import Devices
from executor.errors import InputError
from executor.models.load import load_vae
from executor.models.vae import Autoencoder

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
