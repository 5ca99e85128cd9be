"""Pictures as prompts: what U-Nets are told of them, against diffusers and ComfyUI's rules."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import save_file
from steered import unet
from torch import Tensor

from executor.errors import InputError
from executor.models.detect import inspect
from executor.models.unclip import MERGED, PictureNoise, read_picture_noise
from executor.ports import Canvas, Cond, EncodedPicture, PicturePrompt

WIDTH = 32
SEED = 1234


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(rows: int = 1, *, seed: int = 1, width: int = WIDTH) -> EncodedPicture:
    states = random(rows, 5, width, seed=seed)
    return EncodedPicture(random(rows, width, seed=seed), states, states)


def scheduler() -> DDPMScheduler:
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


def waves(level: int, width: int = WIDTH) -> Tensor:
    """A timestep's sinusoids, cosines first."""
    rates = 10_000.0 ** (-torch.arange(width // 2) / (width // 2))
    return torch.cat(((level * rates).cos(), (level * rates).sin()))[None]


def noised(rows: Tensor, level: int, noise: Tensor) -> Tensor:
    """An encoded picture at a level, as diffusers' pipeline of unCLIP noises it."""
    timesteps: Any = torch.tensor([level])
    return scheduler().add_noise(rows, noise, timesteps)


def two_draws(seed: int) -> tuple[Tensor, Tensor]:
    """Noise as ComfyUI draws it on a CPU: from the seed less 10, then on from there."""
    with torch.random.fork_rng():
        torch.manual_seed(seed - 10)
        return torch.randn(1, WIDTH), torch.randn(1, WIDTH)


def test_the_schedule_is_that_of_diffusers():
    kept = PictureNoise(WIDTH).kept
    torch.testing.assert_close(kept.float(), scheduler().alphas_cumprod, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("amount", "level"), [(0.0, 0), (0.3, 300), (1.0, 999)])
def test_a_picture_is_noised_and_told_how_far(amount: float, level: int):
    one = picture()
    found = PictureNoise(WIDTH).vector([PicturePrompt(one, 1.0, amount)], SEED, merged=MERGED)
    expected = torch.cat((noised(one.embeds, level, two_draws(SEED)[0]), waves(level)), dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_strength_scales_all_that_is_told():
    noise = PictureNoise(WIDTH)
    plain = noise.vector([PicturePrompt(picture())], SEED, merged=MERGED)
    weak = noise.vector([PicturePrompt(picture(), -0.5)], SEED, merged=MERGED)
    torch.testing.assert_close(weak, -0.5 * plain)


@pytest.mark.parametrize(("merged", "level"), [(0.05, 50), (0.0, 0)])
def test_several_pictures_are_weighed_added_and_noised_once_more(merged: float, level: int):
    one, other = picture(seed=1), picture(2, seed=2)  # of which the second is a batch
    prompts = [PicturePrompt(one, 0.7, 0.3), PicturePrompt(other, 0.2, 0.0)]
    first, second = two_draws(SEED)
    total = 0.7 * noised(one.embeds, 300, first)
    for row in other.embeds:
        total = total + 0.2 * noised(row[None], 0, first)
    expected = torch.cat((noised(total, level, second), waves(level)), dim=1)
    found = PictureNoise(WIDTH).vector(prompts, SEED, merged=merged)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_seeds_from_0_to_the_largest_have_their_own_noise():
    prompt = [PicturePrompt(picture(), 1.0, 0.5)]
    found = [PictureNoise(WIDTH).vector(prompt, seed, merged=0.0) for seed in (0, 1, 2**64 - 1)]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_pictures_are_noised_in_the_units_of_training():
    mean, std = random(1, WIDTH, seed=5), random(1, WIDTH, seed=6).abs() + 0.5
    noise = PictureNoise(WIDTH, mean, std)
    found = noise.vector([PicturePrompt(picture(), 1.0, 0.5)], SEED, merged=0.0)
    inner = noised((picture().embeds - mean) / std, 500, two_draws(SEED)[0])
    expected = inner * std + mean
    torch.testing.assert_close(found[:, :WIDTH], expected, atol=1e-5, rtol=1e-4)


def test_a_checkpoint_may_bring_these_units(tmp_path: Path):
    mean, std = random(1, WIDTH, seed=5), random(1, WIDTH, seed=6).abs()
    names = ("noise_augmentor.data_mean", "noise_augmentor.data_std")
    save_file(dict(zip(names, (mean, std), strict=True)), tmp_path / "with.safetensors")
    save_file({names[0]: mean}, tmp_path / "without.safetensors")
    found = read_picture_noise(inspect(tmp_path / "with.safetensors").header)
    assert found is not None
    assert found.width == WIDTH
    torch.testing.assert_close((found.mean, found.std), (mean, std))
    assert read_picture_noise(inspect(tmp_path / "without.safetensors").header) is None


# --- in U-Nets ----------------------------------------------------------------------------------


def told(of: str, rows: int = 1, **prompt: Any) -> Tensor:
    """What a family's tiny U-Net is told beside the tokens."""
    model = unet(of)
    tokens = random(1, 7, int(model.config["cross_attention_dim"]), seed=3)
    canvas = Canvas(torch.zeros(rows, 4, 8, 8), seed=SEED)
    vector = model.inputs(Cond(tokens, **prompt), canvas, is_negative=False).vector
    assert vector is not None
    return vector


@pytest.mark.parametrize("of", ["sd2-unclip-h", "sd2-unclip-l"])
def test_unclip_is_told_of_its_pictures_or_of_nothing(of: str):
    prompts = (PicturePrompt(picture(seed=1)), PicturePrompt(picture(seed=2)))
    expected = PictureNoise(WIDTH).vector(prompts, SEED, merged=MERGED)
    found = told(of, rows=3, pictures=prompts)
    assert torch.equal(found, expected.expand(3, -1))
    assert torch.equal(told(of), torch.zeros(1, 2 * WIDTH))


@pytest.mark.parametrize("of", ["sdxl", "sdxl-refiner"])
def test_in_sdxl_pictures_take_the_place_of_the_pooled_prompt(of: str):
    prompts = (PicturePrompt(picture(seed=1), 1.0, 0.2), PicturePrompt(picture(seed=2)))
    found = told(of, rows=2, pooled=random(1, WIDTH, seed=9), pictures=prompts)
    plain = told(of, rows=2, pooled=random(1, WIDTH, seed=9))
    expected = PictureNoise(WIDTH).vector(prompts, SEED, merged=0.0)[:, :WIDTH]
    assert torch.equal(found[:, :WIDTH], expected.expand(2, -1))
    assert torch.equal(found[:, WIDTH:], plain[:, WIDTH:])
    without = told(of, rows=2, pictures=prompts)  # a prompt without pooled output will do
    assert torch.equal(without, found)


@pytest.mark.parametrize("of", ["sd2-unclip-h", "sdxl"])
def test_pictures_of_another_vision_model_are_refused(of: str):
    prompts = (PicturePrompt(picture()), PicturePrompt(picture(width=48)))
    with pytest.raises(InputError, match=r"encoded 48 wide.*reads 32.*CLIP vision model"):
        told(of, pooled=random(1, WIDTH), pictures=prompts)


def test_other_models_do_not_mind_pictures():
    model = unet("sd1")
    cond = Cond(random(1, 7, WIDTH), pictures=(PicturePrompt(picture()),))
    assert model.inputs(cond, Canvas(torch.zeros(1, 4, 8, 8)), is_negative=False).vector is None
