"""Encoded prompts: what the conditioning nodes make of them."""

from pathlib import Path

import pytest
import torch
from laws import left_alone, tensors_in
from pydantic import ValidationError

from executor import Area, Cond, Conditioning, Context, InputError, Link, PictureSize
from executor.settings import Settings
from executor.workspace import Workspace
from nodes.conditioning import (
    CLIPSetLastLayer,
    CLIPTextEncode,
    CLIPTextEncodeSDXL,
    CLIPTextEncodeSDXLRefiner,
    ConditioningAverage,
    ConditioningCombine,
    ConditioningConcat,
    ConditioningSetArea,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
    ConditioningZeroOut,
)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Workspace(Settings(base_directory=tmp_path, device="cpu")).context()


def encoded(*values: float, tokens: int = 77, pooled: float | None = None) -> Conditioning:
    """Prompts whose tokens all have one value each."""
    return tuple(
        Cond(
            torch.full((1, tokens, 6), float(value)),
            None if pooled is None else torch.full((1, 4), float(pooled)),
        )
        for value in values
    )


class Letters:
    """A text encoder that is easy to foresee: a token for each letter, its width the layer."""

    def __init__(self, layer: int = -1) -> None:
        self.layer = layer

    def encode(self, text: str) -> Conditioning:
        codes = torch.tensor([[float(ord(letter)) for letter in text]])
        return (Cond(codes[..., None].expand(-1, -1, -self.layer)),)

    def encode_parts(self, text_l: str, text_g: str) -> Conditioning:
        return (*self.encode(text_l), *self.encode(text_g))

    def with_last_layer(self, layer: int) -> "Letters":
        return Letters(layer)


@pytest.mark.parametrize(
    "node",
    [
        ConditioningCombine(conditioning_1=encoded(1), conditioning_2=encoded(2)),
        ConditioningAverage(
            conditioning_to=encoded(1, pooled=1),
            conditioning_from=encoded(2, pooled=2),
            conditioning_to_strength=0.3,
        ),
        ConditioningConcat(conditioning_to=encoded(1), conditioning_from=encoded(2)),
        ConditioningSetArea(conditioning=encoded(1)),
        ConditioningSetMask(conditioning=encoded(1), mask=torch.ones(1, 16, 16)),
        ConditioningSetTimestepRange(conditioning=encoded(1), start=0.5),
        ConditioningZeroOut(conditioning=encoded(1, pooled=3)),
    ],
    ids=lambda node: type(node).__name__,
)
def test_no_conditioning_node_writes_to_its_inputs(node, ctx) -> None:
    with left_alone(*node.__dict__.values()):
        node.run(ctx)


def test_a_prompt_is_encoded_by_the_layer_that_was_asked_for(ctx) -> None:
    clip = CLIPSetLastLayer(clip=Letters(), stop_at_clip_layer=-3).run(ctx)
    (cond,) = CLIPTextEncode(text="ab", clip=clip).run(ctx)
    assert cond.tokens.shape == (1, 2, 3)
    assert cond.tokens[0, :, 0].tolist() == [97, 98]


def test_sdxl_is_given_both_parts_of_a_prompt_and_its_sizes(ctx) -> None:
    node = CLIPTextEncodeSDXL(
        clip=Letters(),
        width=1024,
        height=960,
        crop_w=16,
        crop_h=8,
        target_width=640,
        target_height=512,
        text_g="g",
        text_l="l",
    )
    first, second = node.run(ctx)
    assert [float(cond.tokens[0, 0, 0]) for cond in (first, second)] == [ord("l"), ord("g")]
    size = PictureSize(960, 1024, crop_y=8, crop_x=16, target_height=512, target_width=640)
    assert first.size == second.size == size
    usual = CLIPTextEncodeSDXL(clip=Letters(), text_g="g", text_l="l").run(ctx)[0].size
    assert usual == PictureSize(1024, 1024, 0, 0, 1024, 1024)


def test_the_refiner_is_given_a_score_and_a_size(ctx) -> None:
    node = CLIPTextEncodeSDXLRefiner(clip=Letters(), ascore=7.5, width=640, height=512, text="ab")
    (cond,) = node.run(ctx)
    assert (cond.size, cond.aesthetic_score) == (PictureSize(512, 640), 7.5)
    (usual,) = CLIPTextEncodeSDXLRefiner(clip=Letters(), text="ab").run(ctx)
    assert (usual.size, usual.aesthetic_score) == (PictureSize(1024, 1024), 6.0)


def test_combined_prompts_stand_side_by_side_in_their_order(ctx) -> None:
    combined = ConditioningCombine(conditioning_1=encoded(1, 2), conditioning_2=encoded(3)).run(ctx)
    assert [cond.tokens.mean().item() for cond in combined] == [1, 2, 3]


def test_concat_puts_the_tokens_of_the_first_other_prompt_behind_each(ctx) -> None:
    joined = ConditioningConcat(
        conditioning_to=encoded(1, 2, tokens=77), conditioning_from=encoded(5, 9, tokens=154)
    ).run(ctx)
    assert [cond.tokens.shape[1] for cond in joined] == [231, 231]
    assert [cond.tokens[0, [0, 76, 77, 230], 0].tolist() for cond in joined] == [
        [1, 1, 5, 5],
        [2, 2, 5, 5],
    ]


@pytest.mark.parametrize(("strength", "expected"), [(1.0, 4.0), (0.0, 8.0), (0.25, 7.0)])
def test_average_mixes_tokens_and_pooled_outputs_alike(ctx, strength, expected) -> None:
    (cond,) = ConditioningAverage(
        conditioning_to=encoded(4, pooled=4),
        conditioning_from=encoded(8, pooled=8),
        conditioning_to_strength=strength,
    ).run(ctx)
    for tensor in tensors_in(cond):
        torch.testing.assert_close(tensor, torch.full_like(tensor, expected))


def test_average_cuts_or_zero_fills_the_other_prompt_to_the_length_of_the_first(ctx) -> None:
    def mixed(to: int, other: int) -> torch.Tensor:
        (cond,) = ConditioningAverage(
            conditioning_to=encoded(2, tokens=to),
            conditioning_from=encoded(4, tokens=other),
            conditioning_to_strength=0.5,
        ).run(ctx)
        return cond.tokens[0, :, 0]

    assert mixed(154, 77).tolist() == [3.0] * 77 + [1.0] * 77
    assert mixed(77, 154).tolist() == [3.0] * 77


def test_average_takes_the_only_pooled_output_that_there_is(ctx) -> None:
    (cond,) = ConditioningAverage(
        conditioning_to=encoded(1),
        conditioning_from=encoded(2, pooled=6),
        conditioning_to_strength=0.5,
    ).run(ctx)
    assert cond.pooled is not None
    assert cond.pooled.unique().tolist() == [6]


def test_prompts_of_different_models_are_refused_with_their_widths(ctx) -> None:
    wide = (Cond(torch.zeros(1, 77, 8)),)
    for node in (
        ConditioningConcat(conditioning_to=encoded(1), conditioning_from=wide),
        ConditioningAverage(conditioning_to=encoded(1), conditioning_from=wide),
    ):
        with pytest.raises(InputError, match="6 and 8 wide"):
            node.run(ctx)


def test_mixing_with_no_prompt_at_all_is_refused(ctx) -> None:
    with pytest.raises(InputError, match="holds no prompt"):
        ConditioningConcat(conditioning_to=encoded(1), conditioning_from=()).run(ctx)


def test_zeroed_prompts_keep_their_shape_and_where_they_hold(ctx) -> None:
    here = ConditioningSetArea(conditioning=encoded(1, 2, pooled=3), width=64, height=128).run(ctx)
    zeroed = ConditioningZeroOut(conditioning=here).run(ctx)
    for before, after in zip(here, zeroed, strict=True):
        assert after.area == before.area
        assert after.tokens.shape == before.tokens.shape
        assert not any(tensor.any() for tensor in tensors_in(after))


def test_an_area_is_given_in_pixels_and_kept_in_latent_pixels(ctx) -> None:
    node = ConditioningSetArea(
        conditioning=encoded(1), width=128, height=64, x=24, y=40, strength=0.7
    )
    (cond,) = node.run(ctx)
    assert cond.area == Area(height=8, width=16, y=5, x=3)
    assert cond.strength == 0.7


@pytest.mark.parametrize(("choice", "is_cropped"), [("default", False), ("mask bounds", True)])
def test_a_mask_holds_for_all_prompts_and_only_mask_bounds_crops(ctx, choice, is_cropped) -> None:
    mask = torch.ones(1, 8, 8)
    conditioning = ConditioningSetMask(
        conditioning=encoded(1, 2), mask=mask, strength=2.0, set_cond_area=choice
    ).run(ctx)
    for cond in conditioning:
        assert cond.mask is mask
        assert (cond.mask_strength, cond.is_cropped_to_mask) == (2.0, is_cropped)


def test_a_timestep_range_is_kept_as_fractions_of_the_sampling(ctx) -> None:
    (cond,) = ConditioningSetTimestepRange(conditioning=encoded(1), start=0.2, end=0.8).run(ctx)
    assert (cond.start_percent, cond.end_percent) == (0.2, 0.8)


@pytest.mark.parametrize("changed", [{"width": 56}, {"strength": 10.1}, {"x": -8}])
def test_areas_out_of_comfyuis_ranges_are_refused(changed) -> None:
    with pytest.raises(ValidationError):
        ConditioningSetArea(conditioning=encoded(1), **changed)


def test_input_names_order_and_defaults_are_comfyuis() -> None:
    assert list(CLIPTextEncode.inputs()) == ["text", "clip"]
    assert list(ConditioningSetArea.inputs()) == [
        *("conditioning", "width", "height", "x", "y", "strength")
    ]
    assert list(ConditioningSetMask.inputs()) == [
        *("conditioning", "mask", "strength", "set_cond_area")
    ]
    assert CLIPSetLastLayer.inputs()["stop_at_clip_layer"].default == -1
    assert CLIPTextEncode.inputs()["text"].options == {"multiline": True, "dynamicPrompts": True}


def test_a_prompt_reads_the_embeddings_that_it_names():
    clip = Link("1", 1)
    text = "a (embedding:red circle:1.2), embedding:blue, on embedding:sub/green"
    node = CLIPTextEncode.model_validate({"text": text, "clip": clip})
    assert [name for _, _, name in node.files()] == ["red", "blue", "sub/green"]
    node = CLIPTextEncode.model_validate({"text": "a prompt: embedding", "clip": clip})
    assert list(node.files()) == []
    node = CLIPTextEncode.model_validate({"text": Link("2", 0), "clip": clip})
    assert list(node.files()) == []
    parts = {"text_g": "embedding:red", "text_l": "embedding:blue", "clip": clip}
    assert list(CLIPTextEncodeSDXL.model_validate(parts).files()) == [
        ("text_g", "embeddings", "red"),
        ("text_l", "embeddings", "blue"),
    ]
    refined = CLIPTextEncodeSDXLRefiner.model_validate({"text": text, "clip": clip})
    assert [name for _, _, name in refined.files()] == ["red", "blue", "sub/green"]
