"""A network's weights, and what changes make of them.

Changed weights are a network of their own that shares every other tensor with the first, which is
never written to: without the change its bits are as before, and both can be used side by side. A
stack of changes is merged in float32 from the first network's weights, and rounded once. That
happens when somebody computes with it, so that of a chain only the last is ever made. Equal stacks
are the same object for as long as somebody holds it.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from executor.models.adapters import Adapter
from executor.presence import Changed, lasting_bytes, weight_of

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a file does to a network's parameters, and how strongly."""

    key: Hashable  # equal for equal changes
    adapters: Mapping[str, Adapter]  # by the parameter's name
    strength: float


class Weights(Generic[M]):
    """A network as it was loaded, or as a stack of changes makes it."""

    def __init__(self, network: M) -> None:
        self.loaded = network  # before any change; of the same configuration
        self.base: Weights[M] | None = None  # whose tensors it shares, if it is changed
        self.changes: tuple[Change, ...] = ()
        self._known: WeakValueDictionary[Hashable, Weights[M]] = WeakValueDictionary()

    @property
    def key(self) -> tuple[Hashable, ...]:
        """Equal for equal stacks on the same network."""
        return tuple(change.key for change in self.changes)

    def changed(self, change: Change) -> "Weights[M]":
        """These weights with one change more."""
        base = self.base or self
        key = (*self.key, change.key)
        found = base._known.get(key)
        if found is None:
            found = Weights(self.loaded)
            found.base, found.changes = base, (*self.changes, change)
            base._known[key] = found
        return found

    @cached_property
    def network(self) -> M:
        """The network to compute with; merged when it is first asked for."""
        if not self.changes:
            return self.loaded
        # Weights made in inference mode could not be read outside of it.
        with torch.inference_mode(mode=False), torch.no_grad():
            made = Changed(self.loaded)
            changed = {
                name: made.add(name, _rounded(self._merged(name), weight_of(self.loaded, name)))
                for name in self._touched
            }
        return made.settle(_with(self.loaded, changed))

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of the parameters by name; the same whatever changes them."""
        if self.base is not None:
            return self.base.shapes
        return {name: tuple(weight.shape) for name, weight in self.loaded.named_parameters()}

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return next(self.loaded.parameters()).device

    @property
    def memory(self) -> object:
        """What the cache counts once, whoever else holds it."""
        return self

    @cached_property
    def nbytes(self) -> int:
        """How much they take themselves, without what a file holds for as long as it can leave.

        ``base`` counts what they share with it.
        """
        if self.changes:
            return sum(self.loaded.get_parameter(name).nbytes for name in self._touched)
        return lasting_bytes(self.loaded)

    @property
    def _touched(self) -> set[str]:
        return {name for change in self.changes for name in change.adapters}

    def _merged(self, name: str) -> Tensor:
        """A parameter after all changes, in their order, float32."""
        weight = weight_of(self.loaded, name).float()
        for change in self.changes:
            adapter = change.adapters.get(name)
            if adapter is not None:
                weight = adapter.applied(weight, change.strength)
        return weight


def _rounded(merged: Tensor, like: Tensor) -> nn.Parameter:
    """In the precision, and laid out in memory, as ``like`` is."""
    if merged.dtype != like.dtype or merged.stride() != like.stride():
        merged = torch.empty_like(like).copy_(merged)
    return nn.Parameter(merged, requires_grad=False)


def _with(module: M, parameters: Mapping[str, nn.Parameter]) -> M:
    """A module with other parameters, by name; what they do not lie below is the same objects.

    A hundred times faster than a deep copy that spares the tensors, which would take longer than
    merging. No module of diffusers or transformers knows the one that it is a part of.
    """
    copy = object.__new__(type(module))
    own: dict[str, Any] = vars(copy)
    own.update(vars(module))
    own["_parameters"] = dict(own["_parameters"])
    own["_modules"] = dict(own["_modules"])
    below: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in parameters.items():
        child, dot, rest = name.partition(".")
        if dot:
            below.setdefault(child, {})[rest] = parameter
        else:
            own["_parameters"][name] = parameter
    for child, inner in below.items():
        own["_modules"][child] = _with(own["_modules"][child], inner)
    return copy
