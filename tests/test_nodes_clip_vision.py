"""Nodes that let pictures stand in prompts, from files to latents."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import check_pure
from safetensors.torch import save_file
from torch import Tensor
from toy_model import drive

from executor import Cond, ModelFileError, Node, PathError
from executor.ports import EncodedPicture, Latent
from executor.testing import write_tiny_checkpoint
from executor.testing_vision import write_tiny_clip_vision, write_tiny_style, write_tiny_unclip
from executor.workspace import NodeContext
from nodes.clip_vision import (
    CLIPVisionEncode,
    CLIPVisionLoader,
    StyleModelApply,
    StyleModelLoader,
    unCLIPCheckpointLoader,
    unCLIPConditioning,
)
from nodes.loaders import CheckpointLoader
from nodes.sampling import KSampler


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Where the user's models are."""
    return tmp_path / "models"


def pictures(rows: int = 1, *, height: int = 40, width: int = 60, seed: int = 0) -> Tensor:
    return torch.rand(rows, height, width, 3, generator=torch.Generator().manual_seed(seed))


def encoded(*shape: int) -> EncodedPicture:
    states = torch.ones(*shape)
    return EncodedPicture(states[:, 0], states, 2 * states)


def sampled(model: Any, positive: Any, negative: Any, ctx: NodeContext) -> Tensor:
    node = KSampler(
        model=model,
        seed=3,
        steps=1,
        cfg=4.0,
        positive=positive,
        negative=negative,
        latent_image=Latent(torch.zeros(1, 4, 8, 8)),
    )
    return drive(node.run(ctx)).samples


def test_inputs_begin_as_in_comfyui():
    found = {
        node.__name__: {
            name: spec.default for name, spec in node.inputs().items() if not spec.is_required
        }
        for node in (CLIPVisionEncode, unCLIPConditioning, StyleModelApply)
    }
    assert found == {
        "CLIPVisionEncode": {"crop": "center"},
        "unCLIPConditioning": {"strength": 1.0, "noise_augmentation": 0.0},
        "StyleModelApply": {"strength": 1.0, "strength_type": "multiply"},
    }
    assert [slot.wire for slot in unCLIPCheckpointLoader.outputs()] == [
        *("MODEL", "CLIP", "VAE", "CLIP_VISION")
    ]
    wires = {name: Node.registry[name].outputs()[0].wire for name in ("StyleModelLoader",)}
    assert wires == {"StyleModelLoader": "STYLE_MODEL"}
    assert CLIPVisionEncode.outputs()[0].wire == "CLIP_VISION_OUTPUT"


def test_a_picture_is_cut_or_squeezed(ctx: NodeContext, models: Path):
    write_tiny_clip_vision(models / "clip_vision/tiny.safetensors")
    vision = CLIPVisionLoader(clip_name="tiny.safetensors").run(ctx)
    given = pictures()
    cut = CLIPVisionEncode(clip_vision=vision, image=given).run(ctx)
    middle = CLIPVisionEncode(clip_vision=vision, image=given[:, :, 10:50]).run(ctx)
    squeezed = CLIPVisionEncode(clip_vision=vision, image=given, crop="none").run(ctx)
    torch.testing.assert_close(cut.embeds, middle.embeds, atol=0.2, rtol=0)
    assert not torch.allclose(cut.embeds, squeezed.embeds, atol=0.2)
    check_pure(CLIPVisionEncode(clip_vision=vision, image=given), ctx)


def test_pictures_gather_on_every_prompt_and_strength_0_is_none():
    given = (Cond(torch.zeros(1, 2, 3)), Cond(torch.ones(1, 2, 3)))
    ctx: Any = None
    picture = encoded(1, 1, 4)
    once = unCLIPConditioning(
        conditioning=given, clip_vision_output=picture, strength=0.5, noise_augmentation=0.25
    ).run(ctx)
    twice = unCLIPConditioning(conditioning=once, clip_vision_output=picture).run(ctx)
    assert [(p.strength, p.noise_augmentation) for p in twice[1].pictures] == [(0.5, 0.25), (1, 0)]
    assert [len(cond.pictures) for cond in (*given, *once)] == [0, 0, 1, 1]
    node = unCLIPConditioning(conditioning=given, clip_vision_output=picture, strength=0.0)
    assert node.run(ctx) is given or list(node.run(ctx)) == list(given)


@pytest.mark.parametrize("of", ["sd2-unclip-h", "sd2-unclip-l"])
def test_unclip_paints_what_a_picture_says(of: str, ctx: NodeContext, models: Path):
    write_tiny_unclip(models / "checkpoints/unclip.safetensors", of=of)
    model, clip, _, vision = unCLIPCheckpointLoader(ckpt_name="unclip.safetensors").run(ctx)
    positive, negative = clip.encode("a fox"), clip.encode("")
    found = [sampled(model, positive, negative, ctx)]
    for seed in (1, 2):
        output = CLIPVisionEncode(clip_vision=vision, image=pictures(seed=seed)).run(ctx)
        told = unCLIPConditioning(conditioning=positive, clip_vision_output=output).run(ctx)
        found.append(sampled(model, told, negative, ctx))
    for one, other in ((0, 1), (1, 2)):
        assert (found[one] - found[other]).abs().max() > 1e-2


def test_sdxl_takes_pictures_in_place_of_a_prompt(ctx: NodeContext, models: Path):
    write_tiny_checkpoint(models / "checkpoints/xl.safetensors", of="sdxl")
    write_tiny_clip_vision(models / "clip_vision/g.safetensors", names="open_clip")
    model, clip, _ = CheckpointLoader(ckpt_name="xl.safetensors").run(ctx)
    vision = CLIPVisionLoader(clip_name="g.safetensors").run(ctx)
    output = CLIPVisionEncode(clip_vision=vision, image=pictures(2)).run(ctx)
    zero = (
        Node.registry["ConditioningZeroOut"]
        .model_validate({"conditioning": clip.encode("a fox")})
        .run(ctx)
    )
    told = unCLIPConditioning(conditioning=zero, clip_vision_output=output).run(ctx)
    negative = clip.encode("")
    plain = sampled(model, zero, negative, ctx)
    assert (sampled(model, told, negative, ctx) - plain).abs().max() > 1e-2


def test_a_style_stands_behind_a_prompt(ctx: NodeContext, models: Path):
    write_tiny_style(models / "style_models/style.safetensors")
    style = StyleModelLoader(style_model_name="style.safetensors").run(ctx)
    given = (replace(Cond(torch.ones(1, 7, 32)), strength=0.5),)
    picture = encoded(1, 5, 32)

    def applied(strength: float, kind: Any = "multiply") -> Cond:
        node = StyleModelApply(
            conditioning=given,
            style_model=style,
            clip_vision_output=picture,
            strength=strength,
            strength_type=kind,
        )
        (cond,) = node.run(ctx)
        return cond

    full, half = applied(1.0), applied(0.5)
    assert full.tokens.shape == (1, 7 + 2, 32)
    assert full.strength == 0.5
    assert torch.equal(full.tokens[:, :7], given[0].tokens)
    torch.testing.assert_close(half.tokens[:, 7:], full.tokens[:, 7:] / 2)
    assert torch.equal(applied(0.5, "attn_bias").tokens, full.tokens)


def test_files_that_are_not_there_or_hold_something_else_are_told(ctx: NodeContext, models: Path):
    write_tiny_checkpoint(models / "checkpoints/sd1.safetensors", with_vae=False)
    save_file({"x": torch.zeros(2, 2)}, models / "checkpoints/what.safetensors")
    with pytest.raises(ModelFileError, match="without a CLIP vision model"):
        unCLIPCheckpointLoader(ckpt_name="sd1.safetensors").run(ctx)
    with pytest.raises(ModelFileError, match=r"what\.safetensors"):
        unCLIPCheckpointLoader(ckpt_name="what.safetensors").run(ctx)
    with pytest.raises(PathError, match="clip_vision"):
        CLIPVisionLoader(clip_name="none.safetensors").run(ctx)
    with pytest.raises(PathError, match="style_models"):
        StyleModelLoader(style_model_name="none.safetensors").run(ctx)
