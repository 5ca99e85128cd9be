"""The header of a safetensors file: which tensors are where, without reading one of them.

A file may come from anywhere, so what it says of itself is checked before it is believed:
afterwards all tensors lie inside the file, side by side, and their sizes are what shape and type
say. Pickles, which could run any program when opened, are told apart here and refused.
Light: no torch.
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor.errors import ModelFileError

MOST_HEADER_BYTES = 32 * 2**20  # SDXL's is 0.3 MB; training notes can add some
MOST_TENSORS = 100_000
MOST_DIMENSIONS = 8

BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
"""Size of one number, by the format's name for its type."""

_HOW_TO_CONVERT = (
    "Convert it where you trust it: torch.load(FILE, weights_only=True), then "
    "safetensors.torch.save_file of its tensors; or look for the .safetensors file of this model"
)
_ZIP = b"PK\x03\x04"  # torch.save's container
_PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the header describes it."""

    dtype: str  # a key of BYTES
    shape: tuple[int, ...]
    start: int  # offsets from the end of the header
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header."""

    path: Path
    size_bytes: int  # of the whole file
    modified_ns: int
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    shards: Mapping[str, Path] = field(default_factory=dict[str, Path])  # of tensors elsewhere

    def path_of(self, tensor: str) -> Path:
        """The file that holds a tensor."""
        return self.shards.get(tensor, self.path)

    def shapes_below(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors below a prefix, by their names without it."""
        return {
            name.removeprefix(prefix): entry.shape
            for name, entry in self.tensors.items()
            if name.startswith(prefix)
        }

    def parameters(self, prefix: str = "") -> int:
        """How many numbers the tensors below a prefix have."""
        return sum(map(math.prod, self.shapes_below(prefix).values()))


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises ModelFileError, which says what the file is instead.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ModelFileError(f"{path.name} is no file; give a .safetensors file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(512)
            length = _header_length(path, start, size)
            file.seek(8)
            text = file.read(length)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFileError(f"{path.name} cannot be read: {reason}") from error
    entries = _parse(path, text)
    metadata = _metadata(path, entries.pop("__metadata__", {}))
    if len(entries) > MOST_TENSORS:
        raise _corrupt(path, f"it lists {len(entries)} tensors, more than {MOST_TENSORS}")
    tensors = {name: _entry(path, name, entry) for name, entry in entries.items()}
    _check_offsets(path, tensors, size - 8 - length)
    return Header(path, size, about.st_mtime_ns, tensors, metadata)


def _header_length(path: Path, start: bytes, size: int) -> int:
    """How long the header is, if these are the first bytes of a safetensors file."""
    length = int.from_bytes(start[:8], "little")
    if len(start) >= 9 and start[8:9] == b"{" and length <= MOST_HEADER_BYTES:
        if length <= size - 8:
            return length
        raise _corrupt(
            path,
            f"it ends after {size} bytes, inside its header of {length} bytes, so it is truncated",
        )
    raise ModelFileError(f"{path.name} {_instead(path, start, length)}")


def _instead(path: Path, start: bytes, length: int) -> str:
    """What a file is that is no safetensors file, and what would do."""
    text = start.lstrip().lower()
    if not start:
        return "is empty; download it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "is a web page, not a model: the download ended on a page; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; run 'git lfs pull' where it came from"
    if start.startswith(b"GGUF"):
        return "is a GGUF file, which Weft does not read; use a .safetensors file"
    is_pickle = start.startswith(_ZIP) or (
        start[0] == 0x80 and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
    )
    if is_pickle or path.suffix.lower() in _PICKLE_SUFFIXES:
        return (
            "is a pickle (.ckpt, .pt), which can run any program when it is opened, and is not "
            f"loaded. {_HOW_TO_CONVERT}"
        )
    if len(start) >= 9 and start[8:9] == b"{":
        return (
            f"says that its header has {length} bytes; more than {MOST_HEADER_BYTES} is no model "
            "that Weft knows. Download it again"
        )
    return "is not a safetensors file (it does not begin like one); use a .safetensors file"


def _corrupt(path: Path, why: str) -> ModelFileError:
    return ModelFileError(f"{path.name} is corrupt: {why}. Download it again")


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    """The header's JSON object, with every name in it once."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError("a name occurs twice")
        return result

    try:
        parsed: Any = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except RecursionError as error:
        raise _corrupt(path, "its header is nested too deeply") from error
    except ValueError as error:  # also malformed UTF-8, and numbers of thousands of digits
        raise _corrupt(path, f"its header is no JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise _corrupt(path, "its header is no JSON object")
    return parsed


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _corrupt(path, "its metadata must be an object of strings")
    return metadata


def _entry(path: Path, name: str, entry: Any) -> TensorEntry:
    """One tensor of the header, believed only as far as it is consistent with itself."""
    shown = repr(name if len(name) <= 100 else name[:100] + "…")
    if not name.isprintable():
        raise _corrupt(path, f"the tensor name {shown} holds control characters")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(path, f"tensor {shown} must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise ModelFileError(
            f"{path.name}: tensor {shown} is of the type {dtype!r:.40}, which Weft does not know; "
            "use a file in F16, BF16 or F32"
        )
    if not _are_sizes(shape) or len(shape) > MOST_DIMENSIONS:
        raise _corrupt(path, f"tensor {shown} has the shape {shape!r:.60}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _corrupt(path, f"tensor {shown} has the offsets {offsets!r:.60}")
    wanted = math.prod(shape) * BYTES[dtype]
    if offsets[1] - offsets[0] != wanted:
        raise _corrupt(
            path, f"tensor {shown} has {offsets[1] - offsets[0]} bytes where its shape is {wanted}"
        )
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _check_offsets(path: Path, tensors: Mapping[str, TensorEntry], size: int) -> None:
    """All tensors lie in the ``size`` bytes after the header, side by side and nothing else."""
    end, previous = 0, ""
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start < end:
            raise _corrupt(path, f"tensors {previous[:100]!r} and {name[:100]!r} overlap")
        if entry.start > end:
            raise _corrupt(path, f"{entry.start - end} bytes before {name[:100]!r} are no tensor's")
        end, previous = entry.end, name
    if end > size:
        raise _corrupt(path, f"{size} of {end} bytes of weights are there, so it is truncated")
    if end < size:
        raise _corrupt(path, f"{size - end} bytes after its last tensor are no tensor's")
