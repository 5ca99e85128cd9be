"""A CLIP text encoder as nodes see it: a prompt in, its conditioning out.

Weights act on what the encoder gives, around the empty prompt: z_empty + w (z − z_empty), as in
ComfyUI.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import CLIPTextModel

from executor.errors import InputError, PathError
from executor.models.embeddings import read_embedding
from executor.models.families import TextTower
from executor.models.prompt import Token, chunks, groups
from executor.models.tokenizer import ClipTokenizer
from executor.ports import Cond

FindEmbedding: TypeAlias = Callable[[str], Path]
"""The file of an embedding's name. Raises PathError."""

Chunk: TypeAlias = Sequence[Token[Tensor]]


def no_embeddings(name: str) -> Path:
    """Where no folder of embeddings is known."""
    raise PathError(f"embedding:{name} cannot be found: there is no folder of embeddings")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ClipText:
    """One CLIP text encoder with its tokenizer (``executor.ports.TextEncoder``)."""

    network: CLIPTextModel
    tower: TextTower
    tokenizer: ClipTokenizer
    find_embedding: FindEmbedding = no_embeddings
    last_layer: int = -1  # counted from the end, as in ComfyUI: -1 is the last

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.network.device

    @property
    def memory(self) -> object:
        """What holds its weights: the cache counts them once, whoever else holds them."""
        return self.network

    @property
    def nbytes(self) -> int:
        """How much its weights take."""
        return sum(weight.nbytes for weight in self.network.parameters())

    def with_last_layer(self, layer: int) -> "ClipText":
        """The same encoder, stopping at an earlier layer: -1 is the last, -2 the one before.

        A layer before the first means the last, as in ComfyUI.
        """
        if layer >= 0:
            raise InputError(f"the layer to stop at counts from the end: -1 or less, got {layer}")
        return replace(self, last_layer=layer)

    def encode(self, text: str) -> tuple[Cond]:
        """The conditioning (1, 77 N, D) of a prompt of N chunks; pooled is the first chunk's."""
        ends = self.tokenizer
        cut = chunks(
            groups(text, ends.ids, self._embedding),
            start=ends.start,
            end=ends.end,
            pad=ends.end,
            length=self.network.config.max_position_embeddings,
        )
        weights = torch.tensor([[token.weight for token in chunk] for chunk in cut])  # (N, 77)
        is_weighted = bool((weights != 1).any())
        if is_weighted:
            cut += chunks([], start=ends.start, end=ends.end, pad=ends.end, length=len(cut[0]))
        hidden, pooled = self._run(cut)
        if is_weighted:
            weights = weights.to(hidden)[:, :, None]
            empty = hidden[-1:]
            weighted = (hidden[:-1] - empty) * weights + empty
            hidden = torch.where(weights == 1, hidden[:-1], weighted)
        return (Cond(tokens=hidden.reshape(1, -1, hidden.shape[-1]), pooled=pooled[:1]),)

    def _embedding(self, name: str) -> Sequence[Tensor]:
        path = self.find_embedding(name)
        return list(read_embedding(path, self.network.config.hidden_size))

    @torch.no_grad()
    def _run(self, cut: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """Hidden states (N, 77, D) of the chosen layer, and the last layer's at the end (N, D)."""
        network = self.network
        numbers = torch.tensor(
            [[token.value if isinstance(token.value, int) else 0 for token in c] for c in cut]
        )
        embeds = network.embeddings.token_embedding(numbers.to(self.device))
        for row, chunk in enumerate(cut):
            for column, token in enumerate(chunk):
                if isinstance(token.value, Tensor):
                    embeds[row, column] = token.value.to(embeds)
        hidden = network.embeddings(inputs_embeds=embeds)
        length = hidden.shape[1]
        causal = torch.full((length, length), -torch.inf, device=hidden.device, dtype=hidden.dtype)
        causal = causal.triu(1)[None, None]  # (1, 1, 77, 77)
        layers = network.encoder.layers
        stop = len(layers) + self.last_layer if -self.last_layer <= len(layers) else -1
        chosen = None
        for at, layer in enumerate(layers):
            hidden = layer(hidden, causal)
            if at == stop:
                chosen = hidden
        last = network.final_layer_norm(hidden)
        if chosen is None or (chosen is hidden and self.tower.has_final_norm):
            chosen = last
        elif self.tower.has_final_norm:
            chosen = network.final_layer_norm(chosen)
        at_end = (numbers == self.tokenizer.end).int().argmax(dim=1).to(hidden.device)
        pooled = last[torch.arange(len(last), device=hidden.device), at_end]
        return chosen.float(), pooled.float()
