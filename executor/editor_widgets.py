"""The values of a node's widgets, as ComfyUI's editor would send them.

A file keeps them by position, so the node's class says which is which: constants in the order of
their declaration, with the editor's own controls between them, which are skipped. Of a class that
nobody knows, the file's own sockets name the widgets as well as they can.
"""

from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Any

from executor.dynamic_prompt import resolve
from executor.editor_file import EditorNode
from executor.node import Input, Node

_CONSTANTS = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
_CONTROLS = ("control_after_generate", "control_filter_list")
_CONTROL_WORDS = frozenset({"fixed", "increment", "decrement", "increment-wrap", "randomize"})


def is_widget(spec: Input) -> bool:
    """Whether the editor shows an input as a widget."""
    return spec.wire in _CONSTANTS and not spec.options.get("forceInput")


def widget_names(node: EditorNode) -> list[str]:
    """The names of a node's widgets, in order."""
    cls = Node.registry.get(node.type)
    if cls is not None:
        return [name for name, spec in cls.inputs().items() if is_widget(spec)]
    return [socket.widget for socket in node.inputs if socket.widget is not None]


def widget_values(node: EditorNode) -> dict[str, Any]:
    """The values of a node's widgets by name, in order; those that the file lacks by default."""
    cls = Node.registry.get(node.type)
    found = {**dict(by_position(node, deque(node.values))), **node.named_values}
    found = {name: value for name, value in found.items() if value is not None}
    if cls is None:
        return {name: value for name, value in found.items() if name not in _CONTROLS}
    values: dict[str, Any] = {}
    for name in widget_names(node):
        value = found.get(name, cls.inputs()[name].default)
        if value is not None:
            values[name] = value
    return values


def sent(value: Any, spec: Input | None, random: Random) -> Any:
    """A value as it stands in the API format."""
    if isinstance(value, list):  # which would be a link
        return {"__value__": value}
    if spec is not None and isinstance(value, str) and spec.options.get("dynamicPrompts"):
        return resolve(value, random)
    return value


def by_position(node: EditorNode, values: deque[Any]) -> Iterator[tuple[str, Any]]:
    """Take each widget's value, and the editor's own controls between them, which are dropped.

    What is left over in the end is no widget of ours: the button of ``image_upload``, for one.
    """
    cls = Node.registry.get(node.type)
    for name in widget_names(node):
        if not values:
            return
        value = values.popleft()
        yield name, value
        spec = cls.inputs()[name] if cls else None
        if values and _is_control(values[0], value, spec):
            values.popleft()
            if values and spec is not None and spec.wire == "COMBO":
                values.popleft()  # a combo's control has a filter besides


def _is_control(following: Any, value: Any, spec: Input | None) -> bool:
    """Whether what follows a widget's value controls how the editor changes that."""
    is_word = isinstance(following, str) and following in _CONTROL_WORDS
    if spec is None:  # of an unknown class; as a rule, it is whole numbers that are controlled
        return is_word and isinstance(value, int) and not isinstance(value, bool)
    # The oldest files have `true` there.
    is_control = is_word or isinstance(following, bool) or following is None
    return is_control and bool(spec.options.get("control_after_generate"))
