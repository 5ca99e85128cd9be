"""What a model predicts, said by a node: the same network, another denoised latent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from executor import Context, InputError, Objective
from executor.devices import Devices
from executor.models.load import load_checkpoint
from executor.models.unet import UNet
from executor.steps import Inputs
from nodes.model_sampling import ModelSamplingContinuousEDM, ModelSamplingDiscrete


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], Path]) -> UNet:
    found = load_checkpoint(tiny("sd1"), Devices.choose("cpu")).model
    assert isinstance(found, UNet)
    return found


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


X, SIGMA, INPUTS = drawn(2, 4, 8, 8) * 3, torch.tensor([0.5, 3.0]), Inputs(drawn(2, 77, 32))


@pytest.mark.parametrize("zsnr", [False, True])
@pytest.mark.parametrize(
    ("said", "prediction"),
    [("eps", "epsilon"), ("v_prediction", "v"), ("lcm", "lcm"), ("x0", "x0")],
)
def test_each_kind_is_another_objective_of_the_same_network(
    model: UNet, ctx: Context, said: Any, prediction: Any, zsnr: bool
) -> None:
    other = ModelSamplingDiscrete(model=model, sampling=said, zsnr=zsnr).run(ctx)
    assert isinstance(other, UNet)
    assert other.network is model.network
    assert other.objective == Objective(prediction, zsnr)
    assert other.schedule.sigma_max == pytest.approx(4518.7 if zsnr else 14.6146, rel=1e-4)
    assert model.objective == Objective(), "the model itself stays as it is"
    found, before = other.denoise(X, SIGMA, INPUTS), model.denoise(X, SIGMA, INPUTS)
    if (said, zsnr) == ("eps", False):
        assert torch.equal(found, before)
    else:
        assert (found - before).norm() > 0.01 * before.norm()


def test_v_is_reckoned_from_the_same_output(model: UNet, ctx: Context) -> None:
    other = ModelSamplingDiscrete(model=model, sampling="v_prediction").run(ctx)
    sigma = SIGMA[:, None, None, None]
    output = (X - model.denoise(X, SIGMA, INPUTS)) / sigma
    expected = X / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5
    # two ways around the same sums in float32
    torch.testing.assert_close(other.denoise(X, SIGMA, INPUTS), expected, rtol=1e-4, atol=1e-4)


def test_only_equal_objectives_share_a_forward_pass(model: UNet, ctx: Context) -> None:
    kinds: list[Any] = ["eps", "v_prediction", "lcm", "x0"]
    models = [
        ModelSamplingDiscrete(model=model, sampling=kind, zsnr=zsnr).run(ctx)
        for kind in kinds
        for zsnr in (False, True)
    ]
    models.append(ModelSamplingContinuousEDM(model=model).run(ctx))
    models.append(ModelSamplingContinuousEDM(model=model, sigma_max=80).run(ctx))
    keys = [other.key for other in models]
    assert len(set(keys)) == len(keys)
    assert keys[0] == model.key, "the model predicts eps by itself"
    again = ModelSamplingContinuousEDM(model=model, sigma_max=80).run(ctx)
    assert again.key == models[-1].key


def test_of_two_nodes_the_last_decides(model: UNet, ctx: Context) -> None:
    first = ModelSamplingDiscrete(model=model, sampling="lcm").run(ctx)
    second = ModelSamplingDiscrete(model=first, sampling="x0").run(ctx)
    alone = ModelSamplingDiscrete(model=model, sampling="x0").run(ctx)
    assert torch.equal(second.schedule.sigmas, alone.schedule.sigmas)
    assert torch.equal(second.denoise(X, SIGMA, INPUTS), alone.denoise(X, SIGMA, INPUTS))


@pytest.mark.parametrize("said", ["v_prediction", "edm", "eps"])
def test_noise_can_be_continuous(model: UNet, ctx: Context, said: Any) -> None:
    other = ModelSamplingContinuousEDM(model=model, sampling=said, sigma_max=80, sigma_min=0.01)
    made = other.run(ctx)
    assert (made.schedule.sigma_min, made.schedule.sigma_max) == (
        pytest.approx(0.01),
        pytest.approx(80),
    )
    assert made.denoise(X, SIGMA, INPUTS).isfinite().all()


def test_a_range_of_noise_that_is_none_is_refused(model: UNet, ctx: Context) -> None:
    node = ModelSamplingContinuousEDM(model=model, sigma_max=0.001, sigma_min=0.01)
    with pytest.raises(InputError, match="sigma_min must be above 0 and below sigma_max"):
        node.run(ctx)
