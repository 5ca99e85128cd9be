"""What must hold for every node, as checks that tests put around what they run."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from executor import Context, Latent, Node


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors inside a value that travels along a link."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


@contextmanager
def left_alone(*values: Any) -> Generator[None]:
    """Fail if the block writes to a tensor in one of the values, in place or through a view."""
    tensors = [tensor for value in values for tensor in tensors_in(value)]
    assert tensors, "there is nothing to watch"
    before = [tensor._version for tensor in tensors]
    with torch.no_grad():
        yield
    assert [tensor._version for tensor in tensors] == before, "a node wrote to its inputs"


def check_pure(node: Node, ctx: Context) -> None:
    """A node leaves its inputs alone, and makes the same of them twice."""
    with left_alone(*(getattr(node, name) for name in node.inputs())):
        first, second = node.run(ctx), node.run(ctx)
    assert list(tensors_in(first)), "there is nothing to compare"
    for one, other in zip(tensors_in(first), tensors_in(second), strict=True):
        assert torch.equal(one, other)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Numbers from 0 to 1, the same for the same shape and seed."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def latent(
    batch: int = 2, *, seed: int = 0, masks: int = 0, index: tuple[int, ...] | None = None
) -> Latent:
    """A batch of latents of pictures of 48 × 64, with so many noise masks."""
    return Latent(
        noise(batch, 4, 8, 6, seed=seed),
        noise(masks, 64, 48, seed=seed + 1) if masks else None,
        index,
    )
