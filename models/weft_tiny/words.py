"""Captions as CLIP's token ids, and the few ids that the tiny model learns.

CLIP has 49,408 tokens; the captions use about a hundred. While training, those are numbered
0, 1, 2 … and every other token shares one row after them, "some other word".
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from executor.models import tokenizer

VOCABULARY_SIZE = 49_408
START, END = 49_406, 49_407
LENGTH = 77


def token_ids(captions: Sequence[str]) -> Tensor:
    """Ids (B, 77): start, words, and end tokens up to the length, as Stable Diffusion has them."""
    clip = tokenizer.bundled()
    rows = [[START, *clip.ids(caption)][: LENGTH - 1] for caption in captions]
    return torch.tensor([row + [END] * (LENGTH - len(row)) for row in rows])


def known_tokens(ids: Tensor) -> list[int]:
    """The tokens that occur in ids, sorted: their places are their numbers while training."""
    return sorted({START, END, *ids.unique().tolist()})


def renumbered(ids: Tensor, known: Sequence[int]) -> Tensor:
    """CLIP's ids as numbers while training; what is not known becomes ``len(known)``."""
    table = torch.full((VOCABULARY_SIZE,), len(known))
    table[torch.tensor(known)] = torch.arange(len(known))
    return table[ids]
