"""The self-attention in the middle of a U-Net: replaced by nothing, or watched.

Guidance uses both (``executor.sampling.attention_guidance``).
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from executor.models.self_attention import Inner, Place, attending
from executor.models.unet_blocks import blocks
from executor.patches import NetworkPatch, Rows


@dataclass(frozen=True, slots=True)
class PerturbedAttention(NetworkPatch):
    """Each token sees itself only (Ahn et al. 2024), so the picture loses its structure."""

    @contextmanager
    def applied(self, network: Any, rows: Rows) -> Generator[None]:
        """While this holds, the middle's attention maps are the identity."""

        def attend(tokens: Tensor, others: Tensor, inner: Inner, place: Place) -> Tensor:
            projection, dropout = place.attention.to_out
            return dropout(projection(place.attention.to_v(tokens)))

        with attending(blocks(network).middle, attend):
            yield


@dataclass(frozen=True, slots=True)
class WatchedAttention(NetworkPatch):
    """Reports where the middle looks: (B, 1, h, w), 1 where it looks more than ``threshold``.

    Hong et al. (2023): what all tokens together pay a token in the first transformer,
    averaged over heads; 1 is as much as each pays in all.
    """

    threshold: float = 1.0

    @contextmanager
    def applied(self, network: Any, rows: Rows) -> Generator[None]:
        """While this holds, it is written down; what is computed stays the same."""

        def attend(tokens: Tensor, others: Tensor, inner: Inner, place: Place) -> Tensor:
            if place.index == 0:
                looked = attention_paid(place.attention, tokens) > self.threshold
                mask = looked.float().reshape(-1, 1, place.height, place.width)
                rows.reports.append(interpolate(mask, size=(rows.height, rows.width)))
            return inner(tokens, others)

        with attending(blocks(network).middle, attend):
            yield


def attention_paid(attention: Any, tokens: Tensor) -> Tensor:
    """What each of the tokens (B, N, D) is paid by all of them, averaged over heads (B, N)."""
    queries = attention.to_q(tokens).unflatten(-1, (attention.heads, -1))  # (B, N, H, d)
    keys = attention.to_k(tokens).unflatten(-1, (attention.heads, -1))
    paid = torch.zeros(tokens.shape[:2], device=tokens.device)
    for head in range(attention.heads):  # one at a time: the map of a large picture is large
        scores = queries[:, :, head].float() @ keys[:, :, head].float().transpose(1, 2)
        paid += torch.softmax(scores / math.sqrt(queries.shape[-1]), dim=-1).sum(dim=1)
    return paid / attention.heads
