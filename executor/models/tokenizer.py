"""CLIP's byte pair tokenizer, offline: from the merges that ship with Weft, or the user's files.

The merges file beside this module is OpenAI's, under the licence beside it. The vocabulary follows
from it: 256 bytes, the same at the end of a word, one entry for each merge, two special tokens.
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from executor.errors import ModelFileError

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49_152 - 256 - 2  # the rest of the file was not used in training

# Words, single digits, runs of other characters; English contractions are cut off
# (Radford et al. 2021).
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@dataclass(frozen=True, slots=True, eq=False)
class ClipTokenizer:
    """Words to the numbers that a CLIP text encoder knows them by."""

    backend: Tokenizer
    start: int
    end: int

    def ids(self, text: str) -> Sequence[int]:
        """The tokens of a text, without start and end."""
        return self.backend.encode(text, add_special_tokens=False).ids

    @property
    def size(self) -> int:
        """One more than the largest number that it gives."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1


@cache
def bundled() -> ClipTokenizer:
    """The tokenizer of every CLIP text encoder in Stable Diffusion."""
    packed = files("executor.models").joinpath("clip_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : MERGES + 1]
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    symbols = list(_byte_symbols().values())
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, merges), START, END]
    return _tokenizer({word: number for number, word in enumerate(words)}, merges)


def beside(path: Path) -> ClipTokenizer:
    """The user's own tokenizer for a model file or diffusers folder, else the bundled one.

    For ``x.safetensors`` that is ``x.tokenizer.json`` or ``tokenizer.json`` beside it; in a folder
    ``tokenizer/tokenizer.json``, or ``vocab.json`` and ``merges.txt`` there. Raises ModelFileError.
    """
    if path.is_dir():
        folder = path / "tokenizer"
        candidates = (folder / "tokenizer.json",)
    else:
        folder = path.parent
        candidates = (path.with_suffix(".tokenizer.json"), folder / "tokenizer.json")
    chosen = next((candidate for candidate in candidates if candidate.is_file()), None)
    try:
        if chosen is not None:
            return _from_json(chosen)
        if path.is_dir() and (folder / "vocab.json").is_file():
            chosen = folder / "vocab.json"
            vocabulary, merges = BPE.read_file(str(chosen), str(folder / "merges.txt"))
            return _tokenizer(vocabulary, merges)
    except Exception as error:  # the library raises plain Exception for what it cannot parse
        raise ModelFileError(
            f"{folder.name}/{chosen.name if chosen else ''} is no tokenizer that Weft can read "
            f"({error}); repair it, or remove it to use the one that ships with Weft"
        ) from error
    return bundled()


def _from_json(path: Path) -> ClipTokenizer:
    backend = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    backend.no_padding()
    backend.no_truncation()
    return _with_ends(backend)


def _tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> ClipTokenizer:
    """CLIP's pipeline around a vocabulary."""
    backend = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=END,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    return _with_ends(backend)


def _with_ends(backend: Tokenizer) -> ClipTokenizer:
    start, end = backend.token_to_id(START), backend.token_to_id(END)
    if start is None or end is None:
        raise ValueError(f"it lacks {START} or {END}")
    return ClipTokenizer(backend, start, end)


def _byte_symbols() -> dict[int, str]:
    """A printable character for every byte: itself where it is one, else one from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {
        **{byte: chr(byte) for byte in printable},
        **{byte: chr(256 + at) for at, byte in enumerate(rest)},
    }
