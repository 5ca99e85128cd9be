"""A file of ComfyUI's editor, read: its nodes, their sockets, the links, and graphs within graphs.

Versions 0.4 (links are lists) and 1 (links are objects) look the same from here, and so do
sub-graphs and the older group nodes. What is malformed is left out and named. What nodes and links
mean is ``executor.editor``'s, and the values of widgets are ``executor.editor_widgets``'.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

from executor.errors import Kind, Problem

INPUT_BOX, OUTPUT_BOX = "-10", "-20"  # the ends of a sub-graph, as its links name them

Report: TypeAlias = Callable[[Problem], None]


@dataclass(frozen=True, slots=True)
class Socket:
    """Where a link enters a node."""

    name: str
    type: str
    link: str | None = None
    widget: str | None = None  # whose place the link takes


@dataclass(frozen=True, slots=True)
class EditorNode:
    """One node as the editor keeps it; ids are texts."""

    id: str
    type: str
    mode: int = 0
    order: int = 0
    title: str | None = None
    inputs: tuple[Socket, ...] = ()
    output_types: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()  # of the widgets, by position
    named_values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    promoted: tuple[tuple[str, str], ...] = ()  # an inner node's id, and a widget of it


@dataclass(frozen=True, slots=True)
class EditorLink:
    """A link, seen from its source."""

    id: str
    source: str
    slot: int
    target: str
    target_slot: int


@dataclass(frozen=True, slots=True)
class EditorGraph:
    """Nodes and links, and where links cross the border if this is a sub-graph."""

    nodes: Mapping[str, EditorNode]
    links: Mapping[str, EditorLink]
    input_names: tuple[str, ...] = ()
    outputs: Mapping[int, EditorLink] = field(default_factory=dict[int, EditorLink])
    widget_inputs: tuple[str, ...] = ()  # the names of the inputs that lead to widgets inside
    is_group: bool = False  # a group node shows the widgets of all its nodes

    def in_order(self) -> list[EditorNode]:
        """The nodes as the editor would run them, else by id."""
        return sorted(self.nodes.values(), key=lambda node: (node.order, _by_number(node.id)))


@dataclass(frozen=True, slots=True)
class EditorFile:
    """The outermost graph, and the others by the type of the nodes that stand for them."""

    graph: EditorGraph
    definitions: Mapping[str, EditorGraph]


def read(file: Mapping[str, Any], report: Report) -> EditorFile:
    """Read a whole file; what is wrong with it is reported."""
    definitions: dict[str, EditorGraph] = {}
    for definition in _items(_mapping(file.get("definitions")).get("subgraphs")):
        if isinstance(definition, Mapping):
            spec = cast("Mapping[str, Any]", definition)
            definitions[str(spec.get("id"))] = _graph(spec, report)
    for name, group in _mapping(_mapping(file.get("extra")).get("groupNodes")).items():
        graph = _group(_mapping(group), report)
        # Older files write the second form; both stand for the same group.
        definitions |= {f"workflow>{name}": graph, f"workflow/{name}": graph}
    return EditorFile(_graph(file, report), definitions)


def _graph(spec: Mapping[str, Any], report: Report) -> EditorGraph:
    nodes: dict[str, EditorNode] = {}
    for entry in _items(spec.get("nodes")):
        node = _node(entry, report)
        if node is None:
            continue
        if node.id in nodes:
            words = "there are two nodes of this id; give one another"
            report(Problem(Kind.INVALID_PROMPT, words, node.id, node.type))
        else:
            nodes[node.id] = node
    links = {link.id: link for link in _links(spec.get("links"), report)}
    names = tuple(str(_mapping(entry).get("name")) for entry in _items(spec.get("inputs")))
    outputs = {link.target_slot: link for link in links.values() if link.target == OUTPUT_BOX}
    return EditorGraph(nodes, links, names, outputs, _widget_inputs(nodes, links, names))


def _widget_inputs(
    nodes: Mapping[str, EditorNode], links: Mapping[str, EditorLink], names: tuple[str, ...]
) -> tuple[str, ...]:
    """Which inputs of a sub-graph its node shows as widgets: those that lead to widgets inside."""
    slots: set[int] = set()
    for link in links.values():
        target = nodes.get(link.target) if link.source == INPUT_BOX else None
        # By the link, not by its target's slot: files leave out sockets, but count them.
        if target and any(s.link == link.id and s.widget is not None for s in target.inputs):
            slots.add(link.slot)
    return tuple(name for slot, name in enumerate(names) if slot in slots)


def _node(entry: Any, report: Report) -> EditorNode | None:
    spec = _mapping(entry)
    node_id, node_type = _id(spec.get("id")), spec.get("type")
    if node_id is None or not isinstance(node_type, str):
        missing = '"id"' if node_id is None else '"type"'
        words = f"a node has an id and a type; this one lacks a usable {missing}"
        report(Problem(Kind.INVALID_PROMPT, words, node_id or "?", received=entry))
        return None
    properties, title = _mapping(spec.get("properties")), spec.get("title")
    values: Any = spec.get("widgets_values")
    return EditorNode(
        id=node_id,
        type=node_type,
        mode=_number(spec.get("mode")),
        order=_number(spec.get("order")),
        title=title if isinstance(title, str) and title else None,
        inputs=tuple(_socket(_mapping(socket)) for socket in _items(spec.get("inputs"))),
        output_types=tuple(
            str(_mapping(output).get("type")) for output in _items(spec.get("outputs"))
        ),
        values=tuple(_items(values)),
        named_values={**_mapping(values), **_mapping(spec.get("widgets_values_named"))},
        promoted=_promoted(properties.get("proxyWidgets")),
    )


def _socket(spec: Mapping[str, Any]) -> Socket:
    widget = _mapping(spec.get("widget")).get("name")
    return Socket(
        name=str(spec.get("name")),
        type=str(spec.get("type")),
        link=_id(spec.get("link")),
        widget=widget if isinstance(widget, str) else None,
    )


def _promoted(pairs: Any) -> tuple[tuple[str, str], ...]:
    wanted = (_items(pair) for pair in _items(pairs))
    return tuple((str(pair[0]), str(pair[1])) for pair in wanted if len(pair) >= 2)


def _links(entries: Any, report: Report) -> Iterator[EditorLink]:
    for entry in _items(entries):
        if entry is None:  # the editor leaves such holes where it took links away
            continue
        if isinstance(entry, list):
            parts = cast("list[Any]", entry)[:5]
        else:
            keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
            parts = [_mapping(entry).get(key) for key in keys]
        match [*map(_id, parts)]:
            case [str(link), str(source), str(slot), str(target), str(target_slot)] if _is_number(
                slot
            ) and _is_number(target_slot):
                yield EditorLink(link, source, int(slot), target, int(target_slot))
            case _:
                words = (
                    "a link is [id, source, output, target, input, type] or an object "
                    f"of these, got {entry!r:.80}"
                )
                report(Problem(Kind.BAD_LINK, words, received=entry))


# -- group nodes -----------------------------------------------------------------------------------


def _group(spec: Mapping[str, Any], report: Report) -> EditorGraph:
    """A group node's definition, as the sub-graph that it amounts to.

    Its nodes are known by their index. Inputs and outputs of the group are those of its nodes, in
    their order, that no inner link takes; an output that is listed as external stays in spite.
    """
    inner = [
        {**_mapping(node), "id": index, "order": index}
        for index, node in enumerate(_items(spec.get("nodes")))
    ]
    numbered = [
        [index, *_items(link)[:4]]
        for index, link in enumerate(_items(spec.get("links")))
        if _items(link) and _items(link)[0] is not None
    ]
    graph = _graph({"nodes": inner, "links": numbered}, report)
    links = dict(graph.links)
    taken = {(link.target, link.target_slot): link.id for link in links.values()}
    feeding = {(link.source, link.slot) for link in links.values()}
    external = {tuple(map(str, _items(entry)[:2])) for entry in _items(spec.get("external"))}
    nodes: dict[str, EditorNode] = {}
    names: list[str] = []
    outputs: dict[int, EditorLink] = {}
    for node in graph.in_order():
        sockets: list[Socket] = []
        for index, socket in enumerate(node.inputs):
            link = taken.get((node.id, index))
            if link is None:
                link = f"in {len(names)}"
                links[link] = EditorLink(link, INPUT_BOX, len(names), node.id, index)
                names.append(_group_name(socket.name, node, names))
            sockets.append(Socket(socket.name, socket.type, link, socket.widget))
        for slot in range(len(node.output_types)):
            is_external = (node.id, str(slot)) in external
            if is_external or (node.id, slot) not in feeding:
                place = len(outputs)
                outputs[place] = EditorLink(f"out {place}", node.id, slot, OUTPUT_BOX, place)
        nodes[node.id] = replace(node, inputs=tuple(sockets))
    return EditorGraph(nodes, links, tuple(names), outputs, is_group=True)


def _group_name(name: str, node: EditorNode, taken: Iterable[str]) -> str:
    """What the group calls an input of one of its nodes: the first of a name keeps it."""
    return f"{node.title or node.type} {name}" if name in taken else name


# -- loose JSON ------------------------------------------------------------------------------------


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _items(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _id(value: Any) -> str | None:
    """An id or an index as text; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return str(value)


def _by_number(node_id: str) -> tuple[int, int, str]:
    """A sort key: numbers first, as numbers."""
    return (0, int(node_id), "") if _is_number(node_id) else (1, 0, node_id)


def _is_number(text: str) -> bool:
    """Whether this is an index; Python reads no more than some thousand digits."""
    return text.isdecimal() and len(text) < 20
