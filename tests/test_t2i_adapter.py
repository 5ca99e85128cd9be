"""T2I-Adapters: diffusers' features, added where ComfyUI adds them."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import steered
import torch
from diffusers.models.adapter import T2IAdapter as Reference
from safetensors.torch import load_file, save_file
from steered import SIDE, SIGMA, assert_close, assert_far, picture, prompt, random, unet
from torch import Tensor, nn

from executor import testing_control
from executor.devices import Devices
from executor.errors import InputError, ModelFileError
from executor.models.control_file import read_control_file
from executor.models.t2i_adapter import T2IAdapter, load_adapter
from executor.sampling.forward import evaluate
from executor.steps import ControlInput, Eval

CPU = Devices.choose("cpu")
KINDS = ("full_adapter", "light_adapter", "full_adapter_xl")


def adapter(kind: Any = "full_adapter", seed: int = 0) -> T2IAdapter:
    key = ("adapter", kind, seed)
    return T2IAdapter(reference(kind, seed), name="tiny.safetensors", key=key)


def reference(kind: Any = "full_adapter", seed: int = 0) -> Reference:
    config = testing_control.adapter_config(kind)
    return steered.filled(Reference(**config), Reference, config, seed)


def beside(kind: str) -> str:
    return "sdxl" if kind == "full_adapter_xl" else "sd1"


def control(net: T2IAdapter, image: Tensor, *, strength: float = 1.0, rows: int = 1):
    return ControlInput(net, net.hints(image, SIDE, SIDE), torch.full((rows,), strength))


@contextmanager
def added_to(modules: list[nn.Module], features: list[Tensor]) -> Generator[None]:
    """Add a feature to what each module gives, as a block of the encoder or as a transformer."""

    def adds(feature: Tensor) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            return (out[0] + feature,) if isinstance(out, tuple) else out + feature

        return hook

    with ExitStack() as stack:
        for module, feature in zip(modules, features, strict=True):
            stack.enter_context(module.register_forward_hook(adds(feature)))
        yield


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_its_features_are_added_behind_the_last_block_of_each_level(kind: str) -> None:
    model, image, x = unet(beside(kind)), picture(2), random(2, 4, SIDE, SIDE)
    features = [0.6 * feature for feature in reference(kind)(image.movedim(-1, 1))]
    down: Any = model.network.down_blocks
    if kind == "full_adapter_xl":
        places = [down[0].downsamplers[0], down[1].attentions[-1], down[2].attentions[-1]]
        places.append(model.network.mid_block)
    else:
        places = [*(block.attentions[-1] for block in down[:-1]), down[-1].resnets[-1]]
    plain = steered.inputs(model, prompt(beside(kind)), 2)
    seen, t = x / (SIGMA**2 + 1) ** 0.5, steered.timestep()
    with added_to(places, features):
        noise = model.network(seen, t, plain.tokens, class_labels=plain.vector).sample
    given = control(adapter(kind), image, strength=0.6, rows=2)
    found = steered.denoised(model, steered.inputs(model, prompt(beside(kind)), 2, given), x)
    assert_close(found, x - SIGMA * noise)
    assert_far(found, steered.denoised(model, plain, x))


@torch.no_grad()
def test_it_and_a_controlnet_add_up() -> None:
    model, x, image = unet(), random(1, 4, SIDE, SIDE), picture()
    net = steered.controlnet()
    controls = ControlInput(net, net.hints(image, SIDE, SIDE), torch.ones(1))
    both = control(adapter(), image), controls
    features = reference()(image.movedim(-1, 1))
    down: Any = model.network.down_blocks
    places = [*(block.attentions[-1] for block in down[:-1]), down[-1].resnets[-1]]
    with added_to(places, features):
        expected = steered.denoised(model, steered.inputs(model, prompt(), 1, controls), x)
    for order in (both, both[::-1]):
        assert_close(
            steered.denoised(model, steered.inputs(model, prompt(), 1, *order), x), expected
        )


def test_strength_and_picture_are_each_rows_own() -> None:
    net = adapter()
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
    net, x = adapter(kind).fitted(model), random(1, 4, 9, 13)
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
