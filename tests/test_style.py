"""Style adapters: against torch's own transformer, and what files of them must be."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from executor.devices import Devices
from executor.errors import InputError, ModelFileError
from executor.models.detect import inspect
from executor.models.model_file import Kind
from executor.models.style import StyleModel, load_style
from executor.ports import EncodedPicture
from executor.testing_vision import STYLE, write_tiny_clip_vision, write_tiny_style


def load(path: Path) -> StyleModel:
    return load_style(inspect(path), Devices.choose("cpu"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("style") / "tiny.safetensors"
    write_tiny_style(path)
    return path


def encoded(rows: int = 1, width: int = 32) -> EncodedPicture:
    states = torch.randn(rows, 5, width, generator=torch.Generator().manual_seed(1))
    return EncodedPicture(states[:, 0], states, states.flip(1))


@torch.no_grad()
def by_torch(weights: dict[str, Tensor], states: Tensor) -> Tensor:
    """The same by torch's transformer layers, which norm before each half too."""
    learned = weights["style_embedding"].expand(len(states), -1, -1)

    def normed(states: Tensor, name: str) -> Tensor:
        shape = states.shape[-1:]
        return nn.functional.layer_norm(
            states, shape, weights[f"{name}.weight"], weights[f"{name}.bias"]
        )

    states = normed(torch.cat((states, learned), dim=1), "ln_pre")
    for at in range(STYLE["layers"]):
        layer = nn.TransformerEncoderLayer(
            32, 8, 128, 0.0, QuickGELUActivation(), batch_first=True, norm_first=True
        )
        where = f"transformer_layes.{at}"
        names = {"self_attn": "attn", "linear1": "mlp.c_fc", "linear2": "mlp.c_proj"}
        names |= {"norm1": "ln_1", "norm2": "ln_2"}
        layer.load_state_dict(
            {
                key: weights[f"{where}.{names[key.split('.')[0]]}.{key.split('.', 1)[1]}"]
                for key in layer.state_dict()
            }
        )
        states = layer.eval()(states)
    return normed(states[:, -STYLE["tokens"] :], "ln_post") @ weights["proj"]


def test_it_reads_pictures_as_torchs_transformer_does(path: Path, tmp_path: Path):
    weights = write_tiny_style(tmp_path / "same.safetensors")
    found = load(path).style_tokens(encoded(3))
    expected = by_torch(weights, encoded(3).last)
    assert found.shape == (1, 3 * STYLE["tokens"], STYLE["context"])
    torch.testing.assert_close(found, expected.flatten(0, 1)[None], atol=1e-5, rtol=1e-4)


def test_the_file_is_in_its_authors_layout(tmp_path: Path):
    names = write_tiny_style(tmp_path / "style.safetensors").keys()
    assert {"style_embedding", "proj", "ln_pre.weight", "ln_post.bias"} <= names
    assert "transformer_layes.1.attn.in_proj_weight" in names
    assert "transformer_layes.1.mlp.c_fc.weight" in names
    assert inspect(tmp_path / "style.safetensors").kind is Kind.STYLE_MODEL


def test_pictures_of_another_vision_model_are_refused(path: Path):
    with pytest.raises(InputError, match=r"48 wide inside, and tiny\.safetensors reads 32"):
        load(path).style_tokens(encoded(width=48))


def test_files_of_other_kinds_and_incomplete_ones_are_refused(path: Path, tmp_path: Path):
    write_tiny_clip_vision(tmp_path / "vision.safetensors")
    with pytest.raises(
        ModelFileError, match=r"a CLIP vision model, not a style model.*clip_vision"
    ):
        load(tmp_path / "vision.safetensors")
    weights = write_tiny_style(tmp_path / "style.safetensors")
    save_file({k: v for k, v in weights.items() if k != "proj"}, tmp_path / "style.safetensors")
    with pytest.raises(ModelFileError, match="proj"):
        load(tmp_path / "style.safetensors")
