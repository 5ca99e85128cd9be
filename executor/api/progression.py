"""How the nodes of a running job stand, as its client is told.

Told are the nodes that run and those that ended since the last time, never all: a job of N nodes
would else be told of N times, N nodes each.
"""

import asyncio
from typing import Any

from executor.api import messages
from executor.node import NodeId
from executor.seats import Running


class Progression:
    """Of one attempt at a job."""

    def __init__(self, job: Running) -> None:
        self.job = job
        self.targets = frozenset(job.taken.body.targets)
        self.running: dict[NodeId, tuple[int, int]] = {}
        self.ended: dict[NodeId, str] = {}  # since it was last told
        self.last: NodeId | None = None
        self.sending: NodeId | None = None  # whose pictures the client takes the next ones for
        self.timer: asyncio.TimerHandle | None = None

    def interrupted(self) -> dict[str, Any]:
        """Where it was when it was stopped, as ``execution_interrupted`` says it."""
        node_id = next(iter(self.running), self.last) or ""
        class_type = self.job.prompt.get(node_id, {}).get("class_type", "")
        return {"node_id": node_id, "node_type": class_type, "executed": self.job.executed}

    def text(self) -> str:
        """``progress_state`` with what runs, and what ended since the last one."""
        job_id = self.job.id
        nodes = {
            node_id: messages.node_state(job_id, node_id, state, 1, 1)
            for node_id, state in self.ended.items()
        }
        for node_id, (value, most) in self.running.items():
            nodes[node_id] = messages.node_state(job_id, node_id, "running", value, most)
        return messages.message_text("progress_state", {"prompt_id": job_id, "nodes": nodes})
