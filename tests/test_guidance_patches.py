"""Patches of guidance: each against another way to compute it; what they ask, and of whom."""

from copy import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.guiders.guider_utils import rescale_noise_cfg
from diffusers.guiders.tangential_classifier_free_guidance import normalized_guidance
from scipy.ndimage import gaussian_filter
from torch import Tensor
from toy_model import ToyModel, drive, drive_together, prompt

from executor.errors import InputError
from executor.patches import GuidancePatch, NetworkPatch, Patch
from executor.ports import Area, Canvas, Objective
from executor.sampling.attention_guidance import (
    PerturbedAttentionGuidance,
    SelfAttentionGuidance,
    blurred,
)
from executor.sampling.guidance_patches import (
    Mahiro,
    NormedGuidance,
    RenormedGuidance,
    RescaledGuidance,
    TangentialDamping,
    ZeroStar,
)
from executor.sampling.guiders import BasicGuider, CfgGuider, DualCfgGuider
from executor.sampling_ports import Estimate, Guidance
from executor.steps import Inputs

SIGMAS = torch.tensor([14.0, 6.0, 2.0, 0.5, 0.0])
HERE = torch.tensor(2.0)
CFG = 4.0
X = torch.randn(1, 4, 12, 10, generator=torch.Generator().manual_seed(1)) * 2


@dataclass(frozen=True, slots=True)
class Worse(NetworkPatch):
    """The model does not know its prompt."""

    def applied(self, network: Any, rows: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Watch(NetworkPatch):
    """The model tells where its first channel is positive."""

    def applied(self, network: Any, rows: Any) -> Any: ...


class Model(ToyModel):
    """A toy that knows these two patches; its estimates differ from pixel to pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def patched(self, patch: Patch) -> Any:
        other = copy(self)
        other.patches = (*self.patches, patch)
        other.key = "toy", *(p for p in other.patches if isinstance(p, NetworkPatch))
        return other

    def with_objective(self, objective: Objective) -> "Model":
        return self

    def denoise(self, x: Tensor, sigma: Tensor, inputs: Inputs) -> Tensor:
        self.asked.append(self.key)
        if Worse() in self.patches:
            inputs = Inputs(torch.zeros_like(inputs.tokens))
        mean = inputs.tokens.mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
        denoised = super().denoise(x, sigma, inputs) + 0.1 * mean * torch.sin(x)
        return torch.cat((denoised, looked(x)), dim=1) if Watch() in self.patches else denoised


def looked(x: Tensor) -> Tensor:
    return (x[:, :1] > 0).float()


def says(mean: float, x: Tensor = X) -> Tensor:
    """What the model says of one prompt alone."""
    return mean + (x - mean) / (1 + 2.0**2) + 0.1 * mean * torch.sin(x)


TOWARDS, AWAY = says(1.0), says(-2.0)
GUIDED = AWAY + CFG * (TOWARDS - AWAY)

PAG = PerturbedAttentionGuidance(3.0, Worse())
SAG = SelfAttentionGuidance(0.5, 2.0, Watch())
PATCHES: tuple[GuidancePatch, ...] = (
    RescaledGuidance(0.7),
    RenormedGuidance(1.0, 100.0),
    TangentialDamping(),
    ZeroStar(),
    NormedGuidance(0.9),
    Mahiro(),
    PAG,
    SAG,
)


def patched(*patches: Patch) -> Model:
    model = Model()
    for patch in patches:
        model = model.patched(patch)
    return model


def estimate(guider: Guidance, x: Tensor = X) -> Estimate:
    denoiser = guider.denoiser(Canvas(torch.zeros_like(x)), SIGMAS, uses_unguided=False)
    return drive(denoiser.both(x, HERE))


def between(model: Model, cfg: float = CFG, means: tuple[float, float] = (1.0, -2.0)) -> CfgGuider:
    towards, away = means
    return CfgGuider(model, (prompt(towards),), (prompt(away),), cfg)


def guided(*patches: Patch, cfg: float = CFG, x: Tensor = X) -> Tensor:
    return estimate(between(patched(*patches), cfg), x).guided


# --- what each makes of two estimates -----------------------------------------------------------


@pytest.mark.parametrize(
    "patch",
    [
        RescaledGuidance(0.0),
        RenormedGuidance(0.0, 100.0),
        PerturbedAttentionGuidance(0.0, Worse()),
        SelfAttentionGuidance(0.0, 2.0, Watch()),
    ],
    ids=str,
)
def test_a_patch_that_is_to_do_nothing_does_nothing(patch: GuidancePatch):
    torch.testing.assert_close(guided(patch), GUIDED)


@pytest.mark.parametrize("patch", PATCHES[:6], ids=str)
def test_without_guidance_there_is_nothing_to_change(patch: GuidancePatch):
    model = patched(patch)
    found = estimate(between(model, cfg=1.0)).guided
    scale = patch.strength if isinstance(patch, NormedGuidance) else 1.0
    torch.testing.assert_close(found, TOWARDS * scale)
    assert model.shapes == [(1, 4, 12, 10)]


def test_rescaled_guidance_is_that_of_diffusers_in_v():
    def velocity(denoised: Tensor) -> Tensor:  # of which D = x / (σ² + 1) − v σ / √(σ² + 1)
        return (X / 5 - denoised) * 5**0.5 / 2

    v = rescale_noise_cfg(velocity(GUIDED), velocity(TOWARDS), 0.7)
    torch.testing.assert_close(guided(RescaledGuidance(0.7)), X / 5 - v * 2 / 5**0.5)


def test_the_rescaled_estimate_has_the_contrast_of_the_positive_one():
    found = X / 5 - guided(RescaledGuidance(1.0))
    assert float(found.std()) == pytest.approx(float((X / 5 - TOWARDS).std()), rel=1e-5)


def test_renormed_guidance_is_no_longer_than_it_may_be():
    assert GUIDED.norm() > TOWARDS.norm()
    for most in (0.5, 1.0):
        expected = GUIDED * (most * TOWARDS.norm() / GUIDED.norm())
        torch.testing.assert_close(guided(RenormedGuidance(most, 100.0)), expected)
    torch.testing.assert_close(guided(RenormedGuidance(100.0, 100.0)), GUIDED)


def test_from_a_sigma_upwards_renormed_guidance_is_none():
    assert torch.equal(guided(RenormedGuidance(1.0, 2.0)), TOWARDS)


def test_tangential_damping_is_that_of_diffusers():
    # Its scale counts from the positive estimate on; and what it combines is the noise.
    noise = normalized_guidance(X - TOWARDS, X - AWAY, CFG - 1, use_original_formulation=True)
    torch.testing.assert_close(guided(TangentialDamping()), X - noise, atol=1e-4, rtol=1e-4)


def test_zero_star_scales_the_negative_estimate_as_diffusers():
    scale = cfg_zero_star_scale((X - TOWARDS).flatten(1), (X - AWAY).flatten(1))
    scaled = AWAY * scale[..., None, None]
    torch.testing.assert_close(guided(ZeroStar()), scaled + CFG * (TOWARDS - scaled))


def test_normed_guidance_is_at_no_pixel_longer_than_the_positive_estimate():
    found = guided(NormedGuidance(1.0), cfg=0.5)  # so that it is shorter at some
    plain, longest = guided(cfg=0.5).norm(dim=1), TOWARDS.norm(dim=1)
    assert 0 < (plain > longest).float().mean() < 1
    torch.testing.assert_close(found.norm(dim=1), torch.minimum(plain, longest))
    torch.testing.assert_close(guided(NormedGuidance(3.0), cfg=0.5), 3 * found)


def test_mahiro_goes_all_the_way_between_two_estimates_that_are_opposite_or_alike():
    alike = CfgGuider(patched(Mahiro()), (prompt(1.0),), (prompt(1.0),), CFG)
    middle = (CFG * TOWARDS + TOWARDS) / 2  # of the same signs, so that its roots point alike
    share = (
        torch.cosine_similarity(
            TOWARDS.sign() * TOWARDS.abs().sqrt(), middle.sign() * middle.abs().sqrt(), dim=1
        ).mean()
        + 1
    ) / 2
    expected = share * TOWARDS + (1 - share) * CFG * TOWARDS
    torch.testing.assert_close(estimate(alike).guided, expected)
    assert float(share) == pytest.approx(1.0)


# --- what is asked ------------------------------------------------------------------------------


def test_perturbed_attention_guidance_leads_away_from_what_the_model_says_without_attention():
    model = patched(PAG)
    found = estimate(between(model)).guided
    torch.testing.assert_close(found, GUIDED + 3 * (TOWARDS - says(0.0)))
    assert model.shapes == [(2, 4, 12, 10), (1, 4, 12, 10)]
    assert model.asked == [Model().patched(ZeroStar()).key, ("toy", Worse())]


def test_perturbed_attention_guidance_needs_no_negative_prompt():
    model = patched(PAG)
    found = estimate(between(model, cfg=1.0)).guided
    torch.testing.assert_close(found, TOWARDS + 3 * (TOWARDS - says(0.0)))
    assert model.shapes == [(1, 4, 12, 10), (1, 4, 12, 10)]
    alone = estimate(BasicGuider(patched(PAG), (prompt(1.0),))).guided
    torch.testing.assert_close(alone, found)


def test_self_attention_guidance_leads_away_from_a_picture_blurred_where_it_looks():
    model = patched(SAG)
    found = estimate(between(model)).guided
    soft = torch.from_numpy(
        gaussian_filter(AWAY.numpy(), sigma=2.0, radius=4, axes=(2, 3), mode="mirror")
    )
    degraded = torch.where(looked(X) == 1, soft, AWAY)
    said = says(-2.0, degraded + X - AWAY)
    torch.testing.assert_close(found, GUIDED + 0.5 * (degraded - said))
    assert model.shapes == [(2, 4, 12, 10), (1, 4, 12, 10)]
    assert model.asked[0][-1] == Watch()
    assert Watch() not in model.asked[1]  # so that it stands in batches with all others


def test_self_attention_guidance_needs_negative_prompts():
    model = patched(SAG)
    estimate(between(model, cfg=1.0))
    assert model.shapes[0] == (2, 4, 12, 10)
    with pytest.raises(InputError, match="negative prompts"):
        estimate(BasicGuider(patched(SAG), (prompt(1.0),)))


def test_a_latent_too_small_to_be_blurred_is_left_as_it_is():
    x = X[..., :4, :]
    model = patched(SAG)
    torch.testing.assert_close(estimate(between(model), x).guided, guided(x=x))
    assert len(model.shapes) == 1


def test_no_blur_is_no_blur():
    assert torch.equal(blurred(X, 0.0), X)
    torch.testing.assert_close(blurred(X, 1e-3), X)


def test_what_is_asked_keeps_to_the_areas_of_the_prompts():
    model = patched(PAG)
    area = Area(height=8, width=8, y=0, x=0)
    guider = CfgGuider(model, (prompt(1.0), prompt(3.0, area=area)), (prompt(-2.0),), CFG)
    plain = estimate(CfgGuider(Model(), guider.positive, guider.negative, CFG)).guided
    found = estimate(guider).guided
    towards = estimate(BasicGuider(Model(), guider.positive)).guided
    torch.testing.assert_close(found, plain + 3 * (towards - says(0.0)))


# --- several ------------------------------------------------------------------------------------


def test_estimates_are_changed_first_then_combined_then_their_outcome_in_turn():
    damped = estimate(between(patched(TangentialDamping())))
    norm = NormedGuidance(0.5)
    both = guided(norm, TangentialDamping())
    longest = TOWARDS.norm(dim=1, keepdim=True) / damped.guided.norm(dim=1, keepdim=True)
    torch.testing.assert_close(both, 0.5 * damped.guided * longest.clamp(max=1))
    assert not torch.allclose(guided(norm, PAG), guided(PAG, norm))
    torch.testing.assert_close(guided(norm, PAG), guided(norm) + 3 * (TOWARDS - says(0.0)))


def test_of_two_that_combine_the_last_one_does():
    first, second = RescaledGuidance(0.7), RenormedGuidance(1.0, 100.0)
    assert torch.equal(guided(first, second), guided(second))
    assert torch.equal(guided(second, first), guided(first))


def test_the_unguided_estimate_is_the_changed_negative_one():
    damped = estimate(between(patched(TangentialDamping())))
    torch.testing.assert_close(damped.guided, damped.unguided + CFG * (TOWARDS - damped.unguided))
    assert not torch.allclose(damped.unguided, AWAY)


def test_two_things_cannot_be_watched_at_once():
    other = SelfAttentionGuidance(0.5, 2.0, Worse())
    with pytest.raises(InputError, match="watch"):
        guided(SAG, other)


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_each_row_of_a_batch_is_what_it_is_alone(patch: GuidancePatch):
    x = torch.cat((X, -0.3 * X, X.flip(2)))
    together = guided(patch, x=x)
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], guided(patch, x=x[row : row + 1]))


def test_runs_with_different_patches_share_what_is_the_same():
    model = Model()
    runs = [
        between(model.patched(patch)).denoiser(Canvas(X), SIGMAS, uses_unguided=False).both(X, HERE)
        for patch in PATCHES[:7]
    ]
    found = drive_together(runs)
    assert model.shapes == [(14, 4, 12, 10), (1, 4, 12, 10)]  # all but what perturbs
    for one, patch in zip(found, PATCHES, strict=False):
        torch.testing.assert_close(one.guided, guided(patch))


@pytest.mark.parametrize("is_nested", [False, True])
def test_of_three_sides_the_pair_that_is_combined_first_is_patched(is_nested: bool):
    patch = NormedGuidance(0.8)
    sides = ((prompt(1.0),), (prompt(0.5),), (prompt(-2.0),))
    guider = DualCfgGuider(patched(patch), *sides, 3.0, 2.0, is_nested=is_nested)
    found = estimate(guider).guided
    if is_nested:
        inner = estimate(between(patched(patch), 3.0, (1.0, 0.5))).guided
        expected = AWAY + 2 * (inner - AWAY)
    else:
        outer = estimate(between(patched(patch), 2.0, (0.5, -2.0))).guided
        expected = outer + 3 * (TOWARDS - says(0.5))
    torch.testing.assert_close(found, expected)
