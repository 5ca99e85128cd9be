"""Where workers sit, what they have to do, and which of them a job is given to.

A job goes to the seat that is expected to end it first, as HEFT chooses (Topcuoglu et al. 2002):
what the seat has to do already, and what of the job it has not got in its cache.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from executor.events import JobId
from executor.fabric.messages import Figures, FromWorker, Ready, ToWorker
from executor.graph import check
from executor.ledger import TakenJob
from executor.paths import Folders

REMEMBERED_KEYS = 20_000  # content keys that a seat is taken to have in its cache
USUAL_NODE_S = 0.1  # what a node of a class is taken to cost that was never seen to run


class WorkerLink(Protocol):
    """A worker as the front sees it (``executor.fabric.local.LocalWorker``)."""

    def send(self, message: ToWorker) -> None: ...
    def messages(self) -> AsyncIterator[FromWorker]: ...
    async def ended(self) -> int: ...
    def kill(self) -> None: ...


Spawn: TypeAlias = Callable[[], Awaitable[WorkerLink]]


@dataclass(slots=True, eq=False)
class Running:
    """A job that a worker has."""

    taken: TakenJob
    prompt: Mapping[str, Any]
    extra_data: Mapping[str, Any]
    expected_s: float = 0.0
    outputs: dict[str, dict[str, list[dict[str, str]]]] = field(
        default_factory=dict[str, dict[str, list[dict[str, str]]]]
    )
    error: dict[str, Any] | None = None  # of the first node that failed
    executed: list[str] = field(default_factory=list[str])

    @property
    def id(self) -> JobId:
        return self.taken.id


@dataclass(slots=True, eq=False)
class Seat:
    """A place for a worker, and what is known of the one that sits there."""

    name: str
    spawn: Spawn
    worker: WorkerLink | None = None
    ready: Ready | None = None
    figures: Figures | None = None
    running: dict[JobId, Running] = field(default_factory=dict[JobId, Running])
    keys: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])
    restarts: int = 0  # workers that died here and were replaced

    @property
    def room(self) -> int:
        """How many more jobs it can take."""
        return self.ready.capacity - len(self.running) if self.ready else 0

    @property
    def backlog_s(self) -> float:
        """What it is expected to be busy for."""
        return sum(job.expected_s for job in self.running.values())


def place(job: Running, seats: Sequence[Seat], folders: Folders) -> Seat | None:
    """Put a job on the seat that is expected to end it first; None if there is no room."""
    having_room = [seat for seat in seats if seat.room > 0]
    if not having_room:
        return None
    # With a single seat there is nothing to choose, and nothing to find out for it.
    costs = _node_costs(job, seats, folders) if len(seats) > 1 else {}

    def fresh_s(seat: Seat) -> float:
        return sum(cost for key, cost in costs.items() if key not in seat.keys)

    seat = min(having_room, key=lambda seat: seat.backlog_s + fresh_s(seat))
    job.expected_s = fresh_s(seat)
    for key in costs:
        seat.keys[key] = None
        seat.keys.move_to_end(key)
    while len(seat.keys) > REMEMBERED_KEYS:
        seat.keys.popitem(last=False)
    seat.running[job.id] = job
    return seat


def _node_costs(job: Running, seats: Sequence[Seat], folders: Folders) -> Mapping[str, float]:
    """The seconds that each of a job's nodes is expected to take, by its content key."""
    graph = check(job.prompt, folders, job.taken.body.targets).graph
    if graph is None:  # a file went missing since it was queued; the worker will say so
        return {}
    runs: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for figures in (seat.figures for seat in seats):
        for name, count in figures.meter.node_runs.items() if figures else ():
            runs[name] = runs.get(name, 0) + count
        for name, spent in figures.meter.node_seconds.items() if figures else ():
            seconds[name] = seconds.get(name, 0) + spent
    costs: dict[str, float] = {}
    for node_id, node in graph.nodes.items():
        name = type(node).__name__
        usual = seconds[name] / runs[name] if runs.get(name) else USUAL_NODE_S
        costs[graph.keys[node_id]] = usual
    return costs
