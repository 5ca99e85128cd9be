"""The text encoder as nodes see it: prompts in, conditionings out."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from executor import testing
from executor.devices import Devices
from executor.errors import InputError, ModelFileError, PathError
from executor.models.load import load_checkpoint
from executor.models.text import ClipText
from executor.models.tokenizer import bundled

# float32 rounding of another order of sums, of numbers around 1; measured: 1e-6
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
LONG = "a red fox in the snow, " * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    testing.write_tiny_checkpoint(folder / "tiny.safetensors", text={"num_hidden_layers": 3})
    return folder


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipText:
    def find(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            raise PathError(f"there is no embedding {name!r}")
        return path

    found = load_checkpoint(folder / "tiny.safetensors", Devices.choose("cpu"), find).clip
    assert isinstance(found, ClipText)
    return found


@pytest.fixture(scope="module")
def reference() -> CLIPTextModel:
    """The same weights in a model that transformers built, with its own forward pass."""
    config: dict[str, Any] = testing.TEXT | {"num_hidden_layers": 3, "eos_token_id": 49_407}
    network = CLIPTextModel(CLIPTextConfig(**config))
    network.load_state_dict(testing.random_weights(CLIPTextModel, config, seed=0))
    return network.eval()


def padded(text: str) -> Tensor:
    """The text's tokens (1, 77), with start, end and padding."""
    ids = [49_406, *bundled().ids(text), 49_407]
    return torch.tensor([ids + [49_407] * (77 - len(ids))])


def tokens(clip: ClipText, text: str) -> Tensor:
    (cond,) = clip.encode(text)
    return cond.tokens


@pytest.mark.parametrize("text", ["", "a red fox in the snow", "naïve café 1234"])
@torch.no_grad()
def test_it_encodes_as_transformers_does(
    clip: ClipText, reference: CLIPTextModel, text: str
) -> None:
    expected = reference(padded(text))
    (cond,) = clip.encode(text)
    assert_close(cond.tokens, expected.last_hidden_state)
    assert_close(cond.pooled, expected.pooler_output)
    assert not cond.tokens.requires_grad


@torch.no_grad()
def test_an_earlier_layer_is_normed_as_the_last_is(
    clip: ClipText, reference: CLIPTextModel
) -> None:
    text = "a red fox"
    hidden = reference(padded(text), output_hidden_states=True).hidden_states
    for layer in (-1, -2, -3):
        expected = reference.final_layer_norm(hidden[layer])
        if layer == -1:
            expected = reference(padded(text)).last_hidden_state
        (cond,) = clip.with_last_layer(layer).encode(text)
        assert_close(cond.tokens, expected)
        assert_close(cond.pooled, clip.encode(text)[0].pooled)


def test_a_layer_before_the_first_is_the_last(clip: ClipText) -> None:
    assert torch.equal(tokens(clip.with_last_layer(-24), "a fox"), tokens(clip, "a fox"))


def test_an_encoder_that_stops_earlier_leaves_the_other_alone(clip: ClipText) -> None:
    before = tokens(clip, "a fox")
    assert not torch.allclose(tokens(clip.with_last_layer(-2), "a fox"), before)
    assert torch.equal(tokens(clip, "a fox"), before)


def test_layers_are_counted_from_the_end(clip: ClipText) -> None:
    for layer in (0, 1):
        with pytest.raises(InputError, match="counts from the end"):
            clip.with_last_layer(layer)


def test_weights_act_around_the_empty_prompt(clip: ClipText) -> None:
    plain, empty = tokens(clip, "a red fox"), tokens(clip, "")
    weights = torch.ones(77)
    weights[2] = 1.5  # start, a, red
    expected = empty + weights[None, :, None] * (plain - empty)
    assert_close(tokens(clip, "a (red:1.5) fox"), expected)


def test_the_weight_1_changes_nothing(clip: ClipText) -> None:
    assert torch.equal(tokens(clip, "a (red:1.0) fox"), tokens(clip, "a red fox"))


def test_a_weight_of_0_leaves_the_empty_prompts_tokens(clip: ClipText) -> None:
    found = tokens(clip, "(a red fox:0)")
    assert_close(found[:, 1:4], tokens(clip, "")[:, 1:4])


def test_a_long_prompt_is_its_chunks_one_after_another(clip: ClipText) -> None:
    ids = bundled().ids(LONG)
    found = tokens(clip, LONG)
    assert len(ids) == 140
    assert found.shape == (1, 2 * 77, 32)
    # cut after 75 tokens, as the second chunk's words alone show
    words = LONG.split()
    rest = next(i for i in range(len(words)) if len(bundled().ids(" ".join(words[i:]))) == 65)
    assert_close(found[:, 77:], tokens(clip, " ".join(words[rest:])))
    (cond,) = clip.encode(LONG)
    assert cond.pooled is not None
    assert cond.pooled.shape == (1, 32)


def test_an_embedding_of_a_words_vector_is_that_word(clip: ClipText, folder: Path) -> None:
    table = clip.towers[0].model.embeddings.token_embedding.weight
    red, fox = bundled().ids("red fox")
    save_file({"emb_params": table[[red, fox]].clone()}, folder / "redfox.safetensors")
    save_file({"*": table[fox].clone()}, folder / "one.safetensors")
    save_file(
        {"clip_l": table[[fox]].half(), "clip_g": torch.zeros(1, 9)}, folder / "xl.safetensors"
    )
    expected = tokens(clip, "a red fox runs")
    for text in ("a embedding:redfox runs", "a red embedding:one runs"):
        assert_close(tokens(clip, text), expected)
    # half precision keeps 11 bits of the vector
    assert_close(tokens(clip, "a red embedding:xl runs"), expected, rtol=0, atol=0.02)
    weighted = tokens(clip, "a (red fox:1.2) runs")
    assert_close(tokens(clip, "a (embedding:redfox:1.2) runs"), weighted)


def test_the_words_vectors_are_left_alone(clip: ClipText, folder: Path) -> None:
    table = clip.towers[0].model.embeddings.token_embedding.weight
    kept = table[:9].clone()
    save_file({"emb_params": torch.ones(2, 32)}, folder / "ones.safetensors")
    tokens(clip, "embedding:ones")
    assert torch.equal(table[:9], kept)


def test_an_embedding_that_is_missing_or_no_such_thing_is_an_error(
    clip: ClipText, folder: Path
) -> None:
    with pytest.raises(PathError, match="bird"):
        clip.encode("a embedding:bird")
    save_file({"emb_params": torch.ones(2, 768)}, folder / "wide.safetensors")
    with pytest.raises(ModelFileError, match=r"wide\.safetensors holds vectors of width 768"):
        clip.encode("a embedding:wide")
    save_file({"a": torch.ones(2, 32), "b": torch.ones(2, 32)}, folder / "two.safetensors")
    with pytest.raises(ModelFileError, match="no textual inversion"):
        clip.encode("a embedding:two")
    (folder / "bad.safetensors").write_bytes(b"\x80\x02pickle")
    with pytest.raises(ModelFileError, match="pickle"):
        clip.encode("a embedding:bad")


def test_without_a_folder_of_embeddings_that_is_said(folder: Path) -> None:
    clip = load_checkpoint(folder / "tiny.safetensors", Devices.choose("cpu")).clip
    with pytest.raises(PathError, match="no folder of embeddings"):
        clip.encode("embedding:x")


def test_half_precision_weights_are_computed_in_float32(folder: Path) -> None:
    testing.write_tiny_checkpoint(folder / "half.safetensors", dtype=torch.float16)
    clip = load_checkpoint(folder / "half.safetensors", Devices.choose("cpu")).clip
    assert isinstance(clip, ClipText)
    assert {weight.dtype for weight in clip.towers[0].network.parameters()} == {torch.float32}
    assert clip.nbytes == sum(weight.nbytes for weight in clip.towers[0].network.parameters())
