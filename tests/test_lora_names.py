"""What LoRA files call things, and that every name of a module leads to it."""

from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from executor import testing
from executor.models import layout
from executor.models.families import FAMILIES
from executor.models.lora_names import SIGNS, read_name, text_modules, unet_modules

TO_Q = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TO_OUT = "up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0"
LDM_Q = "input_blocks_1_1_transformer_blocks_0_attn1_to_q"
Q_PROJ = "encoder_layers_0_self_attn_q_proj"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"lora_unet_{TO_Q}.lora_up.weight", ("unet", TO_Q, "up")),
        (f"lora_unet_{LDM_Q}.lora_down.weight", ("unet", LDM_Q, "down")),
        (f"lora_unet_{TO_Q}.alpha", ("unet", TO_Q, "alpha")),
        (f"lora_unet_{TO_OUT}.dora_scale", ("unet", TO_OUT, "magnitude")),
        (f"lycoris_{TO_Q}.lokr_w2_a", ("unet", TO_Q, "kron_2_a")),
        (f"lora_te_text_model_{Q_PROJ}.lora_mid.weight", ("text", Q_PROJ, "core")),
        (f"lora_te1_text_model_{Q_PROJ}.hada_w1_b", ("text", Q_PROJ, "w1_b")),
        (f"lora_te2_text_model_{Q_PROJ}.lora_up.weight", ("text_2", Q_PROJ, "up")),
        ("lora_te2_text_projection.diff", ("text_2", "text_projection", "difference")),
        (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
            ("unet", TO_Q, "down"),
        ),
        (
            "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
            ".lora_B.default.weight",
            ("unet", TO_Q, "up"),
        ),
        (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up"
            ".weight",
            ("unet", TO_Q, "up"),
        ),
        (
            "up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.down.weight",
            ("unet", TO_OUT, "down"),
        ),
        (
            "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0.lora.up.weight",
            ("unet", TO_OUT, "up"),
        ),
        (
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight",
            ("unet", LDM_Q, "up"),
        ),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
            ("text", Q_PROJ, "up"),
        ),
        (
            "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_magnitude_vector",
            ("text_2", Q_PROJ, "peft_magnitude"),
        ),
        (
            "text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj.lora_B",
            ("text_2", Q_PROJ, "up"),
        ),
        (
            "lora_unet_mid_block_resnets_0_norm1.b_norm",
            ("unet", "mid_block_resnets_0_norm1", "bias_difference"),
        ),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight", ("unet",)),
        ("transformer.single_transformer_blocks.0.proj_mlp.lora_A.weight", (None,)),
    ],
)
def test_a_name_says_network_module_and_role(name: str, expected: tuple[str, ...]) -> None:
    assert tuple(read_name(name) or ())[: len(expected)] == expected


@pytest.mark.parametrize("name", ["bundle_emb.cat.string_to_param.*", "model_ema.decay", "x.bias"])
def test_what_is_no_loras_says_nothing(name: str) -> None:
    assert read_name(name) is None


@pytest.mark.parametrize("of", [row.name for row in FAMILIES])
def test_every_module_of_a_unet_is_found_by_both_of_its_names(of: str) -> None:
    with torch.device("meta"):
        network = UNet2DConditionModel(**testing.unet_config(testing.family(of)))
    names = dict(network.named_parameters())
    found = unet_modules(names)
    for own, original in layout.unet_names(names).items():
        module = own.rpartition(".")[0]
        assert found[module.replace(".", "_")] == module
        assert found[original.rpartition(".")[0].replace(".", "_")] == module
    assert set(found.values()) == {name.rpartition(".")[0] for name in names}


def test_sdxls_vector_goes_by_diffusers_name_too() -> None:
    names = ["down_blocks.0.resnets.0.conv1.weight", "class_embedding.linear_1.weight"]
    assert unet_modules(names)["add_embedding_linear_1"] == "class_embedding.linear_1"


@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
def test_every_module_of_a_text_encoder_is_found(kind) -> None:
    names = testing.random_weights(kind, testing.TEXT | {"projection_dim": 8}, seed=0)
    found = text_modules(names)
    layer = "text_model.encoder.layers.1" if kind is not CLIPTextModel else "encoder.layers.1"
    assert set(found.values()) == {name.rpartition(".")[0] for name in names}
    assert found["encoder_layers_1_self_attn_out_proj"] == f"{layer}.self_attn.out_proj"
    assert found["encoder_layers_1_self_attn_to_out"] == f"{layer}.self_attn.out_proj"
    assert found["encoder_layers_1_self_attn_to_v"] == f"{layer}.self_attn.v_proj"
    assert found["encoder_layers_1_mlp_fc2"] == f"{layer}.mlp.fc2"


def test_no_tensor_of_a_checkpoint_is_named_like_a_loras(tmp_path: Path) -> None:
    names = testing.write_tiny_checkpoint(tmp_path / "tiny.safetensors", ema="both")
    assert not any(name.endswith(SIGNS) for name in names)
