"""A job is the frontier of its node runs: what has to run, what can run now, what became ready.

``NodeRun`` is one node's run, as a generator: it yields the model evaluations that the node is
waiting for and is resumed with their results, so that the engine can batch the runs of one job and
of many without any of them knowing. A run belongs to its content key, not to a job: jobs that want
the same outputs share it.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from executor.cache import Cache, Outputs
from executor.errors import InputError
from executor.events import Failure
from executor.graph import Graph, Key
from executor.node import Link, Node, NodeId
from executor.steps import Eval

if TYPE_CHECKING:
    from torch import Tensor

    from executor.workspace import NodeContext


@dataclass(slots=True, eq=False)
class Job:
    """A checked workflow on its way, and which of its nodes still have to run."""

    id: str
    graph: Graph
    prompt: Mapping[str, Any] = field(default_factory=dict[str, Any])
    extra_pnginfo: Mapping[str, Any] = field(default_factory=dict[str, Any])
    models: Mapping[str, Path] = field(default_factory=dict[str, Path])  # its pictures tell of them
    failures: dict[NodeId, Failure] = field(default_factory=dict[NodeId, Failure])
    _missing: dict[NodeId, set[NodeId]] = field(default_factory=dict[NodeId, "set[NodeId]"])
    _waiting_users: dict[NodeId, int] = field(default_factory=dict[NodeId, int])

    def begin(self, cache: Cache) -> list[NodeId]:
        """Decide what has to run: what an output needs and the cache lacks. Pins what is used.

        Gives the nodes that can run now.
        """
        graph, outputs = self.graph, set(self.graph.outputs)
        needed: dict[NodeId, set[NodeId]] = {}
        for node_id in reversed(graph.nodes):
            if node_id in outputs or any(user in needed for user in graph.users[node_id]):
                if graph.keys[node_id] in cache:
                    self._expect(node_id, needed)
                    if node_id in self._waiting_users:
                        cache.pin(graph.keys[node_id])
                else:
                    needed[node_id] = set()
                    self._expect(node_id, needed)
        for node_id, missing in needed.items():
            missing.update(source for source in graph.sources[node_id] if source in needed)
        self._missing = needed
        return [node_id for node_id in reversed(needed) if not needed[node_id]]

    def _expect(self, node_id: NodeId, needed: Mapping[NodeId, Any]) -> None:
        """Note how many runs will read a node's outputs."""
        users = sum(user in needed for user in self.graph.users[node_id])
        if users:
            self._waiting_users[node_id] = users

    @property
    def spared(self) -> tuple[NodeId, ...]:
        """The nodes that need not run."""
        return tuple(node_id for node_id in self.graph.nodes if node_id not in self._missing)

    def waits_for(self, node_id: NodeId) -> bool:
        """Whether a node of this job still has to run."""
        return node_id in self._missing

    def pins(self, node_id: NodeId) -> int:
        """How often a node's outputs are pinned for this job: once, if a run waits for them."""
        return int(node_id in self._waiting_users)

    def ended(self, node_id: NodeId, cache: Cache) -> list[NodeId]:
        """Strike a node that has run, and unpin what it alone still used.

        Gives the nodes that became ready by it.
        """
        self._release(node_id, cache)
        ready: list[NodeId] = []
        for user in self.graph.users[node_id]:
            missing = self._missing.get(user)
            if missing is not None:
                missing.discard(node_id)
                if not missing:
                    ready.append(user)
        return ready

    def failed(self, node_id: NodeId, failure: Failure, cache: Cache) -> None:
        """Strike a node that failed, and all that depends on it; the rest goes on."""
        self.failures[node_id] = failure
        todo = [node_id]
        while todo:
            lost = todo.pop()
            if lost in self._missing:
                todo += self.graph.users[lost]
                self._waiting_users.pop(lost, None)  # it has no outputs to unpin
                self._release(lost, cache)

    def abandon(self, cache: Cache) -> None:
        """Strike everything: the job is cancelled."""
        for node_id in list(self._missing):
            self._waiting_users.pop(node_id, None)
        for node_id in list(self._missing):
            self._release(node_id, cache)

    def _release(self, node_id: NodeId, cache: Cache) -> None:
        """A node will not run any more: nobody keeps its sources for it."""
        del self._missing[node_id]
        for source in self.graph.sources[node_id]:
            if source in self._waiting_users:
                self._waiting_users[source] -= 1
                if not self._waiting_users[source]:
                    del self._waiting_users[source]
                    if source not in self._missing:  # it has run, so its outputs were pinned
                        cache.unpin(self.graph.keys[source])

    @property
    def is_over(self) -> bool:
        return not self._missing


@dataclass(slots=True, eq=False)
class NodeRun:
    """One node's run under way: who wants it, and the evaluation that it waits for."""

    key: Key
    node: Node
    context: "NodeContext"
    members: list[tuple[Job, NodeId]]
    wants: Eval | None = None
    seconds: float = 0.0  # its own time and its share of the evaluations that it asked for
    _steps: Generator[Eval, "Tensor", Any] | None = None

    def resume(self, answer: "Tensor | Exception | None") -> Outputs | None:
        """Go on to the next evaluation, or to the end: the outputs. Raises what ``run`` raises."""
        began = perf_counter()
        self.wants = None
        try:
            if self._steps is None:
                result = self.node.run(self.context)
                if not isinstance(result, Generator):
                    return self._outputs(result)
                self._steps = cast("Generator[Eval, Tensor, Any]", result)
                self.wants = next(self._steps)
            elif isinstance(answer, Exception):
                self.wants = self._steps.throw(answer)
            else:
                assert answer is not None, "a run that waits is resumed with an answer"
                self.wants = self._steps.send(answer)
        except StopIteration as end:
            return self._outputs(end.value)
        finally:
            self.seconds += perf_counter() - began
        return None

    def close(self) -> None:
        """Give up between two steps; it could begin again."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _outputs(self, result: Any) -> Outputs:
        """What ``run`` returned, held to what its annotation says."""
        slots = type(self.node).outputs()
        values = (() if result is None else (result,)) if len(slots) < 2 else result
        if not isinstance(values, tuple) or len(cast("tuple[Any, ...]", values)) != len(slots):
            names = ", ".join(slot.wire for slot in slots) or "nothing"
            raise InputError(f"run must return {names}, but returned {type(result).__name__}")
        return Outputs(tuple(cast("tuple[Any, ...]", values)), self.context.files)


def bind(job: Job, node_id: NodeId, cache: Cache) -> Node:
    """The node with its links replaced by the values that came along them; pydantic checks all."""
    node = job.graph.nodes[node_id]
    values = node.__dict__
    if not job.graph.sources[node_id]:
        return node
    return type(node).model_validate(
        {
            name: _value(value, job, cache) if type(value) is Link else value
            for name, value in values.items()
        }
    )


def _value(link: Link, job: Job, cache: Cache) -> Any:
    outputs = cache.get(job.graph.keys[link.source])
    assert outputs is not None, f"the outputs of node {link.source} are pinned until they are read"
    return outputs.values[link.slot]
