"""Tiny U-Nets of any family beside what steers them, and the same as diffusers builds it."""

from functools import cache
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from executor import testing, testing_control
from executor.models.control import ControlNet
from executor.models.unet import UNet
from executor.ports import Canvas, Cond, Control, Objective
from executor.steps import ControlInput, Inputs

PIXELS = 64
SIDE = PIXELS // 8
SIGMA = 2.0
WIDTH = testing.TEXT["hidden_size"]


@cache
def unet(of: str = "sd1") -> UNet:
    """A family's tiny U-Net, shared: no test may change it."""
    config = testing.unet_config(testing.family(of))
    network = filled(UNet2DConditionModel(**config), UNet2DConditionModel, config)
    return UNet(network, family=testing.family(of), objective=Objective(), key=of)


def controlnet(of: str = "sd1", *, seed: int = 0, is_pooled: bool = False) -> ControlNet:
    """A ControlNet for it."""
    config = testing_control.control_config(of)
    network = filled(ControlNetModel(**config), ControlNetModel, config, seed)
    key = ("control", of, seed, is_pooled)
    return ControlNet(network, name="tiny.safetensors", key=key, is_pooled=is_pooled)


def filled(network: Any, kind: type[nn.Module], config: dict[str, Any], seed: int = 0) -> Any:
    """The network with the weights that files of this configuration hold."""
    network.load_state_dict(testing.random_weights(kind, config, seed))
    return network.eval().requires_grad_(False)


def as_in_diffusers(kind: Any, config: dict[str, Any], seed: int = 0) -> Any:
    """The same weights in a network that takes SDXL's sizes and pooled prompt as diffusers does."""
    weights = testing.random_weights(kind, config, seed)
    if config["class_embed_type"] is not None:
        config = config | {
            "class_embed_type": None,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
        }
        weights = {
            name.replace("class_embedding.", "add_embedding."): weight
            for name, weight in weights.items()
        }
    network = kind(**config)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(rows: int = 1, *, seed: int = 2, height: int = PIXELS, width: int = PIXELS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, height, width, 3, generator=generator)


def prompt(of: str = "sd1", *controls: Control, seed: int = 3, **further: Any) -> Cond:
    """A prompt as the family's text encoders would encode it."""
    width = WIDTH * len(testing.family(of).text)
    return Cond(
        random(1, 7, width, seed=seed),
        pooled=random(1, WIDTH, seed=seed + 1),
        controls=controls,
        **further,
    )


def canvas(rows: int = 1, *, height: int = SIDE, width: int = SIDE) -> Canvas:
    return Canvas(torch.zeros(rows, 4, height, width))


def inputs(model: UNet, cond: Cond, rows: int = 1, *controls: ControlInput) -> Inputs:
    """What a model is given for a prompt with controls of these rows."""
    given = model.inputs(cond, canvas(rows), is_negative=False)
    return Inputs(given.tokens, given.vector, given.concat, controls)


def denoised(model: UNet, given: Inputs, x: Tensor) -> Tensor:
    return model.denoise(x, torch.full((len(x),), SIGMA), given)


def timestep() -> Tensor:
    return unet().schedule.timestep(torch.tensor([SIGMA]))


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal but for rounding: random weights amplify float32's to some 1e-5."""
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def assert_far(found: Tensor, other: Tensor) -> None:
    """So different that nobody could take it for rounding."""
    assert (found - other).norm() > 1e-2 * other.norm()
