"""CLIP vision models: found in files of both layouts, and what they make of pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from executor import testing
from executor.devices import Devices
from executor.errors import ModelFileError
from executor.models.clip_vision import ClipVision, load_clip_vision, prepared
from executor.models.detect import inspect
from executor.models.header import Header, TensorEntry
from executor.models.model_file import Kind
from executor.models.vision_place import vision_place
from executor.testing_vision import (
    VISION,
    VisionNetwork,
    open_clip,
    vision_weights,
    write_tiny_clip_vision,
    write_tiny_unclip,
)

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])

OPEN_CLIP_LAYER = (
    *("attn.in_proj_bias", "attn.in_proj_weight", "attn.out_proj.bias", "attn.out_proj.weight"),
    *("ln_1.bias", "ln_1.weight", "ln_2.bias", "ln_2.weight"),
    *("mlp.c_fc.bias", "mlp.c_fc.weight", "mlp.c_proj.bias", "mlp.c_proj.weight"),
)
"""What a layer of OpenCLIP's own ViT holds."""


def load(path: Path) -> ClipVision:
    return load_clip_vision(inspect(path), Devices.choose("cpu"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vision") / "tiny.safetensors"
    write_tiny_clip_vision(path)
    return path


@pytest.fixture(scope="module")
def model(path: Path) -> ClipVision:
    return load(path)


@pytest.fixture(scope="module")
def reference() -> VisionNetwork:
    """The same weights in transformers' own hands."""
    network = VisionNetwork(**VISION)
    network.load_state_dict(vision_weights())
    return network.eval().requires_grad_(False)


def pictures(rows: int = 1, height: int = 40, width: int = 60) -> Tensor:
    """Smooth ones, whose levels a resampler can be held to."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    waves = torch.stack((y.sin(), x.cos(), (x + y).sin()), dim=-1) * 0.4 + 0.5
    return torch.stack([waves.roll(7 * row, dims=1) for row in range(rows)])


def test_it_encodes_as_transformers_does(model: ClipVision, reference: VisionNetwork):
    found = model.encode_pictures(pictures(2))
    seen = prepared(pictures(2), 28, is_cropped=True)
    expected = reference(pixel_values=seen, output_hidden_states=True)
    # float32, the same operations but for the order of sums
    torch.testing.assert_close(found.embeds, expected.image_embeds, atol=1e-5, rtol=1e-5)
    states = expected.hidden_states
    torch.testing.assert_close(found.last, states[-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.penultimate, states[-2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found.embeds[0], found.embeds[1], atol=1e-3)


def test_both_layouts_and_an_unclip_checkpoint_hold_the_same(tmp_path: Path, model: ClipVision):
    write_tiny_clip_vision(tmp_path / "open.safetensors", names="open_clip")
    write_tiny_unclip(tmp_path / "unclip.safetensors")
    expected = model.encode_pictures(pictures())
    for name in ("open", "unclip"):
        found = load(tmp_path / f"{name}.safetensors").encode_pictures(pictures())
        # weights that lie otherwise in memory may be added in another order
        torch.testing.assert_close(found.embeds, expected.embeds, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.penultimate, expected.penultimate, atol=1e-5, rtol=1e-5)


def test_the_layout_written_for_these_tests_is_open_clips():
    tensors = open_clip(vision_weights(), prefix="")
    outer = {name for name in tensors if not name.startswith("transformer.")}
    assert outer == {"class_embedding", "conv1.weight", "positional_embedding", "proj"} | {
        f"ln_{place}.{kind}" for place in ("pre", "post") for kind in ("weight", "bias")
    }
    assert sorted(tensors.keys() - outer) == [
        f"transformer.resblocks.{layer}.{name}" for layer in range(3) for name in OPEN_CLIP_LAYER
    ]
    assert tensors["transformer.resblocks.0.attn.in_proj_weight"].shape == (96, 32)
    assert tensors["proj"].shape == (32, testing.TEXT["hidden_size"])


@pytest.mark.parametrize(
    ("width", "layers", "inner", "projection", "side", "activation"),
    [
        (1024, 24, 4096, 768, 224, "quick_gelu"),  # OpenAI's ViT-L/14
        (1024, 24, 4096, 768, 336, "quick_gelu"),
        (1280, 32, 5120, 1024, 224, "gelu"),  # OpenCLIP's ViT-H/14
        (1664, 48, 8192, 1280, 224, "gelu"),  # OpenCLIP's ViT-bigG/14
    ],
)
def test_sizes_of_the_real_ones_are_read_from_their_headers(
    width: int, layers: int, inner: int, projection: int, side: int, activation: str
):
    places = (side // 14) ** 2 + 1
    shapes = {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": (places, width),
        "visual_projection.weight": (projection, width),
    }
    for layer in range(layers):
        shapes[f"vision_model.encoder.layers.{layer}.mlp.fc1.weight"] = (inner, width)
    tensors = {name: TensorEntry("F32", shape, 0, 0) for name, shape in shapes.items()}
    place = vision_place(Header(Path("x"), 0, 0, tensors, {}))
    assert place is not None
    assert place.config() == {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "image_size": side,
        "patch_size": 14,
        "projection_dim": projection,
        "hidden_act": activation,
    }


@pytest.mark.parametrize("is_cropped", [True, False])
@pytest.mark.parametrize(("height", "width"), [(40, 60), (91, 50), (28, 28), (20, 14)])
def test_pictures_are_scaled_and_cut_as_pillow_does(height: int, width: int, is_cropped: bool):
    (given,) = pictures(1, height, width)
    levels = Image.fromarray((given * 255).round().to(torch.uint8).numpy())
    scale = 28 / min(height, width)
    size = (round(scale * width), round(scale * height)) if is_cropped else (28, 28)
    scaled = levels.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - 28) // 2, (size[1] - 28) // 2
    cut = scaled.crop((left, top, left + 28, top + 28))
    expected = (torch.from_numpy(np.array(cut)).float() / 255 - MEAN) / STD
    found = prepared(given[None], 28, is_cropped=is_cropped)[0].movedim(0, -1)
    # Pillow rounds to whole levels before, between and after its two passes: two of them at most.
    torch.testing.assert_close(found * STD * 255, expected * STD * 255, atol=2.01, rtol=0)


def test_what_it_sees_has_256_levels():
    found = prepared(pictures(), 28, is_cropped=True)[0].movedim(0, -1) * STD + MEAN
    torch.testing.assert_close(found * 255, (found * 255).round(), atol=1e-3, rtol=0)
    assert found.min() >= -1e-6
    assert found.max() <= 1 + 1e-6


def test_opacity_is_not_seen_and_grey_is_every_colour(model: ClipVision):
    colours = pictures()
    clear = torch.cat((colours, torch.zeros_like(colours[..., :1])), dim=-1)
    assert torch.equal(model.encode_pictures(clear).embeds, model.encode_pictures(colours).embeds)
    grey = colours[..., :1]
    assert torch.equal(
        model.encode_pictures(grey).embeds,
        model.encode_pictures(grey.expand(-1, -1, -1, 3)).embeds,
    )


def test_a_picture_is_what_it_is_alone(model: ClipVision):
    together = model.encode_pictures(pictures(3))
    alone = model.encode_pictures(pictures(3)[1:2])
    assert torch.equal(together.embeds[1:2], alone.embeds)
    assert torch.equal(together.last[1:2], alone.last)


def test_a_file_tells_that_it_is_one(path: Path, tmp_path: Path):
    write_tiny_clip_vision(tmp_path / "open.safetensors", names="open_clip")
    assert inspect(path).kind is inspect(tmp_path / "open.safetensors").kind is Kind.CLIP_VISION


def test_files_of_other_kinds_are_refused_with_what_they_are(tmp_path: Path):
    testing.write_tiny_vae(tmp_path / "vae.safetensors")
    testing.write_tiny_checkpoint(tmp_path / "sd1.safetensors", with_vae=False)
    with pytest.raises(ModelFileError, match=r"vae\.safetensors is a VAE.*folder vae"):
        load(tmp_path / "vae.safetensors")
    with pytest.raises(ModelFileError, match="a checkpoint without a CLIP vision model"):
        load(tmp_path / "sd1.safetensors")


def test_a_file_with_a_tensor_too_few_is_refused(tmp_path: Path):
    weights = vision_weights()
    for name, words in (
        ("visual_projection.weight", "visual_projection"),
        ("vision_model.post_layernorm.bias", "1 of its tensors are missing"),
    ):
        path = tmp_path / "short.safetensors"
        save_file({key: weight for key, weight in weights.items() if key != name}, path)
        with pytest.raises(ModelFileError, match=words):
            load(path)
