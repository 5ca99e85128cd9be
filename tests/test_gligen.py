"""GLIGEN: diffusers' gated U-Net, out of a plain one that stays as it was."""

from pathlib import Path
from typing import Any

import pytest
import steered
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from steered import (
    SIDE,
    SIGMA,
    WIDTH,
    assert_close,
    assert_far,
    picture,
    prompt,
    random,
    unet,
)
from torch import Tensor

from executor import testing, testing_control
from executor.devices import Devices
from executor.errors import InputError, ModelFileError
from executor.models.gligen import Gligen, load_gligen
from executor.ports import Area, Grounding, Phrase
from executor.sampling.forward import evaluate
from executor.sampling.guidance import guided
from executor.steps import ControlInput, Eval, GroundingInput, Inputs

CPU = Devices.choose("cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gligen") / "tiny.safetensors"
    testing_control.write_tiny_gligen(path)
    return path


@pytest.fixture(scope="module")
def gligen(path: Path) -> Gligen:
    return load_gligen(path, CPU)


@pytest.fixture(scope="module")
def gated(path: Path) -> Any:
    """diffusers' own U-Net with the layers built in."""
    config = testing.unet_config(testing.family("sd1"))
    network = UNet2DConditionModel(**config, attention_type="gated")
    layers = testing_control.write_tiny_gligen(path.with_name("again.safetensors"))
    network.load_state_dict(testing.random_weights(UNet2DConditionModel, config, 0) | layers)
    return network.eval().requires_grad_(False)


def phrases(count: int = 2) -> tuple[Phrase, ...]:
    return tuple(
        Phrase(random(1, WIDTH, seed=20 + place), Area(2, 3, place % 5, 1))
        for place in range(count)
    )


def grounded(gligen: Gligen, there: tuple[Phrase, ...], rows: int = 1) -> Inputs:
    plain = steered.inputs(unet(), prompt(), rows)
    objects = gligen.objects(there, SIDE, SIDE).expand(rows, -1, -1)
    return Inputs(plain.tokens, grounding=GroundingInput(gligen, objects))


def by_hand(gated: Any, x: Tensor, there: tuple[Phrase, ...]) -> Tensor:
    """As diffusers' pipeline calls it: thirty boxes, of which some are there."""
    boxes, masks = torch.zeros(1, 30, 4), torch.zeros(1, 30)
    pooled = torch.zeros(1, 30, WIDTH)
    for place, phrase in enumerate(there):
        area, size = phrase.area, SIDE
        ends = area.x, area.y, area.x + area.width, area.y + area.height
        boxes[0, place] = torch.tensor(ends) / size
        masks[0, place], pooled[0, place] = 1, phrase.pooled[0]
    given = {"boxes": boxes, "masks": masks, "positive_embeddings": pooled}
    seen, t = x / (SIGMA**2 + 1) ** 0.5, steered.timestep()
    kwargs = {"gligen": given}
    return x - SIGMA * gated(seen, t, prompt().tokens, cross_attention_kwargs=kwargs).sample


@pytest.mark.parametrize("count", [0, 2, 30])
@torch.no_grad()
def test_it_is_diffusers_gated_network(gligen: Gligen, gated: Any, count: int) -> None:
    x, there = random(1, 4, SIDE, SIDE), phrases(count)
    found = steered.denoised(unet(), grounded(gligen, there), x)
    assert_close(found, by_hand(gated, x, there))


def test_the_phrase_and_its_place_are_felt(gligen: Gligen) -> None:
    x, (one, other) = random(1, 4, SIDE, SIDE), phrases()
    moved = Phrase(one.pooled, Area(4, 4, 4, 4))
    found = [
        steered.denoised(unet(), grounded(gligen, there), x)
        for there in ((), (one,), (other,), (moved,))
    ]
    for index, a in enumerate(found):
        for b in found[:index]:
            assert not torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_the_shared_network_is_left_as_it_was(gligen: Gligen) -> None:
    x, plain = random(1, 4, SIDE, SIDE), steered.inputs(unet(), prompt())
    names = [name for name, _ in unet().network.named_modules()]
    before = steered.denoised(unet(), plain, x)
    steered.denoised(unet(), grounded(gligen, phrases()), x)
    with pytest.raises(RuntimeError):  # an evaluation that fails in the middle
        steered.denoised(unet(), grounded(gligen, phrases()), x[:, :3])
    assert [name for name, _ in unet().network.named_modules()] == names
    assert torch.equal(steered.denoised(unet(), plain, x), before)


def test_jobs_with_other_phrases_share_a_forward_pass_and_those_with_none_do_not(
    gligen: Gligen,
) -> None:
    asked = [
        Eval(unet(), random(1, 4, SIDE, SIDE, seed=seed), torch.tensor([float(seed)]), given)
        for seed, given in (
            (1, grounded(gligen, phrases(1))),
            (2, grounded(gligen, phrases(3))),
            (3, steered.inputs(unet(), prompt())),
        )
    ]
    first, second, plain = asked
    assert first.key == second.key != plain.key
    for alone, together in zip(asked[:2], evaluate(asked[:2]), strict=True):
        assert_close(together, evaluate([alone])[0])


def test_places_are_those_of_the_area_that_the_prompt_holds_in(gligen: Gligen) -> None:
    there = phrases(1)
    denoiser = guided(
        unet(),
        [prompt(grounding=Grounding(gligen, there), area=Area(8, 8, 0, 4))],
        [],
        cfg=1.0,
        canvas=steered.canvas(2, height=12, width=16),
        sigmas=torch.tensor([1.0, 0.0]),
    )
    grounding = next(denoiser(random(2, 4, 12, 16), torch.tensor(1.0))).inputs.grounding
    assert grounding is not None
    assert grounding.objects.shape == (2, 30, WIDTH)
    assert_close(grounding.objects, gligen.objects(there, 8, 8).expand(2, -1, -1))
    assert_far(gligen.objects(there, 12, 16), gligen.objects(there, 8, 8))


def test_it_steers_beside_a_controlnet(gligen: Gligen) -> None:
    net, x, given = steered.controlnet(), random(1, 4, SIDE, SIDE), grounded(gligen, phrases())
    controls = (ControlInput(net, net.hints(picture(), SIDE, SIDE), torch.ones(1)),)
    both = Inputs(given.tokens, controls=controls, grounding=given.grounding)
    found = steered.denoised(unet(), both, x)
    assert_far(found, steered.denoised(unet(), given, x))
    assert_far(found, steered.denoised(unet(), Inputs(given.tokens, controls=controls), x))


def test_in_half_precision_its_objects_stay_exact(path: Path, gligen: Gligen) -> None:
    half = load_gligen(path, Devices.choose("cpu", "bfloat16"))
    assert half.key != gligen.key
    assert next(half.layers.fusers.parameters()).dtype == torch.bfloat16
    assert half.objects(phrases(), SIDE, SIDE).dtype == torch.float32


# Mistakes


def test_more_phrases_than_it_knows_places_for_are_refused(gligen: Gligen) -> None:
    with pytest.raises(InputError, match="30 phrases at places at most, got 31"):
        gligen.objects(phrases(31), SIDE, SIDE)


def test_phrases_of_another_text_encoder_are_refused(gligen: Gligen) -> None:
    with pytest.raises(InputError, match=r"encoded 5 wide, and tiny\.safetensors reads 32"):
        gligen.objects([Phrase(torch.zeros(1, 5), Area(1, 1, 0, 0))], SIDE, SIDE)


def test_a_model_of_another_family_is_refused_before_sampling_begins(gligen: Gligen) -> None:
    with pytest.raises(InputError, match=r"tiny\.safetensors is a GLIGEN network for 10 tr.*SDXL"):
        guided(
            unet("sdxl"),
            [prompt("sdxl", grounding=Grounding(gligen, phrases()))],
            [],
            cfg=1.0,
            canvas=steered.canvas(),
            sigmas=torch.tensor([1.0, 0.0]),
        )


def test_what_is_no_gligen_network_is_told_by_what_it_is(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "x.safetensors"
    save_file({"a.lora_up.weight": torch.zeros(1, 1)}, other)
    with pytest.raises(ModelFileError, match=r"x\.safetensors is a LoRA, not a GLIGEN.*loras"):
        load_gligen(other, CPU)
    weights = load_file(path)
    place = "middle_block.1.transformer_blocks.0.fuser"
    save_file({n: w for n, w in weights.items() if n != f"{place}.alpha_attn"}, other)
    with pytest.raises(
        ModelFileError, match=rf"x\.safetensors: its GLIGEN.*missing: {place}\.alpha"
    ):
        load_gligen(other, CPU)
    save_file({f"{place}.linear.weight": torch.zeros(8, 8)}, other)
    with pytest.raises(ModelFileError, match="its GLIGEN network is incomplete"):
        load_gligen(other, CPU)
