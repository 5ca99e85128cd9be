"""One CLIP text encoder: chunks of tokens in, hidden states and pooled outputs out.

It runs in float32. The rules are ComfyUI's: layers are counted from the end, the pooled output is
the last layer's at the end token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from executor.errors import InputError
from executor.models.families import TextTower
from executor.models.prompt import Token
from executor.models.weights import Weights
from executor.presence import present

Chunk: TypeAlias = Sequence[Token[Tensor]]
ClipNetwork: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection


class Encoded(NamedTuple):
    """What a text encoder makes of chunks."""

    hidden: Tensor  # (N, 77, D)
    pooled: Tensor  # (N, P)


@dataclass(frozen=True, slots=True, eq=False)
class ClipTower:
    """A CLIP text encoder, and how its family uses it."""

    weights: Weights[ClipNetwork]
    rules: TextTower

    @property
    def dropped_layers(self) -> int:
        """How many of the last layers the file leaves out, as diffusers' of SD 2 does."""
        has_projection = isinstance(self.weights.loaded, CLIPTextModelWithProjection)
        return int(self.rules.is_projected and not has_projection)

    @property
    def network(self) -> ClipNetwork:
        """What computes, with its changes merged."""
        return self.weights.network

    @property
    def model(self) -> CLIPTextModel:
        """The network without its projection."""
        return _without_projection(self.network)

    @property
    def config(self) -> CLIPTextConfig:
        """Its configuration, whatever changes its weights."""
        return _without_projection(self.weights.loaded).config

    @property
    def width(self) -> int:
        """Of its tokens."""
        return int(self.config.hidden_size)

    @property
    def length(self) -> int:
        """Tokens of a chunk, start and end included."""
        return int(self.config.max_position_embeddings)

    @torch.no_grad()
    def encode(self, chunks: Sequence[Chunk], *, end: int, layer: int | None = None) -> Encoded:
        """Hidden states of a layer (-1 is the last), or of the one that the family uses.

        A layer before the first means the last. Raises InputError for one that the file leaves out.
        """
        with present(self.network):
            return self._encoded(chunks, end, layer)

    def _encoded(self, chunks: Sequence[Chunk], end: int, layer: int | None) -> Encoded:
        model = self.model
        numbers = torch.tensor(
            [[token.value if isinstance(token.value, int) else 0 for token in c] for c in chunks]
        )
        hidden = model.embeddings(inputs_embeds=self._embedded(chunks, numbers))
        length = hidden.shape[1]
        causal = torch.full((length, length), -torch.inf, device=hidden.device, dtype=hidden.dtype)
        causal = causal.triu(1)[None, None]  # (1, 1, 77, 77)
        stop = self._place_of(self.rules.layer if layer is None else layer)
        chosen = None
        for at, block in enumerate(model.encoder.layers):
            hidden = block(hidden, causal)
            if at == stop:
                chosen = hidden
        last = model.final_layer_norm(hidden)
        if chosen is None:
            chosen = last
        elif self.rules.has_final_norm:
            chosen = model.final_layer_norm(chosen)
        at_end = (numbers == end).int().argmax(dim=1).to(hidden.device)
        pooled = last[torch.arange(len(last), device=hidden.device), at_end]
        if isinstance(self.network, CLIPTextModelWithProjection):
            pooled = self.network.text_projection(pooled)
        return Encoded(chosen.float(), pooled.float())

    def _embedded(self, chunks: Sequence[Chunk], numbers: Tensor) -> Tensor:
        """The vectors of all tokens (N, 77, D), embeddings' own among them."""
        embeds = self.model.embeddings.token_embedding(numbers.to(self.model.device))
        for row, chunk in enumerate(chunks):
            for column, token in enumerate(chunk):
                if isinstance(token.value, Tensor):
                    embeds[row, column] = token.value.to(embeds)
        return embeds

    def _place_of(self, layer: int) -> int | None:
        """The index of a layer counted from the end; None before the first: the last, normed."""
        there = len(self.model.encoder.layers)
        layers = there + self.dropped_layers
        at = layers + layer if -layer <= layers else None
        if self.dropped_layers and (at is None or at >= there):
            raise InputError(
                f"layer {layer} of the text encoder is not in its file, which leaves out the last "
                f"{self.dropped_layers}; stop at layer {-self.dropped_layers - 1} or earlier"
            )
        return at


def _without_projection(network: ClipNetwork) -> CLIPTextModel:
    return network.text_model if isinstance(network, CLIPTextModelWithProjection) else network
