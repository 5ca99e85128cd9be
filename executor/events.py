"""What happens to a job, as values. The faces render them for their wires; nothing here knows one.

The durable ones are ``Started``, ``Cached``, ``Executed``, ``Failed`` and ``Ended``; ``Executing``,
``Progress`` and the like are only of use while somebody watches.
"""

import traceback
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from executor.context import SavedFile
from executor.errors import WeftError
from executor.node import NodeId

JobId: TypeAlias = str


class Outcome(StrEnum):
    """How a job ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True)
class Started:
    """A job began to run."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class Cached:
    """These nodes need not run: their outputs are there."""

    job_id: JobId
    node_ids: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Executing:
    """A node run began."""

    job_id: JobId
    node_id: NodeId


@dataclass(frozen=True, slots=True)
class Progress:
    """A node run has done ``value`` of ``of`` steps."""

    job_id: JobId
    node_id: NodeId
    value: int
    of: int


@dataclass(frozen=True, slots=True)
class Executed:
    """A node's outputs are there; ``files`` are what it left behind, now or when it really ran."""

    job_id: JobId
    node_id: NodeId
    files: tuple[SavedFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a node run failed, as plain text that can cross to another process."""

    class_type: str
    message: str  # with the node's class and id
    exception_type: str
    traceback: tuple[str, ...]

    @classmethod
    def of(cls, node_id: NodeId, class_type: str, error: Exception) -> "Failure":
        """Say what went wrong in a node; an error of Weft's own needs no name."""
        words = str(error) or type(error).__name__
        if not isinstance(error, WeftError):
            words = f"{type(error).__name__}: {words}"
        return cls(
            class_type,
            f"{class_type} (node {node_id}): {words}",
            type(error).__name__,
            tuple(traceback.format_exception(error)),
        )

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Failed:
    """A node run failed; what does not depend on it goes on."""

    job_id: JobId
    node_id: NodeId
    failure: Failure


@dataclass(frozen=True, slots=True)
class Ended:
    """A job is over."""

    job_id: JobId
    outcome: Outcome


Event: TypeAlias = Started | Cached | Executing | Progress | Executed | Failed | Ended
