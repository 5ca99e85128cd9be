"""Progress bars for a job that runs, on a terminal's stderr; nothing where nobody watches."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from executor import events
from executor.graph import Graph
from executor.node import NodeId


class Bars:
    """One bar for the nodes of the job, and one for each node that counts steps."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not sys.stderr.isatty(),
        )
        self._nodes = self._progress.add_task("starting", total=len(graph.nodes))
        self._steps: dict[NodeId, TaskID] = {}
        self._running: dict[NodeId, None] = {}  # in the order in which they began

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, event: events.Event) -> None:
        """Show what happened."""
        match event:
            case events.Cached(node_ids=node_ids):
                self._progress.advance(self._nodes, len(node_ids))
            case events.Executing(node_id=node_id):
                self._running[node_id] = None
                self._describe()
            case events.Progress(node_id=node_id, value=value, of=of):
                if node_id not in self._steps:
                    self._steps[node_id] = self._progress.add_task(self._name(node_id), total=of)
                self._progress.update(self._steps[node_id], completed=value)
            case events.Executed(node_id=node_id) | events.Failed(node_id=node_id):
                if node_id in self._running:  # a node that was cached has been counted
                    del self._running[node_id]
                    self._progress.advance(self._nodes)
                    self._describe()
            case _:
                pass

    def _describe(self) -> None:
        """Name the node that has run longest."""
        if self._running:
            self._progress.update(self._nodes, description=self._name(next(iter(self._running))))

    def _name(self, node_id: NodeId) -> str:
        return f"{type(self._graph.nodes[node_id]).__name__} (node {node_id})"
