"""What the front and a worker say to each other, and how it is put on a stream of bytes.

Frames are a length (4 bytes, big-endian) and a pickle. Both ends are Weft's own processes, which
share a pair of sockets that nobody else can open; no frame ever comes from a network.
"""

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

from executor.events import Event, JobId
from executor.meter import Meter
from executor.models.latent_rgb import Method
from executor.node import NodeId
from executor.settings import Settings

LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame: what the worker is to be."""

    settings: Settings
    modules: tuple[str, ...]  # imported for the nodes that they register


@dataclass(frozen=True, slots=True)
class RunJob:
    """Run a workflow that the front has checked."""

    job_id: JobId
    attempt: int
    prompt: Mapping[str, Any]  # API format
    extra_pnginfo: Mapping[str, Any]
    targets: tuple[NodeId, ...]
    wants_previews: bool = False
    preview_method: Method | None = None  # None: as the settings say


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Stop a job between two steps."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Forget cached outputs, models among them, that no running job needs."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Take no more jobs, and end when those that run have ended."""


ToWorker: TypeAlias = RunJob | CancelJob | FreeMemory | Stop


@dataclass(frozen=True, slots=True)
class Device:
    """What a worker computes on."""

    name: str
    type: str  # cpu, cuda, mps
    index: int | None
    total_bytes: int
    torch_version: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker takes jobs, so many at a time."""

    device: Device
    capacity: int


@dataclass(frozen=True, slots=True)
class Told:
    """Something happened to a job in this attempt."""

    attempt: int
    event: Event


@dataclass(frozen=True, slots=True)
class Preview:
    """What a sampling node's picture looks like so far, as a JPEG of at most 512 pixels."""

    job_id: JobId
    attempt: int
    node_id: NodeId
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """A result, as a PNG, for the client that waits for it; it is kept nowhere else."""

    job_id: JobId
    attempt: int
    node_id: NodeId
    png: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """The worker cannot run this job at all: the workflow that was fine is not any more."""

    job_id: JobId
    attempt: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """How the worker stands, told every few seconds."""

    free_bytes: int
    allocated_bytes: int
    cached_device_bytes: int
    cached_host_bytes: int
    meter: Meter


FromWorker: TypeAlias = Ready | Told | Preview | Picture | Rejected | Figures


class _Unpickler(pickle.Unpickler):
    """Knows Weft's values only, so that no message can make the front import a library."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name.split(".")[0] in ("executor", "builtins", "collections", "pathlib"):
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"{module_name}.{global_name} has no place in a message")


def unframed(body: bytes) -> Any:
    """The message in a frame."""
    return _Unpickler(BytesIO(body)).load()


def framed(message: Hello | ToWorker | FromWorker) -> bytes:
    """A message as bytes on the stream."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body
