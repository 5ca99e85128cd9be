"""Which checkpoints a workflow loads, and which of its nodes' outputs are made with each.

The ledger counts a job's pictures by that (``executor.ledger.figures``). A name that reaches its
loader along a link is not known before the job runs, and is counted for nobody.
"""

from executor.graph import Graph
from executor.ledger.records import Checkpoints
from executor.node import NodeId
from executor.paths import parts_of

MOST = 60
"""Checkpoints of one job that are counted: the sides of a comparison, not a flood."""


def checkpoints_of(graph: Graph) -> Checkpoints:
    """The checkpoints of a checked workflow. Linear in it."""
    places: dict[str, int] = {}
    made_with: dict[NodeId, int] = {}  # bit i: the i-th checkpoint
    for node_id, node in graph.nodes.items():  # sources first
        marks = 0
        for source in graph.sources[node_id]:
            marks |= made_with[source]
        for _, folder, file in node.files():
            if folder == "checkpoints":
                name = plain_name(file)
                if name in places or len(places) < MOST:
                    marks |= 1 << places.setdefault(name, len(places))
        made_with[node_id] = marks
    by_output = {node_id: made_with[node_id] for node_id in graph.outputs if places}
    return Checkpoints(tuple(places), by_output)


def plain_name(file: str) -> str:
    """A file's name as listings have it. Raises PathError for what is none."""
    return "/".join(parts_of(file))
