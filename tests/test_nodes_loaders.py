"""The loader nodes, on the model that ships with Weft."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from executor import ModelFileError, PathError
from executor.paths import SHIPPED_MODELS
from executor.settings import Settings
from executor.workspace import NodeContext, Workspace
from nodes import CheckpointLoader, LoadImage, VAELoader

TINY = "weft-tiny.safetensors"

pytestmark = pytest.mark.timeout(60)  # the first of them imports transformers


@pytest.fixture
def ctx(tmp_path: Path) -> NodeContext:
    return Workspace(Settings(base_directory=tmp_path, device="cpu")).context()


def test_a_checkpoint_is_a_model_a_text_encoder_and_a_vae(ctx: NodeContext) -> None:
    loaded = CheckpointLoader(ckpt_name=TINY).run(ctx)
    (cond,) = loaded.CLIP.encode("a red circle")
    assert cond.tokens.shape[:2] == (1, 77)
    picture, _ = LoadImage(image="red_circle.png").run(ctx)
    latent = loaded.VAE.encode(picture)
    assert latent.shape == (1, loaded.MODEL.latent_channels, 16, 16)
    # Its kind of picture comes back within a few grey levels (28 dB and better); others do not.
    assert (loaded.VAE.decode(latent) - picture).abs().mean() < 0.04


def test_outputs_are_named_as_on_the_wire() -> None:
    assert [(slot.name, slot.wire) for slot in CheckpointLoader.outputs()] == [
        ("MODEL", "MODEL"),
        ("CLIP", "CLIP"),
        ("VAE", "VAE"),
    ]
    assert [slot.wire for slot in VAELoader.outputs()] == ["VAE"]


def test_a_vae_comes_from_a_file_of_its_own(ctx: NodeContext, tmp_path: Path) -> None:
    prefix = "first_stage_model."
    whole = load_file(SHIPPED_MODELS / "checkpoints" / TINY)
    folder = tmp_path / "models" / "vae"
    folder.mkdir(parents=True)
    part = {key.removeprefix(prefix): t for key, t in whole.items() if key.startswith(prefix)}
    save_file(part, folder / "own.safetensors")
    own = VAELoader(vae_name="own.safetensors").run(ctx)
    baked = CheckpointLoader(ckpt_name=TINY).run(ctx).VAE
    picture = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(own.encode(picture), baked.encode(picture))


def test_what_is_not_there_is_told_with_the_nearest_name(ctx: NodeContext) -> None:
    with pytest.raises(PathError, match=r"did you mean 'weft-tiny\.safetensors'"):
        CheckpointLoader(ckpt_name="weft-tny.safetensors").run(ctx)


def test_a_file_that_is_no_checkpoint_is_refused_by_name(ctx: NodeContext, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "checkpoints"
    folder.mkdir(parents=True)
    save_file({"weight": torch.ones(2)}, folder / "odd.safetensors")
    with pytest.raises(ModelFileError, match=r"odd\.safetensors"):
        CheckpointLoader(ckpt_name="odd.safetensors").run(ctx)
