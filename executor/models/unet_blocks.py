"""The blocks of a U-Net in the order of a forward pass, for what acts between and inside them.

Numbered as in the original layout: input block 0 is the first convolution, and a change of size is
a block of its own. Every input block's output goes on to the next one and, as a skip connection, to
the output block that mirrors it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True, eq=False)
class InputBlock:
    """A block on the way down."""

    last: nn.Module  # its output is the block's
    following: nn.Module  # what that output goes to


@dataclass(frozen=True, slots=True, eq=False)
class OutputBlock:
    """A block on the way up."""

    before: nn.Module  # what it is given comes from here,
    channels: int  # so many of them,
    resnet: nn.Module  # and goes here with the skip connection's behind it
    is_upsampled: bool  # ``before`` is what makes it larger


@dataclass(frozen=True, slots=True, eq=False)
class Transformers:
    """Transformer blocks that see the same tokens, one after the other."""

    spatial: nn.Module  # makes tokens of a picture, and a picture of them again
    self_attentions: tuple[nn.Module, ...]
    channels: int
    is_middle: bool


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """All of a U-Net."""

    inputs: tuple[InputBlock, ...]
    outputs: tuple[OutputBlock, ...]
    transformers: tuple[Transformers, ...]

    @property
    def middle(self) -> Sequence[Transformers]:
        """The transformers of the middle block."""
        return [group for group in self.transformers if group.is_middle]


def blocks(network: Any) -> Blocks:
    """Those of a ``UNet2DConditionModel``."""
    lasts, firsts, transformers = [network.conv_in], list[nn.Module](), list[Transformers]()
    for block in network.down_blocks:
        steps = _steps(block)
        transformers += _transformers(block)
        changes = [[change] for change in block.downsamplers or ()]
        for step in [*steps, *changes]:
            firsts.append(step[0])
            lasts.append(step[-1])
    firsts.append(network.mid_block)
    transformers += _transformers(network.mid_block, is_middle=True)
    outputs: list[OutputBlock] = []
    before, channels, is_upsampled = (
        network.mid_block,
        network.mid_block.resnets[-1].out_channels,
        False,
    )
    for block in network.up_blocks:
        transformers += _transformers(block)
        for step in _steps(block):
            outputs.append(OutputBlock(before, channels, step[0], is_upsampled))
            before, channels, is_upsampled = step[-1], step[0].out_channels, False
        for change in block.upsamplers or ():
            before, is_upsampled = change, True
    inputs = map(InputBlock, lasts, firsts)
    return Blocks(tuple(inputs), tuple(outputs), tuple(transformers))


def _steps(block: Any) -> list[list[Any]]:
    """A residual block each, with the transformers behind it if there are any."""
    attentions = getattr(block, "attentions", None)
    if attentions is None:
        return [[resnet] for resnet in block.resnets]
    return [[resnet, spatial] for resnet, spatial in zip(block.resnets, attentions, strict=True)]


def _transformers(block: Any, *, is_middle: bool = False) -> Iterator[Transformers]:
    for spatial in getattr(block, "attentions", None) or ():
        inside = tuple(one.attn1 for one in spatial.transformer_blocks)
        yield Transformers(spatial, inside, int(inside[0].query_dim), is_middle)
