"""What goes into the ledger and what comes out of it, as values.

JSON stays the text that it came in: a prompt is never decoded here. Times are milliseconds since
1970, durations milliseconds. A ``NewJob`` that exists is one that can be kept.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from executor.errors import JobRefused

MAX_NAME_CHARS = 200
"""Of ids and keys, which go into indexes, URLs and log lines."""

MAX_NUMBER = 2**53
"""Beyond it, a float skips whole numbers and the order of submission would be lost."""


class State(StrEnum):
    """Where a job is on its way: ``queued → running →`` one of the others."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    @property
    def is_over(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


class EventKind(StrEnum):
    """What is worth telling again to somebody who was away."""

    STARTED = "started"
    CACHED = "cached"
    EXECUTED = "executed"
    FAILED = "failed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file that a job left, as clients ask for it, and the node that left it."""

    filename: str
    subfolder: str
    type: str
    node_id: str


@dataclass(frozen=True, slots=True)
class JobBody:
    """What a client sent, which may be large: lists leave it out."""

    prompt: str
    extra_data: str
    targets: tuple[str, ...]
    """The nodes whose outputs are wanted."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Which checkpoints a workflow loads, and what of its outputs is made with each."""

    names: tuple[str, ...] = ()
    by_output: Mapping[str, int] = field(default_factory=dict[str, int])
    """By node: bit i is set if the i-th had a part in what it leaves."""

    def shares(self, counts: Mapping[str, int]) -> list[int]:
        """How much of what nodes left is each one's, in their order.

        A node that came up while the job ran is taken for everyone's.
        """
        return [
            sum(
                count
                for node_id, count in counts.items()
                if self.by_output.get(node_id, -1) >> place & 1
            )
            for place in range(len(self.names))
        ]

    def text(self) -> str:
        """As it is kept: JSON, or nothing."""
        if not self.names:
            return ""
        return json.dumps([self.names, self.by_output], separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "Checkpoints":
        """What was kept."""
        names, by_output = json.loads(text) if text else ((), {})
        return cls(tuple(names), by_output)


@dataclass(frozen=True, slots=True)
class NewHook:
    """Whom to tell of a job's end, and how."""

    url: str
    host: str
    """Of the URL: not all that is sent at a time goes to one host."""
    renderer: str
    """The name of what makes the body of it."""
    base_url: str
    """Where the client that submitted the job finds this server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be queued. Raises JobRefused if it cannot be kept as it is."""

    prompt: str
    extra_data: str = "{}"
    targets: tuple[str, ...] = ()
    id: str | None = None
    """The client's own; otherwise it gets one."""
    number: float | None = None
    """Lower goes first; otherwise it goes behind all that were numbered so before it."""
    is_front: bool = False
    """Without a number: before all that were numbered so."""
    client_id: str = ""
    owner: str = ""
    idempotency_key: str | None = None
    """An owner who sends a key again gets the first answer again."""
    workflow_id: str | None = None
    ttl_ms: int | None = None
    """How long it may wait in the queue."""
    timeout_ms: int | None = None
    """How long it may run."""
    hook: NewHook | None = None
    checkpoints: Checkpoints = Checkpoints()

    def __post_init__(self) -> None:
        for what in ("id", "client_id", "owner", "idempotency_key", "workflow_id"):
            name = getattr(self, what)
            if name is not None and (fault := name_fault(name)):
                raise JobRefused(f"{what} {fault}, got {shortened(name)}")
        for what in ("id", "idempotency_key"):
            if getattr(self, what) == "":
                raise JobRefused(f"{what} must not be empty; leave it out to get one")
        if self.number is not None and not abs(self.number) <= MAX_NUMBER:  # NaN is not, either
            raise JobRefused(f"number must be between ±2^53, got {self.number!r:.40}")
        for what in ("ttl_ms", "timeout_ms"):
            duration = getattr(self, what)
            if duration is not None and not 0 < duration <= MAX_NUMBER:
                raise JobRefused(f"{what} must be between 1 and 2^53, got {duration!r:.40}")
        for what, texts in (
            ("prompt", (self.prompt,)),
            ("extra_data", (self.extra_data,)),
            ("targets", self.targets),
        ):
            if any("\0" in text or not is_unicode(text) for text in texts):
                raise JobRefused(f"{what} must be Unicode without NUL characters")


def name_fault(name: str) -> str:
    """Why an id or a key cannot be kept, or nothing."""
    if len(name) > MAX_NAME_CHARS:
        return f"must have at most {MAX_NAME_CHARS} characters"
    return "" if name.isprintable() else "must have printable characters only"


def shortened(name: str) -> str:
    """A name for a message, whatever is in it."""
    return ascii(name if len(name) <= 40 else name[:40] + "…")


def is_unicode(text: str) -> bool:
    """Whether it can be encoded: JSON lets halves of surrogate pairs through, UTF-8 does not."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to a submission, which is in the file by the time it is given."""

    id: str
    number: float
    is_repeat: bool
    """The same was submitted before; nothing was added."""


@dataclass(frozen=True, slots=True)
class TakenJob:
    """A job to be run now. Its results are taken under its ``attempt`` only."""

    id: str
    attempt: int
    number: float
    client_id: str
    owner: str
    timeout_ms: int | None
    created_ms: int
    started_ms: int
    """When it was taken, under this attempt."""
    body: JobBody


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job. ``seq`` increases over all jobs of a ledger."""

    seq: int
    job_id: str
    client_id: str
    owner: str
    attempt: int
    kind: EventKind
    data: str
    """JSON; of ``ENDED``: ``{"state", "error"}``."""
    time_ms: int


@dataclass(frozen=True, slots=True)
class Requeued:
    """What became of a job that was put back: it is queued again, unless ``end`` is its end."""

    end: JobEvent | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as lists show it, without what may be large."""

    id: str
    number: float
    state: State
    client_id: str
    owner: str
    workflow_id: str | None
    attempt: int
    deaths: int
    """How many workers died under it."""
    worker: str
    created_ms: int
    started_ms: int | None
    ended_ms: int | None
    expires_ms: int | None
    """When it is given up if it still waits in the queue."""
    timeout_ms: int | None
    output_count: int
    preview: JobFile | None
    """A file to show for it: the first output, or else the first file."""
    error: str | None
    """JSON: ``{node_id, node_type, message, exception_type, traceback, …}``."""


@dataclass(frozen=True, slots=True)
class FullJob:
    """A job with all that is kept of it."""

    record: JobRecord
    body: JobBody
    outputs: str
    """JSON, by node: ``{node_id: {"images": [{filename, subfolder, type}]}}``."""
    events: tuple[JobEvent, ...]
    """Of its last attempt; without ``EXECUTED``, whose sum the outputs are."""


@dataclass(frozen=True, slots=True)
class DueHook:
    """A job's end that is to be told now."""

    id: str
    """The same at each try, so that who hears of it twice knows."""
    job_id: str
    owner: str
    url: str
    host: str
    renderer: str
    base_url: str
    tries: int
    """That were in vain."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """A part of a list, and how long the whole is."""

    jobs: tuple[JobRecord, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs there are in each state."""

    of: Mapping[State, int] = field(default_factory=dict[State, int])

    @property
    def queued(self) -> int:
        return self.of.get(State.QUEUED, 0)

    @property
    def running(self) -> int:
        return self.of.get(State.RUNNING, 0)

    @property
    def remaining(self) -> int:
        """What is not over: the running ones too."""
        return self.queued + self.running
