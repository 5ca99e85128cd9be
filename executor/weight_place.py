"""One parameter of a network: on the device, or away, where it can be had from again.

A parameter that is away keeps its shape, precision and device, and has NaN for all its numbers:
what computes with one that it has not asked for is found out. Weights are never written to, so
leaving costs nothing where a file holds them.
"""

import torch
from torch import Tensor, nn


class Place:
    """A parameter, and where its numbers are."""

    __slots__ = ("__weakref__", "home", "is_from_file", "is_in", "layout", "parameter")

    def __init__(
        self,
        parameter: nn.Parameter,
        home: Tensor | None = None,
        layout: torch.memory_format = torch.preserve_format,
    ) -> None:
        self.parameter = parameter
        self.home = home  # its numbers elsewhere, in any precision; None: nowhere else yet
        self.layout = layout  # in the device's memory
        self.is_from_file = home is not None
        self.is_in = home is None

    @property
    def nbytes(self) -> int:
        """What it takes on the device."""
        return self.parameter.nbytes

    def value(self) -> Tensor:
        """Its numbers as they are computed with, wherever they are."""
        if self.is_in or self.home is None:
            return self.parameter.data
        return sent(self.home, self.parameter.device, self.parameter.dtype, self.layout)

    def come(self, value: Tensor | None = None) -> None:
        """Be on the device: with its own value, or one that somebody has brought there."""
        self.parameter.data = self.value() if value is None else value
        self.is_in = True

    def leave(self) -> None:
        """Be away; numbers that no file holds go to host memory."""
        if self.home is None:
            self.home = self.parameter.data.to("cpu")
        self.parameter.data = absent(self.parameter, self.parameter.device, self.parameter.dtype)
        self.is_in = False

    def pin(self) -> Tensor:
        """Its numbers where a GPU can fetch them by itself, kept there from now on."""
        assert self.home is not None, "what has no home has never left"
        if not self.home.is_pinned():
            layout, dtype = self.layout, self.parameter.dtype
            self.home = self.home.to(dtype, memory_format=layout).pin_memory()
        return self.home


def absent(like: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What stands for a tensor that is away; it takes no memory."""
    return torch.full((), torch.nan, dtype=dtype, device=device).expand(like.shape)


def sent(
    home: Tensor, device: torch.device, dtype: torch.dtype, layout: torch.memory_format
) -> Tensor:
    """A tensor in host memory on a device, in a precision; itself if neither changes."""
    if device.type != "cuda":
        return home.to(device=device, dtype=dtype, memory_format=layout)
    # Copies out of pinned memory are several times faster; precision is changed over there.
    pinned = home if home.is_pinned() else home.pin_memory()
    return pinned.to(device, non_blocking=True).to(dtype, memory_format=layout)
