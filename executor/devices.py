"""Where models are and in which precision they compute, and what is done when memory runs out.

Only this module decides it. On a CPU everything is float32, whatever a file holds: half precision
is slower there and not exact. On a GPU diffusion models keep half precision, text encoders compute
in float32 (they are small, and what they say enters every step), and autoencoders in bfloat16,
whose range does not overflow.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from executor.errors import InputError, SettingsError

T = TypeVar("T")

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SHARE = 0.7  # of the free memory that a batch may count on; the rest is for whatever else runs


@dataclass(frozen=True, slots=True)
class Devices:
    """The device that this process computes on, and the precision of each kind of network."""

    device: torch.device
    dtype: torch.dtype | None = None  # of diffusion models, where the user has said one

    @classmethod
    def choose(cls, device: str = "auto", dtype: str = "auto") -> "Devices":
        """From the settings of these names. Raises SettingsError for a device that is not there."""
        if device == "auto":
            device = (
                "cuda"
                if torch.cuda.is_available()
                else "mps"
                if torch.backends.mps.is_available()
                else "cpu"
            )
        chosen = torch.device(device)
        if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
            raise SettingsError(
                f"device: {device} is not there; this PyTorch ({torch.__version__}) sees "
                f"{torch.cuda.device_count()} CUDA devices; use auto or cpu"
            )
        if chosen.type == "mps" and not torch.backends.mps.is_available():
            raise SettingsError("device: mps is not there; use auto or cpu")
        return cls(chosen, _DTYPES.get(dtype))

    def unet_dtype(self, stored: torch.dtype) -> torch.dtype:
        """What a diffusion model computes in whose file holds ``stored``."""
        if self.dtype is not None:
            return self.dtype
        if self.device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if stored == torch.bfloat16 else torch.float16

    @property
    def text_dtype(self) -> torch.dtype:
        """What text encoders compute in."""
        return torch.float32

    @property
    def vae_dtype(self) -> torch.dtype:
        """What autoencoders compute in."""
        has_bfloat16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float32

    @property
    def upscaler_dtype(self) -> torch.dtype:
        """What upscalers compute in: half precision would be seen in flat colours."""
        return torch.float32

    @property
    def memory_format(self) -> torch.memory_format:
        """How convolution weights lie in memory; tensor cores read them channels last."""
        return torch.channels_last if self.device.type == "cuda" else torch.preserve_format

    def free_bytes(self) -> int:
        """Memory that is free on the device, as far as one can know."""
        return free_bytes(self.device)

    def total_bytes(self) -> int:
        """All memory of the device."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        return _host_bytes("MemTotal", unknown=8 << 30)

    def used_bytes(self) -> int:
        """What this process' tensors take on the device; not known of a CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device, as far as one can know."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    return _host_bytes("MemAvailable", unknown=4 << 30)


def _host_bytes(entry: str, *, unknown: int) -> int:
    """An entry of Linux' account of memory; elsewhere a guess that is modest."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return unknown
    kilobytes = next(line.split()[1] for line in lines if line.startswith(f"{entry}:"))
    return int(kilobytes) * 1024


def in_batches(
    rows: Tensor,
    compute: Callable[[Tensor], Tensor],
    *,
    row_bytes: int,
    what: str,
    in_tiles: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """``compute`` over the rows of a batch, as many at once as memory allows.

    Begins with what should fit if a row needs ``row_bytes``; when memory runs out nevertheless,
    goes on with half as many, and a single row is computed by ``in_tiles``. So it is from the start
    where it needs more than is free: a process that takes too much of a host's memory is killed.
    ``what`` completes "out of memory …" in the log and in the error. Raises InputError if nothing
    of that helps.
    """
    free = free_bytes(rows.device)
    at_once = max(1, min(len(rows), int(free * _SHARE) // max(1, row_bytes)))
    if in_tiles is not None and row_bytes > free:
        needs, has = f"{row_bytes / 2**30:.1f} GiB", f"{free / 2**30:.1f} GiB"
        log.warning("%s takes about %s, and %s are free: doing it in tiles", what, needs, has)
        compute, in_tiles = in_tiles, None
    elif at_once < len(rows):
        log.info("%s: %d of %d at once, which is what memory allows", what, at_once, len(rows))
    done: list[Tensor] = []
    at = 0
    while at < len(rows):
        result = _unless_out_of_memory(compute, rows[at : at + at_once])
        if isinstance(result, Tensor):
            done.append(result)
            at += at_once
        elif at_once > 1:
            at_once //= 2
            log.warning("out of memory %s; going on with %d at once", what, at_once)
        elif in_tiles is not None:
            log.warning("out of memory %s; going on in tiles", what)
            compute, in_tiles = in_tiles, None
        else:
            raise InputError(
                f"out of memory {what}, one at a time; it takes about {row_bytes / 2**30:.1f} GiB. "
                "Use a smaller picture"
            ) from result
        if rows.device.type == "cuda" and not isinstance(result, Tensor):
            torch.cuda.empty_cache()
    return torch.cat(done)


def in_smaller_tiles(
    sizes: Sequence[int],
    compute: Callable[[int], Tensor],
    *,
    bytes_of: Callable[[int], int],
    device: torch.device,
    what: str,
) -> Tensor:
    """``compute`` with the largest tiles that memory allows, of falling ``sizes``.

    Begins with those that should fit, goes on with the next smaller ones when memory runs out
    nevertheless. Raises InputError if it does with the smallest.
    """
    free = free_bytes(device) * _SHARE
    fitting = [size for size in sizes if bytes_of(size) <= free] or sizes[-1:]
    if fitting[0] != sizes[0]:
        log.info("%s: in tiles of %d pixels, which is what memory allows", what, fitting[0])
    for size in fitting:
        result = _unless_out_of_memory(compute, size)
        if isinstance(result, Tensor):
            return result
        log.warning("out of memory %s in tiles of %d pixels", what, size)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    raise InputError(
        f"out of memory {what}, even in tiles of {sizes[-1]} pixels, which take about "
        f"{bytes_of(sizes[-1]) / 2**30:.1f} GiB each. Use a smaller picture"
    )


def _unless_out_of_memory(compute: Callable[[T], Tensor], given: T) -> Tensor | RuntimeError:
    """The result, or the error that says that memory ran out, without its traceback's tensors."""
    try:
        return compute(given)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return error.with_traceback(None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's or the host's memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
