"""ComfyUI's editor format to its API format: what the editor does when it queues a workflow.

Here is what nodes and links of the editor mean: muted nodes and notes go, bypassed nodes, reroutes
and primitives are seen through, sub-graphs are put in place of the nodes that stand for them, with
ids like ``74:22``. Whether the outcome can run is for ``executor.graph`` to say; a node of an
unknown class stays, so that it is named there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from executor.editor_file import INPUT_BOX, EditorGraph, EditorNode, Socket, read
from executor.editor_scope import Scope, entered, entry, through_outputs
from executor.editor_widgets import sent, widget_values
from executor.errors import Kind, Problem
from executor.node import Input, Link, Node

_MUTED, _BYPASSED = 2, 4
_UNSENT = frozenset({"Note", "MarkdownNote", "PrimitiveNode", "Reroute"})
# Far above any workflow. Sub-graphs that hold each other many times grow exponentially.
_MOST_NODES, _MOST_DEPTH = 50_000, 64


@dataclass(frozen=True, slots=True)
class Converted:
    """A workflow in API format, what was wrong with the file, and the file for its pictures."""

    prompt: dict[str, dict[str, Any]]
    problems: tuple[Problem, ...]
    workflow: Mapping[str, Any]


def is_editor_format(prompt: Any) -> bool:
    """Whether this is a file of ComfyUI's editor (lists of nodes and links), not of its API."""
    return (
        isinstance(prompt, Mapping)
        and isinstance(prompt.get("nodes"), list)
        and isinstance(prompt.get("links"), list)
    )


def to_prompt(editor: Mapping[str, Any], seed: int = 0) -> Converted:
    """Convert a file of the editor.

    ``seed`` picks among the alternatives of dynamic prompts: the editor throws dice, but the same
    file shall make the same pictures.
    """
    problems: list[Problem] = []
    file = read(editor, problems.append)
    conversion = _Conversion(file.definitions, seed, problems)
    return Converted(conversion.prompt(file.graph), tuple(problems), editor)


@dataclass(frozen=True, slots=True)
class _Constant:
    """Stands where a link leads to the value of a widget."""

    value: Any


@dataclass(frozen=True, slots=True)
class _Onward:
    """Stands where a link leads to another one, past something that is not sent."""

    scope: Scope
    link: str | None
    past: str
    otherwise: _Constant | None = None  # what counts if nothing is at the other end


@dataclass(frozen=True, slots=True)
class _Broken:
    """Stands where a link leads nowhere, and says why."""

    words: str


class _Conversion:
    """One conversion under way."""

    def __init__(
        self, definitions: Mapping[str, EditorGraph], seed: int, problems: list[Problem]
    ) -> None:
        self.definitions, self.seed, self.problems = definitions, seed, problems
        self.count = 0  # of the nodes in sub-graphs so far
        self.is_too_large = False

    def prompt(self, graph: EditorGraph) -> dict[str, dict[str, Any]]:
        """The whole, in API format."""
        placed = list(self._placed(Scope(graph)))
        return {scope.prefix + node.id: self._sent(scope, node) for scope, node in placed}

    # -- sub-graphs ----------------------------------------------------------------------------

    def _placed(self, scope: Scope) -> Iterator[tuple[Scope, EditorNode]]:
        """The nodes to be sent, in order, with where they stand."""
        for node in scope.graph.in_order():
            if node.mode in (_MUTED, _BYPASSED) or node.type in _UNSENT:
                continue
            definition = self.definitions.get(node.type)
            if definition is None:
                yield scope, node
            elif self._may_enter(scope, node, definition):
                scope.children[node.id] = child = entered(scope, node, definition)
                yield from self._placed(child)

    def _may_enter(self, scope: Scope, node: EditorNode, definition: EditorGraph) -> bool:
        """Whether a sub-graph can be put in place; says why not."""
        if scope.is_inside(node.type):
            words = "is a sub-graph that holds itself; take it out of its own definition"
            self._say(Kind.CYCLE, words, scope, node)
            return False
        if self.count + len(definition.nodes) > _MOST_NODES or scope.depth == _MOST_DEPTH:
            words = (
                f"with this sub-graph there are more than {_MOST_NODES:,} nodes, or they are "
                f"nested deeper than {_MOST_DEPTH} sub-graphs; use fewer"
            )
            if not self.is_too_large:  # said once
                self._say(Kind.INVALID_PROMPT, words, scope, node)
                self.is_too_large = True
            return False
        self.count += len(definition.nodes)
        return True

    # -- one node ------------------------------------------------------------------------------

    def _sent(self, scope: Scope, node: EditorNode) -> dict[str, Any]:
        """One node in API format."""
        cls = Node.registry.get(node.type)
        known: Mapping[str, Input] = cls.inputs() if cls else {}
        values = widget_values(node)
        values |= scope.widget_values.get(node.id, {})
        links: dict[str, Link] = {}
        for socket in node.inputs:
            match self._source(scope, node, socket):
                case Link() as link:
                    links[socket.name] = link
                case _Constant(value):
                    values[socket.name] = value
                case None:
                    pass
        inputs: dict[str, Any] = {}
        for name, value in values.items():
            random = Random(f"{self.seed} {scope.prefix}{node.id} {name}")
            inputs[name] = sent(value, known.get(name), random)
        inputs |= {name: [link.source, link.slot] for name, link in links.items()}
        title = node.title or (cls.display_name if cls else node.type)
        return {"class_type": node.type, "inputs": inputs, "_meta": {"title": title}}

    def _source(self, scope: Scope, node: EditorNode, socket: Socket) -> Link | _Constant | None:
        """Where the value of an input comes from, seen through all that is not sent."""
        passed: dict[tuple[str, str], str] = {}  # links that were followed, and what they lead to
        here, at = scope, socket.link
        otherwise: _Constant | None = None
        while at is not None:
            step = (here.prefix, at)
            if step in passed:
                ring = list(passed.values())[list(passed).index(step) :]
                path = " → ".join([*reversed(ring), ring[-1]])
                words = f"{socket.name} leads in a ring: {path}; connect one of them to a source"
                self._say(Kind.CYCLE, words, scope, node, socket)
                return None
            match self._behind(here, at, socket.type):
                case _Onward(here, at, past, value):
                    passed[step] = past
                    otherwise = value or otherwise
                case _Broken(words):
                    self._say(Kind.BAD_LINK, f"{socket.name} {words}", scope, node, socket)
                    return None
                case found:
                    return found or otherwise
        return otherwise

    def _behind(
        self, scope: Scope, at: str, wanted: str
    ) -> Link | _Constant | _Onward | _Broken | None:
        """What a link comes from: what is sent, a value, the next link, or nothing."""
        link = scope.graph.links.get(at)
        if link is None:
            return _Broken(f"comes along link {at}, which is not in the file; connect it again")
        inner = through_outputs(scope, link)
        if inner is None:
            return None
        here, link = inner
        if link.source == INPUT_BOX and here.parent is not None and here.instance is not None:
            given = here.input_value(link.slot)
            value = None if given is None else _Constant(given)
            outer = entry(here, link.slot)
            if outer is None or outer.link is None:
                return value
            past = f"{here.instance.type} (node {here.prefix[:-1]})"
            return _Onward(here.parent, outer.link, past, value)
        source = here.graph.nodes.get(link.source)
        if source is None:
            place = here.prefix + link.source
            words = f"comes from node {place}, which is not in the file; connect it to another"
            return _Broken(words)
        past = f"{source.type} (node {here.prefix}{source.id})"
        if source.type == "Reroute":  # whatever its mode, and so for a primitive
            return _Onward(here, source.inputs[0].link if source.inputs else None, past)
        if source.type == "PrimitiveNode":
            return _Constant(source.values[0]) if source.values else None
        if source.mode == _BYPASSED:
            return _Onward(here, _bypass(source, link.slot, wanted), past)
        is_sent = source.type not in _UNSENT and source.type not in self.definitions
        return (
            Link(here.prefix + source.id, link.slot) if is_sent and source.mode != _MUTED else None
        )

    def _say(
        self, kind: Kind, words: str, scope: Scope, node: EditorNode, socket: Socket | None = None
    ) -> None:
        place = scope.prefix + node.id
        self.problems.append(Problem(kind, words, place, node.type, socket and socket.name))


def _bypass(node: EditorNode, slot: int, wanted: str) -> str | None:
    """The link that takes an output's place while a node is bypassed: of the same type."""
    same_place = node.inputs[slot : slot + 1]
    for socket in (*same_place, *node.inputs):
        if socket.type == wanted:
            return socket.link
    return None
