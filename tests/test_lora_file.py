"""LoRA files: every format's tensors come to the change that they stand for."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from executor.errors import ModelFileError
from executor.models import detect
from executor.models.lora_file import LoraFile, read_lora
from executor.models.model_file import Kind

MODULE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
FLAT = MODULE.removeprefix("lora_unet_")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 31 * sum(shape)))


WEIGHT = numbers(6, 4)
UP, DOWN = numbers(6, 2), numbers(2, 4)
UP_2, DOWN_2 = numbers(6, 2, seed=1), numbers(2, 4, seed=1)
PLAIN = {"lora_up.weight": UP, "lora_down.weight": DOWN}


def written(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> LoraFile:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return read_lora(detect.inspect(path))


def of_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{MODULE}.{ending}": tensor for ending, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (PLAIN, WEIGHT + UP @ DOWN),
        (PLAIN | {"alpha": torch.tensor(1.0)}, WEIGHT + UP @ DOWN / 2),
        (PLAIN | {"alpha": torch.tensor([8])}, WEIGHT + UP @ DOWN * 4),
        ({"lora_B.weight": UP, "lora_A.weight": DOWN}, WEIGHT + UP @ DOWN),
        ({"lora.up.weight": UP, "lora.down.weight": DOWN}, WEIGHT + UP @ DOWN),
        (
            {
                "lora_up.weight": UP[:, :, None, None],
                "lora_down.weight": DOWN[:, :, None, None],
                "lora_mid.weight": torch.eye(2)[:, :, None, None] * 3,
            },
            WEIGHT + 3 * UP @ DOWN,
        ),
        (
            {"hada_w1_a": UP, "hada_w1_b": DOWN, "hada_w2_a": UP_2, "hada_w2_b": DOWN_2}
            | {"alpha": torch.tensor(1.0)},
            WEIGHT + (UP @ DOWN) * (UP_2 @ DOWN_2) / 2,
        ),
        (
            {"hada_w1_a": UP.T, "hada_w1_b": DOWN, "hada_w2_a": UP_2.T, "hada_w2_b": DOWN_2}
            | {"hada_t1": torch.eye(2)[:, :, None, None]}
            | {"hada_t2": 2 * torch.eye(2)[:, :, None, None]},
            WEIGHT + (UP @ DOWN) * (UP_2 @ DOWN_2) * 2,
        ),
        (
            # without ranks alpha says nothing
            {"lokr_w1": numbers(3, 2), "lokr_w2": numbers(2, 2), "alpha": torch.tensor(7.0)},
            WEIGHT + torch.kron(numbers(3, 2), numbers(2, 2)),
        ),
        (
            {"lokr_w1_a": numbers(3, 1), "lokr_w1_b": numbers(1, 2), "lokr_w2": numbers(2, 2)}
            | {"alpha": torch.tensor(3.0)},
            WEIGHT + 3 * torch.kron(numbers(3, 1) @ numbers(1, 2), numbers(2, 2)),
        ),
        (
            # the second factor's rank counts where both have one
            {"lokr_w1_a": numbers(3, 1), "lokr_w1_b": numbers(1, 2)}
            | {"lokr_w2_a": numbers(2, 2), "lokr_w2_b": numbers(2, 2, seed=1)}
            | {"alpha": torch.tensor(1.0)},
            WEIGHT
            + torch.kron(numbers(3, 1) @ numbers(1, 2), numbers(2, 2) @ numbers(2, 2, seed=1)) / 2,
        ),
        (
            {"lokr_w1": numbers(3, 2), "lokr_w2_a": numbers(1, 2), "lokr_w2_b": numbers(1, 2)}
            | {"lokr_t2": torch.full((1, 1, 1, 1), 2.0)},
            WEIGHT + 2 * torch.kron(numbers(3, 2), numbers(1, 2).T @ numbers(1, 2)),
        ),
        ({"diff": UP @ DOWN}, WEIGHT + UP @ DOWN),
        ({"w_norm": UP @ DOWN}, WEIGHT + UP @ DOWN),
        ({"weight": numbers(1, 4), "on_input": torch.tensor(True)}, WEIGHT * (1 + numbers(1, 4))),
        ({"weight": numbers(6, 1), "on_input": torch.tensor(0)}, WEIGHT * (1 + numbers(6, 1))),
        (
            {"oft_blocks": torch.tensor([[[0.0, 1.0], [0.0, 0.0]]] * 3)},  # quarters of a turn
            torch.stack((-WEIGHT[1::2], WEIGHT[::2]), 1).reshape(6, 4),
        ),
        (
            PLAIN | {"dora_scale": torch.full((1, 4), 2.0), "alpha": torch.tensor(1.0)},
            2 * (WEIGHT + UP @ DOWN / 2) / (WEIGHT + UP @ DOWN / 2).norm(dim=0),
        ),
        (
            {"lora_B.weight": UP, "lora_A.weight": DOWN}
            | {"lora_magnitude_vector": torch.full((6,), 2.0)},
            2 * (WEIGHT + UP @ DOWN) / (WEIGHT + UP @ DOWN).norm(dim=1, keepdim=True),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_every_format_is_the_change_that_it_stands_for(tmp_path: Path, tensors, expected) -> None:
    (entry,) = written(tmp_path / "lora.safetensors", of_module(tensors)).entries["unet"]
    assert (entry.module, entry.leaf) == (FLAT, "weight")
    found = entry.adapter.applied(WEIGHT, 1.0)
    # float32 in another order of multiplications
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_biases_are_entries_of_their_own(tmp_path: Path) -> None:
    tensors = of_module(PLAIN | {"diff_b": numbers(6)})
    tensors |= {"lora_unet_conv_norm_out.w_norm": numbers(8)}
    tensors |= {"lora_unet_conv_norm_out.b_norm": numbers(8, seed=1)}
    found = written(tmp_path / "lora.safetensors", tensors).entries["unet"]
    assert {(entry.module, entry.leaf) for entry in found} == {
        *((FLAT, "weight"), (FLAT, "bias")),
        *(("conv_norm_out", "weight"), ("conv_norm_out", "bias")),
    }
    bias = next(e for e in found if (e.module, e.leaf) == (FLAT, "bias"))
    assert torch.equal(bias.adapter.applied(torch.zeros(6), 2.0), 2 * numbers(6))


def test_what_says_nothing_is_kept_by_name(tmp_path: Path) -> None:
    odd = {
        *("lora_unet_conv_in.alpha", "bundle_emb.cat.emb_params", "transformer.x.lora_A.weight"),
        *("lora_te_text_model_x.weight", f"{MODULE}.reshape_weight"),
    }
    tensors = of_module(PLAIN) | {name: torch.ones(1) for name in odd}
    lora = written(tmp_path / "lora.safetensors", tensors)
    assert set(lora.unread) == odd
    assert len(lora.entries["unet"]) == 1


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"lora_up.weight": UP}, r"\.lora_down\.weight is missing"),
        ({"lora_up.weight": UP, "lora_down.weight": numbers(3, 4)}, "factors of 2×6 and 3×4"),
        ({"hada_w1_a": UP, "hada_w1_b": DOWN, "hada_w2_a": UP_2}, r"\.hada_w2_b is missing"),
        ({"lokr_w1": numbers(3, 2)}, r"\.lokr_w2_a is missing"),
        ({"lora_up.weight": torch.ones(()), "lora_down.weight": DOWN}, "no product"),
        (PLAIN | {"alpha": torch.ones(2)}, "2 numbers where one should be"),
        (
            {"lora_up.weight": UP[:, :0], "lora_down.weight": DOWN[:0], "alpha": torch.ones(1)},
            "rank is 0",
        ),
        ({"oft_blocks": numbers(2, 3, 2, 2)}, "rotations of shape 2×3×2×2 are not known"),
    ],
)
def test_a_module_that_is_not_whole_is_named(tmp_path: Path, tensors, why: str) -> None:
    with pytest.raises(ModelFileError, match=rf"odd\.safetensors: {MODULE}\.\w+.* cannot be used"):
        written(tmp_path / "odd.safetensors", of_module(tensors))
    with pytest.raises(ModelFileError, match=why):
        written(tmp_path / "odd.safetensors", of_module(tensors))


def test_a_file_is_equal_to_itself_until_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    first, again = written(path, of_module(PLAIN)), read_lora(detect.inspect(path))
    assert first == again
    assert len({first, again}) == 1
    assert written(path, of_module(PLAIN | {"alpha": torch.ones(1)})) != first


@pytest.mark.parametrize(
    ("name", "width", "purpose"),
    [
        ("lora_unet_{}_attn2_to_k.lora_{}.weight", 768, "Stable Diffusion 1.x"),
        ("unet.{}.attn2.to_v.lora.{}.weight", 1024, "Stable Diffusion 2.x"),
        ("lora_unet_{}_attn2_to_k.lora_{}.weight", 2048, "SDXL"),
        ("lora_unet_{}_attn2_to_k.lora_{}.weight", 1280, "SDXL refiner"),
        ("lora_unet_{}_attn2_to_k.lora_{}.weight", 96, "an unknown family"),
        ("lora_unet_{}_attn1_to_k.lora_{}.weight", 320, "a model that its names do not tell"),
        ("lora_te2_text_model_{}.lora_{}.weight", 1280, "the text encoders of SDXL"),
        ("lora_te_text_model_{}.lora_{}.weight", 1024, "the text encoder CLIP ViT-H"),
        ("transformer.single_transformer_blocks.{}.lora_{}.weight", 8, "Flux"),
        ("lora_transformer_joint_blocks_{}.lora_{}.weight", 8, "Stable Diffusion 3"),
        ("transformer.transformer_blocks.{}.lora_{}.weight", 8, "Stable Diffusion 3"),
    ],
)
def test_what_a_file_was_made_for_is_told_from_its_names_and_shapes(
    tmp_path: Path, name: str, width: int, purpose: str
) -> None:
    tensors = {name.format(0, "up"): numbers(6, 2), name.format(0, "down"): numbers(2, width)}
    path = tmp_path / "lora.safetensors"
    assert written(path, tensors).purpose == purpose
    assert detect.inspect(path).kind is Kind.LORA


def test_metadata_say_it_where_names_do_not(tmp_path: Path) -> None:
    tensors = {"blocks.0.lora_up.weight": UP, "blocks.0.lora_down.weight": DOWN}
    said = {"modelspec.architecture": "odd-v1/lora"}
    lora = written(tmp_path / "lora.safetensors", tensors, **said)
    assert lora.purpose == "'odd-v1/lora', as its metadata say"
