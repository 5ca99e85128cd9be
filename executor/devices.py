"""Where models are and in which precision they compute, and what is done when memory runs out.

Only this module decides it. On a CPU everything is float32, whatever a file holds: half precision
is slower there and not exact. On a GPU diffusion models keep half precision, text encoders compute
in float32 (they are small, and what they say enters every step), and autoencoders in bfloat16,
whose range does not overflow. A precision that the user says is that of diffusion models and text
encoders.

When memory runs out, this is given up, in this order, before a job fails: results kept for later
jobs; other rows in the same forward pass; pictures computed as a whole; models on the device that
nothing computes with; at last the place of the model that computes, whose parts come and go then.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from executor.errors import InputError, SettingsError
from executor.residency import Residency, is_out_of_memory, residence_of, size

T = TypeVar("T")

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SHARE = 0.7  # of the free memory that a batch may count on; the rest is for whatever else runs
_MODEL_SHARE = 0.6  # of a host's memory that is free at first, for models that compute there
# Of a GPU's memory, what models leave to the computation unless a budget is said.
_WORKING_SHARE, _LEAST_WORKING_BYTES = 0.08, 1 << 30


@dataclass(frozen=True, slots=True)
class Devices:
    """The device that this process computes on, and the precision of each kind of network."""

    device: torch.device
    dtype: torch.dtype | None = None  # of diffusion models, where the user has said one
    residency: Residency = field(default_factory=Residency, compare=False)

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

    def limited(self, model_bytes: int | None, reserved_bytes: int = 0) -> "Devices":
        """The same with a limit to what models take; None: what is free and not reserved."""
        if model_bytes is None and self.device.type == "cuda":
            working = max(_LEAST_WORKING_BYTES, int(self.total_bytes() * _WORKING_SHARE))

            def left(used: int) -> int:
                return max(0, used + self.free_bytes() - working - reserved_bytes)

            return replace(self, residency=Residency(left, is_shared=True))
        if model_bytes is None:  # a host's memory: a process that takes too much of it is killed
            model_bytes = max(0, int((self.free_bytes() - reserved_bytes) * _MODEL_SHARE))
        most = model_bytes
        return replace(self, residency=Residency(lambda used: most))

    def unet_dtype(self, stored: torch.dtype) -> torch.dtype:
        """What a diffusion model computes in whose file holds ``stored``."""
        if self.dtype is not None:
            return self.dtype
        if self.device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if stored == torch.bfloat16 else torch.float16

    @property
    def text_dtype(self) -> torch.dtype:
        """What text encoders compute in: float32, unless the user has said what models do."""
        return self.dtype or torch.float32

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
    network: nn.Module | None = None,
) -> Tensor:
    """``compute`` over the rows of a batch, as many at once as memory allows.

    Begins with what should fit if a row needs ``row_bytes``, other networks having left for that,
    and goes on as ``in_parts`` does. Where one row needs more than is free all the same, it is
    computed by ``in_tiles`` from the start: a process that takes too much of a host's memory is
    killed. Raises InputError if nothing of that helps.

    Args:
        what: completes "out of memory …" in the log and in the error.
        network: what computes.
    """
    residency = _residency_of(network)
    free = free_bytes(rows.device)
    if row_bytes > free and residency.give(row_bytes - free, since=residency.clock):
        free = free_bytes(rows.device)
    at_once = max(1, min(len(rows), int(free * _SHARE) // max(1, row_bytes)))
    if in_tiles is not None and row_bytes > free:
        needs, has = size(row_bytes), size(free)
        log.warning("%s takes about %s, and %s are free: doing it in tiles", what, needs, has)
        compute, in_tiles = in_tiles, None
    elif at_once < len(rows):
        log.info("%s: %d of %d at once, which is what memory allows", what, at_once, len(rows))
    tile = in_tiles
    done = in_parts(
        len(rows),
        lambda start, stop: compute(rows[start:stop]),
        at_once=at_once,
        what=what,
        residency=residency,
        in_tiles=None if tile is None else lambda start, stop: tile(rows[start:stop]),
        advice=f"it takes about {size(row_bytes)}. Use a smaller picture",
    )
    return torch.cat(done.parts)


class Done(NamedTuple, Generic[T]):
    """What was computed, part by part, and how many rows were computed at once in the end."""

    parts: list[T]
    at_once: int


def in_parts(
    count: int,
    compute: Callable[[int, int], T],
    *,
    at_once: int,
    what: str,
    residency: Residency,
    advice: str,
    in_tiles: Callable[[int, int], T] | None = None,
) -> Done[T]:
    """``compute(start, stop)`` over so many rows, ``at_once`` or as few as memory allows.

    When memory runs out, goes down the ladder, a rung at a time. Raises InputError at its end.
    """
    done: list[T] = []
    at = 0
    while at < count:
        since = residency.clock
        result = _unless_out_of_memory(compute, at, min(count, at + at_once))
        if not isinstance(result, _Shortage):
            done.append(result)
            at += at_once
        elif residency.on_shortage():
            log.warning("out of memory %s; dropped the results kept for later jobs", what)
        elif at_once > 1:
            at_once //= 2
            log.warning("out of memory %s; going on with %d at once", what, at_once)
        elif in_tiles is not None:
            log.warning("out of memory %s; going on in tiles", what)
            compute, in_tiles = in_tiles, None
        elif residency.leave_idle(since=since):
            log.warning("out of memory %s; moved other models off the device", what)
        elif residency.shrink(since):
            log.warning("out of memory %s; going on with its model part by part", what)
        else:
            words = f"out of memory {what}, one at a time; {advice}"
            raise InputError(words) from result.error
    return Done(done, at_once)


def in_smaller_tiles(
    sizes: Sequence[int],
    compute: Callable[[int], Tensor],
    *,
    bytes_of: Callable[[int], int],
    device: torch.device,
    what: str,
    network: nn.Module | None = None,
) -> Tensor:
    """``compute`` with the largest tiles that memory allows, of falling ``sizes``.

    Begins with those that should fit, goes on with the next smaller ones when memory runs out
    nevertheless. Raises InputError if it does with the smallest.
    """
    residency = _residency_of(network)
    free = free_bytes(device) * _SHARE
    fitting = [size for size in sizes if bytes_of(size) <= free] or list(sizes[-1:])
    if fitting[0] != sizes[0]:
        log.info("%s: in tiles of %d pixels, which is what memory allows", what, fitting[0])
    while True:
        tile, since = fitting[0], residency.clock
        result = _unless_out_of_memory(compute, tile)
        if not isinstance(result, _Shortage):
            return result
        if residency.on_shortage():
            log.warning("out of memory %s; dropped the results kept for later jobs", what)
        elif len(fitting) > 1:
            log.warning("out of memory %s in tiles of %d pixels", what, tile)
            del fitting[0]
        elif residency.leave_idle(since=since):
            log.warning("out of memory %s; moved other models off the device", what)
        else:
            raise InputError(
                f"out of memory {what}, even in tiles of {tile} pixels, which take about "
                f"{size(bytes_of(tile))} each. Use a smaller picture"
            ) from result.error


def relieved(residency: Residency, what: str) -> bool:
    """Whether there is more memory now for a computation of which no part can be done alone."""
    if residency.on_shortage():
        log.warning("out of memory %s; dropped the results kept for later jobs", what)
        return True
    if residency.leave_idle():
        log.warning("out of memory %s; moved models off the device", what)
        return True
    return False


class _Shortage(NamedTuple):
    """What came in place of a result."""

    error: RuntimeError


def _unless_out_of_memory(compute: Callable[..., T], *given: int) -> T | _Shortage:
    """The result, or the error that says that memory ran out, without its traceback's tensors."""
    try:
        return compute(*given)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        shortage = _Shortage(error.with_traceback(None))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return shortage


def _residency_of(network: nn.Module | None) -> Residency:
    """Where a network shares its room; one that knows of no others, if it does with none."""
    residence = None if network is None else residence_of(network)
    return Residency() if residence is None else residence.residency
