"""The U-Net as samplers see it: denoised latents, each row at its own sigma."""

from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor

from executor import testing
from executor.devices import Devices
from executor.models.load import load_checkpoint
from executor.models.unet import UNet
from executor.steps import Inputs


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal but for rounding: random weights amplify float32's to 6e-6 (against float64)."""
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    testing.write_tiny_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def model(path: Path) -> UNet:
    found = load_checkpoint(path, Devices.choose("cpu")).model
    assert isinstance(found, UNet)
    return found


@pytest.fixture(scope="module")
def reference() -> UNet2DConditionModel:
    """The same weights in a module that diffusers built."""
    network = UNet2DConditionModel(**testing.UNET)
    network.load_state_dict(testing.random_weights(UNet2DConditionModel, testing.UNET, seed=0))
    return network.eval()


def latents(rows: int, size: int = 8) -> Tensor:
    return torch.randn(rows, 4, size, size, generator=torch.Generator().manual_seed(1))


def prompts(rows: int, length: int = 77) -> Inputs:
    generator = torch.Generator().manual_seed(2)
    return Inputs(torch.randn(rows, length, 32, generator=generator))


@torch.no_grad()
def test_it_denoises_as_diffusers_does(model: UNet, reference: UNet2DConditionModel) -> None:
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    for t in (3, 500, 999):
        sigma = ((1 - scheduler.alphas_cumprod[t]) / scheduler.alphas_cumprod[t]) ** 0.5
        x, inputs = latents(2) * sigma, prompts(2)
        noise = reference(x / (sigma**2 + 1) ** 0.5, t, inputs.tokens).sample
        denoised = model.denoise(x, sigma.repeat(2), inputs)
        assert_close(denoised, x - sigma * noise)


def test_each_row_has_its_own_sigma_and_prompt(model: UNet) -> None:
    x, inputs = latents(3), prompts(3)
    sigma = torch.tensor([0.1, 2.0, 14.0])
    together = model.denoise(x, sigma, inputs)
    for row in range(3):
        at = slice(row, row + 1)
        alone = model.denoise(x[at], sigma[at], Inputs(inputs.tokens[at]))
        assert_close(together[at], alone)


def test_predictions_of_noise_and_of_v_lead_to_their_denoised_latents(path: Path) -> None:
    # D from the network's output F, with the scaled input and noise level of both kinds alike:
    # for v, D = x / (σ² + 1) − F σ / √(σ² + 1); for ε, D = x − σ F. So F can be eliminated.
    devices = Devices.choose("cpu")
    testing.write_tiny_checkpoint(
        path.with_name("v.safetensors"), metadata={"modelspec.prediction_type": "v"}
    )
    of_noise = load_checkpoint(path, devices).model
    of_v = load_checkpoint(path.with_name("v.safetensors"), devices).model
    x, inputs, sigma = latents(2), prompts(2), torch.tensor([0.5, 3.0])
    s = sigma[:, None, None, None]
    output = (x - of_noise.denoise(x, sigma, inputs)) / s
    expected = x / (s**2 + 1) - output * s / (s**2 + 1) ** 0.5
    assert_close(of_v.denoise(x, sigma, inputs), expected)


def test_inputs_are_left_alone_and_the_result_is_float32(model: UNet) -> None:
    x, inputs, sigma = latents(1).double(), prompts(1), torch.ones(1)
    kept = x.clone(), inputs.tokens.clone(), sigma.clone()
    denoised = model.denoise(x, sigma, inputs)
    assert denoised.dtype == torch.float32
    assert not denoised.requires_grad
    for before, after in zip(kept, (x, inputs.tokens, sigma), strict=True):
        assert torch.equal(before, after)


def test_it_knows_its_latents_and_its_size(model: UNet) -> None:
    weights = testing.random_weights(UNet2DConditionModel, testing.UNET, seed=0)
    assert (model.latent_channels, model.latent_scale) == (4, 0.18215)
    assert model.nbytes == sum(weight.nbytes for weight in weights.values())
    assert model.device == torch.device("cpu")


def test_keys_are_equal_for_equal_weights_only(path: Path, tmp_path: Path) -> None:
    devices = Devices.choose("cpu")
    testing.write_tiny_checkpoint(tmp_path / "other.safetensors", seed=1)
    key = load_checkpoint(path, devices).model.key
    assert key == load_checkpoint(path, devices).model.key
    assert key != load_checkpoint(tmp_path / "other.safetensors", devices).model.key
    in_half = Devices(torch.device("cpu"), torch.bfloat16)
    assert key != load_checkpoint(path, in_half).model.key
    assert len({key, key}) == 1


def test_it_computes_in_another_precision_if_told(path: Path, model: UNet) -> None:
    half = load_checkpoint(path, Devices.choose("cpu", "bfloat16")).model
    assert isinstance(half, UNet)
    assert half.dtype == torch.bfloat16
    assert half.nbytes * 2 == model.nbytes
    x, inputs, sigma = latents(1), prompts(1), torch.ones(1)
    exact, rounded = model.denoise(x, sigma, inputs), half.denoise(x, sigma, inputs)
    assert rounded.dtype == torch.float32
    # bfloat16 keeps 8 bits, so each of some 40 layers errs by up to 0.4 %; measured: 6 %
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.2
