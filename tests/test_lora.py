"""LoRAs on models: every way of naming a weight changes that weight, and nothing else."""

import gc
import logging
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from executor import testing
from executor.cache import Cache, Outputs
from executor.context import Checkpoint
from executor.devices import Devices
from executor.errors import InputError, ModelFileError
from executor.models.library import Library
from executor.models.lora import Lora
from executor.models.text import ClipText
from executor.models.unet import UNet
from executor.steps import Inputs

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"
LDM_ATTENTION = "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0"
PROJECTION = "encoder.layers.1.self_attn.q_proj"

# float32 of another order of sums, amplified by random weights; as test_unet and test_text have it.
assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for of in ("sd1", "sdxl"):
        testing.write_tiny_checkpoint(folder / f"{of}.safetensors", of=of)
        testing.write_tiny_lora(folder / f"{of}_lora.safetensors", of=of)
    testing.write_tiny_lora(folder / "other_lora.safetensors", seed=1)
    return folder


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(Devices.choose("cpu"))


@pytest.fixture(scope="module")
def sd1(library: Library, folder: Path) -> Checkpoint:
    return library.checkpoint(folder / "sd1.safetensors")


@pytest.fixture(scope="module")
def sdxl(library: Library, folder: Path) -> Checkpoint:
    return library.checkpoint(folder / "sdxl.safetensors")


@pytest.fixture
def written(library: Library, tmp_path: Path):
    """Makes a file of tensors a LoRA."""

    def write(tensors: dict[str, Tensor], name: str = "style") -> Lora:
        path = tmp_path / f"{name}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        return library.lora(path)

    return write


def both(lora: Lora, checkpoint: Checkpoint, model: float, clip: float) -> tuple[UNet, ClipText]:
    found = lora.on_both(
        checkpoint.model, checkpoint.clip, strength_model=model, strength_clip=clip
    )
    assert isinstance(found[0], UNet)
    assert isinstance(found[1], ClipText)
    return found[0], found[1]


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def changed_parameters(before: torch.nn.Module, after: torch.nn.Module) -> set[str]:
    """The names of the parameters that are not the very same tensors."""
    return {n for n, p in after.named_parameters() if p is not before.get_parameter(n)}


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        "lora_unet_" + ATTENTION.replace(".", "_"),
        "lora_unet_" + LDM_ATTENTION.replace(".", "_"),
        "lycoris_" + ATTENTION.replace(".", "_"),
        "unet." + ATTENTION,
        "base_model.model." + ATTENTION,
        "diffusion_model." + LDM_ATTENTION,
        "model.diffusion_model." + LDM_ATTENTION,
        "unet." + ATTENTION.removesuffix(".0").replace("attn2.", "attn2.processor."),
        ATTENTION,
    ],
)
def test_every_name_of_a_unets_weight_leads_to_it(sd1, written, module: str) -> None:
    up, down = numbers(32, 3), numbers(3, 32)
    lora = written({f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down})
    model, clip = both(lora, sd1, 0.5, 1.0)
    assert clip is sd1.clip
    assert changed_parameters(sd1.model.network, model.network) == {f"{ATTENTION}.weight"}
    base = sd1.model.network.get_parameter(f"{ATTENTION}.weight")
    assert_close(model.network.get_parameter(f"{ATTENTION}.weight"), base + 0.5 * up @ down)


@pytest.mark.parametrize(
    ("module", "place"),
    [
        ("lora_te_text_model_" + PROJECTION.replace(".", "_"), 0),
        ("lora_te1_text_model_" + PROJECTION.replace(".", "_"), 0),
        ("text_encoder.text_model." + PROJECTION, 0),
        ("text_encoder.text_model." + PROJECTION.replace("q_proj", "to_q"), 0),
        ("text_encoders.clip_l.transformer.text_model." + PROJECTION, 0),
        ("lora_te2_text_model_" + PROJECTION.replace(".", "_"), 1),
        ("text_encoder_2.text_model." + PROJECTION, 1),
        ("text_encoders.clip_g.transformer.text_model." + PROJECTION, 1),
    ],
)
def test_every_name_of_a_text_encoders_weight_leads_to_it(
    sdxl, written, module: str, place: int
) -> None:
    up, down = numbers(32, 3), numbers(3, 32)
    lora = written({f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down})
    model, clip = both(lora, sdxl, 1.0, -2.0)
    assert model is sdxl.model
    assert clip.towers[1 - place] is not sdxl.clip.towers[place]
    base, found = sdxl.clip.towers[place].model, clip.towers[place].model
    assert changed_parameters(base, found) == {f"{PROJECTION}.weight"}
    expected = base.get_parameter(f"{PROJECTION}.weight") - 2 * up @ down
    assert_close(found.get_parameter(f"{PROJECTION}.weight"), expected)
    assert clip.towers[1 - place].network is sdxl.clip.towers[1 - place].network


def test_biases_norms_and_convolutions_are_changed_too(sd1, written) -> None:
    block = "down_blocks.0.resnets.0"
    flat = f"lora_unet_{block}".replace(".", "_")
    up, down, core = numbers(32, 2, 1, 1), numbers(3, 32, 1, 1), numbers(2, 3, 3, 3)
    lora = written(
        {
            f"{flat}_conv1.lora_up.weight": up,
            f"{flat}_conv1.lora_down.weight": down,
            f"{flat}_conv1.lora_mid.weight": core,
            f"{flat}_conv1.diff_b": numbers(32),
            f"{flat}_norm1.w_norm": numbers(32),
            f"{flat}_norm1.b_norm": numbers(32),
            f"{flat}_time_emb_proj.diff": numbers(32, 128),
        }
    )
    found = lora.on_model(sd1.model, 2.0).network
    kernel = torch.einsum("op,pqkl,qi->oikl", up[:, :, 0, 0], core, down[:, :, 0, 0])
    expected = {
        f"{block}.conv1.weight": kernel,
        f"{block}.conv1.bias": numbers(32),
        f"{block}.norm1.weight": numbers(32),
        f"{block}.norm1.bias": numbers(32),
        f"{block}.time_emb_proj.weight": numbers(32, 128),
    }
    assert changed_parameters(sd1.model.network, found) == set(expected)
    for name, delta in expected.items():
        was = sd1.model.network.get_parameter(name)
        assert_close(found.get_parameter(name), was + 2 * delta)


# -- whole files, on networks that others built ------------------------------------------------


def with_kohyas(weights: dict[str, Tensor], lora: dict[str, Tensor], prefix: str) -> Any:
    """The weights with a file of ``write_tiny_lora`` added, by what kohya's names say."""
    changed = dict(weights)
    for name, weight in weights.items():
        flat = prefix + name.removesuffix(".weight").replace(".", "_")
        if f"{flat}.alpha" in lora:
            up, down = lora[f"{flat}.lora_up.weight"], lora[f"{flat}.lora_down.weight"]
            scale = lora[f"{flat}.alpha"] / down.shape[0]
            changed[name] = weight + scale * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return changed


@torch.no_grad()
def test_a_model_with_a_lora_denoises_as_one_that_was_written(sd1, folder, library) -> None:
    lora = load_file(folder / "sd1_lora.safetensors")
    weights = testing.random_weights(UNet2DConditionModel, testing.UNET, seed=0)
    written = with_kohyas(weights, lora, "lora_unet_")
    assert sum(written[name] is not weights[name] for name in weights) == 120
    reference = UNet2DConditionModel(**testing.UNET)
    reference.load_state_dict(written)
    model = library.lora(folder / "sd1_lora.safetensors").on_model(sd1.model, 1.0)
    x, tokens, sigma = numbers(1, 4, 8, 8), numbers(1, 77, 32), torch.tensor([2.0])
    t = model.schedule.timestep(sigma)
    noise = reference.eval()(x / 5**0.5, t, tokens).sample
    found = model.denoise(x, sigma, Inputs(tokens))
    assert_close(found, x - 2 * noise)
    assert (found - sd1.model.denoise(x, sigma, Inputs(tokens))).abs().max() > 0.05


@torch.no_grad()
def test_a_text_encoder_with_a_lora_encodes_as_one_that_was_written(sd1, folder, library) -> None:
    lora = load_file(folder / "sd1_lora.safetensors")
    weights = testing.random_weights(CLIPTextModel, testing.TEXT, seed=0)
    whole = {f"text_model.{name}": weight for name, weight in weights.items()}
    written = with_kohyas(whole, lora, "lora_te_")
    assert sum(written[name] is not whole[name] for name in whole) == 12
    network = sd1.clip.towers[0].model
    _, clip = both(library.lora(folder / "sd1_lora.safetensors"), sd1, 0.0, 1.0)
    for name, parameter in clip.towers[0].model.named_parameters():
        assert_close(parameter, written[f"text_model.{name}"])
        assert torch.equal(network.get_parameter(name), weights[name])
    (before,), (after,) = (c.encode("a red fox") for c in (sd1.clip, clip))
    assert not torch.allclose(before.tokens, after.tokens, atol=0.05)


@pytest.mark.parametrize("of", ["sd1", "sdxl"])
def test_all_that_kohya_trains_finds_its_place(request, folder, library, caplog, of: str) -> None:
    checkpoint = request.getfixturevalue(of)
    lora = library.lora(folder / f"{of}_lora.safetensors")
    model, clip = both(lora, checkpoint, 1.0, 1.0)
    count = len(changed_parameters(checkpoint.model.network, model.network))
    for before, after in zip(checkpoint.clip.towers, clip.towers, strict=True):
        count += len(changed_parameters(before.network, after.network))
    assert 3 * count == len(load_file(folder / f"{of}_lora.safetensors"))
    assert not caplog.records


# -- off, on, several --------------------------------------------------------------------------


def test_a_strength_of_0_gives_back_the_very_same_model(sd1, folder, library) -> None:
    lora = library.lora(folder / "sd1_lora.safetensors")
    assert both(lora, sd1, 0, 0) == (sd1.model, sd1.clip)
    model, clip = both(lora, sd1, 1.0, 0)
    assert model is not sd1.model
    assert clip is sd1.clip
    assert lora.on_model(sd1.model, 0) is sd1.model


def test_taking_it_off_gives_back_the_bits(sd1, folder, library) -> None:
    before = {n: p.clone() for n, p in sd1.model.network.named_parameters()}
    versions = {n: p._version for n, p in sd1.model.network.named_parameters()}
    x, inputs, sigma = numbers(1, 4, 8, 8), Inputs(numbers(1, 77, 32)), torch.ones(1)
    plain = sd1.model.denoise(x, sigma, inputs)
    lora = library.lora(folder / "sd1_lora.safetensors")
    changed = lora.on_model(sd1.model, 3.0).denoise(x, sigma, inputs)
    assert not torch.allclose(plain, changed, atol=0.05)
    assert torch.equal(sd1.model.denoise(x, sigma, inputs), plain)
    for name, parameter in sd1.model.network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter._version == versions[name]


def test_several_add_up_and_a_negative_strength_takes_away(sd1, folder, library) -> None:
    one, other = (library.lora(folder / f"{n}_lora.safetensors") for n in ("sd1", "other"))
    stack = other.on_model(one.on_model(sd1.model, 0.5), -0.7).network
    alone = [one.on_model(sd1.model, 0.5).network, other.on_model(sd1.model, -0.7).network]
    for name, was in sd1.model.network.named_parameters():
        deltas = [network.get_parameter(name) - was for network in alone]
        assert_close(stack.get_parameter(name), was + deltas[0] + deltas[1])
    back = one.on_model(one.on_model(sd1.model, 0.5), -0.5).network
    for name, was in sd1.model.network.named_parameters():
        assert_close(back.get_parameter(name), was)


def test_equal_stacks_are_the_same_weights_and_have_the_same_key(sd1, folder, library) -> None:
    one, other = (library.lora(folder / f"{n}_lora.safetensors") for n in ("sd1", "other"))

    def stack(first: float, second: float) -> Any:
        return other.on_model(one.on_model(sd1.model, first), second)

    same, again = stack(0.5, 1.0), stack(0.5, 1.0)
    through_both = other.on_both(*both(one, sd1, 0.5, 1.0), strength_model=1.0, strength_clip=1.0)[
        0
    ]
    assert same.key == again.key == through_both.key
    assert same.weights is again.weights
    different = [sd1.model, stack(0.5, 0.9), stack(1.0, 0.5), one.on_model(sd1.model, 0.5)]
    assert len({same.key, *(model.key for model in different)}) == 5


def test_a_file_is_in_memory_once_for_as_long_as_anybody_uses_it(
    sd1, written, library, tmp_path
) -> None:
    lora = written(lora_of(f"unet.{ATTENTION}", 32, 32))
    assert library.lora(tmp_path / "style.safetensors").file is lora.file
    file, model = weakref.ref(lora.file), lora.on_model(sd1.model, 1.0)
    del lora
    gc.collect()
    assert file() is not None
    del model
    gc.collect()
    assert file() is None


def test_a_lora_counts_as_much_as_the_weights_that_it_changes(sd1, folder, library) -> None:
    lora = library.lora(folder / "sd1_lora.safetensors")
    model, clip = both(lora, sd1, 1.0, 1.0)
    cache = Cache(torch.device("cpu"), 10**9, 0)
    cache.put("checkpoint", Outputs(tuple(sd1)), 1.0)
    plain = cache.used_bytes[0]
    cache.put("lora", Outputs((model, clip)), 1.0)
    touched = [(sd1.model.network, model.network)]
    touched += [(sd1.clip.towers[0].network, clip.towers[0].network)]
    own = sum(
        after.get_parameter(name).nbytes
        for before, after in touched
        for name in changed_parameters(before, after)
    )
    assert 0 < own < sd1.model.nbytes
    assert own <= cache.used_bytes[0] - plain < own + 2000
    cache.put("clip skip", Outputs((clip.with_last_layer(-2),)), 1.0)
    assert cache.used_bytes[0] - plain < own + 4000


# -- what does not fit -------------------------------------------------------------------------


def lora_of(module: str, out: int, width: int) -> dict[str, Tensor]:
    return {
        f"{module}.lora_up.weight": numbers(out, 2),
        f"{module}.lora_down.weight": numbers(2, width),
    }


def test_a_lora_of_another_family_is_refused_by_both_names(sd1, written) -> None:
    of_xl = lora_of("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 640, 2048)
    of_xl |= lora_of("lora_te1_text_model_encoder_layers_0_mlp_fc1", 64, 32)
    with pytest.raises(ModelFileError) as caught:
        both(written(of_xl), sd1, 1.0, 1.0)
    assert str(caught.value) == (
        "style.safetensors is a LoRA for SDXL: it reads prompts 2048 wide. This model is "
        "Stable Diffusion 1.x, which reads 32; use a LoRA that was made for its family"
    )


def test_a_lora_of_another_architecture_is_refused(sd1, written) -> None:
    flux = lora_of("transformer.single_transformer_blocks.0.proj_mlp", 32, 32)
    with pytest.raises(ModelFileError, match=r"is a LoRA for Flux; nothing in it fits Stable Diff"):
        both(written(flux), sd1, 1.0, 1.0)
    with pytest.raises(ModelFileError, match=r"is a LoRA for Flux; nothing in it fits the text en"):
        both(written(flux), sd1, 0.0, 1.0)


def test_where_nothing_fits_the_tensors_and_their_sizes_are_named(sd1, written) -> None:
    text_only = lora_of("lora_te_text_model_encoder_layers_0_mlp_fc1", 4096, 1024)
    with pytest.raises(ModelFileError, match=r"encoder\.layers\.0\.mlp\.fc1\.weight is 64×32"):
        both(written(text_only), sd1, 1.0, 1.0)
    with pytest.raises(ModelFileError, match="the text encoder CLIP ViT-H; nothing in it fits"):
        written(text_only).on_model(sd1.model, 1.0)


def test_what_is_left_out_of_a_file_that_fits_is_said_once(sd1, written, caplog) -> None:
    tensors = lora_of(f"unet.{ATTENTION}", 32, 32)
    tensors |= lora_of("lora_unet_conv_in", 8, 9)
    tensors |= lora_of("lora_te2_text_model_encoder_layers_0_mlp_fc1", 64, 32)
    tensors |= {"bundle_emb.word.emb_params": numbers(1, 32)}
    tensors |= {f"lora_unet_down_blocks_9_x.{n}": numbers(2, 2) for n in ("lokr_w1", "lokr_w2")}
    with caplog.at_level(logging.WARNING):
        model, _ = both(written(tensors), sd1, 1.0, 1.0)
    assert changed_parameters(sd1.model.network, model.network) == {f"{ATTENTION}.weight"}
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("style.safetensors: 4 of its tensors fit nothing in Stable Diffusion")
    assert "(of 8×9, where conv_in.weight is 32×4×3×3)" in said
    assert said.endswith("…")


def test_a_part_that_is_switched_off_need_not_fit(sd1, written, caplog) -> None:
    of_unet = written(lora_of(f"unet.{ATTENTION}", 32, 32))
    assert both(of_unet, sd1, 0.0, 1.0) == (sd1.model, sd1.clip)
    assert not caplog.records


def test_a_file_that_is_no_lora_is_refused_by_what_it_is(library, folder, tmp_path) -> None:
    with pytest.raises(ModelFileError, match=r"sd1\.safetensors is a checkpoint, not a LoRA"):
        library.lora(folder / "sd1.safetensors")
    half = tmp_path / "half.safetensors"
    half.write_bytes((folder / "sd1_lora.safetensors").read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match=r"half\.safetensors is corrupt: .* truncated"):
        library.lora(half)


def test_a_model_by_others_is_refused_by_its_class(written) -> None:
    class Foreign:
        def denoise(self) -> None: ...

    lora = written(lora_of(f"unet.{ATTENTION}", 32, 32))
    model: Any = Foreign()
    with pytest.raises(InputError, match="Foreign cannot take a LoRA"):
        lora.on_model(model, 1.0)
