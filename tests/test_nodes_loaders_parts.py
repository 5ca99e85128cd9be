"""Models from files of their parts: the same networks as in a checkpoint, each in memory once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from executor import Context, ModelFileError, PathError, testing
from executor.models.text import ClipText
from executor.models.unet import UNet
from executor.presence import state_of
from nodes.loaders import CheckpointLoader, CLIPLoader, DiffusersLoader, DualCLIPLoader, UNETLoader

UNET = "model.diffusion_model."
TEXT_L = "conditioner.embedders.0.transformer."
TEXT_G = "conditioner.embedders.1.model."
PROMPT = "a (red:1.3) fox"


@pytest.fixture(scope="module")
def models(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with SDXL in a checkpoint, in a diffusers folder and in its parts."""
    base = tmp_path_factory.mktemp("base")
    models = base / "models"
    whole = load_file(tiny("sdxl"))
    parts: dict[str, tuple[str, dict[str, str]]] = {
        "diffusion_models/xl.safetensors": (UNET, {"weft.family": "sdxl"}),
        "text_encoders/small.safetensors": (TEXT_L, {"weft.text_encoder": "clip_l"}),
        "text_encoders/large.safetensors": (TEXT_G, {"weft.text_encoder": "clip_g"}),
    }
    for name, (prefix, metadata) in parts.items():
        kept = {k.removeprefix(prefix): t for k, t in whole.items() if k.startswith(prefix)}
        write(models / name, kept, metadata)
    sd2 = load_file(tiny("sd2"))
    prefix = "cond_stage_model.model."
    kept = {k.removeprefix(prefix): t for k, t in sd2.items() if k.startswith(prefix)}
    write(models / "text_encoders/sd2.safetensors", kept, {"weft.text_encoder": "clip_h"})
    (models / "checkpoints").mkdir()
    for family in ("sd1", "sd2", "sdxl", "sdxl-refiner"):
        (models / f"checkpoints/{family}.safetensors").hardlink_to(tiny(family))
    testing.write_tiny_folder(models / "diffusers/xl", of="sdxl")
    return base


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


@pytest.fixture
def ctx(models: Path) -> Context:
    from executor.settings import Settings
    from executor.workspace import Workspace

    return Workspace(Settings(base_directory=models, device="cpu")).context()


def assert_same_weights(one: Any, other: Any) -> None:
    found, expected = state_of(one.network), state_of(other.network)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def tokens(clip: Any) -> Tensor:
    return clip.encode(PROMPT)[0].tokens


@pytest.mark.parametrize("layout", ["bare", "prefixed", "short", "diffusers"])
def test_a_diffusion_model_is_that_of_the_checkpoint(
    ctx: Context, models: Path, layout: str
) -> None:
    name = f"{layout}.safetensors"
    bare = load_file(models / "models/diffusion_models/xl.safetensors")
    prefix = {"prefixed": UNET, "short": "diffusion_model."}.get(layout, "")
    written = {prefix + key: tensor for key, tensor in bare.items()}
    if layout == "diffusers":
        config = testing.unet_config(testing.family("sdxl"))
        written = testing.random_weights(UNet2DConditionModel, config, seed=0)
        written = {k.replace("class_embedding.", "add_embedding."): t for k, t in written.items()}
    write(models / "models/diffusion_models" / name, written, {"weft.family": "sdxl"})
    model = UNETLoader(unet_name=name).run(ctx)
    assert isinstance(model, UNet)
    assert model.family.name == "sdxl"
    assert_same_weights(model, CheckpointLoader(ckpt_name="sdxl.safetensors").run(ctx).MODEL)


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        ("fp8_e4m3fn", torch.float8_e4m3fn),
        ("fp8_e4m3fn_fast", torch.float8_e4m3fn),
        ("fp8_e5m2", torch.float8_e5m2),
    ],
)
def test_weights_are_rounded_to_eight_bits_where_that_is_said(
    ctx: Context, said: Any, dtype: torch.dtype
) -> None:
    plain = UNETLoader(unet_name="xl.safetensors").run(ctx)
    rounded = UNETLoader(unet_name="xl.safetensors", weight_dtype=said).run(ctx)
    assert isinstance(plain, UNet)
    assert isinstance(rounded, UNet)
    expected = state_of(plain.network)
    for name, weight in state_of(rounded.network).items():
        assert torch.equal(weight, expected[name].to(dtype).float())
    assert rounded.key != plain.key


def test_two_text_encoders_are_sdxls_in_any_order(ctx: Context) -> None:
    expected = CheckpointLoader(ckpt_name="sdxl.safetensors").run(ctx).CLIP
    names = ("small.safetensors", "large.safetensors")
    clip = DualCLIPLoader(clip_name1=names[0], clip_name2=names[1]).run(ctx)
    other = DualCLIPLoader(clip_name1=names[1], clip_name2=names[0]).run(ctx)
    assert torch.equal(tokens(clip), tokens(expected))
    assert clip is other, "in memory once"
    (cond,), (wanted,) = clip.encode(PROMPT), expected.encode(PROMPT)
    assert cond.pooled is not None
    torch.testing.assert_close(cond.pooled, wanted.pooled)


@pytest.mark.parametrize(
    ("name", "checkpoint"), [("sd2", "sd2"), ("large", "sdxl-refiner"), ("small", "sd1")]
)
def test_one_text_encoder_is_used_as_the_family_with_just_this_one(
    ctx: Context, models: Path, name: str, checkpoint: str
) -> None:
    clip = CLIPLoader(clip_name=f"{name}.safetensors").run(ctx)
    expected = CheckpointLoader(ckpt_name=f"{checkpoint}.safetensors").run(ctx).CLIP
    torch.testing.assert_close(tokens(clip), tokens(expected))


def test_a_text_encoder_is_in_memory_once_whoever_names_it(ctx: Context) -> None:
    both = DualCLIPLoader(clip_name1="small.safetensors", clip_name2="large.safetensors").run(ctx)
    alone = CLIPLoader(clip_name="large.safetensors").run(ctx)
    assert isinstance(both, ClipText)
    assert isinstance(alone, ClipText)
    assert alone.towers[0].network is both.towers[1].network
    assert CLIPLoader(clip_name="large.safetensors").run(ctx) is alone
    assert CLIPLoader(clip_name="large.safetensors", device="cpu").run(ctx) is alone


def test_a_diffusers_folder_is_a_model_a_text_encoder_and_a_vae(ctx: Context) -> None:
    loaded = DiffusersLoader(model_path="xl").run(ctx)
    expected = CheckpointLoader(ckpt_name="sdxl.safetensors").run(ctx)
    assert_same_weights(loaded.MODEL, expected.MODEL)
    assert_same_weights(loaded.VAE, expected.VAE)
    assert torch.equal(tokens(loaded.CLIP), tokens(expected.CLIP))


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"shared.weight": (9, 8)}, r"x\.safetensors is a text encoder of another arch.*\(T5"),
        ({"a.lora_up.weight": (2, 2)}, r"x\.safetensors is a LoRA, not one CLIP text encoder"),
        ({"token_embedding.weight": (9, 640)}, r"x\.safetensors is a CLIP text encoder 640 wide"),
        (
            {"a.token_embedding.weight": (9, 768), "b.token_embedding.weight": (9, 768)},
            r"x\.safetensors holds several text encoders",
        ),
        ({"token_embedding.weight": (9, 768)}, r"x\.safetensors: its text encoder is incomplete"),
    ],
)
def test_what_is_no_text_encoder_of_these_is_called_what_it_is(
    ctx: Context, models: Path, tensors: dict[str, tuple[int, ...]], why: str
) -> None:
    written = {name: torch.zeros(shape) for name, shape in tensors.items()}
    write(models / "models/text_encoders/x.safetensors", written)
    with pytest.raises(ModelFileError, match=why):
        CLIPLoader(clip_name="x.safetensors").run(ctx)


def test_two_text_encoders_that_do_not_make_a_pair_are_refused(ctx: Context) -> None:
    for names in (("small", "small"), ("small", "sd2")):
        first, second = (f"{name}.safetensors" for name in names)
        with pytest.raises(ModelFileError, match="SDXL has two text encoders, clip_l and clip_g"):
            DualCLIPLoader(clip_name1=first, clip_name2=second).run(ctx)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        (
            {"double_blocks.0.img_attn.qkv.weight": (8, 8)},
            "is a diffusion model of Flux; Weft runs",
        ),
        ({"decoder.conv_in.weight": (8, 4, 3, 3)}, "is a VAE, not a diffusion model.*folder vae"),
        ({"input_blocks.0.0.weight": (8, 4, 3, 3)}, "is a diffusion model of an architecture that"),
    ],
)
def test_what_is_no_diffusion_model_of_these_is_called_what_it_is(
    ctx: Context, models: Path, tensors: dict[str, tuple[int, ...]], why: str
) -> None:
    written = {name: torch.zeros(shape) for name, shape in tensors.items()}
    write(models / "models/diffusion_models/x.safetensors", written)
    with pytest.raises(ModelFileError, match=why):
        UNETLoader(unet_name="x.safetensors").run(ctx)


def test_half_a_download_is_said(ctx: Context, models: Path) -> None:
    for folder, load in (
        ("diffusion_models", lambda: UNETLoader(unet_name="half.safetensors").run(ctx)),
        ("text_encoders", lambda: CLIPLoader(clip_name="half.safetensors").run(ctx)),
    ):
        path = models / "models" / folder / "half.safetensors"
        whole = next(path.parent.glob("*l.safetensors")).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ModelFileError, match=r"half\.safetensors is corrupt.*truncated"):
            load()


def test_a_folder_whose_index_leads_elsewhere_is_refused(ctx: Context, models: Path) -> None:
    folder = models / "models/diffusers/bad"
    testing.write_tiny_folder(folder, pieces=2)
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    for said in ("../../xl/unet/x.safetensors", "/etc/passwd", "x.bin"):
        index.write_text(f'{{"weight_map": {{"a": "{said}"}}}}')
        with pytest.raises(ModelFileError, match="names no files beside it"):
            DiffusersLoader(model_path="bad").run(ctx)
    index.write_text('{"weight_map": {}}')
    with pytest.raises(ModelFileError, match="names no file"):
        DiffusersLoader(model_path="bad").run(ctx)
    with pytest.raises(PathError, match="did you mean 'bad'"):
        DiffusersLoader(model_path="bat").run(ctx)
