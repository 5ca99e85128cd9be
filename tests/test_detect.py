"""What a file is, is told from the names and shapes in its header."""

import json
import math
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from executor.errors import ModelFileError
from executor.models.detect import inspect
from executor.models.families import FAMILIES
from executor.models.model_file import Kind, ModelFile
from executor.testing import write_tiny_checkpoint, write_tiny_folder, write_tiny_vae

UNET = "model.diffusion_model."
CLIP_L = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
CLIP_H = "cond_stage_model.model.token_embedding.weight"
XL_L = "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight"
XL_G = "conditioner.embedders.1.model.token_embedding.weight"
REFINER_G = "conditioner.embedders.0.model.token_embedding.weight"


def inspected(
    path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None
) -> ModelFile:
    """What is told of a file with such a header; its weights are a hole in the disk."""
    at = 0
    header: dict[str, Any] = {"__metadata__": dict(metadata or {})}
    for name, shape in shapes.items():
        size = math.prod(shape) * 2
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return inspect(path)


def diffusion(
    channels: int, context: int = 8, *, vector: int | None = None, is_linear: bool | None = None
) -> dict[str, tuple[int, ...]]:
    """What tells a U-Net's family, each tensor as real files have it."""
    shapes: dict[str, tuple[int, ...]] = {
        "input_blocks.0.0.weight": (8, channels, 3, 3),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (8, context),
    }
    if vector is not None:
        shapes["label_emb.0.0.weight"] = (8, vector)
    if is_linear is not None:
        shapes["input_blocks.1.1.proj_in.weight"] = (8, 8) if is_linear else (8, 8, 1, 1)
    return {UNET + name: shape for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("family", "shapes"),
    [
        ("sd1", {**diffusion(4), CLIP_L: (9, 8)}),
        ("sd1", {**diffusion(4), CLIP_L.replace("text_model.", ""): (9, 8)}),
        ("sd1-inpaint", {**diffusion(9), CLIP_L: (9, 8)}),
        ("sd1-edit", {**diffusion(8), CLIP_L: (9, 8)}),
        ("sd2", {**diffusion(4), CLIP_H: (9, 8)}),
        ("sd2", {**diffusion(4), REFINER_G: (9, 8)}),
        ("sd2-inpaint", {**diffusion(9), CLIP_H: (9, 8)}),
        ("sd2-depth", {**diffusion(5), CLIP_H: (9, 8)}),
        ("sd2-unclip-h", {**diffusion(4, vector=2048), CLIP_H: (9, 8)}),
        ("sd2-unclip-l", {**diffusion(4, vector=1536), CLIP_H: (9, 8)}),
        ("sdxl", {**diffusion(4, vector=2816), XL_L: (9, 8), XL_G: (9, 8)}),
        ("sdxl-inpaint", {**diffusion(9, vector=2816), XL_L: (9, 8), XL_G: (9, 8)}),
        ("sdxl-edit", {**diffusion(8, vector=2816), XL_L: (9, 8), XL_G: (9, 8)}),
        ("sdxl-refiner", {**diffusion(4, vector=2560), REFINER_G: (9, 8)}),
    ],
)
def test_each_family_is_told_by_text_encoders_and_input_channels(
    tmp_path: Path, family: str, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    found = inspected(tmp_path / "x.safetensors", shapes)
    assert found.kind is Kind.CHECKPOINT
    assert found.family is not None
    assert found.family.name == family
    assert found.architecture == found.family.title


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("prefix", [UNET, "diffusion_model.", ""])
def test_a_u_net_alone_is_told_by_the_widths_of_what_it_is_given(
    tmp_path: Path, family, prefix: str
) -> None:
    shapes = diffusion(
        family.in_channels, family.context, vector=family.vector, is_linear=family.heads is None
    )
    shapes = {prefix + name.removeprefix(UNET): shape for name, shape in shapes.items()}
    found = inspected(tmp_path / "x.safetensors", shapes)
    assert (found.kind, found.family) == (Kind.UNET, family)


def test_a_u_net_of_nobodys_widths_is_of_no_family_unless_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert inspected(path, diffusion(4)).family is None
    said = inspected(path, diffusion(4, vector=8), {"weft.family": "sdxl"}).family
    assert said is not None
    assert said.name == "sdxl"
    with pytest.raises(ModelFileError, match="must be one of sd1, "):
        inspected(path, diffusion(4), {"weft.family": "sd9"})


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
        ("model.diffusion_model.double_blocks.0.x", "Flux"),
        ("model.diffusion_model.input_blocks.1.1.time_stack.0.x", "Stable Video Diffusion"),
        ("model.diffusion_model.something.new", "an architecture that Weft does not know"),
    ],
)
def test_other_architectures_are_called_by_their_names(
    tmp_path: Path, name: str, title: str
) -> None:
    found = inspected(tmp_path / "x.safetensors", {name: (8, 8), CLIP_L: (9, 8)})
    assert (found.family, found.architecture) == (None, title)


def test_a_family_without_all_of_its_text_encoders_is_called_so(tmp_path: Path) -> None:
    shapes = {**diffusion(4, 2048, vector=2816), XL_G: (9, 8)}
    found = inspected(tmp_path / "x.safetensors", shapes)
    assert (found.kind, found.family) == (Kind.CHECKPOINT, None)
    assert found.architecture == "SDXL without all of its text encoders"


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        (Kind.LORA, {"lora_unet_down_blocks_0.lora_down.weight": (4, 8), "x.alpha": ()}),
        (Kind.LORA, {"unet.down_blocks.0.attn.to_q.lora_A.weight": (4, 8)}),
        (Kind.CONTROLNET, {"control_model.input_blocks.0.0.weight": (8, 4, 3, 3)}),
        (Kind.CONTROLNET, {"controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3)}),
        (Kind.CONTROLNET, {"lora_controlnet": (), "input_blocks.0.0.up": (8, 4)}),
        (Kind.T2I_ADAPTER, {"body.0.block1.weight": (8, 8, 3, 3)}),
        (Kind.T2I_ADAPTER, {"adapter.body.0.resnets.0.block1.weight": (8, 8, 3, 3)}),
        (Kind.GLIGEN, {"input_blocks.1.1.transformer_blocks.0.fuser.linear.weight": (8, 8)}),
        (Kind.VAE, {"decoder.conv_in.weight": (8, 4, 3, 3)}),
        (Kind.VAE, {"first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3)}),
        (Kind.TEXT_ENCODER, {"text_model.embeddings.token_embedding.weight": (9, 8)}),
        (Kind.EMBEDDING, {"emb_params": (2, 8)}),
        (Kind.EMBEDDING, {"clip_l": (2, 8), "clip_g": (2, 16)}),
        (Kind.EMBEDDING, {"*": (8,)}),
        (Kind.UPSCALER, {"model.0.weight": (8,), "model.1.sub.0.RDB1.conv1.0.weight": (8, 8)}),
        (Kind.LATENT, {"latent_tensor": (1, 4, 8, 8), "latent_format_version_0": (0,)}),
        (Kind.PREVIEW_VAE, {"decoder.layers.0.weight": (8, 4, 3, 3)}),
        (Kind.IP_ADAPTER, {"image_proj.norm.weight": (8,), "ip_adapter.1.to_k.weight": (8, 8)}),
        (Kind.UNET, {"down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3)}),
        (Kind.UNKNOWN, {"a": (8, 8, 8), "b": (2,)}),
        (Kind.UNKNOWN, {}),
    ],
)
def test_other_kinds_of_file_are_told_apart(
    tmp_path: Path, kind: Kind, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    found = inspected(tmp_path / "x.safetensors", shapes)
    assert (found.kind, found.family) == (kind, None)


def test_a_real_layout_file_is_described_by_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    weights = write_tiny_checkpoint(path, dtype=torch.bfloat16)
    found = inspect(path)
    assert found.parameters == sum(weight.numel() for weight in weights.values())
    assert found.parameters == sum(found.parts.values())
    assert set(found.parts) == {"unet", "text", "vae"}
    assert dict(found.dtypes) == {"BF16": found.parameters}
    assert found.size_bytes == path.stat().st_size
    assert (found.prediction, found.resolution) == ("epsilon", 512)


def test_the_same_model_has_the_same_parts_in_a_folder_and_in_a_file(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "tiny.safetensors")
    write_tiny_folder(tmp_path / "tiny")
    file, folder = inspect(tmp_path / "tiny.safetensors"), inspect(tmp_path / "tiny")
    assert (file.family, dict(file.parts)) == (folder.family, dict(folder.parts))


@pytest.mark.parametrize("ema", ["only", "both"])
def test_running_means_alone_are_a_u_net_too(tmp_path: Path, ema) -> None:
    write_tiny_checkpoint(tmp_path / "plain.safetensors")
    write_tiny_checkpoint(tmp_path / "ema.safetensors", ema=ema)
    plain, found = inspect(tmp_path / "plain.safetensors"), inspect(tmp_path / "ema.safetensors")
    assert (found.kind, found.family) == (plain.kind, plain.family)
    assert found.parts["unet"] == plain.parts["unet"]


def test_a_vae_has_a_part_with_or_without_its_prefix(tmp_path: Path) -> None:
    for prefix in ("", "first_stage_model."):
        write_tiny_vae(tmp_path / "vae.safetensors", prefix=prefix)
        found = inspect(tmp_path / "vae.safetensors")
        assert found.kind is Kind.VAE
        assert set(found.parts) == {"vae"}


@pytest.mark.parametrize(
    ("said", "prediction"),
    [("v", "v"), ("v_prediction", "v"), ("epsilon", "epsilon"), ("nonsense", "epsilon")],
)
def test_the_metadata_say_what_is_predicted(tmp_path: Path, said: str, prediction: str) -> None:
    shapes = {**diffusion(4), CLIP_L: (9, 8)}
    metadata = {"modelspec.prediction_type": said, "modelspec.resolution": "256x256"}
    found = inspected(tmp_path / "x.safetensors", shapes, metadata)
    assert (found.prediction, found.resolution) == (prediction, 256)


def test_metadata_of_ours_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for said in ("0", "-8", "eight", "1" * 50, ""):
        with pytest.raises(ModelFileError, match=r"weft\.unet_heads"):
            inspected(tmp_path / "x.safetensors", diffusion(4), {"weft.unet_heads": said})


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "without model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "no JSON object"),
        (lambda folder: (folder / "unet/config.json").write_text("{"), "unet/config.json"),
        (lambda folder: (folder / "vae/config.json").write_text("[" * 10**5), "vae/config.json"),
        (lambda folder: (folder / "unet/config.json").write_text(" " * 2**21), "larger"),
        (lambda folder: (folder / "unet").rename(folder / "gone"), "has no unet"),
        (
            lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").rename(
                folder / "unet/diffusion_pytorch_model.bin"
            ),
            "pickles",
        ),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, damage, why: str) -> None:
    write_tiny_folder(tmp_path / "tiny")
    damage(tmp_path / "tiny")
    with pytest.raises(ModelFileError, match=why):
        inspect(tmp_path / "tiny")


def test_telling_files_apart_does_not_import_torch() -> None:
    check = "import sys, executor.models.detect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
