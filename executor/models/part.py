"""One network of a model file: built without storage, checked, then filled from the mapped file.

A tensor goes from the file to its device and precision in one step, at once or when it is computed
with; where neither changes, it stays a view of the file. All that the header can tell is checked
before a weight is read.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from executor.devices import Devices
from executor.errors import ModelFileError
from executor.models.header import Header
from executor.models.layout import Stored
from executor.residency import Turn

M = TypeVar("M", bound=nn.Module)

_SHOWN = 3  # of the tensors that are missing or wrong
_FLOATS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a file: its title, and under which key each of its tensors is there."""

    title: str
    header: Header
    keys: Callable[[Iterable[str]], Mapping[str, str | Stored]]

    def build(self, make: Callable[[], M]) -> M:
        """The network without storage, if the file's shapes are of one."""
        try:
            with torch.device("meta"):
                return make()
        except (KeyError, IndexError, ValueError, TypeError, StopIteration) as error:
            why = f"there is no tensor {error}" if isinstance(error, KeyError) else str(error)
            raise ModelFileError(
                f"{self.header.path.name}: its {self.title} is incomplete, or none that Weft knows "
                f"({why or 'a part is missing'}); download it again, or use another model"
            ) from error

    def stored_dtype(self, network: nn.Module) -> torch.dtype:
        """The precision that most of its tensors are kept in."""
        stored = self._stored(network.state_dict()).values()
        found = Counter(
            self.header.tensors[at.key].dtype for at in stored if at.key in self.header.tensors
        )
        return _FLOATS.get(found.most_common(1)[0][0], torch.float32) if found else torch.float32

    def fill(
        self,
        network: nn.Module,
        devices: Devices,
        dtype: torch.dtype,
        *,
        rounded: torch.dtype | None = None,
        turn: Turn = Turn.NEVER,
    ) -> None:
        """Give the network its weights; all of them, or none and a ModelFileError.

        Each is of ``dtype``, and where that is said ``rounded`` to the numbers of another before.
        A network with a ``turn`` to leave the device is computed with under ``present`` only
        (``executor.presence``).
        """
        wanted = {name: tuple(meta.shape) for name, meta in network.state_dict().items()}
        stored = self._stored(wanted)
        self._check(wanted, stored)
        by_file: dict[Path, list[str]] = {}
        for name, at in stored.items():
            by_file.setdefault(self.header.path_of(at.key), []).append(name)
        homes: dict[str, Tensor] = {}
        for path, names in by_file.items():
            try:
                with safe_open(path, framework="pt") as file:
                    for name in names:
                        taken = _taken(file.get_tensor(stored[name].key), stored[name])
                        if rounded is not None:
                            taken = taken.to(rounded)
                        homes[name] = taken.reshape(wanted[name])
            except (SafetensorError, OSError) as error:
                raise ModelFileError(f"{path.name} cannot be read: {error}") from error
        devices.residency.admit(
            network,
            {name: homes[name] for name in wanted},  # in the network's order, not the file's
            device=devices.device,
            dtype=dtype,
            layout=devices.memory_format,
            title=f"the {self.title} of {self.header.path.name}",
            turn=turn,
        )

    def _stored(self, names: Iterable[str]) -> dict[str, Stored]:
        """Where each tensor of the network is."""
        return {
            name: Stored(at) if isinstance(at, str) else at for name, at in self.keys(names).items()
        }

    def _check(self, wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, Stored]) -> None:
        """Every tensor is there, of its shape and a type that holds fractions."""
        there = self.header.tensors
        keys = dict.fromkeys(at.key for at in stored.values())
        missing = [key for key in keys if key not in there]
        wrong = [
            f"{at.key} is {_size(there[at.key].shape)} instead of {_size(shape)}"
            for name, at in stored.items()
            if at.key in there and not _fits(there[at.key].shape, shape := at.shape(wanted[name]))
        ]
        strange = [
            f"{key} is {there[key].dtype}"
            for key in keys
            if key in there and there[key].dtype not in _FLOATS
        ]
        faults = [
            f"{len(found)} of its tensors {what}: {', '.join(found[:_SHOWN])}"
            + (" …" if len(found) > _SHOWN else "")
            for what, found in (
                ("are missing", missing),
                ("have another shape", wrong),
                ("are of a type that Weft does not compute with", strange),
            )
            if found
        ]
        if faults:
            raise ModelFileError(
                f"{self.header.path.name}: its {self.title} cannot be loaded. {'; '.join(faults)}. "
                "Download it again, or use another model"
            )


def _taken(whole: Tensor, at: Stored) -> Tensor:
    """The network's tensor out of the file's."""
    if at.third is not None:
        whole = whole.chunk(3)[at.third]
    return whole.T if at.is_transposed else whole


def _fits(there: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Equal, or one is a linear map and the other the same as a 1×1 convolution."""
    return wanted in (there, (*there, 1, 1)) or there == (*wanted, 1, 1)


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single number"
