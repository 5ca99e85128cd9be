"""What must hold for every node, as checks that tests put around what they run."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


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
