"""Names in Stable Diffusion's own files: diffusers' converters read what is written with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig

from executor import testing
from executor.models import layout
from executor.models.families import CLIP_H, XL_CLIP_G, TextTower
from executor.models.layout import Stored

REAL_UNET = {
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "layers_per_block": 2,
}
REAL_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
XL_UNET = {
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}


def names(kind, config) -> list[str]:
    with torch.device("meta"):
        return list(kind(**config).state_dict())


def test_every_tensor_has_a_name_of_its_own() -> None:
    for kind, config, rename in (
        (UNet2DConditionModel, testing.UNET, layout.unet_names),
        (UNet2DConditionModel, REAL_UNET, layout.unet_names),
        (UNet2DConditionModel, XL_UNET, layout.unet_names),
        (AutoencoderKL, testing.VAE, layout.vae_names),
        (AutoencoderKL, REAL_VAE, layout.vae_names),
    ):
        renamed = rename(names(kind, config))
        assert len(set(renamed.values())) == len(renamed)
        assert not any("_blocks." in new and "resnets" in new for new in renamed.values())


# As the files of Stable Diffusion 1.5 and SDXL spell them.
@pytest.mark.parametrize(
    ("config", "diffusers", "file"),
    [
        (REAL_UNET, "time_embedding.linear_2.bias", "time_embed.2.bias"),
        (REAL_UNET, "conv_norm_out.weight", "out.0.weight"),
        (REAL_UNET, "down_blocks.0.resnets.1.norm1.weight", "input_blocks.2.0.in_layers.0.weight"),
        (REAL_UNET, "down_blocks.1.downsamplers.0.conv.bias", "input_blocks.6.0.op.bias"),
        (REAL_UNET, "down_blocks.3.resnets.1.conv2.bias", "input_blocks.11.0.out_layers.3.bias"),
        (
            REAL_UNET,
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
            "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight",
        ),
        (REAL_UNET, "mid_block.resnets.1.conv1.bias", "middle_block.2.in_layers.2.bias"),
        (REAL_UNET, "up_blocks.0.upsamplers.0.conv.bias", "output_blocks.2.1.conv.bias"),
        (REAL_UNET, "up_blocks.1.upsamplers.0.conv.bias", "output_blocks.5.2.conv.bias"),
        (
            REAL_UNET,
            "up_blocks.3.resnets.2.conv_shortcut.weight",
            "output_blocks.11.0.skip_connection.weight",
        ),
        (XL_UNET, "class_embedding.linear_1.weight", "label_emb.0.0.weight"),
    ],
)
def test_u_net_names_are_those_of_real_files(config, diffusers: str, file: str) -> None:
    assert layout.unet_names(names(UNet2DConditionModel, config))[diffusers] == file


@pytest.mark.parametrize(
    ("diffusers", "file"),
    [
        ("encoder.down_blocks.0.downsamplers.0.conv.bias", "encoder.down.0.downsample.conv.bias"),
        ("decoder.up_blocks.0.resnets.2.norm1.bias", "decoder.up.3.block.2.norm1.bias"),
        ("decoder.up_blocks.2.upsamplers.0.conv.bias", "decoder.up.1.upsample.conv.bias"),
        ("decoder.mid_block.attentions.0.to_out.0.bias", "decoder.mid.attn_1.proj_out.bias"),
        ("decoder.mid_block.attentions.0.group_norm.bias", "decoder.mid.attn_1.norm.bias"),
        ("encoder.mid_block.resnets.1.conv1.bias", "encoder.mid.block_2.conv1.bias"),
        ("encoder.conv_norm_out.bias", "encoder.norm_out.bias"),
        ("post_quant_conv.bias", "post_quant_conv.bias"),
    ],
)
def test_vae_names_are_those_of_real_files(diffusers: str, file: str) -> None:
    assert layout.vae_names(names(AutoencoderKL, REAL_VAE))[diffusers] == file


def test_names_of_running_means_are_undone() -> None:
    for config in (testing.UNET, REAL_UNET, XL_UNET):
        for name in layout.unet_names(names(UNet2DConditionModel, config)).values():
            assert layout.unet_name_of_ema(layout.ema_name(name)) == name
    assert layout.ema_name("input_blocks.10.0.in_layers.0.weight") == (
        "model_ema.diffusion_modelinput_blocks100in_layers0weight"
    )
    for other in ("model_ema.decay", "model_ema.num_updates", "model_ema.diffusion_modelnonsense"):
        assert layout.unet_name_of_ema(other) is None


# As the files of Stable Diffusion 2 and SDXL spell them.
@pytest.mark.parametrize(
    ("transformers", "stored"),
    [
        ("text_model.embeddings.token_embedding.weight", Stored("x.token_embedding.weight")),
        ("embeddings.position_embedding.weight", Stored("x.positional_embedding")),
        (
            "text_model.encoder.layers.11.self_attn.v_proj.bias",
            Stored("x.transformer.resblocks.11.attn.in_proj_bias", third=2),
        ),
        (
            "encoder.layers.0.self_attn.q_proj.weight",
            Stored("x.transformer.resblocks.0.attn.in_proj_weight", third=0),
        ),
        (
            "encoder.layers.3.self_attn.out_proj.bias",
            Stored("x.transformer.resblocks.3.attn.out_proj.bias"),
        ),
        ("encoder.layers.3.layer_norm2.bias", Stored("x.transformer.resblocks.3.ln_2.bias")),
        ("encoder.layers.3.mlp.fc2.weight", Stored("x.transformer.resblocks.3.mlp.c_proj.weight")),
        ("text_model.final_layer_norm.bias", Stored("x.ln_final.bias")),
        ("text_projection.weight", Stored("x.text_projection", is_transposed=True)),
    ],
)
def test_open_clips_names_are_those_of_real_files(transformers: str, stored: Stored) -> None:
    assert layout.open_clip_names([transformers], "x.") == {transformers: stored}


@pytest.mark.parametrize("tower", [CLIP_H, XL_CLIP_G], ids=lambda tower: tower.name)
@torch.no_grad()
def test_attention_in_one_matrix_is_torchs_own(tower: TextTower) -> None:
    """OpenCLIP is built of torch's attention and a matrix that it multiplies from the left."""
    config: dict[str, Any] = testing.text_config(tower) | {"num_attention_heads": 2}
    kind = testing.text_kind(tower)
    weights = testing.random_weights(kind, config, seed=0)
    network: Any = kind(CLIPTextConfig(**config))
    network.load_state_dict(weights)
    stored = testing.ldm_text(weights, tower, "x.")
    block = "x.transformer.resblocks.1.attn."
    attention = nn.MultiheadAttention(32, 2, batch_first=True)
    attention.load_state_dict({k.removeprefix(block): w for k, w in stored.items() if block in k})
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    expected, _ = attention(x, x, x, need_weights=False)
    found, _ = network.text_model.encoder.layers[1].self_attn(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # sums in another order
    projected = network.text_projection(x)
    torch.testing.assert_close(projected, x @ stored["x.text_projection"], rtol=1e-5, atol=1e-5)


def test_a_projection_of_clips_own_layout_is_beside_the_text_model() -> None:
    found = layout.text_names(["text_model.a", "text_projection.weight"], "x.text_model.")
    assert list(found.values()) == ["x.text_model.a", "x.text_projection.weight"]


def test_what_joins_the_timestep_has_two_names_in_diffusers() -> None:
    for name in ("class_embedding", "add_embedding"):
        shapes = [f"{name}.linear_2.bias", "down_blocks.0.resnets.0.norm1.bias"]
        assert layout.unet_names(shapes)[shapes[0]] == "label_emb.0.2.bias"


def single_file_config(of: str) -> dict[str, Any]:
    """A family's tiny U-Net as diffusers describes it."""
    config = testing.unet_config(testing.family(of))
    if config["class_embed_type"] is None:
        return config
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    return config | sizes | {"class_embed_type": None}


@pytest.mark.parametrize(
    ("of", "part", "kind", "config"),
    [
        ("sd1", "unet", UNet2DConditionModel, single_file_config("sd1")),
        ("sd2", "unet", UNet2DConditionModel, single_file_config("sd2")),
        ("sdxl", "unet", UNet2DConditionModel, single_file_config("sdxl")),
        ("sdxl-refiner", "unet", UNet2DConditionModel, single_file_config("sdxl-refiner")),
        ("sd1", "vae", AutoencoderKL, testing.VAE),
    ],
)
def test_diffusers_own_conversion_gives_the_same_weights(
    tmp_path: Path, of: str, part: str, kind, config
) -> None:
    testing.write_tiny_checkpoint(tmp_path / "tiny.safetensors", of=of, seed=3)
    (tmp_path / "config" / part).mkdir(parents=True)
    described = json.dumps({"_class_name": kind.__name__, **config})
    (tmp_path / "config" / part / "config.json").write_text(described)
    theirs = kind.from_single_file(
        str(tmp_path / "tiny.safetensors"),
        config=str(tmp_path / "config"),
        subfolder=part,
        local_files_only=True,
        low_cpu_mem_usage=False,
    )
    expected = testing.random_weights(
        kind, testing.unet_config(testing.family(of)) if part == "unet" else config, seed=3
    )
    expected = {  # Weft has diffusers call it otherwise, so that it can be given ready
        name.replace("class_embedding.", "add_embedding."): tensor
        for name, tensor in expected.items()
    }
    found = theirs.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
