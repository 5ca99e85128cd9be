"""Node outputs by content key, kept on the device while they fit.

Equal work is found whatever its node ids, and whoever asked for it: values are shared between jobs,
so nothing may write to them. Budgets are bytes, one for the device and one for host memory. What
costs least to make again per byte leaves first, from the device to host memory, from there for
good. Entries that a running job has planned on are pinned and stay where they are.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, cast

from executor.context import SavedFile

if TYPE_CHECKING:
    import torch

    from executor.graph import Key


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a node run leaves: the values of its slots, and the files that it wrote."""

    values: tuple[Any, ...]
    files: tuple[SavedFile, ...] = ()


class Holder(Protocol):
    """Something that occupies memory and is not taken apart here: a model."""

    @property
    def nbytes(self) -> int: ...
    @property
    def memory(self) -> object:
        """The same object for all holders of the same memory, which is counted once."""
        ...


@dataclass(slots=True)
class Entry:
    """An outputs' place in the cache."""

    outputs: Outputs
    blocks: dict[Hashable, int]  # bytes by the identity of each piece of memory
    seconds: float  # what it cost to make
    rank: float = 0.0
    pins: int = 0
    is_on_device: bool = True


_ENTRY_BYTES = 1024  # what an entry itself takes, so that small ones cannot pile up without end
_SLACK = 0.9  # room is made for more than one entry, so that not every one sorts the ranks


class Cache:
    """Outputs by key, within budgets.

    The order of leaving is GreedyDual-Size (Cao and Irani 1997): an entry's rank is its cost per
    byte above a waterline, which rises to the rank of each entry that leaves; so what is not asked
    for sinks.
    """

    def __init__(self, device: "torch.device", device_bytes: int, host_bytes: int) -> None:
        self.device = device
        self.device_bytes, self.host_bytes = device_bytes, host_bytes
        self._entries: dict[Key, Entry] = {}
        self._waterline = 0.0
        self._used = {True: _Tally(), False: _Tally()}  # by whether it is on the device

    def __contains__(self, key: "Key") -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> tuple[int, int]:
        """What is kept on the device, and in host memory."""
        return self._used[True].total, self._used[False].total

    def get(self, key: "Key") -> Outputs | None:
        """The outputs, back on the device if they had left it."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.rank = self._rank(entry)
        if not entry.is_on_device:
            self._place(entry, on_device=True)
            self._make_room()
        return entry.outputs

    def put(self, key: "Key", outputs: Outputs, seconds: float, pins: int = 0) -> None:
        """Keep what a node run made, pinned ``pins`` times; others may leave for it."""
        self.drop(key)
        entry = Entry(outputs, {}, seconds, pins=pins)
        entry.blocks = _blocks_of(entry)
        entry.rank = self._rank(entry)
        self._entries[key] = entry
        self._used[True].add(entry.blocks)
        self._make_room()

    def pin(self, key: "Key") -> None:
        """Keep an entry where it is until it is unpinned as often."""
        self._entries[key].pins += 1

    def unpin(self, key: "Key") -> None:
        """Take back one pin."""
        entry = self._entries[key]
        assert entry.pins > 0, f"{key} is not pinned"
        entry.pins -= 1
        if entry.pins == 0:
            self._make_room()

    def drop(self, key: "Key") -> None:
        """Forget an entry."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._used[entry.is_on_device].remove(entry.blocks)

    def clear(self) -> None:
        """Forget all that no running job has planned on."""
        for key in [key for key, entry in self._entries.items() if not entry.pins]:
            self.drop(key)

    def leave_device(self) -> bool:
        """Let the results leave that no running job has planned on. False if there are none.

        Models stay known: whether their weights are on the device is not decided here.
        """
        before = self.used_bytes[0]
        for key, entry in list(self._entries.items()):
            if entry.is_on_device and not entry.pins and not _holds_model(entry):
                if self.host_bytes and _can_move(entry.outputs.values):
                    self._place(entry, on_device=False)
                else:
                    self.drop(key)
        self._make_room()
        return self.used_bytes[0] < before

    def _rank(self, entry: Entry) -> float:
        return self._waterline + entry.seconds / max(1, sum(entry.blocks.values()))

    def _make_room(self) -> None:
        """Let entries leave until both budgets hold, or only pinned ones are left."""
        for on_device, budget in ((True, self.device_bytes), (False, self.host_bytes)):
            if self._used[on_device].total <= budget:
                continue
            leaving = sorted(
                (entry.rank, key)
                for key, entry in self._entries.items()
                if entry.is_on_device == on_device and not entry.pins
            )
            for rank, key in leaving:
                if self._used[on_device].total <= _SLACK * budget:
                    break
                self._waterline = max(self._waterline, rank)
                entry = self._entries[key]
                if on_device and self.host_bytes and _can_move(entry.outputs.values):
                    self._place(entry, on_device=False)
                else:
                    self.drop(key)

    def _place(self, entry: Entry, *, on_device: bool) -> None:
        """Move an entry between the device and host memory."""
        device = self.device if on_device else "cpu"
        self._used[entry.is_on_device].remove(entry.blocks)
        entry.outputs = replace(entry.outputs, values=_moved(entry.outputs.values, device))
        entry.blocks = _blocks_of(entry)
        entry.is_on_device = on_device
        self._used[on_device].add(entry.blocks)


class _Tally:
    """Bytes of pieces of memory that several entries may share: each is counted once."""

    def __init__(self) -> None:
        self.total = 0
        self._holders: dict[Hashable, int] = {}

    def add(self, blocks: Mapping[Hashable, int]) -> None:
        for block, size in blocks.items():
            self._holders[block] = self._holders.get(block, 0) + 1
            if self._holders[block] == 1:
                self.total += size

    def remove(self, blocks: Mapping[Hashable, int]) -> None:
        for block, size in blocks.items():
            self._holders[block] -= 1
            if not self._holders[block]:
                del self._holders[block]
                self.total -= size


def _blocks_of(entry: Entry) -> dict[Hashable, int]:
    return {("entry", id(entry)): _ENTRY_BYTES, **dict(_blocks(entry.outputs.values))}


def _holds_model(entry: Entry) -> bool:
    return any(isinstance(key, tuple) and key[0] == "model" for key in entry.blocks)


def _is_holder(value: Any) -> TypeGuard[Holder]:
    # isinstance with a runtime protocol takes as long as all the rest of putting an entry
    return hasattr(value, "memory") and hasattr(value, "nbytes")


def _parts(value: Any) -> Iterator[Any]:
    """What a value is made of."""
    if isinstance(value, (tuple, list)):
        yield from cast("tuple[Any, ...]", value)
    elif isinstance(value, Mapping):
        yield from cast("Mapping[Any, Any]", value).values()
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield getattr(value, field.name)


def _blocks(value: Any) -> Iterator[tuple[Hashable, int]]:
    """The pieces of memory that a value holds: identity and bytes of each."""
    if hasattr(value, "untyped_storage"):
        storage = value.untyped_storage()
        yield (str(value.device), storage.data_ptr()), storage.nbytes()
    elif _is_holder(value):
        yield ("model", id(value.memory)), value.nbytes
        yield from _blocks(getattr(value, "base", None))  # changed weights share the rest with it
    else:
        for part in _parts(value):
            yield from _blocks(part)


def _can_move(value: Any) -> bool:
    """Whether a value is made of tensors only: a model's weights move by other rules."""
    if hasattr(value, "untyped_storage"):
        return True
    return not _is_holder(value) and all(_can_move(part) for part in _parts(value))


def _moved(value: Any, device: Any) -> Any:
    """The same value with its tensors elsewhere."""
    if hasattr(value, "untyped_storage"):
        return value.to(device)
    if isinstance(value, tuple):
        moved = [_moved(part, device) for part in cast("tuple[Any, ...]", value)]
        return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
    if isinstance(value, list):
        return [_moved(part, device) for part in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        return {k: _moved(v, device) for k, v in cast("Mapping[Any, Any]", value).items()}
    if is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: _moved(getattr(value, f.name), device) for f in fields(value) if f.init}
        return replace(value, **changes)
    return value
