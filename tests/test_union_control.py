"""Union ControlNets: told the kind of picture, as diffusers computes it for one kind."""

from pathlib import Path
from typing import Any

import pytest
import steered
import torch
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from steered import PIXELS, SIDE, SIGMA, WIDTH, assert_close, assert_far, picture, prompt, unet
from torch import Tensor

from executor import testing_control
from executor.devices import Devices
from executor.errors import InputError
from executor.models.control_file import read_control_file
from executor.models.union_control import KINDS, UnionControlNet, load_union, of_kind
from executor.ports import Residuals
from executor.steps import ControlInput

CPU = Devices.choose("cpu")
TIME = torch.tensor([400.0])


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> UnionControlNet:
    path = tmp_path_factory.mktemp("union") / "tiny.safetensors"
    testing_control.write_tiny_union(path)
    return load_union(read_control_file(path), CPU)


def seen() -> Tensor:
    return steered.random(1, 4, SIDE, SIDE) / (SIGMA**2 + 1) ** 0.5


def found(net: UnionControlNet, rows: int = 1) -> Residuals:
    """What a net adds for pictures of the kind that it was told."""
    given = steered.inputs(unet("sdxl"), prompt("sdxl"), rows)
    control = ControlInput(net, net.hints(picture(rows), SIDE, SIDE), torch.ones(rows))
    return net.residuals(seen().expand(rows, -1, -1, -1), TIME.expand(rows), given, control)


@pytest.mark.parametrize("name", ["openpose", "canny/lineart/anime_lineart/mlsd"])
@torch.no_grad()
def test_it_steers_as_diffusers_does(net: UnionControlNet, name: str) -> None:
    config = testing_control.union_config()
    reference: Any = steered.as_in_diffusers(ControlNetUnionModel, config)
    cond, kind = prompt("sdxl"), KINDS[name]
    wanted = torch.zeros(1, 6)
    wanted[0, kind] = 1
    sizes = torch.tensor([[PIXELS, PIXELS, 0, 0, PIXELS, PIXELS]])
    skips, middle = reference(
        seen(),
        TIME,
        cond.tokens,
        [picture().movedim(-1, 1)],
        control_type=wanted,
        control_type_idx=[kind],
        conditioning_scale=[1.0],
        added_cond_kwargs={"text_embeds": cond.pooled, "time_ids": sizes},
        return_dict=False,
    )
    told = found(net.of_kind(name))
    assert told.middle is not None
    assert_close(told.middle, middle)
    for a, b in zip(told.skips, skips, strict=True):
        assert_close(a, b)


def test_kinds_differ_and_so_do_their_keys(net: UnionControlNet) -> None:
    nets = [net, net.of_kind("depth"), net.of_kind("normal")]
    middles = [found(each).middle for each in nets]
    for index, one in enumerate(middles):
        for other in middles[:index]:
            assert one is not None
            assert other is not None
            assert_far(one, other)
    assert len({each.key for each in nets}) == 3
    assert net.of_kind("depth").key == nets[1].key
    assert nets[1].of_kind("auto").key == net.key
    assert {each.memory for each in nets} == {net.memory}


def test_rows_do_not_see_each_other(net: UnionControlNet) -> None:
    told = net.of_kind("depth")
    both, alone = found(told, rows=2).skips[-1], found(told).skips[-1]
    (hints,) = told.hints(picture(2), SIDE, SIDE)
    assert_close(hints[:1], told.hints(picture(2)[:1], SIDE, SIDE)[0])
    assert both.shape[0] == 2 * alone.shape[0]


def test_it_is_left_as_it_was(net: UnionControlNet) -> None:
    before = net.network.time_embedding(torch.ones(1, WIDTH))
    found(net.of_kind("depth"))
    assert torch.equal(net.network.time_embedding(torch.ones(1, WIDTH)), before)


def test_other_networks_are_of_no_kind() -> None:
    plain = steered.controlnet()
    assert of_kind(plain, "depth") is plain


def test_a_kind_that_it_does_not_know_is_refused(net: UnionControlNet) -> None:
    with pytest.raises(InputError, match=r"tiny\.safetensors knows no kind 'tile'; it knows openp"):
        net.of_kind("tile")


def test_it_is_told_from_other_controlnets_and_fits_its_family_only(
    net: UnionControlNet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="this model is Stable Diffusion 1"):
        net.fitted(unet())
    assert net.of_kind("depth").fitted(unet("sdxl")).key == net.of_kind("depth").key
    path = tmp_path / "promax.safetensors"
    written = testing_control.write_tiny_union(path, kinds=8)
    assert read_control_file(path).kind == "a union ControlNet"
    promax = load_union(read_control_file(path), CPU)
    assert promax.nbytes == sum(weight.nbytes for weight in written.values())
    assert promax.of_kind("repaint").kind == 7
