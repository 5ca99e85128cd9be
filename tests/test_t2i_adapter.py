"""T2I-Adapters: diffusers' features, added where ComfyUI adds them."""

from pathlib import Path
from typing import Any

import pytest
import steered
import torch
from diffusers.models.adapter import T2IAdapter as Reference
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from steered import SIDE, SIGMA, assert_close, assert_far, picture, prompt, random, unet
from torch import Tensor

from executor import testing, testing_control
from executor.devices import Devices
from executor.errors import InputError, ModelFileError
from executor.models.control_file import read_control_file
from executor.models.t2i_adapter import T2IAdapter, load_adapter
from executor.models.unet import UNet
from executor.ports import Objective
from executor.sampling.forward import evaluate
from executor.steps import ControlInput, Eval, Inputs

CPU = Devices.choose("cpu")
KINDS = ("full_adapter", "light_adapter", "full_adapter_xl")


def adapter(kind: Any = "full_adapter", *, beside: UNet | None = None) -> T2IAdapter:
    """An adapter as its file has it, or as it steers a model."""
    made = T2IAdapter(reference(kind), name="tiny.safetensors", key=("adapter", kind))
    return made if beside is None else made.fitted(beside)


def reference(kind: Any = "full_adapter") -> Reference:
    config = testing_control.adapter_config(kind)
    return steered.filled(Reference(**config), Reference, config)


def beside(kind: str) -> str:
    return "sdxl" if kind == "full_adapter_xl" else "sd1"


def control(net: T2IAdapter, image: Tensor, *, strength: float = 1.0, rows: int = 1):
    return ControlInput(net, net.hints(image, SIDE, SIDE), torch.full((rows,), strength))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_steers_as_diffusers_does(kind: str) -> None:
    model, image, x = unet(beside(kind)), picture(2), random(2, 4, SIDE, SIDE)
    features = [0.6 * feature for feature in reference(kind)(image.movedim(-1, 1))]
    plain = steered.inputs(model, prompt(beside(kind)), 2)
    noise = model.network(
        x / (SIGMA**2 + 1) ** 0.5,
        steered.timestep(),
        plain.tokens,
        class_labels=plain.vector,
        down_intrablock_additional_residuals=features,
    ).sample
    given = control(adapter(kind, beside=model), image, strength=0.6, rows=2)
    found = steered.denoised(model, steered.inputs(model, prompt(beside(kind)), 2, given), x)
    assert_close(found, x - SIGMA * noise)
    assert_far(found, steered.denoised(model, plain, x))


def test_each_level_gets_its_features_whether_it_attends_or_not() -> None:
    # behind the last of three blocks, of which the third is a change of size, as in ComfyUI, whose
    # places are 2, 5, 8 and 11; diffusers would add behind the change where nothing attends
    config: dict[str, Any] = testing.UNET | {
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", *["DownBlock2D"] * 2],
        "up_block_types": ["UpBlock2D"] * 4,
    }
    network = steered.filled(UNet2DConditionModel(**config), UNet2DConditionModel, config)
    model = UNet(network, family=testing.family("sd1"), objective=Objective(), key="few attend")
    net, x, given = adapter(beside=model), random(1, 4, SIDE, SIDE), control(adapter(), picture())
    made = net.residuals(x, steered.timestep(), Inputs(torch.zeros(0)), given)
    assert list(made.features) == [2, 5, 8, 11]
    assert made.middle is None

    def found(*without: int) -> Tensor:
        hints = tuple(h * (at not in without) for at, h in enumerate(given.hints))
        steering = ControlInput(net, hints, given.strength)
        return steered.denoised(model, steered.inputs(model, prompt(), 1, steering), x)

    for level in range(4):
        assert_far(found(level), found())


def test_sdxls_come_behind_the_first_change_of_size_and_end_in_the_middle() -> None:
    net, x = adapter("full_adapter_xl"), random(1, 4, SIDE, SIDE)  # beside SDXL's real U-Net
    given = control(net, picture())
    made = net.residuals(x, steered.timestep(), Inputs(torch.zeros(0)), given)
    assert list(made.features) == [3, 5, 8]
    assert made.middle is not None
    assert torch.equal(made.middle, given.hints[-1])


@torch.no_grad()
def test_it_and_a_controlnet_add_up() -> None:
    image, seen = picture(), random(1, 4, SIDE, SIDE) / (SIGMA**2 + 1) ** 0.5
    for of, kind in (("sd1", "full_adapter"), ("sdxl", "full_adapter_xl")):
        model, net = unet(of), steered.controlnet(of)
        steering = ControlInput(net, net.hints(image, SIDE, SIDE), torch.ones(1))
        plain = steered.inputs(model, prompt(of))
        added = net.residuals(seen, steered.timestep(), plain, steering)
        noise = model.network(
            seen,
            steered.timestep(),
            plain.tokens,
            class_labels=plain.vector,
            down_block_additional_residuals=added.skips,
            mid_block_additional_residual=added.middle,
            down_intrablock_additional_residuals=reference(kind)(image.movedim(-1, 1)),
        ).sample
        both = control(adapter(kind, beside=model), image), steering
        x = seen * (SIGMA**2 + 1) ** 0.5
        for order in (both, both[::-1]):
            found = steered.denoised(model, steered.inputs(model, prompt(of), 1, *order), x)
            assert_close(found, x - SIGMA * noise)


def test_strength_and_picture_are_each_rows_own() -> None:
    net = adapter(beside=unet())
    asked = [
        Eval(
            unet(),
            random(1, 4, SIDE, SIDE, seed=seed),
            torch.tensor([2.0]),
            steered.inputs(
                unet(), prompt(), 1, control(net, picture(seed=seed), strength=strength)
            ),
        )
        for seed, strength in ((1, 1.0), (2, 0.5))
    ]
    assert asked[0].key == asked[1].key
    for alone, together in zip(asked, evaluate(asked), strict=True):
        assert_close(together, evaluate([alone])[0])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_latents_of_any_size_can_be_steered(kind: str) -> None:
    model = unet(beside(kind))
    net, x = adapter(kind, beside=model), random(1, 4, 9, 13)
    given = ControlInput(net, net.hints(picture(), 9, 13), torch.ones(1))
    plain = model.inputs(
        prompt(beside(kind)), steered.canvas(height=9, width=13), is_negative=False
    )
    assert_far(
        steered.denoised(model, steered.inputs(model, prompt(beside(kind)), 1, given), x),
        steered.denoised(model, plain, x),
    )


@torch.no_grad()
def test_odd_sides_are_halved_as_in_comfyui() -> None:
    # zeros at both ends, and counted: the first mean is half of the first number
    body: Any = adapter().network.adapter.body
    halve = body[1].downsample
    rows = torch.tensor([[[[2.0, 4.0, 6.0]] * 2]])
    assert halve(rows).tolist() == [[[[1.0, 5.0]]]]
    even = random(1, 3, 8, 6)
    assert torch.equal(halve(even), torch.nn.functional.avg_pool2d(even, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", ["authors", "diffusers", "folder"])
def test_every_layout_gives_the_same_network(tmp_path: Path, kind: Any, names: Any) -> None:
    path = tmp_path / "x"
    written = testing_control.write_tiny_adapter(path, kind=kind, names=names)
    found = load_adapter(read_control_file(path), CPU)
    weights = found.network.state_dict()
    assert weights.keys() == written.keys()
    assert all(torch.equal(weights[name], weight) for name, weight in written.items())
    found.fitted(unet(beside(kind)))
    assert found.nbytes == sum(weight.nbytes for weight in written.values())


def test_one_of_another_family_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"tiny\.safetensors is a T2I-Adapter for Stable Diff.*SDXL"
    ):
        adapter().fitted(unet("sdxl"))
    with pytest.raises(InputError, match=r"is a T2I-Adapter for SDXL, 32, 32, 64, 64 channels"):
        adapter("full_adapter_xl").fitted(unet())


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    testing_control.write_tiny_adapter(path)
    weights = load_file(path)
    del weights["body.7.block1.bias"]
    save_file(weights, path)
    with pytest.raises(
        ModelFileError, match=r"x\.safetensors: its T2I-Adapter.*body\.7\.block1\.b"
    ):
        load_adapter(read_control_file(path), CPU)
    save_file({"body.0.block1.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="its T2I-Adapter is incomplete"):
        load_adapter(read_control_file(path), CPU)
