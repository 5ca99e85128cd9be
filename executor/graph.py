"""A workflow as it arrives, checked completely: what is wrong with it, or a graph that can run.

All mistakes are found at once, as values. A graph that passes knows its order and the content key
of every node: a hash of the class, its constants, the files that it reads and the keys of what
feeds it. Node ids play no part in a key. Everything is linear in the graph, at any depth.

The only module that imports networkx, whose stubs leave parts unknown to a strict checker.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from uuid import uuid4

import networkx as nx
from pydantic import ValidationError

from executor.editor import is_editor_format
from executor.errors import Kind, PathError, Problem, nearest
from executor.node import Input, Link, Node, NodeId
from executor.paths import Folders

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Key: TypeAlias = str
"""The content address of a node's outputs."""

_STAND_IN = Link(
    "", 0
)  # for an input with a problem of its own, so that the others are checked too


@dataclass(frozen=True, slots=True)
class Graph:
    """A checked workflow: only what its outputs need, sources before their users."""

    nodes: dict[NodeId, Node]  # links in place of the values that come along them
    sources: Mapping[NodeId, tuple[NodeId, ...]]
    users: Mapping[NodeId, tuple[NodeId, ...]]
    outputs: tuple[NodeId, ...]
    keys: Mapping[NodeId, Key]


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a node names, and where it is if it is there."""

    node_id: NodeId
    folder: str
    name: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found. ``graph`` holds the outputs that can run in spite of ``problems``."""

    graph: Graph | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    files: tuple[NamedFile, ...] = ()  # that the outputs need


def check(prompt: Any, folders: Folders, targets: Iterable[NodeId] | None = None) -> Checked:
    """Find everything that is wrong with a workflow in ComfyUI's API format.

    ``targets`` names the output nodes to run; all of them, if it is None. A mistake in a node that
    no output needs is a warning, and so is an input that its class does not know.
    """
    shape = _shape_problems(prompt)
    if shape:
        return Checked(None, tuple(shape), ())
    check_ = _Check(cast("Mapping[NodeId, Mapping[str, Any]]", prompt), folders)
    return check_.result(None if targets is None else list(targets))


def _shape_problems(prompt: Any) -> list[Problem]:
    """What keeps a prompt from being read as nodes at all."""
    if is_editor_format(prompt):
        words = "this is the editor's own format; export it with 'Save (API Format)'"
        return [Problem(Kind.INVALID_PROMPT, words)]
    if not isinstance(prompt, Mapping):
        words = f"a workflow is an object of nodes by id, got {_shown(prompt)}"
        return [Problem(Kind.INVALID_PROMPT, words)]
    if not prompt:
        return [Problem(Kind.NO_PROMPT, "the workflow is empty")]
    problems: list[Problem] = []
    for node_id, spec in prompt.items():
        node_id = str(node_id)
        if not isinstance(spec, Mapping):
            words = f'a node is an object with "class_type" and "inputs", got {_shown(spec)}'
            problems.append(Problem(Kind.INVALID_PROMPT, words, node_id))
        elif not isinstance(spec.get("class_type"), str):
            words = '"class_type" must name the node\'s class'
            problems.append(Problem(Kind.INVALID_PROMPT, words, node_id))
        elif not isinstance(spec.get("inputs", {}), Mapping):
            words = f'"inputs" must be an object, got {_shown(spec["inputs"])}'
            problems.append(Problem(Kind.INVALID_PROMPT, words, node_id, spec["class_type"]))
    return problems


class _Check:
    """One check under way: the prompt, and what was found so far."""

    def __init__(self, prompt: Mapping[NodeId, Mapping[str, Any]], folders: Folders) -> None:
        self.prompt, self.folders = prompt, folders
        self.nodes: dict[NodeId, Node] = {}
        self.files: dict[NodeId, list[str]] = {}
        self.named: list[NamedFile] = []
        self.problems: dict[NodeId, list[Problem]] = {}
        self.warnings: list[Problem] = []
        self.dag: nx.DiGraph[NodeId] = nx.DiGraph()
        self.dag.add_nodes_from(prompt)
        for node_id, spec in prompt.items():
            self._node(node_id, spec["class_type"], spec.get("inputs", {}))

    def result(self, targets: list[NodeId] | None) -> Checked:
        """Put what was found together."""
        outputs, problems = self._outputs(targets)
        needed = self._closure(outputs, self.dag.pred)
        self._cycles()
        broken = self._closure(self.problems, self.dag.succ)
        for node_id, found in self.problems.items():
            (problems if node_id in needed else self.warnings).extend(found)
        runnable = [output for output in outputs if output not in broken]
        graph = self._graph(runnable) if runnable else None
        files = tuple(file for file in self.named if file.node_id in needed)
        return Checked(graph, tuple(problems), tuple(self.warnings), files)

    def _say(self, kind: Kind, message: str, node_id: NodeId, name: str, received: Any) -> None:
        class_type = self.prompt[node_id]["class_type"]
        problem = Problem(kind, message, node_id, class_type, name, received)
        self.problems.setdefault(node_id, []).append(problem)

    # -- one node ------------------------------------------------------------------------------

    def _node(self, node_id: NodeId, class_type: str, given: Mapping[str, Any]) -> None:
        """Check a node by itself: its class, its constants, the form of its links."""
        cls = Node.registry.get(class_type)
        if cls is None:
            hint = nearest(class_type, Node.registry)
            if not Node.registry:  # in a script
                hint = "; there is none at all: import nodes, which registers Weft's own"
            words = f"there is no node class {class_type!r}{hint}"
            problem = Problem(Kind.INVALID_PROMPT, words, node_id, class_type)
            self.problems[node_id] = [problem]
            self.dag.add_edges_from(
                (link[0], node_id)
                for link in given.values()
                if isinstance(link, list)
                and link
                and isinstance(link[0], str)
                and link[0] in self.prompt
            )
            return
        known = cls.inputs()
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in known:
                words = f"has no input {name!r}{nearest(name, known)}"
                where = (node_id, class_type, name, value)
                self.warnings.append(Problem(Kind.UNKNOWN_INPUT, words, *where))
            elif isinstance(value, list):
                values[name] = self._link(node_id, known[name], cast("list[Any]", value))
            elif known[name].port is not None and not (
                value is None and not known[name].is_required
            ):
                wire = known[name].wire
                words = f"{name} must be a link to {_article(wire)}, got {_shown(value)}"
                self._say(Kind.INVALID_TYPE, words, node_id, name, value)
                values[name] = _STAND_IN
            elif isinstance(value, Mapping) and set(cast("Mapping[str, Any]", value)) == {
                "__value__"
            }:
                values[name] = value["__value__"]
            else:
                values[name] = value
        try:
            node = cls.model_validate(values)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                self._constant(node_id, known[str(details["loc"][0])], details)
            return
        self.nodes[node_id] = node
        self.files[node_id] = self._files(node_id, node)

    def _link(self, node_id: NodeId, wanted: Input, value: list[Any]) -> Link:
        """Check one link: its form, its source, the port at its other end."""
        name = wanted.name

        def wrong(words: str, kind: Kind = Kind.BAD_LINK) -> Link:
            self._say(kind, f"{name} {words}", node_id, name, value)
            return _STAND_IN

        match value:
            case [str(source), bool()]:
                got = _shown(value[1])
                return wrong(
                    f"links to output {got} of node {source!r}; outputs are numbered from 0"
                )
            case [str(source), int(slot)]:
                pass
            case [str(source), float(number)] if number.is_integer():
                slot = int(number)
            case _:
                return wrong(f'must be a link ["node id", output number], got {_shown(value)}')
        spec = self.prompt.get(source)
        if spec is None:
            hint = nearest(source, self.prompt)
            return wrong(f"links to node {source!r}, which is not in the workflow{hint}")
        self.dag.add_edge(source, node_id)
        cls = Node.registry.get(spec["class_type"])
        if cls is None:
            return _STAND_IN  # its own node says so
        outputs = cls.outputs()
        there = f"{spec['class_type']} (node {source})"
        if not 0 <= slot < len(outputs):
            listed = ", ".join(f"{i} {output.wire}" for i, output in enumerate(outputs)) or "none"
            return wrong(f"links to output {slot} of {there}, whose outputs are: {listed}")
        if not fits(outputs[slot].wire, wanted.wire):
            right = [i for i, output in enumerate(outputs) if fits(output.wire, wanted.wire)]
            hint = f"; output {right[0]} would fit" if right else ""
            words = (
                f"takes {wanted.wire}, but output {slot} of {there} is {outputs[slot].wire}{hint}"
            )
            return wrong(words, Kind.PORT_MISMATCH)
        return Link(source, slot)

    def _constant(self, node_id: NodeId, wanted: Input, details: "ErrorDetails") -> None:
        """Say what pydantic found in our words."""
        kind, words = in_words(wanted, details)
        self._say(kind, words, node_id, wanted.name, details["input"])

    def _files(self, node_id: NodeId, node: Node) -> list[str]:
        """The fingerprints of the files that a node reads; says which are not there."""
        marks: list[str] = []
        for name, folder, file in node.files():
            path: Path | None = None
            try:
                path = self.folders.find(folder, file)
                marks.append(self.folders.fingerprint(path))
            except PathError as error:
                self._say(Kind.NOT_IN_LIST, f"{name}: {error}", node_id, name, file)
            self.named.append(NamedFile(node_id, folder, file, path))
        return marks

    # -- the whole -----------------------------------------------------------------------------

    def _outputs(self, targets: list[NodeId] | None) -> tuple[list[NodeId], list[Problem]]:
        """The nodes to run the workflow for, and what is wrong with the choice."""
        classes = {n: Node.registry.get(spec["class_type"]) for n, spec in self.prompt.items()}
        outputs = [n for n, cls in classes.items() if cls and cls.is_output]
        if targets is not None:
            unknown = [target for target in targets if target not in self.prompt]
            problems = [
                Problem(
                    Kind.NO_OUTPUTS, f"there is no node {target!r} to run{nearest(target, outputs)}"
                )
                for target in unknown
            ]
            return [n for n in outputs if n in targets], problems
        unknown_classes = [n for n, cls in classes.items() if cls is None]
        if not outputs and not unknown_classes:
            names = sorted(name for name, cls in Node.registry.items() if cls.is_output)
            words = f"no node leaves anything behind; add one of {', '.join(names)}"
            return [], [Problem(Kind.NO_OUTPUTS, words)]
        # A node of an unknown class that feeds nothing may well have been an output.
        return outputs + [n for n in unknown_classes if not self.dag.succ[n]], []

    def _closure(
        self, start: Iterable[NodeId], neighbours: Mapping[NodeId, Iterable[NodeId]]
    ) -> set[NodeId]:
        """These nodes and all that can be reached from them."""
        reached, todo = set(start), list(start)
        while todo:
            for other in neighbours[todo.pop()]:
                if other not in reached:
                    reached.add(other)
                    todo.append(other)
        return reached

    def _cycles(self) -> None:
        """Name each cycle as a path, at the first of its nodes."""
        position = {node_id: i for i, node_id in enumerate(self.prompt)}
        for component in nx.strongly_connected_components(self.dag):
            members = sorted(component, key=position.__getitem__)
            if len(members) == 1 and not self.dag.has_edge(members[0], members[0]):
                continue
            inside = self.dag.subgraph(members)
            path = [source for source, _ in nx.find_cycle(inside, members[0])]
            if len(path) > 8:
                shown = [*map(self._named, path[:4]), "…", *map(self._named, path[-3:])]
            else:
                shown = [self._named(node_id) for node_id in path]
            words = f"feeds itself: {' → '.join([*shown, self._named(path[0])])}"
            problem = Problem(Kind.CYCLE, words, path[0], self.prompt[path[0]]["class_type"])
            self.problems.setdefault(path[0], []).append(problem)

    def _named(self, node_id: NodeId) -> str:
        return f"{self.prompt[node_id]['class_type']} (node {node_id})"

    def _graph(self, outputs: list[NodeId]) -> Graph:
        """The part of the workflow that these outputs need, in order, with its keys."""
        needed = self._closure(outputs, self.dag.pred)
        self.dag.remove_nodes_from([n for n in self.prompt if n not in needed])
        order = list(nx.topological_sort(self.dag))
        keys: dict[NodeId, Key] = {}
        for node_id in order:
            keys[node_id] = _key(self.nodes[node_id], self.files[node_id], keys)
        return Graph(
            nodes={n: self.nodes[n] for n in order},
            sources={n: tuple(self.dag.pred[n]) for n in order},
            users={n: tuple(self.dag.succ[n]) for n in order},
            outputs=tuple(outputs),
            keys=keys,
        )


def _key(node: Node, files: list[str], keys: Mapping[NodeId, Key]) -> Key:
    """The content address of what a node will put out."""
    cls = type(node)
    values = [
        (name, keys[value.source], value.slot) if type(value) is Link else (name, value)
        for name, value in node.__dict__.items()
    ]
    once = uuid4().hex if cls.always_runs else ""  # a key that no other job has
    identity = [cls.__module__, cls.__name__, cls.version, once]
    content = json.dumps([*identity, values, files], default=repr)
    return blake2b(content.encode(), digest_size=16).hexdigest()


def fits(given: str, wanted: str) -> bool:
    """Whether an output of one wire type can feed an input of another."""
    if "*" in (given, wanted) or given == wanted:
        return True
    texts = {"STRING", "COMBO"}  # whether a text is among the choices is seen when it is there
    return (given == "INT" and wanted == "FLOAT") or {given, wanted} <= texts


_WORDS: Mapping[str, str] = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "STRING": "a text",
    "COMBO": "a text",
    "BOOLEAN": "true or false",
}


def in_words(wanted: Input, details: "ErrorDetails") -> tuple[Kind, str]:
    """The kind of a pydantic error, and what it says about an input."""
    name, got = wanted.name, _shown(details["input"])
    match details["type"]:
        case "missing":
            what = (
                f"a link to {_article(wanted.wire)}"
                if wanted.port
                else _WORDS.get(wanted.wire, wanted.wire)
            )
            return Kind.MISSING, f"needs {name}: {what}"
        case "greater_than_equal" | "greater_than":
            return Kind.TOO_SMALL, f"{name} must be ≥ {wanted.at_least}, got {got}"
        case "less_than_equal" | "less_than":
            return Kind.TOO_LARGE, f"{name} must be ≤ {wanted.at_most}, got {got}"
        case "finite_number":
            return Kind.INVALID_TYPE, f"{name} must be a finite number, got {got}"
        case "no_text":  # and shown to nobody, since it cannot be written
            return Kind.INVALID_VALUE, f"{name} holds half a character (a lone surrogate)"
        case "literal_error":
            choices = [str(choice) for choice in wanted.choices or ()]
            hint = nearest(str(details["input"]), choices)
            offered = "" if hint else f"; it takes {', '.join(choices)}"
            return Kind.NOT_IN_LIST, f"{name} cannot be {got}{hint}{offered}"
        case error if wanted.wire in _WORDS and (error == "no_boolean" or "_" in error):
            return Kind.INVALID_TYPE, f"{name} must be {_WORDS[wanted.wire]}, got {got}"
        case _:
            return Kind.INVALID_VALUE, f"{name}: {details['msg']}, got {got}"


def _article(wire: str) -> str:
    return f"{'an' if wire[0] in 'AEIOU' else 'a'} {wire}"


def _shown(value: Any) -> str:
    """A received value as JSON, short."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(type(value).__name__)
    return text if len(text) <= 60 else text[:57] + "…"
