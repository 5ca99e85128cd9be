"""A network larger than the room for it, computed part by part: each comes when it computes.

Parts are modules, as large as the room allows for several at a time. What has computed stays until
a later part needs its room, and then the latest leaves first: the parts of a network compute in the
same order every time, so that what is in front will be wanted soonest. The next part is fetched
while one computes; on CUDA the copy runs beside the computation, out of pinned memory.
"""

from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from executor.residency import Residence, unwatched
from executor.weight_place import Place

_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_AT_A_TIME = 4  # parts for which there is room: one computes, one is fetched, the others stay


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A module, and the parameters that come for it."""

    path: str
    places: tuple[Place, ...]

    @property
    def nbytes(self) -> int:
        """What it takes."""
        return sum(place.nbytes for place in self.places)

    @property
    def missing(self) -> list[Place]:
        """What of it is away."""
        return [place for place in self.places if not place.is_in]


@contextmanager
def streamed(network: nn.Module, residence: Residence) -> Generator[None]:
    """While this holds, a network can be computed with; its weights come and go meanwhile."""
    limit = max(0.0, residence.limit_bytes)
    parts = list(parts_of(network, residence.places, limit / _AT_A_TIME))
    stream = _Stream(residence, parts)
    handles: list[Any] = []
    try:
        for part in parts:
            for door in _doors(network.get_submodule(part.path)):
                handles.append(door.register_forward_pre_hook(partial(stream.before, part)))
                handles.append(door.register_forward_hook(partial(stream.after, part)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        stream.end()


def parts_of(network: nn.Module, places: Mapping[str, Place], most_bytes: float) -> list[Part]:
    """The modules of a network, cut until none takes more, or none can be cut.

    What was taken out of the network since it was loaded is in none of them.
    """
    there = {name for name, _ in network.named_parameters()}
    inside = {name: place for name, place in places.items() if name in there}
    return list(_cut("", network, inside, most_bytes))


def _cut(
    path: str, module: nn.Module, places: Mapping[str, Place], most_bytes: float
) -> Iterator[Part]:
    """The parts of one module, with ``places`` by their names below it."""
    is_list = isinstance(module, _LISTS)
    # A module of torch's own may use its children's weights without calling them.
    is_one = type(module).__module__.startswith("torch.nn.") and not is_list
    total = sum(place.nbytes for place in places.values())
    if path and not is_list and (is_one or total <= most_bytes):
        yield Part(path, tuple(places.values()))
        return
    own: list[Place] = []
    below: dict[str, dict[str, Place]] = defaultdict(dict)
    for name, place in places.items():
        child, dot, rest = name.partition(".")
        if dot:
            below[child][rest] = place
        else:
            own.append(place)
    if own and path:
        yield Part(path, tuple(own))
    children = dict(module.named_children())
    for child, inner in below.items():
        at = f"{path}.{child}" if path else child
        yield from _cut(at, children[child], inner, most_bytes)


def _doors(module: nn.Module) -> Iterator[nn.Module]:
    """What is called when a module computes: itself, or its children by whoever knows it well."""
    yield module
    for child in module.children():
        if isinstance(child, _LISTS):
            yield from child.children()
        else:
            yield child


class _Stream:
    """The parts of a network as one forward pass goes through them."""

    def __init__(self, residence: Residence, parts: list[Part]) -> None:
        self._residence, self._residency = residence, residence.residency
        self._parts = {part.path: part for part in parts}
        self._running: dict[str, int] = {}  # how many calls deep
        self._ahead: Part | None = None  # fetched, and expected to compute next
        self._last: str | None = None
        device = next(iter(residence.places.values())).parameter.device
        self._beside = _Beside(device) if device.type == "cuda" else None
        streamed = {id(place) for part in parts for place in part.places}
        others = [p for p in residence.places.values() if id(p) not in streamed and not p.is_in]
        self._residency.make_room(residence.nbytes, residence)
        order = {path: at for at, path in enumerate(self._in_order())}
        here = [part for part in parts if any(place.is_in for place in part.places)]
        self._done = sorted(here, key=lambda part: order.get(part.path, len(order)))
        self._make_room(others)
        self._residency.come(others)

    def _in_order(self) -> Iterator[str]:
        """The parts in the order in which they computed last time."""
        successors = self._residence.successors
        path: str | None = next(iter(successors), None)
        for _ in successors:
            if path is None:
                return
            yield path
            path = successors.get(path)

    def before(self, part: Part, module: nn.Module, args: Any) -> None:
        """A part is about to compute."""
        with self._residency.lock:
            self._running[part.path] = self._running.get(part.path, 0) + 1
            if self._running[part.path] > 1:
                return
            if self._last not in (None, part.path):
                self._residence.successors[self._last] = part.path
            self._last = part.path
            if self._ahead is not None:
                self._done.append(self._ahead)
                self._ahead = None
            self._done = [done for done in self._done if done is not part]
            missing = part.missing
            self._make_room(missing)
            self._fetch(part, missing)
            if self._beside is not None:
                self._beside.wait(part.path)
            following = self._parts.get(self._residence.successors.get(part.path, ""))
            if following is not None and (missing := following.missing):
                self._done = [done for done in self._done if done is not following]
                if self._make_room(missing):
                    self._fetch(following, missing)
                    self._ahead = following

    def after(self, part: Part, module: nn.Module, args: Any, output: Any) -> None:
        """A part has computed."""
        self._running[part.path] -= 1
        if not self._running[part.path]:
            self._done.append(part)

    def _fetch(self, part: Part, missing: list[Place]) -> None:
        if not missing:
            return
        if self._beside is None:
            self._residency.come(missing)
        else:
            self._beside.fetch(part.path, missing)
            self._residency.note(missing)

    def _make_room(self, places: list[Place]) -> bool:
        """Let parts leave that have computed, the latest first. False if that is not enough."""
        nbytes = sum(place.nbytes for place in places)
        while self._residence.in_bytes + nbytes > self._residence.limit_bytes:
            if not self._done:
                return False
            leaving = self._done.pop()
            if self._beside is not None:
                self._beside.wait(leaving.path)
            self._residency.leave(leaving.places)
        return True

    def end(self) -> None:
        """The network has computed."""
        if self._beside is not None:
            self._beside.wait_for_all()


class _Beside:
    """Copies to a GPU on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._arrivals: dict[str, torch.cuda.Event] = {}

    def fetch(self, path: str, places: list[Place]) -> None:
        """Begin to bring a part."""
        with unwatched():
            homes = [place.pin() for place in places]
            # Made on the stream that computes, which may have used their memory until now.
            values: list[Tensor] = [torch.empty_like(home, device=self._device) for home in homes]
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                for home, value in zip(homes, values, strict=True):
                    value.copy_(home, non_blocking=True)
            self._arrivals[path] = torch.cuda.Event()
            self._arrivals[path].record(self._stream)
            for place, value in zip(places, values, strict=True):
                place.come(value)

    def wait(self, path: str) -> None:
        """Let what is computed from now on, and what takes its memory, wait until a part is there.

        The host waits for nothing.
        """
        arrival = self._arrivals.pop(path, None)
        if arrival is not None:
            torch.cuda.current_stream(self._device).wait_event(arrival)

    def wait_for_all(self) -> None:
        """The same for all parts."""
        for path in list(self._arrivals):
            self.wait(path)
