"""ControlNets: as diffusers computes them, at their times, in batches, and of the right family."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import steered
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from steered import PIXELS, SIDE, SIGMA, assert_close, assert_far, picture, prompt, random, unet
from torch import Tensor

from executor import testing, testing_control
from executor.devices import Devices
from executor.errors import InputError, ModelFileError
from executor.models.control import ControlNet, load_controlnet
from executor.models.control_file import read_control_file
from executor.models.control_lora import load_control_lora
from executor.ports import Area, Control, ControlNetwork
from executor.sampling.forward import evaluate
from executor.sampling.guidance import guided
from executor.steps import ControlInput, Eval

CPU = Devices.choose("cpu")
FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def net() -> ControlNet:
    return steered.controlnet()


def control(
    network: ControlNetwork, image: Tensor, *, strength: float = 1.0, rows: int = 1
) -> ControlInput:
    """A control for so many rows, of a picture each."""
    hints = network.hints(image, SIDE, SIDE)
    return ControlInput(network, hints, torch.full((rows,), strength))


def by_hand(of: str, x: Tensor, nets: Mapping[int, float], image: Tensor) -> Tensor:
    """The denoised latent as diffusers' own modules give it, steered by nets of these seeds."""
    unet_config = testing.unet_config(testing.family(of))
    control_config = testing_control.control_config(of)
    reference = steered.as_in_diffusers(UNet2DConditionModel, unet_config)
    cond, t = prompt(of), steered.timestep()
    arguments: dict[str, Any] = {"encoder_hidden_states": cond.tokens.expand(len(x), -1, -1)}
    if of == "sdxl":
        sizes = torch.tensor([[PIXELS, PIXELS, 0, 0, PIXELS, PIXELS]]).expand(len(x), -1)
        assert cond.pooled is not None
        pooled = cond.pooled.expand(len(x), -1)
        arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
    seen = x / (SIGMA**2 + 1) ** 0.5
    skips, middle = None, None
    for seed, strength in nets.items():
        network = steered.as_in_diffusers(ControlNetModel, control_config, seed)
        found = network(
            seen,
            t,
            controlnet_cond=image.movedim(-1, 1),
            conditioning_scale=strength,
            return_dict=False,
            **arguments,
        )
        skips = found[0] if skips is None else [a + b for a, b in zip(skips, found[0], strict=True)]
        middle = found[1] if middle is None else middle + found[1]
    noise = reference(
        seen,
        t,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
        **arguments,
    ).sample
    return x - SIGMA * noise


@pytest.mark.parametrize("of", FAMILIES)
@torch.no_grad()
def test_it_steers_as_diffusers_does(of: str) -> None:
    net, image, x = steered.controlnet(of), picture(2), random(2, 4, SIDE, SIDE)
    given = control(net, image, strength=0.7, rows=2)
    found = steered.denoised(unet(of), steered.inputs(unet(of), prompt(of), 2, given), x)
    assert_close(found, by_hand(of, x, {0: 0.7}, image))
    assert_far(found, steered.denoised(unet(of), steered.inputs(unet(of), prompt(of), 2), x))


@torch.no_grad()
def test_several_add_up(net: ControlNet) -> None:
    image, x, other = picture(), random(1, 4, SIDE, SIDE), steered.controlnet(seed=1)
    controls = control(net, image), control(other, image, strength=0.5)
    found = steered.denoised(unet(), steered.inputs(unet(), prompt(), 1, *controls), x)
    assert_close(found, by_hand("sd1", x, {0: 1.0, 1: 0.5}, image))


def test_one_without_effect_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "zero.safetensors"
    testing_control.write_tiny_controlnet(path, is_zero=True)
    net, x = load_controlnet(read_control_file(path), CPU), random(1, 4, SIDE, SIDE)
    given = steered.inputs(unet(), prompt(), 1, control(net, picture()))
    assert torch.equal(
        steered.denoised(unet(), given, x),
        steered.denoised(unet(), steered.inputs(unet(), prompt()), x),
    )


def test_strength_scales_whatever_it_adds(net: ControlNet) -> None:
    seen, given = random(1, 4, SIDE, SIDE), steered.inputs(unet(), prompt())
    once, thrice = (
        net.residuals(seen, torch.tensor([500.0]), given, control(net, picture(), strength=s))
        for s in (1.0, 3.0)
    )
    assert len(once.skips) == len(unet().config["block_out_channels"]) * 2
    assert once.middle is not None
    assert thrice.middle is not None
    torch.testing.assert_close(3 * once.middle, thrice.middle)
    for a, b in zip(once.skips, thrice.skips, strict=True):
        torch.testing.assert_close(3 * a, b)


def test_one_for_shuffled_pictures_adds_means_over_the_picture(tmp_path: Path) -> None:
    for name, is_pooled in (("x_shuffle", True), ("x_shuffle_fp16", True), ("shuffle_x", False)):
        path = tmp_path / f"{name}.safetensors"
        testing_control.write_tiny_controlnet(path)
        assert read_control_file(path).is_pooled == is_pooled
    plain, pooled = steered.controlnet(), steered.controlnet(is_pooled=True)
    assert plain.key != pooled.key
    seen, given, t = random(1, 4, SIDE, SIDE), steered.inputs(unet(), prompt()), torch.tensor([1.0])
    spread = plain.residuals(seen, t, given, control(plain, picture()))
    means = pooled.residuals(seen, t, given, control(pooled, picture()))
    for a, b in zip(spread.skips, means.skips, strict=True):
        torch.testing.assert_close(a.mean(dim=(2, 3), keepdim=True), b)
    found = steered.inputs(unet(), prompt(), 1, control(pooled, picture()))
    assert steered.denoised(unet(), found, seen).isfinite().all()


@torch.no_grad()
def test_beside_an_inpainting_model_it_sees_the_latent_alone(net: ControlNet) -> None:
    model, x, image = unet("sd1-inpaint"), random(1, 4, SIDE, SIDE), picture()
    given = steered.inputs(model, prompt(), 1, control(net, image))
    assert given.concat is not None
    seen, t = x / (SIGMA**2 + 1) ** 0.5, steered.timestep()
    config = testing_control.control_config()
    skips, middle = steered.as_in_diffusers(ControlNetModel, config)(
        seen, t, given.tokens, image.movedim(-1, 1), return_dict=False
    )
    noise = model.network(
        torch.cat((seen, given.concat), dim=1),
        t,
        given.tokens,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    ).sample
    assert_close(steered.denoised(model, given, x), x - SIGMA * noise)


def test_it_computes_in_another_precision_if_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    testing_control.write_tiny_controlnet(path, of="sdxl")
    exact, half = (
        load_controlnet(read_control_file(path), Devices.choose("cpu", dtype))
        for dtype in ("float32", "bfloat16")
    )
    assert exact.nbytes == 2 * half.nbytes
    seen, given = random(1, 4, SIDE, SIDE), steered.inputs(unet("sdxl"), prompt("sdxl"))
    wanted, found = (
        net.residuals(seen, torch.tensor([500.0]), given, control(net, picture())).middle
        for net in (exact, half)
    )
    assert found is not None
    assert wanted is not None
    assert found.dtype == torch.float32
    # bfloat16 keeps 8 bits, so each of some 30 layers errs by up to 0.4 %
    assert 0 < (found - wanted).norm() < 0.2 * wanted.norm()


# Batches


def requests(net: ControlNetwork) -> list[Eval]:
    """Four jobs' evaluations: two with controls of their own, one with another, one with none."""
    return [
        request(seed, control(net, picture(seed=seed), strength=strength))
        for seed, strength in ((1, 1.0), (2, 0.4))
    ] + [request(3, control(steered.controlnet(seed=1), picture())), request(4)]


def request(seed: int, *controls: ControlInput) -> Eval:
    given = steered.inputs(unet(), prompt(seed=seed), 1, *controls)
    return Eval(unet(), random(1, 4, SIDE, SIDE, seed=seed), torch.tensor([float(seed)]), given)


def test_pictures_and_strengths_of_several_jobs_share_a_forward_pass(net: ControlNet) -> None:
    first, second, *_ = requests(net)
    assert first.key == second.key
    for alone, together in zip((first, second), evaluate([first, second]), strict=True):
        assert_close(together, evaluate([alone])[0])


def test_jobs_with_other_controls_or_none_do_not(net: ControlNet) -> None:
    keys = [asked.key for asked in requests(net)]
    assert len(set(keys)) == 3
    both = request(1, *(control(net, picture()) for _ in range(2)))
    assert both.key not in keys


# Guidance


def asked(control: Control, sigma: float, *, area: Area | None = None) -> tuple[ControlInput, ...]:
    """The controls of the one request that a guided model makes at a sigma."""
    denoiser = guided(
        unet(),
        [prompt("sd1", control, area=area)],
        [],
        cfg=1.0,
        canvas=steered.canvas(2, height=12, width=16),
        sigmas=torch.tensor([14.0, 1.0, 0.0]),
    )
    requested = next(denoiser(random(2, 4, 12, 16), torch.tensor(sigma)))
    return requested.inputs.controls


def test_it_holds_from_its_start_to_its_end(net: ControlNet) -> None:
    schedule = unet().schedule
    start, end = (schedule.percent_to_sigma(percent) for percent in (0.2, 0.6))
    steering = Control(net, picture(), start_percent=0.2, end_percent=0.6)
    for sigma, is_held in ((start + 0.1, False), (start, True), (end, True), (end - 0.1, False)):
        assert bool(asked(steering, sigma)) == is_held
    assert asked(Control(net, picture()), schedule.sigma_max)
    assert asked(Control(net, picture()), 0.0)


def test_each_row_gets_its_picture_of_a_batch_and_one_serves_all(net: ControlNet) -> None:
    for rows in (1, 2, 3):
        images = picture(rows, height=96, width=128)
        (given,) = asked(Control(net, images, strength=0.3), 1.0)
        (hint,) = given.hints
        assert torch.equal(given.strength, torch.full((2,), 0.3))
        (expected,) = net.hints(images[: min(rows, 2)], 12, 16)
        assert_close(hint, expected.expand(2, -1, -1, -1))


def test_the_picture_is_fitted_to_the_area_that_the_prompt_holds_in(net: ControlNet) -> None:
    image = picture(height=64, width=64)
    (given,) = asked(Control(net, image), 1.0, area=Area(8, 8, 0, 4))
    assert given.hints[0].shape == (2, 32, 8, 8)
    assert_close(given.hints[0][:1], net.hints(image, 8, 8)[0])


def test_its_side_of_guidance_alone_is_steered(net: ControlNet) -> None:
    denoiser = guided(
        unet(),
        [prompt("sd1", Control(net, picture()))],
        [prompt(seed=9)],
        cfg=5.0,
        canvas=steered.canvas(),
        sigmas=torch.tensor([14.0, 0.0]),
    )
    run = denoiser(random(1, 4, SIDE, SIDE), torch.tensor(1.0))
    first = next(run)
    second = run.send(first.x)
    assert [bool(asked.inputs.controls) for asked in (first, second)] == [True, False]


# Files


@pytest.mark.parametrize("of", FAMILIES)
@pytest.mark.parametrize("names", ["authors", "bare", "diffusers", "folder"])
def test_every_layout_gives_the_same_network(tmp_path: Path, of: str, names: Any) -> None:
    path = tmp_path / "x"
    written = testing_control.write_tiny_controlnet(path, of=of, names=names, dtype=torch.float16)
    found = load_controlnet(read_control_file(path), CPU)
    weights = found.network.state_dict()
    weights |= {
        f"controlnet_cond_embedding.{name}": weight
        for name, weight in found.reader.state_dict().items()
    }
    assert weights.keys() == written.keys()
    for name, weight in written.items():
        assert torch.equal(weights[name], weight.half().float()), name
    found.fitted(unet(of))
    assert found.nbytes == sum(weight.nbytes for weight in weights.values())
    levels = len(found.config["block_out_channels"])
    assert found.config["attention_head_dim"] == [8 if of == "sd1" else 1] * levels


def test_keys_are_equal_for_equal_files_only(tmp_path: Path) -> None:
    for seed in (0, 1):
        testing_control.write_tiny_controlnet(tmp_path / f"{seed}.safetensors", seed=seed)
    first, again, other = (
        load_controlnet(read_control_file(tmp_path / f"{seed}.safetensors"), CPU).key
        for seed in (0, 0, 1)
    )
    assert first == again != other


@torch.no_grad()
def test_a_difference_is_added_to_a_models_weights(tmp_path: Path) -> None:
    path = tmp_path / "diff.safetensors"
    extra = {"difference": torch.zeros(1)}
    difference = testing_control.write_tiny_controlnet(path, seed=1, extra=extra)
    with pytest.raises(ModelFileError, match=r"diff\.safetensors is the difference.*DiffControl"):
        load_controlnet(read_control_file(path), CPU)
    found = load_controlnet(read_control_file(path), CPU, unet())
    assert found.key != load_controlnet(read_control_file(path), CPU, unet("sd1-edit")).key
    base = unet().network.state_dict()
    for name, weight in found.network.state_dict().items():
        # What only a ControlNet has is there whole.
        assert torch.equal(weight, difference[name] + base.get(name, 0))


@pytest.mark.parametrize("of", ["sd1", "sdxl"])
@torch.no_grad()
def test_a_control_lora_changes_the_weights_of_the_model_that_it_steers(
    tmp_path: Path, of: str
) -> None:
    path = tmp_path / "lora.safetensors"
    written = testing_control.write_tiny_control_lora(path, of=of)
    lora = load_control_lora(read_control_file(path), CPU)
    found = lora.fitted(unet(of))
    assert lora.fitted(unet(of)) is found
    base = unet(of).network.state_dict()
    weights = found.network.state_dict()
    name, stem = "time_embedding.linear_1.weight", "time_embed.0"
    change = written[f"{stem}.up"] @ written[f"{stem}.down"]
    torch.testing.assert_close(weights[name], base[name] + change)
    assert torch.equal(weights["conv_in.bias"], base["conv_in.bias"])
    zero = "controlnet_mid_block.weight"
    assert torch.equal(weights[zero], written["middle_block_out.0.weight"])
    x, given = random(1, 4, SIDE, SIDE), control(found, picture())
    found.fitted(unet(of))
    steered_by = steered.inputs(unet(of), prompt(of), 1, given)
    assert_far(
        steered.denoised(unet(of), steered_by, x),
        steered.denoised(unet(of), steered.inputs(unet(of), prompt(of)), x),
    )


# Mistakes


@pytest.mark.parametrize(
    ("of", "beside", "says"),
    [
        (
            "sd1",
            "sdxl",
            r"tiny\.safetensors is a ControlNet for .*32, 32, 64, 64.*this model is SDXL",
        ),
        ("sdxl", "sd1", r"is a ControlNet for .*this model is Stable Diffusion 1\.x"),
        ("sdxl", "sd2", r"made for that$"),
    ],
)
def test_one_of_another_family_is_refused_before_sampling_begins(
    of: str, beside: str, says: str
) -> None:
    steering = Control(steered.controlnet(of), picture())
    with pytest.raises(InputError, match=says):
        guided(
            unet(beside),
            [prompt(beside, steering)],
            [],
            cfg=1.0,
            canvas=steered.canvas(),
            sigmas=torch.tensor([1.0, 0.0]),
        )


def test_one_for_sd_2_fits_unclip_too() -> None:
    net = steered.controlnet("sd2")
    assert net.fitted(unet("sd2-unclip-h")) is net


def test_a_control_lora_of_another_family_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    testing_control.write_tiny_control_lora(path, of="sdxl")
    with pytest.raises(InputError, match=r"lora\.safetensors is a control-LoRA for another family"):
        load_control_lora(read_control_file(path), CPU).fitted(unet())


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"controlnet_blocks.0.weight": torch.zeros(1)}, "Stable Diffusion 3 or Flux"),
        ({"a.lora_up.weight": torch.zeros(1, 1)}, "is a LoRA, not a ControlNet.*folder loras"),
        ({"decoder.conv_in.weight": torch.zeros(1)}, "is a VAE, not a ControlNet or T2I-Adapter"),
        ({"what": torch.zeros(1, 1, 1)}, "does not recognise, not a ControlNet"),
        ({"zero_convs.0.0.weight": torch.zeros(1)}, "its ControlNet is incomplete"),
        ({"controlnet_cond_embedding.conv_in.weight": torch.zeros(1)}, "is incomplete"),
        ({"lora_controlnet": torch.zeros(1)}, "its control-LoRA is incomplete"),
    ],
)
def test_what_is_no_controlnet_is_told_by_what_it_is(
    tmp_path: Path, tensors: dict[str, Tensor], says: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)

    def load() -> object:
        file = read_control_file(path)
        return (load_control_lora if "lora" in file.kind.lower() else load_controlnet)(file, CPU)

    with pytest.raises(ModelFileError, match=rf"x\.safetensors.*{says}") as told:
        load()
    assert "\n" not in str(told.value)


def test_a_missing_or_misshapen_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    wrong = {"control_model.zero_convs.1.0.weight": torch.zeros(3, 3)}
    testing_control.write_tiny_controlnet(path, extra=wrong)
    with pytest.raises(ModelFileError, match=r"zero_convs\.1\.0\.weight is 3×3 instead of"):
        load_controlnet(read_control_file(path), CPU)


def test_a_folder_without_weights_or_with_pickles_is_told_so(tmp_path: Path) -> None:
    folder = tmp_path / "canny"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelFileError, match=r"canny holds no diffusion_pytorch_model\.safet"):
        read_control_file(folder)
