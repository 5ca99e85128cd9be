"""Each family from its own layout: what nodes get is what diffusers computes with the weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from executor import testing
from executor.context import Checkpoint
from executor.devices import Devices
from executor.errors import InputError
from executor.models.families import FAMILIES, Family, supported_titles
from executor.models.load import load_checkpoint
from executor.models.text import ClipText
from executor.models.unet import UNet
from executor.models.vae import Autoencoder
from executor.ports import Canvas, Cond, Objective, PictureSize
from executor.steps import Inputs

RUN = [family for family in FAMILIES if family.is_supported]
CPU = Devices.choose("cpu")
PROMPT = "a red fox in the snow"

Tiny = Callable[[str], Path]


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal but for rounding: random weights amplify float32's to 6e-6 (against float64)."""
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def loaded(path: Path) -> tuple[UNet, ClipText, Autoencoder]:
    model, clip, vae = load_checkpoint(path, CPU)
    assert isinstance(model, UNet)
    assert isinstance(clip, ClipText)
    assert isinstance(vae, Autoencoder)
    return model, clip, vae


def canvas(rows: int = 2) -> Canvas:
    generator = torch.Generator().manual_seed(3)
    return Canvas(torch.randn(rows, 4, 8, 12, generator=generator))


def in_diffusers(family: Family) -> Any:
    """The same weights in a module as diffusers itself configures it for the family."""
    config = testing.unet_config(family)
    weights = testing.random_weights(UNet2DConditionModel, config, seed=0)
    if family.vector_says in ("sizes", "score"):
        weights = {k.replace("class_embedding.", "add_embedding."): w for k, w in weights.items()}
        config |= {"class_embed_type": None, "addition_embed_type": "text_time"}
        config |= {"addition_time_embed_dim": 256}
    network = UNet2DConditionModel(**config)
    network.load_state_dict(weights)
    return network.eval()


@pytest.mark.parametrize("family", RUN, ids=lambda family: family.name)
@torch.no_grad()
def test_a_step_of_its_u_net_is_diffusers_own(tiny: Tiny, family: Family) -> None:
    model, clip, _ = loaded(tiny(family.name))
    start = canvas()
    (cond,) = clip.encode(PROMPT)
    pooled = cond.pooled
    assert pooled is not None
    size = PictureSize(1024, 960, 16, 8, 768, 640)
    concat = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, 8, 12)
    mask[:, 2:5] = 1
    cond = Cond(
        cond.tokens, pooled, size=size, aesthetic_score=5.5, concat=concat, concat_mask=mask
    )
    inputs = model.inputs(cond, start, is_negative=False)
    assert inputs.tokens.shape == (2, 77, 32 * len(family.text))

    more: dict[str, Any] = {}
    if family.vector_says in ("sizes", "score"):
        ends = [768, 640] if family.vector_says == "sizes" else [5.5]
        times = torch.tensor([[1024, 960, 16, 8, *ends]] * 2)
        more["added_cond_kwargs"] = {"text_embeds": pooled.repeat(2, 1), "time_ids": times}
    elif family.vector_says == "picture":
        more["class_labels"] = torch.zeros(2, 64)
    network = in_diffusers(family)
    for t in (3, 800):
        sigma = model.schedule.sigmas[t]
        x = start.clean * sigma
        seen = x / (sigma**2 + 1) ** 0.5
        if family.in_channels == 9:
            seen = torch.cat((seen, mask[:, None].repeat(2, 1, 1, 1), scaled(model, concat)), 1)
        elif family.in_channels == 8:
            seen = torch.cat((seen, concat.repeat(2, 1, 1, 1)), 1)
        noise = network(seen, t, cond.tokens.repeat(2, 1, 1), **more).sample
        assert_close(model.denoise(x, sigma.repeat(2), inputs), x - sigma * noise)


def scaled(model: UNet, concat: Tensor) -> Tensor:
    return (concat * model.latent_scale).repeat(2, 1, 1, 1)


@pytest.mark.parametrize("family", RUN, ids=lambda family: family.name)
def test_a_folder_in_pieces_gives_the_same_networks(
    tiny: Tiny, family: Family, tmp_path: Path
) -> None:
    testing.write_tiny_folder(tmp_path / "x", of=family.name, pieces=3)
    model, clip, vae = loaded(tmp_path / "x")
    others = loaded(tiny(family.name))
    assert model.family.title.partition(" (ViT")[0] == family.title.partition(" (ViT")[0]
    assert model.objective == others[0].objective
    for network, other in ((model.network, others[0].network), (vae.network, others[2].network)):
        found, expected = network.state_dict(), other.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    # SD 2's text encoder lacks in a folder what the family does not use
    for text in (PROMPT, "a (red:1.4) fox, " * 20):
        torch.testing.assert_close(clip.encode(text)[0].tokens, others[1].encode(text)[0].tokens)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["sd2", "sdxl"])
def test_half_precision_files_hold_the_same_rounded(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    weights = testing.write_tiny_checkpoint(tmp_path / "x.safetensors", of=name, dtype=dtype)
    model, clip, _ = loaded(tmp_path / "x.safetensors")
    (label,) = [n for n in weights if n.endswith("input_blocks.0.0.weight")]
    assert torch.equal(model.network.state_dict()["conv_in.weight"], weights[label].float())
    (label,) = [n for n in weights if n.endswith("resblocks.1.attn.in_proj_weight")]
    text = clip.towers[-1].model.state_dict()
    parts = [text[f"encoder.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(parts), weights[label].float())


@pytest.mark.parametrize("family", RUN, ids=lambda family: family.name)
def test_a_batch_is_its_rows(tiny: Tiny, family: Family) -> None:
    model, clip, _ = loaded(tiny(family.name))
    start, sigma = canvas(3), torch.tensor([0.3, 2.0, 12.0])
    inputs = model.inputs(clip.encode(PROMPT)[0], start, is_negative=False)
    together = model.denoise(start.clean * 3, sigma, inputs)
    for row in range(3):
        at = slice(row, row + 1)
        own = Inputs(
            inputs.tokens[at],
            None if inputs.vector is None else inputs.vector[at],
            None if inputs.concat is None else inputs.concat[at],
        )
        assert_close(together[at], model.denoise(start.clean[at] * 3, sigma[at], own))


def test_latents_are_scaled_as_the_family_was_trained(tiny: Tiny) -> None:
    scales = {name: loaded(tiny(name))[0].latent_scale for name in ("sd1", "sd2", "sdxl")}
    assert scales == {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
    assert loaded(tiny("sdxl-refiner"))[0].latent_scale == 0.13025


def test_cosxl_sees_the_picture_to_edit_scaled_and_others_do_not(
    tiny: Tiny, tmp_path: Path
) -> None:
    marks = {"edm_vpred.sigma_max": torch.tensor(120.0)}
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors", of="sdxl-edit", extra=marks)
    cosxl, clip, _ = loaded(tmp_path / "x.safetensors")
    plain = loaded(tiny("sdxl-edit"))[0]
    (cond,) = clip.encode(PROMPT)
    cond = replace(cond, concat=torch.ones(1, 4, 8, 12))
    for model, scale in ((cosxl, 0.13025), (plain, 1.0)):
        for other in (model, model.with_objective(Objective("x0"))):
            concat = other.inputs(cond, canvas(), is_negative=False).concat
            torch.testing.assert_close(concat, torch.full((2, 4, 8, 12), scale))
    assert cosxl.schedule.sigma_max == pytest.approx(120)


def test_a_prompt_of_another_family_is_refused_in_words(tiny: Tiny) -> None:
    parts: dict[str, Checkpoint] = {
        name: load_checkpoint(tiny(name), CPU) for name in ("sd1", "sdxl", "sdxl-refiner")
    }
    (of_sd1,) = parts["sd1"].clip.encode(PROMPT)
    with pytest.raises(InputError, match=r"encoded 32 wide, and this model .SDXL. reads 64"):
        parts["sdxl"].model.inputs(of_sd1, canvas(), is_negative=False)
    (of_xl,) = parts["sdxl"].clip.encode(PROMPT)
    with pytest.raises(InputError, match="CLIP of the same loader"):
        parts["sd1"].model.inputs(of_xl, canvas(), is_negative=False)
    unpooled = Cond(of_sd1.tokens)
    with pytest.raises(InputError, match="has no pooled output, which SDXL refiner needs"):
        parts["sdxl-refiner"].model.inputs(unpooled, canvas(), is_negative=False)
    longer = Cond(of_sd1.tokens, torch.zeros(1, 40))
    with pytest.raises(InputError, match=r"too long by 8 for this model .SDXL refiner."):
        parts["sdxl-refiner"].model.inputs(longer, canvas(), is_negative=False)


def test_messages_name_the_families_that_run() -> None:
    assert supported_titles().startswith("Stable Diffusion 1.x, ")
    assert "SDXL refiner" in supported_titles()
    assert "depth" not in supported_titles()
