"""Pictures in the making for the faces that stream them: a few of a job, evenly over its steps."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from executor.dispatch import Happening
from executor.events import JobId, Progress
from executor.fabric.messages import Preview
from executor.ledger import JobEvent
from executor.node import NodeId
from executor.seats import Running


@dataclass(slots=True)
class Partial:
    """What one listener waits for: so many pictures, the n-th when n/(count + 1) is done."""

    count: int
    branch: str  # what the ids of the nodes to look at begin with
    pictures: "asyncio.Queue[bytes]" = field(default_factory=lambda: asyncio.Queue[bytes]())
    done: float = 0.0
    told: int = 0

    def wants(self, node_id: NodeId) -> bool:
        """Whether a picture of a node would be told now."""
        is_due = self.done >= (self.told + 1) / (self.count + 1)
        return self.told < self.count and is_due and node_id.startswith(self.branch)


class Partials:
    """Who waits for pictures of which job."""

    def __init__(self) -> None:
        self._waiting: dict[JobId, list[Partial]] = {}

    @contextmanager
    def listening(self, job_id: JobId, count: int, branch: str = "") -> Generator[Partial]:
        """What comes of a job, as JPEGs in a queue; none is waited for longer than it is there."""
        partial = Partial(count, branch)
        listeners = self._waiting.setdefault(job_id, [])
        listeners.append(partial)
        try:
            yield partial
        finally:
            listeners.remove(partial)
            if not listeners:
                self._waiting.pop(job_id, None)

    def hear(self, job: Running, happening: Happening, kept: JobEvent | None) -> None:
        """The dispatcher tells what happens."""
        for partial in self._waiting.get(job.id, ()):
            match happening:
                case Progress(node_id=node_id, value=value, of=most):
                    if node_id.startswith(partial.branch):
                        partial.done = value / most
                case Preview(node_id=node_id, jpeg=jpeg) if partial.wants(node_id):
                    partial.told += 1
                    partial.pictures.put_nowait(jpeg)
                case _:
                    pass
