"""Text encoders of Stable Diffusion 2 and SDXL, as transformers has them; weights, two parts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig

from executor import testing
from executor.devices import Devices
from executor.errors import InputError, ModelFileError, PathError
from executor.models.families import CLIP_H, REFINER_CLIP_G, XL_CLIP_G, XL_CLIP_L, TextTower
from executor.models.load import load_checkpoint
from executor.models.text import ClipText
from executor.models.tokenizer import bundled

# float32 rounding of another order of sums, of numbers around 1; measured: 1e-6
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
CPU = Devices.choose("cpu")
LONG = "a red fox in the snow, " * 20  # 140 tokens
START, END = 49_406, 49_407

Tiny = Callable[[str], Path]


def clip_of(path: Path, find: Callable[[str], Path] | None = None) -> ClipText:
    found = load_checkpoint(path, CPU, find).clip if find else load_checkpoint(path, CPU).clip
    assert isinstance(found, ClipText)
    return found


def reference(tower: TextTower) -> Any:
    """The same weights in a model that transformers built, with its own forward pass."""
    kind, config = testing.text_kind(tower), testing.text_config(tower)
    network = kind(CLIPTextConfig(**config, eos_token_id=END))
    network.load_state_dict(testing.random_weights(kind, config, seed=0))
    return network.eval()


def padded(ids: list[int], pad: int) -> Tensor:
    """Tokens (1, 77) with start, end and padding."""
    ids = [START, *ids, END]
    return torch.tensor([ids + [pad] * (77 - len(ids))])


@torch.no_grad()
def hidden(network: Any, tokens: Tensor, *, layer: int = -2, is_normed: bool = False) -> Tensor:
    """A hidden state (1, 77, D), by transformers' count: -1 is the last, before the final norm."""
    states = network(tokens, output_hidden_states=True).hidden_states[layer]
    text = getattr(network, "text_model", network)
    return text.final_layer_norm(states) if is_normed else states


@torch.no_grad()
def pooled(network: Any, tokens: Tensor) -> Tensor:
    return network(tokens).text_embeds


def test_sd2_takes_the_layer_before_the_last_with_the_norm_and_pads_with_nought(tiny: Tiny) -> None:
    tokens, network = padded(list(bundled().ids("a red fox")), pad=0), reference(CLIP_H)
    (cond,) = clip_of(tiny("sd2")).encode("a red fox")
    assert_close(cond.tokens, hidden(network, tokens, is_normed=True))
    assert_close(cond.pooled, pooled(network, tokens))
    other = hidden(network, padded(list(bundled().ids("a red fox")), pad=END), is_normed=True)
    assert not torch.allclose(cond.tokens, other, atol=1e-3)


def test_sdxl_puts_two_encoders_side_by_side_without_norm_and_pools_the_second(tiny: Tiny) -> None:
    ids = list(bundled().ids("a red fox"))
    first, second = padded(ids, pad=END), padded(ids, pad=0)
    large = reference(XL_CLIP_G)
    (cond,) = clip_of(tiny("sdxl")).encode("a red fox")
    expected = torch.cat((hidden(reference(XL_CLIP_L), first), hidden(large, second)), dim=-1)
    assert_close(cond.tokens, expected)
    assert_close(cond.pooled, pooled(large, second))


def test_the_refiner_has_the_second_encoder_only(tiny: Tiny) -> None:
    tokens, network = padded(list(bundled().ids("a red fox")), pad=0), reference(REFINER_CLIP_G)
    (cond,) = clip_of(tiny("sdxl-refiner")).encode("a red fox")
    assert_close(cond.tokens, hidden(network, tokens))
    assert_close(cond.pooled, pooled(network, tokens))


@pytest.mark.parametrize(("name", "tower"), [("sd2", CLIP_H), ("sdxl-refiner", REFINER_CLIP_G)])
def test_long_weighted_prompts_are_chunks_weighted_around_the_empty_one(
    tiny: Tiny, name: str, tower: TextTower
) -> None:
    ids, network = list(bundled().ids(LONG)), reference(tower)
    (cond,) = clip_of(tiny(name)).encode(f"({LONG}:1.3)")
    assert cond.tokens.shape == (1, 154, 32)
    empty = hidden(network, padded([], pad=0), is_normed=tower.has_final_norm)
    for chunk in range(2):
        own = ids[75 * chunk : 75 * (chunk + 1)]
        plain = hidden(network, padded(own, pad=0), is_normed=tower.has_final_norm)
        heavy = torch.ones(77)
        heavy[1 : 1 + len(own)] = 1.3
        expected = empty + heavy[None, :, None] * (plain - empty)
        assert_close(cond.tokens[:, 77 * chunk : 77 * (chunk + 1)], expected)
    assert_close(cond.pooled, pooled(network, padded(ids[:75], pad=0)))


def test_layers_are_counted_from_the_end_in_each_encoder(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    testing.write_tiny_checkpoint(path, of="sdxl", text={"num_hidden_layers": 3})
    clip = clip_of(path)
    states = [clip.with_last_layer(layer).encode("a fox")[0].tokens for layer in (-1, -2, -3)]
    assert torch.equal(states[1], clip.encode("a fox")[0].tokens), "the layer that SDXL uses"
    assert not torch.allclose(states[0], states[1], atol=1e-3)
    assert not torch.allclose(states[1], states[2], atol=1e-3)
    # a layer before the first is the last, and only that one is normed in SDXL
    before = clip.with_last_layer(-4).encode("a fox")[0].tokens
    text = clip.towers[0].model
    assert_close(before[..., :32], text.final_layer_norm(states[0][..., :32]))
    pools = [clip.with_last_layer(layer).encode("a fox")[0].pooled for layer in (-1, -3)]
    assert_close(*pools)


def test_sd2_without_its_last_layer_counts_as_if_it_were_there(tiny: Tiny, tmp_path: Path) -> None:
    testing.write_tiny_folder(tmp_path / "x", of="sd2")
    cut, whole = clip_of(tmp_path / "x"), clip_of(tiny("sd2"))
    assert len(cut.towers[0].model.encoder.layers) == 1 < len(whole.towers[0].model.encoder.layers)
    expected = whole.with_last_layer(-2).encode("a fox")[0].tokens
    assert_close(cut.with_last_layer(-2).encode("a fox")[0].tokens, expected)
    for layer in (-1, -3):
        with pytest.raises(InputError, match="leaves out the last 1; stop at layer -2"):
            cut.with_last_layer(layer).encode("a fox")


def test_two_parts_are_the_halves_of_two_prompts(tiny: Tiny) -> None:
    clip = clip_of(tiny("sdxl"))
    (fox,), (bird,) = clip.encode("a fox"), clip.encode("a bird")
    (both,) = clip.encode_parts("a fox", "a bird")
    assert_close(both.tokens[..., :32], fox.tokens[..., :32])
    assert_close(both.tokens[..., 32:], bird.tokens[..., 32:])
    assert_close(both.pooled, bird.pooled)
    (same,) = clip.encode_parts("a fox", "a fox")
    assert_close(same.tokens, fox.tokens)


def test_of_two_parts_the_shorter_is_followed_by_empty_chunks(tiny: Tiny) -> None:
    clip = clip_of(tiny("sdxl"))
    (long,), (empty,) = clip.encode(LONG), clip.encode("")
    for parts in (("a fox", LONG), (LONG, "a fox")):
        (cond,) = clip.encode_parts(*parts)
        assert cond.tokens.shape == (1, 154, 64)
        half = slice(0, 32) if parts[1] is LONG else slice(32, 64)
        other = slice(32, 64) if parts[1] is LONG else slice(0, 32)
        assert_close(cond.tokens[:, 77:, half], empty.tokens[..., half])
        assert_close(cond.tokens[..., other], long.tokens[..., other])


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl-refiner"])
def test_two_parts_are_for_sdxl_only(tiny: Tiny, name: str) -> None:
    with pytest.raises(InputError, match="two text encoders of SDXL, and this CLIP is clip_"):
        clip_of(tiny(name)).encode_parts("a fox", "a bird")


def test_each_encoder_takes_its_own_part_of_an_embedding(tiny: Tiny, tmp_path: Path) -> None:
    def find(name: str) -> Path:
        path = tmp_path / f"{name}.safetensors"
        if not path.is_file():
            raise PathError(f"there is no embedding {name!r}")
        return path

    clip = clip_of(tiny("sdxl"), find)
    fox = bundled().ids("fox")
    tables = [tower.model.embeddings.token_embedding.weight[fox] for tower in clip.towers]
    save_file({"clip_l": tables[0].clone(), "clip_g": tables[1].clone()}, find_path(tmp_path, "xl"))
    assert_close(
        clip.encode("a red embedding:xl runs")[0].tokens, clip.encode("a red fox runs")[0].tokens
    )
    # of two vectors in one and eighty in the other, what both have is kept
    many = {"clip_l": tables[0].clone(), "clip_g": tables[1].repeat(80, 1)}
    save_file(many, find_path(tmp_path, "many"))
    assert clip.encode("embedding:many")[0].tokens.shape == (1, 77, 64)
    save_file({"emb_params": torch.ones(1, 768)}, find_path(tmp_path, "wide"))
    with pytest.raises(ModelFileError, match="made for another family"):
        clip.encode("embedding:wide")


def find_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
