"""A graph of the editor at the place where it stands: the file's own, or a sub-graph's in a node.

One definition may stand at many places, with other ids and other values of its widgets at each.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from executor.editor_file import EditorGraph, EditorLink, EditorNode, Socket
from executor.editor_widgets import by_position

_OWN = "-1"  # in a list of promoted widgets: of an input of the sub-graph, not of a node in it


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """A graph at the place where it stands: the file's own, or that of a sub-graph's node."""

    graph: EditorGraph
    prefix: str = ""  # of the ids in it
    parent: "Scope | None" = None
    instance: EditorNode | None = None  # the node in the parent that stands for this graph
    depth: int = 0
    children: dict[str, "Scope"] = field(default_factory=dict[str, "Scope"])
    input_values: dict[str, Any] = field(default_factory=dict[str, Any])
    widget_values: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """What the instance shows of inner widgets, by inner node and widget."""

    def input_value(self, slot: int) -> Any:
        """What the instance sets an input to that nothing is linked to; None if it does not."""
        names = self.graph.input_names
        return self.input_values.get(names[slot]) if slot < len(names) else None

    def is_inside(self, node_type: str) -> bool:
        """Whether this is, or lies in, the graph of that type."""
        scope: Scope | None = self
        while scope is not None and scope.instance is not None:
            if scope.instance.type == node_type:
                return True
            scope = scope.parent
        return False


def entered(scope: Scope, node: EditorNode, definition: EditorGraph) -> Scope:
    """The scope inside a sub-graph's node, with the values that the node shows of its widgets."""
    child = Scope(definition, f"{scope.prefix}{node.id}:", scope, node, scope.depth + 1)
    if definition.is_group:
        values = deque(node.values)
        for inner in definition.in_order():
            child.widget_values[inner.id] = dict(by_position(inner, values))
        return child
    shown = list(node.promoted)
    if not any(inner == _OWN for inner, _ in shown):
        shown = [*((_OWN, name) for name in definition.widget_inputs), *shown]
    set_outside = scope.widget_values.get(node.id, {})  # where it is shown further out
    given = dict(zip(shown, node.values, strict=False))
    for pair in shown:
        inner_id, name = pair
        value = set_outside.get(name, node.named_values.get(name, given.get(pair)))
        if value is None:
            continue
        if inner_id == _OWN:
            child.input_values[name] = value
        else:
            child.widget_values.setdefault(inner_id, {})[name] = value
    return child


def through_outputs(scope: Scope, link: EditorLink) -> tuple[Scope, EditorLink] | None:
    """From a link that leaves a sub-graph's node to the one inside that feeds it."""
    while link.source in scope.children:
        scope = scope.children[link.source]
        inner = scope.graph.outputs.get(link.slot)
        if inner is None:
            return None
        link = inner
    return scope, link


def entry(scope: Scope, slot: int) -> Socket | None:
    """The socket of a sub-graph's node through which a link comes in."""
    assert scope.instance is not None, "only a sub-graph's links come from outside"
    names, sockets = scope.graph.input_names, scope.instance.inputs
    if slot < len(names):
        for socket in sockets:
            if socket.name == names[slot]:
                return socket
    # Renamed: then the place counts.
    if slot < len(sockets) and sockets[slot].name not in names:
        return sockets[slot]
    return None
