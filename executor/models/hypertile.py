"""HyperTile (Fernandes 2023): self-attention within tiles of a large picture, which costs less.

Each tile's tokens see the tile only. Its size changes from layer to layer and step to step, so that
no seam stays: it is drawn from the largest ones, by a generator seeded with the noise level and the
layer. So a step is the same whenever it is made, and a row whatever stands beside it; rows at other
noise have other tiles. (In ComfyUI a counter is the seed, which goes on from run to run, a tile's
tokens see a strip of the picture, and height and width change places: that is not kept.)
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from executor.models.self_attention import Inner, Place, attending
from executor.models.unet_blocks import blocks
from executor.patches import NetworkPatch, Rows

_PIXELS = 8  # of the picture, for one of the latent
_LEAST = 32  # side of a tile, in pixels


@dataclass(frozen=True, slots=True)
class HyperTile(NetworkPatch):
    """Tiles for the attentions of the first width, and of ``max_depth`` further ones."""

    tile_size: int  # least side, in pixels
    swap_size: int  # from how many sizes it is drawn
    max_depth: int
    scales_with_depth: bool  # tiles cover more of the picture where a token does

    @contextmanager
    def applied(self, network: Any, rows: Rows) -> Generator[None]:
        """While this holds, the network attends so."""
        first: int = network.config["block_out_channels"][0]
        depths = {first * 2**depth: depth for depth in range(self.max_depth + 1)}
        groups = [group for group in blocks(network).transformers if group.channels in depths]
        of_rows = rows.seeds

        def attend(tokens: Tensor, others: Tensor, inner: Inner, place: Place) -> Tensor:
            if tokens.shape[1] != place.height * place.width:  # another patch has cut them already
                return inner(tokens, others)
            width = place.attention.query_dim
            least = max(_LEAST, self.tile_size) // _PIXELS
            if self.scales_with_depth:
                least *= 2 ** depths[width]
            found = torch.empty_like(tokens)
            for seed in sorted(set(of_rows)):
                draw = Random(seed + place.index)
                down = tiles(place.height, least, self.swap_size, draw)
                across = tiles(place.width, least, self.swap_size, draw)
                of_seed = [row for row, other in enumerate(of_rows) if other == seed]
                tiled = cut(tokens[of_seed], place.height, down, across)
                seen = cut(others[of_seed], place.height, down, across)
                found[of_seed] = joined(inner(tiled, seen), place.height, down, across)
            return found

        with attending(groups, attend):
            yield


def tiles(side: int, least: int, choices: int, draw: Random) -> int:
    """Into how many equal parts a side is cut: a draw from the least ones of ``least`` or more."""
    sizes = [size for size in range(min(least, side), side + 1) if side % size == 0]
    return side // draw.choice(sizes[:choices])


def cut(tokens: Tensor, height: int, down: int, across: int) -> Tensor:
    """(B, h · w, D) → (B · down · across, h · w / (down · across), D): the tiles of each row."""
    batch, count, channels = tokens.shape
    width = count // height
    grid = tokens.reshape(batch, down, height // down, across, width // across, channels)
    return grid.transpose(2, 3).reshape(batch * down * across, -1, channels)


def joined(tiled: Tensor, height: int, down: int, across: int) -> Tensor:
    """The inverse of ``cut``."""
    parts, count, channels = tiled.shape
    tile_height = height // down
    grid = tiled.reshape(-1, down, across, tile_height, count // tile_height, channels)
    return grid.transpose(2, 3).reshape(parts // (down * across), -1, channels)
