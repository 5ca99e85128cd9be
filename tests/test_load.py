"""Every layout of real files gives the same networks; what is wrong with a file is said."""

import json
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from executor import testing
from executor.devices import Devices
from executor.errors import ModelFileError
from executor.models import layout
from executor.models.library import Library
from executor.models.load import load_checkpoint, load_vae
from executor.models.text import ClipText
from executor.models.unet import UNet
from executor.models.vae import Autoencoder

CPU = Devices.choose("cpu")
OLD_PREFIX = "cond_stage_model.transformer."


def parts(path: Path, devices: Devices = CPU) -> tuple[UNet, ClipText, Autoencoder]:
    model, clip, vae = load_checkpoint(path, devices)
    assert isinstance(model, UNet)
    assert isinstance(clip, ClipText)
    assert isinstance(vae, Autoencoder)
    return model, clip, vae


def assert_same_weights(path: Path, *, seed: int = 0, rounded: torch.dtype = torch.float32) -> None:
    """The networks hold the very weights that were written."""
    model, clip, vae = parts(path)
    for network, kind, config in zip(
        (model.network, clip.towers[0].network, vae.network),
        (UNet2DConditionModel, CLIPTextModel, AutoencoderKL),
        (testing.UNET, testing.TEXT, testing.VAE),
        strict=True,
    ):
        expected = testing.random_weights(kind, config, seed)
        found = network.state_dict()
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            assert torch.equal(found[name], weight.to(rounded).float()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_files_of_every_precision_are_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors", dtype=dtype, seed=5)
    assert_same_weights(tmp_path / "x.safetensors", seed=5, rounded=dtype)


@pytest.mark.parametrize(
    "written",
    [
        {"ema": "only"},
        {"ema": "both"},
        {"text_prefix": OLD_PREFIX},
        {"extra": {testing.CLIP_PREFIX + "embeddings.position_ids": torch.arange(77)[None]}},
        {"extra": {testing.CLIP_PREFIX + "embeddings.position_ids": torch.arange(77.0)[None]}},
        {
            "extra": {
                "betas": torch.zeros(1000),
                "alphas_cumprod": torch.zeros(1000),
                "model_ema.decay": torch.tensor(0.9999),
                "model_ema.num_updates": torch.tensor(7),
                "cond_stage_model.logit_scale": torch.tensor(4.6),
                "first_stage_model.loss.logvar": torch.tensor(0.0),
            }
        },
    ],
    ids=["ema only", "ema both", "old prefix", "position ids", "float position ids", "training"],
)
def test_real_files_differ_in_what_they_carry_along(
    tmp_path: Path, written: dict[str, Any]
) -> None:
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors", **written)
    assert_same_weights(tmp_path / "x.safetensors")


def test_a_diffusers_folder_is_loaded(tmp_path: Path) -> None:
    testing.write_tiny_folder(tmp_path / "tiny", dtype=torch.float16)
    assert_same_weights(tmp_path / "tiny", rounded=torch.float16)


def test_nothing_is_left_without_storage_or_in_training(tmp_path: Path) -> None:
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors")
    model, clip, vae = parts(tmp_path / "x.safetensors")
    for network in (model.network, clip.towers[0].network, vae.network):
        assert not network.training
        for tensor in [*network.parameters(), *network.buffers()]:
            assert not tensor.is_meta
            assert not tensor.requires_grad


def test_position_ids_are_restored_whatever_the_file_says(tmp_path: Path) -> None:
    wrong = {testing.CLIP_PREFIX + "embeddings.position_ids": torch.zeros(1, 77)}
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors", extra=wrong)
    _, clip, _ = parts(tmp_path / "x.safetensors")
    assert torch.equal(clip.towers[0].model.embeddings.position_ids, torch.arange(77)[None])


def test_heads_and_groups_come_from_the_file_if_it_says_them(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    said = {"unet_heads": "4", "unet_norm_groups": "16", "vae_norm_groups": "4", "clip_heads": "2"}
    testing.write_tiny_checkpoint(path, metadata={f"weft.{key}": n for key, n in said.items()})
    model, clip, vae = parts(path)
    assert model.network.config["attention_head_dim"] == 4
    assert model.network.config["norm_num_groups"] == 16
    assert vae.network.config["norm_num_groups"] == 4
    assert clip.towers[0].network.config.num_attention_heads == 2


def test_heads_and_groups_are_else_those_of_the_family(tmp_path: Path) -> None:
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors")
    model, clip, vae = parts(tmp_path / "x.safetensors")
    assert model.network.config["attention_head_dim"] == 8
    assert model.network.config["norm_num_groups"] == 32 // 4
    assert vae.network.config["norm_num_groups"] == 32 // 4
    assert clip.towers[0].network.config.num_attention_heads == 1
    assert clip.towers[0].network.config.hidden_act == "quick_gelu"


@pytest.mark.parametrize("key", ["unet_heads", "unet_norm_groups", "vae_norm_groups", "clip_heads"])
def test_heads_and_groups_that_do_not_divide_are_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "x.safetensors"
    testing.write_tiny_checkpoint(path, metadata={f"weft.{key}": "7"})
    with pytest.raises(ModelFileError, match="cannot be cut into 7"):
        load_checkpoint(path, CPU)


@pytest.mark.parametrize(
    "unet",
    [
        {
            "block_out_channels": [32, 64],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        },
        {"layers_per_block": 2},
        {"cross_attention_dim": 48},
    ],
    ids=["two levels", "two layers", "wider prompt"],
)
def test_widths_and_depths_come_from_the_shapes(tmp_path: Path, unet: dict[str, Any]) -> None:
    path = tmp_path / "x.safetensors"
    text = {"hidden_size": unet.get("cross_attention_dim", 32), "num_hidden_layers": 3}
    testing.write_tiny_checkpoint(path, unet=unet, text=text, vae={"layers_per_block": 2})
    model, clip, vae = parts(path)
    for name, value in unet.items():
        assert model.network.config[name] == value
    assert clip.towers[0].network.config.num_hidden_layers == 3
    assert vae.network.config["layers_per_block"] == 2


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_vae_is_loaded_from_its_own_file(tmp_path: Path, prefix: str) -> None:
    testing.write_tiny_vae(tmp_path / "vae.safetensors", prefix=prefix)
    assert_vae(load_vae(tmp_path / "vae.safetensors", CPU))


def test_a_vae_is_loaded_from_a_checkpoint(tmp_path: Path) -> None:
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors")
    assert_vae(load_vae(tmp_path / "x.safetensors", CPU))


@pytest.mark.parametrize("is_old", [False, True])
def test_a_vae_is_loaded_from_a_diffusers_file(tmp_path: Path, is_old: bool) -> None:
    weights = testing.random_weights(AutoencoderKL, testing.VAE, seed=0)
    old = layout.old_vae_names(weights) if is_old else {}
    save_file({old.get(name, name): t for name, t in weights.items()}, tmp_path / "x.safetensors")
    assert_vae(load_vae(tmp_path / "x.safetensors", CPU))
    if is_old:
        assert "encoder.mid_block.attentions.0.query.weight" in old.values()


def assert_vae(vae: Autoencoder) -> None:
    expected = testing.random_weights(AutoencoderKL, testing.VAE, seed=0)
    for name, weight in vae.network.state_dict().items():
        assert torch.equal(weight, expected[name])


def test_a_checkpoint_without_vae_is_loaded_and_says_so_when_the_vae_is_used(
    tmp_path: Path,
) -> None:
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors", with_vae=False)
    vae = load_checkpoint(tmp_path / "x.safetensors", CPU).vae
    for use in (lambda: vae.decode(torch.zeros(1, 4, 8, 8)), lambda: vae.encode(torch.zeros(1))):
        with pytest.raises(ModelFileError, match=r"x\.safetensors holds no VAE.*VAELoader"):
            use()


def test_float32_weights_stay_views_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    testing.write_tiny_checkpoint(path, text={"vocab_size": 49_408, "hidden_size": 256})
    size = path.stat().st_size
    load_checkpoint(path, CPU)  # whatever the first time costs
    before = private_bytes()
    kept = load_checkpoint(path, CPU)
    assert private_bytes() - before < size / 4, kept


def private_bytes() -> int:
    """Memory of this process that no file backs."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux says how much memory is private")
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


def test_memory_in_use_peaks_no_higher_than_file_and_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    text = {"hidden_size": 512}
    testing.write_tiny_checkpoint(path, dtype=torch.float16, text=text)
    size = path.stat().st_size
    load_checkpoint(path, CPU)  # whatever the first time costs
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the former peak
    kept = load_checkpoint(path, CPU)
    peak = status_bytes("VmHWM") - before
    # the mapped file (1) and its weights in float32 (2), with slack for an allocator; reading or
    # casting one more copy of it would make it 4 or more
    assert peak < 3.5 * size, kept


def status_bytes(entry: str) -> int:
    """An entry of what Linux says of this process' memory."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells peaks apart")
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


def refusal(path: Path, load: Callable[[Path, Devices], object] = load_checkpoint) -> str:
    with pytest.raises(ModelFileError) as caught:
        load(path, CPU)
    said = str(caught.value)
    assert path.name in said
    assert "\n" not in said
    return said


def rewritten(path: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """A tiny checkpoint with something changed."""
    testing.write_tiny_checkpoint(path)
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    return path


CLIP_H = "cond_stage_model.model.token_embedding.weight"
UNET_BIAS = "model.diffusion_model.middle_block.0.in_layers.2.bias"


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    said = refusal(rewritten(tmp_path / "x.safetensors", lambda weights: weights.pop(UNET_BIAS)))
    assert f"1 of its tensors are missing: {UNET_BIAS}" in said


def test_of_many_missing_tensors_the_first_are_named(tmp_path: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.startswith("first_stage_model.encoder.mid")]:
            del weights[name]

    said = refusal(rewritten(tmp_path / "x.safetensors", change))
    assert "VAE cannot be loaded" in said
    assert said.count("first_stage_model.encoder.mid") == 3
    assert "…" in said


def test_tensors_of_the_u_net_that_nothing_uses_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {"model.diffusion_model.time_embed.cond_proj.weight": torch.zeros(3)}
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors", extra=extra)
    load_checkpoint(tmp_path / "x.safetensors", CPU)
    assert "1 tensors of its U-Net are of no use here: time_embed.cond_proj" in caplog.text


def test_wrong_shapes_are_named(tmp_path: Path) -> None:
    path = rewritten(
        tmp_path / "x.safetensors", lambda weights: weights.update({UNET_BIAS: torch.zeros(3)})
    )
    assert f"{UNET_BIAS} is 3 instead of 64" in refusal(path)


def test_types_that_are_no_fractions_are_named(tmp_path: Path) -> None:
    whole = {UNET_BIAS: torch.zeros(64, dtype=torch.int8)}
    path = rewritten(tmp_path / "x.safetensors", lambda weights: weights.update(whole))
    assert f"{UNET_BIAS} is I8" in refusal(path)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.out.2.weight",
        "model.diffusion_model.input_blocks.1.0.out_layers.3.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "first_stage_model.encoder.conv_in.weight",
        "first_stage_model.decoder.up.0.block.0.conv2.weight",
    ],
)
def test_tensors_that_tell_the_size_are_missed_by_name_too(tmp_path: Path, name: str) -> None:
    said = refusal(rewritten(tmp_path / "x.safetensors", lambda weights: weights.pop(name)))
    assert "safetensors" in said


@pytest.mark.parametrize("shape", [(), (1,), (0, 0), (32, 4, 3), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.1.1.proj_in.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.input_blocks.3.0.out_layers.3.weight",
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        "first_stage_model.decoder.conv_in.weight",
    ],
)
def test_shapes_that_make_no_sense_are_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "x.safetensors"
    refusal(rewritten(path, lambda weights: weights.update({name: torch.zeros(shape)})))


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ({"a.lora_up.weight": torch.zeros(2, 2)}, r"is a LoRA, not a checkpoint.*folder loras"),
        ({"latent_tensor": torch.zeros(2, 2)}, "is a saved latent"),
        ({"a": torch.zeros(2, 2, 2)}, "does not recognise"),
        ({"decoder.conv_in.weight": torch.zeros(2, 2, 3, 3)}, "is a VAE, not a checkpoint"),
        (
            {
                "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 5, 3, 3),
                CLIP_H: torch.zeros(2, 2),
            },
            "is a checkpoint of Stable Diffusion 2.x depth; Weft runs Stable Diffusion 1.x",
        ),
    ],
)
def test_what_is_no_checkpoint_that_weft_runs_is_called_what_it_is(
    tmp_path: Path, weights: dict[str, Tensor], why: str
) -> None:
    save_file(weights, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match=why):
        load_checkpoint(tmp_path / "x.safetensors", CPU)


def test_what_is_no_vae_is_called_what_it_is(tmp_path: Path) -> None:
    save_file({"a.lora_up.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    assert "is a LoRA, not a VAE" in refusal(tmp_path / "x.safetensors", load_vae)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    testing.write_tiny_checkpoint(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert "truncated" in refusal(path)


def test_a_tokenizer_too_large_for_the_text_encoder_is_refused(tmp_path: Path) -> None:
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors", text={"vocab_size": 1000})
    assert "49408 tokens, its text encoder 1000" in refusal(tmp_path / "x.safetensors")


def test_loading_opens_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a connection was opened: {args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    testing.write_tiny_checkpoint(tmp_path / "x.safetensors")
    testing.write_tiny_folder(tmp_path / "tiny")
    for path in (tmp_path / "x.safetensors", tmp_path / "tiny"):
        load_checkpoint(path, CPU).clip.encode("a red fox")


def test_a_file_is_in_memory_once_whoever_names_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    testing.write_tiny_checkpoint(path)
    library = Library(CPU)
    first = library.checkpoint(path)
    (tmp_path / "sub").mkdir()
    again = library.checkpoint(tmp_path / "sub" / ".." / "x.safetensors")
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert library.vae(path) is first.vae


def test_a_replaced_file_is_loaded_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    testing.write_tiny_checkpoint(path)
    library = Library(CPU)
    first = library.checkpoint(path)
    testing.write_tiny_checkpoint(tmp_path / "new.safetensors", seed=1)
    (tmp_path / "new.safetensors").replace(path)
    second = library.checkpoint(path)
    assert second.model is not first.model
    assert second.model.key != first.model.key


def test_a_part_that_nobody_holds_is_freed_while_another_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    testing.write_tiny_checkpoint(path)
    library = Library(CPU)
    vae = library.checkpoint(path).vae  # the rest is dropped at once
    assert [part for _, part in library._loaded] == ["vae"]
    assert library.checkpoint(path).vae is vae


def test_a_failed_load_leaves_nothing_in_the_library(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "x.safetensors", lambda weights: weights.pop(UNET_BIAS))
    library = Library(CPU)
    with pytest.raises(ModelFileError):
        library.checkpoint(path)
    assert not library._loaded


def test_a_header_without_tensors_is_refused(tmp_path: Path) -> None:
    text = json.dumps({}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    assert "not a checkpoint" in refusal(tmp_path / "x.safetensors")
