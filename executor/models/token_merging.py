"""Token merging for diffusion (Bolya & Hoffman 2023): tokens that are alike ask only once.

In the self-attentions of full size, one token of each 2 × 2 is drawn to stay; of all others those
that are most like one of these are merged into it (§3, bipartite soft matching), attend as one, and
get the same answer. As in ComfyUI it is what a token asks that is merged, not what it is seen as.
Which tokens stay is drawn by a generator seeded with the noise level and the layer, so a step is
the same whenever it is made. (ComfyUI draws from the device's global generator.)
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from executor.models.self_attention import Inner, Place, attending
from executor.models.unet_blocks import blocks
from executor.patches import NetworkPatch, Rows

_CELL = 2  # side of the squares of which one token stays


@dataclass(frozen=True, slots=True)
class TokenMerging(NetworkPatch):
    """So much of all tokens (0 to 1) is merged away, three quarters at most."""

    ratio: float

    @contextmanager
    def applied(self, network: Any, rows: Rows) -> Generator[None]:
        """While this holds, the network attends so where its tokens are latent pixels."""
        of_rows = rows.seeds

        def attend(tokens: Tensor, others: Tensor, inner: Inner, place: Place) -> Tensor:
            size, count = (place.height, place.width), int(tokens.shape[1] * self.ratio)
            is_whole = size == (rows.height, rows.width) and tokens.shape[1] == size[0] * size[1]
            if not is_whole or count < 1 or min(size) < _CELL:
                return inner(tokens, others)
            stays = torch.stack([staying(*size, seed + place.index) for seed in of_rows])
            merge = Merge.of(tokens, stays.to(tokens.device), count)
            return merge.undone(inner(merge.done(tokens), others))

        with attending(blocks(network).transformers, attend):
            yield


def staying(height: int, width: int, seed: int) -> Tensor:
    """Which token of each whole cell stays, as places in a row of all (h/2 · w/2,)."""
    down, across = height // _CELL, width // _CELL
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(_CELL * _CELL, (down, across), generator=generator)
    ys = torch.arange(down)[:, None] * _CELL + drawn // _CELL
    xs = torch.arange(across) * _CELL + drawn % _CELL
    return (ys * width + xs).flatten()


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """Which tokens of each row become one."""

    stays: Tensor  # (B, S): places that others are merged into
    alone: Tensor  # (B, A): places that are left as they are
    merged: Tensor  # (B, R): places that are merged,
    into: Tensor  # (B, R): into which of ``stays``

    @classmethod
    def of(cls, tokens: Tensor, stays: Tensor, count: int) -> "Merge":
        """Of tokens (B, N, D) the ``count`` most like one that stays, or all if that is fewer."""
        is_free = torch.ones(tokens.shape[:2], device=tokens.device).scatter_(1, stays, 0)
        free = is_free.argsort(dim=1, descending=True, stable=True)  # in their order, then stays
        free = free[:, : tokens.shape[1] - stays.shape[1]]
        units = tokens / tokens.norm(dim=-1, keepdim=True)
        alike = _at(units, free) @ _at(units, stays).transpose(1, 2)
        best, which = alike.max(dim=-1)
        order = best.argsort(dim=1, descending=True, stable=True)
        chosen, rest = order[:, :count], order[:, count:]
        return cls(stays, free.gather(1, rest), free.gather(1, chosen), which.gather(1, chosen))

    def done(self, tokens: Tensor) -> Tensor:
        """Those left alone, then those that stay, each the mean of all that became it."""
        into = self.into[..., None].expand(-1, -1, tokens.shape[-1])
        sums = _at(tokens, self.stays)
        means = sums.scatter_reduce(1, into, _at(tokens, self.merged), reduce="mean")
        return torch.cat((_at(tokens, self.alone), means), dim=1)

    def undone(self, tokens: Tensor) -> Tensor:
        """All tokens at their places; what was merged gets what it became."""
        alone, stays = tokens[:, : self.alone.shape[1]], tokens[:, self.alone.shape[1] :]
        parts: Sequence[tuple[Tensor, Tensor]] = (
            (self.alone, alone),
            (self.stays, stays),
            (self.merged, _at(stays, self.into)),
        )
        places = torch.cat([place for place, _ in parts], dim=1)
        values = torch.cat([value for _, value in parts], dim=1)
        return torch.empty_like(values).scatter_(1, places[..., None].expand_as(values), values)


def _at(tokens: Tensor, places: Tensor) -> Tensor:
    """The tokens (B, N, D) at places (B, K)."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
