"""CLIP's tokenizer, built from the merges that ship with Weft."""

import hashlib
import json
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from executor.errors import ModelFileError
from executor.models.prompt import groups
from executor.models.tokenizer import beside, bundled

# Made by ComfyUI 0.3.64, which runs OpenAI's vocabulary through transformers' CLIPTokenizer.
KNOWN = {
    "a red fox in the snow, morning light": [320, 736, 3240, 530, 518, 2583, 267, 1119, 1395],
    "blurry, text": [21977, 267, 4160],
    "a photo of an astronaut riding a horse on mars": [
        *(320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496),
    ],
    "(photo)": [263, 1125, 264],
    "": [],
}

WEIGHTED = r"(red:1.4) fox, ((snow)), (morning (light:0.5)) \(photo\)"
WEIGHTS = [
    *((736, 1.4), (3240, 1), (267, 1), (2583, 1.21), (267, 1), (1119, 1.1), (1395, 0.5)),
    *((263, 1), (1125, 1), (264, 1)),
]

HARD = [
    "Hello,   World!\n\tTabs",
    "it's we're I'd they'll",
    "naïve café Ünïcödé",
    "日本語 のテキスト",
    "emoji 🦊🔥 mixed",
    "1234 12.5% $3",
    "<|endoftext|> inside <|startoftext|>",
    "snake_case CamelCase kebab-case",
    "e\u0301 is composed",
    "zero\u200bwidth",
]


@pytest.mark.parametrize("text", KNOWN)
def test_known_prompts_have_known_tokens(text: str) -> None:
    assert list(bundled().ids(text)) == KNOWN[text]


def test_a_weighted_prompt_has_the_tokens_and_weights_that_comfyui_gives_it() -> None:
    found = chain(*groups(WEIGHTED, bundled().ids, lambda name: ()))
    assert [(token.value, round(token.weight, 6)) for token in found] == WEIGHTS


def test_hard_texts_have_the_tokens_of_transformers() -> None:
    from transformers import CLIPTokenizer

    ours = bundled()
    model = json.loads(ours.backend.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    theirs = CLIPTokenizer(vocab=model["vocab"], merges=merges)
    for text in [*KNOWN, *HARD]:
        assert list(ours.ids(text)) == theirs(text, add_special_tokens=False).input_ids


def test_the_vocabulary_is_clips() -> None:
    tokenizer = bundled()
    assert (tokenizer.size, tokenizer.start, tokenizer.end) == (49_408, 49_406, 49_407)


def test_the_merges_are_openais_file() -> None:
    packed = files("executor.models").joinpath("clip_merges.txt.gz").read_bytes()
    licence = files("executor.models").joinpath("clip_merges.LICENSE").read_text(encoding="utf-8")
    assert hashlib.sha256(packed).hexdigest() in licence
    assert "MIT License" in licence


def reversed_vocabulary() -> str:
    """A tokenizer.json in which the word "fox" has another number."""
    content = json.loads(bundled().backend.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary["fox</w>"], vocabulary["cat</w>"] = vocabulary["cat</w>"], vocabulary["fox</w>"]
    return json.dumps(content)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.tokenizer.json"])
def test_a_users_own_tokenizer_beside_the_model_wins(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    (tmp_path / name).write_text(reversed_vocabulary(), encoding="utf-8")
    assert list(beside(path).ids("fox")) == list(bundled().ids("cat"))


def test_a_tokenizer_of_another_model_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other.tokenizer.json").write_text(reversed_vocabulary(), encoding="utf-8")
    assert beside(tmp_path / "model.safetensors") is bundled()


def test_a_folder_may_hold_vocabulary_and_merges(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    bundled().backend.model.save(str(folder))
    found = beside(tmp_path)
    assert found is not bundled()
    for text in [*KNOWN, *HARD]:
        assert list(found.ids(text)) == list(bundled().ids(text))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "BPE"}}'])
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelFileError, match=r"tokenizer\.json is no tokenizer"):
        beside(tmp_path / "model.safetensors")


def test_a_tokenizer_without_the_special_tokens_is_refused(tmp_path: Path) -> None:
    content = json.loads(bundled().backend.to_str())
    content["added_tokens"] = []
    del content["model"]["vocab"]["<|startoftext|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelFileError, match="it lacks"):
        beside(tmp_path / "model.safetensors")
