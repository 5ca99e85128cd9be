"""The text encoders of a model as nodes see them: a prompt in, its conditioning out.

Weights act on what an encoder gives, around the empty prompt: z_empty + w (z − z_empty), as in
ComfyUI. Where there are two encoders, their hidden states stand side by side, and the pooled output
is the last one's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from executor.errors import InputError, PathError
from executor.models.clip_tower import Chunk, ClipTower, Encoded
from executor.models.embeddings import read_embedding
from executor.models.lora_names import NetworkName
from executor.models.prompt import chunks, groups
from executor.models.tokenizer import ClipTokenizer
from executor.models.weights import Weights
from executor.ports import Cond

FindEmbedding: TypeAlias = Callable[[str], Path]
"""The file of an embedding's name. Raises PathError."""


def no_embeddings(name: str) -> Path:
    """Where no folder of embeddings is known."""
    raise PathError(f"embedding:{name} cannot be found: there is no folder of embeddings")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ClipText:
    """The CLIP text encoders of a model with their tokenizer (``executor.ports.TextEncoder``)."""

    towers: tuple[ClipTower, ...]
    tokenizer: ClipTokenizer
    find_embedding: FindEmbedding = no_embeddings
    last_layer: int | None = None  # from the end, -1 is the last; None: what each tower says

    @property
    def device(self) -> torch.device:
        """Where their weights are."""
        return self.towers[0].weights.device

    @property
    def nbytes(self) -> int:
        """How much their weights take; the cache looks at those of each encoder itself."""
        return sum(tower.weights.nbytes for tower in self.towers)

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the text encoder {' and '.join(tower.rules.name for tower in self.towers)}"

    @property
    def networks(self) -> Mapping[NetworkName, Weights[Any]]:
        """Their weights, for what changes them (``executor.models.lora``)."""
        names: tuple[NetworkName, ...] = ("text", "text_2")
        return {name: tower.weights for name, tower in zip(names, self.towers, strict=False)}

    def with_networks(self, networks: Mapping[NetworkName, Weights[Any]]) -> "ClipText":
        """The same encoders with changed weights."""
        pairs = zip(self.networks, self.towers, strict=True)
        towers = (
            replace(tower, weights=networks.get(name, tower.weights)) for name, tower in pairs
        )
        return replace(self, towers=tuple(towers))

    def with_last_layer(self, layer: int) -> "ClipText":
        """The same encoders, stopping at an earlier layer: -1 is the last, -2 the one before.

        A layer before the first means the last, as in ComfyUI.
        """
        if layer >= 0:
            raise InputError(f"the layer to stop at counts from the end: -1 or less, got {layer}")
        return replace(self, last_layer=layer)

    def encode(self, text: str) -> tuple[Cond]:
        """The conditioning (1, 77 N, D) of a prompt of N chunks; pooled is the first chunk's.

        Where the encoders need different numbers of chunks, as an embedding may be longer for one,
        the longer end is left out.
        """
        return self._joined([self._chunks(tower, text) for tower in self.towers])

    def encode_parts(self, text_l: str, text_g: str) -> tuple[Cond]:
        """A prompt for each of SDXL's two encoders; the shorter is followed by empty chunks.

        Raises InputError for another model's encoders.
        """
        texts = {"clip_l": text_l, "clip_g": text_g}
        names = [tower.rules.name for tower in self.towers]
        if set(names) != texts.keys():
            raise InputError(
                "a prompt in two parts is for the two text encoders of SDXL, and this CLIP is "
                f"{' and '.join(names)} only; use CLIPTextEncode, or the CLIP of an SDXL model"
            )
        cut = [self._chunks(tower, texts[tower.rules.name]) for tower in self.towers]
        most = max(map(len, cut))
        return self._joined(
            [
                own + self._chunks(tower, "") * (most - len(own))
                for tower, own in zip(self.towers, cut, strict=True)
            ]
        )

    def _joined(self, cut: Sequence[list[Chunk]]) -> tuple[Cond]:
        """What the encoders make of their own chunks, side by side."""
        encoded = [self._encoded(*pair) for pair in zip(self.towers, cut, strict=True)]
        length = min(one.hidden.shape[1] for one in encoded)
        tokens = torch.cat([one.hidden[:, :length] for one in encoded], dim=-1)
        return (Cond(tokens=tokens, pooled=encoded[-1].pooled),)

    def _encoded(self, tower: ClipTower, cut: list[Chunk]) -> Encoded:
        """Weighted hidden states (1, 77 N, D) of an encoder; the pooled output is the first's."""
        weights = torch.tensor([[token.weight for token in chunk] for chunk in cut])  # (N, 77)
        is_weighted = bool((weights != 1).any())
        empty = self._chunks(tower, "") if is_weighted else []
        hidden, pooled = tower.encode([*cut, *empty], end=self.tokenizer.end, layer=self.last_layer)
        if is_weighted:
            weights = weights.to(hidden)[:, :, None]
            weighted = (hidden[:-1] - hidden[-1:]) * weights + hidden[-1:]
            hidden = torch.where(weights == 1, hidden[:-1], weighted)
        return Encoded(hidden.reshape(1, -1, hidden.shape[-1]), pooled[:1])

    def _chunks(self, tower: ClipTower, text: str) -> list[Chunk]:
        """A prompt's tokens in chunks, padded as the encoder was trained."""
        ends = self.tokenizer

        def embedding(name: str) -> Sequence[Tensor]:
            path = self.find_embedding(name)
            return list(read_embedding(path, tower.width, tower.rules.name))

        return list(
            chunks(
                groups(text, ends.ids, embedding),
                start=ends.start,
                end=ends.end,
                pad=ends.end if tower.rules.pads_with_end else 0,
                length=tower.length,
            )
        )
