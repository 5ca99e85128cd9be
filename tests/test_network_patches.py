"""Patches inside a U-Net: each against another way to compute it, and what all hold to."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0
from diffusers.models.unets import unet_2d_blocks
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor, nn
from torch.nn.functional import interpolate

from executor import testing
from executor.models import hypertile
from executor.models.deep_shrink import DeepShrink
from executor.models.freeu import FreeU, low_scaled
from executor.models.hypertile import HyperTile
from executor.models.middle_attention import PerturbedAttention, WatchedAttention
from executor.models.token_merging import Merge, TokenMerging, staying
from executor.models.unet import UNet
from executor.models.unet_blocks import blocks
from executor.models.weights import Change
from executor.patches import NetworkPatch
from executor.ports import Objective, Residuals
from executor.resampling import resize
from executor.sampling.forward import evaluate
from executor.sampling.guidance_patches import RescaledGuidance
from executor.sampling.mask_patches import DifferentialDiffusion
from executor.steps import ControlInput, Eval, Inputs

WIDTHS = [32, 64, 128, 128]
CONFIG: dict[str, Any] = {
    **testing.UNET,
    "block_out_channels": WIDTHS,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "layers_per_block": 2,
}
SIDE = 16
SIGMA = 2.0

SHRINK = DeepShrink(3, 2.0, 14.0, 1.0, spares_skip=True, down="bilinear", up="bilinear")
PATCHES: Sequence[NetworkPatch] = (
    FreeU(1.3, 1.4, 0.9, 0.2),
    FreeU(1.3, 1.4, 0.9, 0.2, is_second_version=True),
    HyperTile(64, 2, 1, scales_with_depth=False),
    TokenMerging(0.4),
    PerturbedAttention(),
    WatchedAttention(),
    SHRINK,
)
NEUTRAL: Sequence[NetworkPatch] = (
    FreeU(1.0, 1.0, 1.0, 1.0),
    FreeU(1.0, 1.0, 1.0, 1.0, is_second_version=True),
    HyperTile(8 * SIDE, 1, 3, scales_with_depth=False),
    TokenMerging(0.0),
    WatchedAttention(),
    DeepShrink(3, 1.0, 14.0, 1.0, spares_skip=False, down="bicubic", up="bicubic"),
    DeepShrink(3, 2.0, 1.0, 0.5, spares_skip=True, down="bicubic", up="bicubic"),
    DeepShrink(32, 2.0, 14.0, 1.0, spares_skip=True, down="bicubic", up="bicubic"),
)


def network() -> UNet2DConditionModel:
    """One with the first width two and four times."""
    made = UNet2DConditionModel(**CONFIG)
    made.load_state_dict(testing.random_weights(UNet2DConditionModel, CONFIG, 0))
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> UNet:
    return UNet(network(), family=testing.family("sd1"), objective=Objective(), key="patches")


@pytest.fixture(scope="module")
def reference() -> UNet2DConditionModel:
    """The same weights in a network that nobody patches."""
    return network()


def inside(model: UNet) -> Any:
    """Its network, whose parts have no types."""
    return model.network


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def latents(rows: int = 1, height: int = SIDE, width: int = SIDE) -> Tensor:
    return random(rows, 4, height, width) * SIGMA


def prompts(rows: int = 1) -> Inputs:
    return Inputs(random(rows, 7, testing.TEXT["hidden_size"], seed=2))


def denoised(model: UNet, x: Tensor, sigma: float = SIGMA) -> Tensor:
    return model.denoise(x, torch.full((len(x),), sigma), prompts(len(x)))


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Equal but for rounding: random weights amplify float32's to 6e-6 (against float64)."""
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-4 * expected.norm()


@contextmanager
def seen(module: nn.Module) -> Generator[list[tuple[Tensor, Tensor]]]:
    """What a module is given first, and what it gives."""
    noted: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...], given: Any) -> None:
        noted.append((args[0], given))

    handle = module.register_forward_hook(note)
    yield noted
    handle.remove()


# --- laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", NEUTRAL, ids=str)
def test_a_patch_that_is_to_do_nothing_does_nothing(model: UNet, patch: NetworkPatch):
    plain = denoised(model, latents())
    assert_near(denoised(model.patched(patch), latents())[:, :4], plain)


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_the_network_is_what_it_was(model: UNet, patch: NetworkPatch):
    plain = denoised(model, latents())
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    patched = denoised(model.patched(patch), latents())
    for name, weight in model.network.state_dict().items():
        assert torch.equal(weight, before[name])
    for module in model.network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert torch.equal(denoised(model, latents()), plain)
    if not isinstance(patch, WatchedAttention):  # else the test would watch nothing
        assert (patched - plain).norm() > 1e-3 * plain.norm()


def test_the_network_is_what_it_was_after_an_error_too(model: UNet):
    patched = model
    for patch in PATCHES:
        patched = patched.patched(patch)
    with pytest.raises(RuntimeError):
        patched.denoise(latents(), torch.full((1,), SIGMA), Inputs(random(1, 7, 5)))
    plain = model.network
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.modules())
    assert {type(one).__name__ for one in plain.attn_processors.values()} == {"AttnProcessor2_0"}


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_a_row_is_what_it_is_alone_whatever_the_noise_of_the_others(
    model: UNet, patch: NetworkPatch
):
    patched = model.patched(patch)
    x, inputs, sigma = latents(3), prompts(3), torch.tensor([SIGMA, 0.5, 7.0])
    together = patched.denoise(x, sigma, inputs)
    for row in range(3):
        at = torch.tensor([row])
        assert_near(together[at], patched.denoise(x[at], sigma[at], inputs.rows(at)))


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_equal_patches_share_a_batch_and_others_do_not(model: UNet, patch: NetworkPatch):
    def request(of: UNet) -> Eval:
        return Eval(of, latents(), torch.full((1,), SIGMA), prompts())

    same = [request(model.patched(patch)), request(model.patched(patch))]
    first, second = evaluate(same)
    assert_near(first, second)
    others = [model, *(model.patched(other) for other in PATCHES if other != patch)]
    assert all(request(other).key != same[0].key for other in others)


def test_patches_of_guidance_share_batches_with_plain_models(model: UNet):
    patched = model.patched(RescaledGuidance(0.7)).patched(DifferentialDiffusion())
    assert patched.key == model.key
    assert torch.equal(denoised(patched, latents()), denoised(model, latents()))


def test_patches_stay_on_a_model_whose_weights_are_changed(model: UNet):
    patch = PATCHES[0]
    weights = model.weights.changed(Change("a change", {}, 1.0))
    first = model.patched(patch).with_networks({"unet": weights})
    second = model.with_networks({"unet": weights}).patched(patch)
    assert first.patches == second.patches == (patch,)
    assert first.key == second.key != model.patched(patch).key
    assert_near(denoised(first, latents()), denoised(model.patched(patch), latents()))
    assert first.with_objective(Objective("v")).key != first.key


@pytest.mark.parametrize(("height", "width"), [(12, 20), (9, 14)])
def test_patches_stand_beside_each_other_on_pictures_of_any_size(
    model: UNet, height: int, width: int
):
    patched, x = model, latents(2, height, width)
    for patch in reversed(PATCHES):  # what perturbs attention would leave none to watch
        patched = patched.patched(patch)
    both = denoised(patched, x)
    assert both.shape == (2, 5, height, width)
    assert both.isfinite().all()


# --- where things are ---------------------------------------------------------------------------


def test_blocks_are_numbered_as_in_the_original_layout(model: UNet):
    found = blocks(model.network)
    downsamplers = [at for at, one in enumerate(found.inputs) if "Down" in type(one.last).__name__]
    assert (len(found.inputs), downsamplers) == (12, [3, 6, 9])
    assert found.inputs[0].last is inside(model).conv_in
    assert found.inputs[11].following is found.outputs[0].before is inside(model).mid_block
    assert [block.channels for block in found.outputs] == [*[128] * 7, 64, 64, 64, 32, 32]
    assert [group.channels for group in found.middle] == [128]
    assert len(found.transformers) == 2 * 3 + 1 + 3 * 3


# --- FreeU --------------------------------------------------------------------------------------


def test_freeu_scales_as_diffusers_where_features_are_wide(
    model: UNet, reference: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch
):
    # diffusers counts levels; the rule here, ComfyUI's and the authors', counts channels.
    def by_width(level: int, features: Tensor, skip: Tensor, **scales: float) -> Any:
        stage = {4 * WIDTHS[0]: 0, 2 * WIDTHS[0]: 1}.get(features.shape[1], 2)
        return apply_freeu(stage, features, skip, **scales)

    monkeypatch.setattr(unet_2d_blocks, "apply_freeu", by_width)
    scales: dict[str, Any] = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
    reference.enable_freeu(**scales)
    try:
        expected = denoised(
            UNet(reference, family=model.family, objective=Objective(), key=""), latents()
        )
    finally:
        reference.disable_freeu()
    assert_near(denoised(model.patched(FreeU(**scales)), latents()), expected)


def test_the_second_version_scales_as_the_features_say():
    features = random(2, 8, 6, 5)
    scaled = FreeU(3.0, 1.0, 1.0, 1.0, is_second_version=True).scaled(features, 3.0)
    for row, given in zip(scaled, features, strict=True):
        mean = given.mean(dim=0)
        factor = 1 + 2 * (mean - mean.min()) / (mean.max() - mean.min())  # 1 to 3
        torch.testing.assert_close(row[:4], given[:4] * factor)
        assert torch.equal(row[4:], given[4:])


def test_features_that_are_the_same_everywhere_are_not_scaled():
    flat = torch.full((1, 4, 1, 1), 2.0)
    assert torch.equal(FreeU(3.0, 1, 1, 1, is_second_version=True).scaled(flat, 3.0), flat)


def test_low_frequencies_alone_are_scaled():
    ys = torch.arange(8) / 8 * 2 * torch.pi
    slow, fast = torch.cos(ys), torch.cos(3 * ys)
    mixed = (slow[:, None] + fast[:, None] + 1).expand(1, 1, 8, 8)
    scaled = low_scaled(mixed, 0.0)
    # Of the slow wave's two halves, at frequencies -1 and 1, the window of 2 × 2 has the first.
    expected = (0.5 * slow + fast)[:, None].expand(1, 1, 8, 8)
    torch.testing.assert_close(scaled, expected, atol=1e-6, rtol=0)


# --- HyperTile ----------------------------------------------------------------------------------


def test_tiles_see_themselves_only(model: UNet):
    attention = inside(model).down_blocks[0].attentions[0].transformer_blocks[0].attn1
    patched = model.patched(HyperTile(64, 1, 0, scales_with_depth=False))
    with seen(attention) as noted:
        denoised(patched, latents(2))
    ((tokens, found),) = noted
    grid, answers = (rows.unflatten(1, (SIDE, SIDE)) for rows in (tokens, found))
    for y in (0, 8):
        for x in (0, 8):
            here = slice(None), slice(y, y + 8), slice(x, x + 8)
            expected = attention(grid[here].flatten(1, 2))
            assert_near(answers[here].flatten(1, 2), expected)


def test_widths_beyond_the_depth_attend_as_ever(model: UNet):
    deeper = inside(model).down_blocks[1].attentions[0].transformer_blocks[0].attn1
    for depth, is_tiled in ((0, False), (1, True)):
        patched = model.patched(HyperTile(32, 1, depth, scales_with_depth=False))
        with seen(deeper) as noted:
            denoised(patched, latents())
        ((tokens, found),) = noted
        assert torch.allclose(found, deeper(tokens), atol=1e-5) is not is_tiled
    scaled = model.patched(HyperTile(64, 1, 1, scales_with_depth=True))  # 8, and 16 of 8
    with seen(deeper) as noted:
        denoised(scaled, latents())
    ((tokens, found),) = noted
    torch.testing.assert_close(found, deeper(tokens), atol=1e-5, rtol=0)


def test_cutting_and_joining_are_inverse():
    tokens = random(2, 6 * 8, 3)
    for down, across in ((1, 1), (2, 1), (3, 4)):
        tiled = hypertile.cut(tokens, 6, down, across)
        assert tiled.shape == (2 * down * across, 48 // (down * across), 3)
        assert torch.equal(hypertile.joined(tiled, 6, down, across), tokens)


def test_tiles_are_drawn_from_the_smallest_that_are_large_enough():
    drawn = {hypertile.tiles(48, 8, 2, Random(seed)) for seed in range(20)}
    assert drawn == {6, 4}  # of 8 and 12
    assert {hypertile.tiles(48, 8, 1, Random(seed)) for seed in range(5)} == {6}
    assert hypertile.tiles(7, 8, 3, Random(0)) == 1


# --- token merging ------------------------------------------------------------------------------


def test_one_token_of_each_whole_square_stays():
    for seed in range(5):
        places = staying(5, 7, seed)
        cells = [(place // 7 // 2, place % 7 // 2) for place in places.tolist()]
        assert cells == [(y, x) for y in range(2) for x in range(3)]
    assert not torch.equal(staying(8, 8, 0), staying(8, 8, 1))


def test_the_most_alike_are_merged_into_what_they_are_most_like():
    tokens, stays = random(2, 12, 4), torch.tensor([[0, 5, 7], [1, 2, 11]])
    merge = Merge.of(tokens, stays, 4)
    merged, undone = merge.done(tokens), merge.undone(merge.done(tokens))
    assert merged.shape == (2, 8, 4)
    for row in range(2):  # by the definition, one by one
        mine, kept = tokens[row], stays[row].tolist()
        free = [at for at in range(12) if at not in kept]

        def alike(one: int, other: int, mine: Tensor = mine) -> float:
            return float(torch.cosine_similarity(mine[one], mine[other], dim=0))

        best = {at: max(kept, key=lambda one, at=at: alike(at, one)) for at in free}
        chosen = sorted(free, key=lambda at: -alike(at, best[at]))[:4]
        for at in range(12):
            into = at if at in kept else best[at] if at in chosen else None
            members = [at] if into is None else [into, *(c for c in chosen if best[c] == into)]
            torch.testing.assert_close(undone[row, at], mine[members].mean(dim=0))


def test_merged_tokens_get_one_answer(model: UNet):
    attention = inside(model).down_blocks[0].attentions[0].transformer_blocks[0].attn1
    with seen(attention) as noted:
        denoised(model.patched(TokenMerging(0.5)), latents())
    ((tokens, found),) = noted
    count = len({tuple(answer) for answer in found[0].tolist()})
    assert count == SIDE * SIDE // 2
    assert tokens.shape == found.shape


def test_tokens_that_are_equal_lose_nothing(model: UNet):
    flat = torch.full((1, 4, SIDE, SIDE), 0.3)
    attention = inside(model).down_blocks[0].attentions[0].transformer_blocks[0].attn1
    tokens = random(1, 1, 32).expand(1, SIDE * SIDE, 32)
    with seen(attention) as noted:
        handle = attention.register_forward_pre_hook(lambda module, args: (tokens,))
        denoised(model.patched(TokenMerging(0.75)), flat)
        handle.remove()
    torch.testing.assert_close(noted[0][1], attention(tokens), atol=1e-5, rtol=0)


def test_deeper_levels_are_left_as_they_are(model: UNet):
    deeper = inside(model).down_blocks[1].attentions[0].transformer_blocks[0].attn1
    with seen(deeper) as noted:
        denoised(model.patched(TokenMerging(0.5)), latents())
    ((tokens, found),) = noted
    torch.testing.assert_close(found, deeper(tokens), atol=1e-5, rtol=0)


# --- the middle ---------------------------------------------------------------------------------


def test_perturbed_attention_is_that_of_diffusers(model: UNet, reference: UNet2DConditionModel):
    x, sigma, inputs = latents(), torch.full((1,), SIGMA), prompts()
    middle: Any = reference.mid_block
    attention = middle.attentions[0].transformer_blocks[0].attn1
    inner, attention.processor = attention.processor, PAGIdentitySelfAttnProcessor2_0()
    twice = Inputs(inputs.tokens.repeat(2, 1, 1))  # the second half is perturbed
    whole = UNet(reference, family=model.family, objective=Objective(), key="")
    expected = whole.denoise(x.repeat(2, 1, 1, 1), sigma.repeat(2), twice)[1:]
    attention.processor = inner
    assert_near(model.patched(PerturbedAttention()).denoise(x, sigma, inputs), expected)


def test_watching_reports_what_is_paid_attention_and_changes_nothing(model: UNet):
    attention = inside(model).mid_block.attentions[0].transformer_blocks[0].attn1
    x = latents(2, 24, 16)
    with seen(attention) as noted:
        both = denoised(model.patched(WatchedAttention()), x)
    assert torch.equal(both[:, :4], denoised(model, x))
    tokens = noted[0][0]  # (2, 3 · 2, D)
    query, key = (
        attention.head_to_batch_dim(project(tokens)) for project in (attention.to_q, attention.to_k)
    )
    paid = attention.get_attention_scores(query, key).unflatten(0, (2, -1)).mean(dim=1).sum(dim=1)
    expected = interpolate((paid > 1).float().reshape(2, 1, 3, 2), size=(24, 16))
    assert torch.equal(both[:, 4:], expected)
    assert 0 < both[:, 4:].mean() < 1


# --- deep shrink --------------------------------------------------------------------------------


def by_hand(network: Any, rows: Tensor, tokens: Tensor, patch: DeepShrink, added: Residuals) -> Any:
    """What a network says, block for block as in ComfyUI: what does not fit is not added."""
    schedule = UNet(network, family=testing.family("sd1"), objective=Objective(), key="").schedule
    time = network.time_embedding(
        network.time_proj(schedule.timestep(torch.full((len(rows),), SIGMA)))
    )
    skips: list[Tensor] = []

    def shrunk(features: Tensor) -> Tensor:
        height, width = (round(side / patch.factor) for side in features.shape[-2:])
        return resize(features, width, height, patch.down)

    def left(features: Tensor) -> Tensor:
        features = with_residual(features, added.features.get(len(skips)))
        is_here = len(skips) == patch.block
        if is_here and not patch.spares_skip:
            features = shrunk(features)
        skips.append(features)
        return shrunk(features) if is_here and patch.spares_skip else features

    def with_residual(features: Tensor, residual: Tensor | None) -> Tensor:
        if residual is None or residual.shape != features.shape:
            return features
        return features + residual

    def through(block: Any, at: int, features: Tensor) -> Tensor:
        features = block.resnets[at](features, time)
        if not hasattr(block, "attentions"):
            return features
        return block.attentions[at](features, encoder_hidden_states=tokens, return_dict=False)[0]

    features = left(network.conv_in(rows))
    for block in network.down_blocks:
        for at in range(len(block.resnets)):
            features = left(through(block, at, features))
        for change in block.downsamplers or ():
            features = left(change(features))
    skips = [
        with_residual(skip, residual)
        for skip, residual in zip(skips, added.skips or [None] * len(skips), strict=True)
    ]
    features = network.mid_block(features, time, encoder_hidden_states=tokens)
    features = with_residual(features, added.middle)
    for block in network.up_blocks:
        for at in range(len(block.resnets)):
            skip = skips.pop()
            if features.shape[2] != skip.shape[2]:
                features = resize(features, skip.shape[3], skip.shape[2], patch.up)
            features = through(block, at, torch.cat((features, skip), dim=1))
        for change in block.upsamplers or ():
            features = change(features, skips[-1].shape[2:])
    return network.conv_out(network.conv_act(network.conv_norm_out(features)))


class Steering:
    """Adds the same to every network: what was made for its full size."""

    key = "steering"

    def __init__(self, residuals: Residuals) -> None:
        self.given = residuals

    def residuals(self, *asked: Any) -> Residuals:
        return self.given


@pytest.mark.parametrize("is_steered", [False, True])
@pytest.mark.parametrize("spares_skip", [True, False])
@pytest.mark.parametrize(
    ("block", "factor", "size"), [(3, 2.0, (16, 16)), (2, 1.5, (13, 18)), (11, 3.0, (24, 16))]
)
def test_deep_shrink_goes_as_it_would_by_hand(
    model: UNet,
    reference: UNet2DConditionModel,
    block: int,
    factor: float,
    size: tuple[int, int],
    spares_skip: bool,
    is_steered: bool,
):
    patch = DeepShrink(block, factor, 14.0, 1.0, spares_skip, down="bicubic", up="bilinear")
    x, inputs = latents(1, *size), prompts()
    added = Residuals()
    if is_steered:
        with ExitStack() as stack:  # for their sizes
            found = [stack.enter_context(seen(one.last)) for one in blocks(model.network).inputs]
            middle = stack.enter_context(seen(inside(model).mid_block))
            denoised(model, x)
        given = [noted[0][1] for noted in (*found, middle)]
        shapes = [(one[0] if isinstance(one, tuple) else one).shape for one in given]
        *skips, last = (random(*shape, seed=at) for at, shape in enumerate(shapes))
        down = {at: random(*shape, seed=20 + at) for at, shape in enumerate(shapes[:-1]) if at % 2}
        added = Residuals(skips, last, down)
        control: Any = Steering(added)
        inputs = Inputs(inputs.tokens, controls=(ControlInput(control, (), torch.ones(1)),))
    found = model.patched(patch).denoise(x, torch.full((1,), SIGMA), inputs)
    rows = x / (SIGMA**2 + 1) ** 0.5
    assert_near(found, x - SIGMA * by_hand(reference, rows, inputs.tokens, patch, added))


def test_deep_shrink_ends_with_its_span(model: UNet):
    patched, x = model.patched(SHRINK), latents()
    assert torch.equal(denoised(patched, x, 0.9), denoised(model, x, 0.9))
    for sigma in (1.0, 14.0):
        assert not torch.allclose(denoised(patched, x, sigma), denoised(model, x, sigma), rtol=0.01)
