"""Workflows written in Python: nodes are called as functions, their outputs passed as arguments.

    add = Workflow()
    model, clip, vae = add(CheckpointLoader(ckpt_name="weft-tiny.safetensors"))
    positive = add(CLIPTextEncode(text="a red circle on a blue background", clip=clip))
    …
    add(SaveImage(images=add(VAEDecode(samples=latent, vae=vae))), title="Picture")
    add.save("text_to_image.json")

A workflow is ComfyUI's API format and nothing else; sub-graphs are functions that add nodes. To a
type checker the outputs of a node are the values that it will put out; now they are ``Link``s. A
wrong constant fails where the node is made, a wrong link where it is added; the whole is checked
by ``executor.graph`` before it runs.
"""

import json
from collections.abc import Generator, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    Self,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from pydantic import ValidationError

from executor.context import Context
from executor.errors import Kind, Problem, WorkflowError, nearest
from executor.node import Input, Link, Node, NodeId
from executor.steps import Eval

if TYPE_CHECKING:
    from executor.session import Session
    from executor.settings import Settings

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Runs(Protocol[T_co]):
    """A node, to a type checker: what ``run`` returns is what adding the node gives."""

    def run(self, ctx: Context) -> T_co: ...


class Workflow:
    """A graph of nodes under construction."""

    def __init__(self, prompt: Mapping[NodeId, Any] | None = None) -> None:
        """Begin with nothing, or with a workflow in ComfyUI's API format.

        Raises WorkflowError if it is something else.
        """
        self._nodes: dict[NodeId, dict[str, Any]] = {}
        for node_id, spec in _specs({} if prompt is None else prompt).items():
            self._nodes[node_id] = deepcopy(spec)
        self._last = max((int(n) for n in self._nodes if n.isdecimal()), default=0)
        self._session: Session | None = None  # made by the first run

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a workflow from a JSON file, or from a PNG that carries one.

        What ComfyUI's editor has drawn is converted. Raises FileError, WorkflowError.
        """
        from executor.workflow_file import read

        file = read(Path(path))
        if file.problems:
            raise WorkflowError(file.problems)
        return cls(_specs(file.prompt))

    def save(self, path: str | Path) -> None:
        """Write the workflow to a JSON file, whole or not at all."""
        text = json.dumps(self._nodes, indent=2, ensure_ascii=False)
        whole = Path(path)
        part = whole.with_name(f".{whole.name}.part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(whole)

    def prompt(self) -> dict[NodeId, dict[str, Any]]:
        """The workflow in ComfyUI's API format, with every input written out."""
        return deepcopy(self._nodes)

    @overload
    def __call__(self, node: Runs[Generator[Eval, Any, T]], *, title: str = "") -> T: ...
    @overload
    def __call__(self, node: Runs[T], *, title: str = "") -> T: ...
    def __call__(self, node: Any, *, title: str = "") -> Any:
        """Add a node; gives its output, or a named tuple of them, to pass on to other nodes.

        Raises WorkflowError if an input is no output of a node here, or one of another kind.
        """
        node_id, cls = str(self._last + 1), Node.registry[type(node).__name__]
        self._nodes[node_id] = {
            "class_type": cls.__name__,
            "inputs": self._written(node_id, node),
            "_meta": {"title": title or cls.display_name},
        }
        self._last += 1
        return _outputs(cls, node_id)

    def find(self, where: str) -> NodeId:
        """The id of the node with this id, or alone with this title or class.

        Raises WorkflowError if there is none, or more than one.
        """
        if where in self._nodes:
            return where
        titles = {n: _title(spec) for n, spec in self._nodes.items()}
        classes = {n: spec["class_type"] for n, spec in self._nodes.items()}
        for names in (titles, classes):
            found = [node_id for node_id, name in names.items() if name == where]
            if len(found) == 1:
                return found[0]
            if found:
                words = f"{len(found)} nodes are called {where!r}; use an id: {', '.join(found)}"
                raise WorkflowError([Problem(Kind.INVALID_PROMPT, words)])
        known = [*filter(None, titles.values()), *classes.values()]
        words = f"no node has the id, title or class {where!r}{nearest(where, known)}"
        raise WorkflowError([Problem(Kind.INVALID_PROMPT, words)])

    def output(self, where: str, slot: int = 0) -> Any:
        """An output of a node (see ``find``), to pass on to nodes that are added."""
        return Link(self.find(where), slot)

    def set(self, where: str, **inputs: Any) -> None:
        """Change inputs of a node (see ``find``): to constants, or to other outputs.

        Raises WorkflowError if the node has no such input, or cannot take the value.
        """
        node_id = self.find(where)
        spec = self._nodes[node_id]
        class_type = spec["class_type"]

        def refuse(faults: Iterable[tuple[Kind, str, str]]) -> WorkflowError:
            return WorkflowError(
                [Problem(kind, words, node_id, class_type, name) for kind, name, words in faults]
            )

        cls = Node.registry.get(class_type)
        if cls is None:
            words = "is of an unknown class; import the package that defines it"
            raise WorkflowError([Problem(Kind.INVALID_PROMPT, words, node_id, class_type)])
        known = cls.inputs()
        unknown = [name for name in inputs if name not in known]
        if unknown:
            raise refuse(
                (Kind.UNKNOWN_INPUT, name, f"has no input {name!r}{nearest(name, known)}")
                for name in unknown
            )
        before = {name: _read(value) for name, value in spec["inputs"].items() if name in known}
        try:
            node = cls.model_validate(before | inputs)
        except ValidationError as error:
            from executor.graph import in_words

            faults = {str(fault["loc"][0]): fault for fault in error.errors()}
            raise refuse(
                (kind, name, words)
                for name, fault in faults.items()
                for kind, words in [in_words(known[name], fault)]
            ) from error
        spec["inputs"] |= self._written(node_id, node)

    def run(self, settings: "Settings | None" = None) -> list[Path]:
        """Run the workflow in this process; gives the files that it left behind, node by node.

        What has not changed since the last time does not run again. Without settings, those of the
        environment hold. Raises WorkflowError if something is wrong with the workflow, and
        WeftError with a line for each node that failed.
        """
        from executor.session import Session

        if self._session is None or (settings and settings != self._session.settings):
            self._session = Session(settings)
        return [path for paths in self._session.run(self.prompt()).values() for path in paths]

    def _written(self, node_id: NodeId, node: Node) -> dict[str, Any]:
        """A node's inputs as JSON. Raises WorkflowError if a link leads nowhere or does not fit."""
        given = {name: value for name, value in node.__dict__.items() if value is not None}
        problems: list[Problem] = []
        for name, value in given.items():
            fault = self._fault(type(node).inputs()[name], value)
            if fault:
                kind, words = fault
                where = (node_id, type(node).__name__, name, _json(value))
                problems.append(Problem(kind, f"{name} {words}", *where))
        if problems:
            raise WorkflowError(problems)
        return {name: _json(value) for name, value in given.items()}

    def _fault(self, wanted: Input, value: Any) -> tuple[Kind, str] | None:
        """What is wrong with a link, or with a value that stands where a link belongs."""
        from executor.graph import fits  # it brings networkx, which `import executor` does not need

        if type(value) is not Link:
            if wanted.port is None:
                return None
            return Kind.INVALID_TYPE, f"must be a node's output that is {wanted.wire}"
        spec = self._nodes.get(value.source)
        if spec is None:
            return Kind.BAD_LINK, f"links to node {value.source}, which is not in this workflow"
        cls = Node.registry.get(spec["class_type"])
        if cls is None:
            return None  # of a class that nobody imported: only a check of the whole can tell
        there, outputs = f"{spec['class_type']} (node {value.source})", cls.outputs()
        if not 0 <= value.slot < len(outputs):
            return (
                Kind.BAD_LINK,
                f"links to output {value.slot} of {there}, which has {len(outputs)}",
            )
        wire = outputs[value.slot].wire
        if not fits(wire, wanted.wire):
            words = f"takes {wanted.wire}, but output {value.slot} of {there} is {wire}"
            return Kind.PORT_MISMATCH, words
        return None


def _specs(prompt: Any) -> Mapping[NodeId, dict[str, Any]]:
    """A prompt, if it looks like a workflow in ComfyUI's API format."""
    match prompt:
        case dict() if all(map(_is_spec, cast("dict[Any, Any]", prompt).values())):
            return cast("dict[NodeId, dict[str, Any]]", prompt)
        case _:
            words = (
                "this is no workflow in ComfyUI's API format, which is an object of nodes by id, "
                'each with "class_type" and "inputs"'
            )
            raise WorkflowError([Problem(Kind.INVALID_PROMPT, words)])


def _is_spec(spec: Any) -> bool:
    match spec:
        case {"class_type": str(), "inputs": dict()}:
            return True
        case _:
            return False


def _title(spec: Mapping[str, Any]) -> str | None:
    match spec:
        case {"_meta": {"title": str(title)}}:
            return title
        case _:
            return None


def _json(value: Any) -> Any:
    """A node's input as it is written."""
    return [value.source, value.slot] if type(value) is Link else value


def _read(value: Any) -> Any:
    """A written input as a node holds it."""
    match value:
        case [str(source), int(slot)]:
            return Link(source, slot)
        case _:
            return value


def _outputs(cls: type[Node], node_id: NodeId) -> Any:
    """Links in the shape of what ``run`` returns."""
    links = [Link(node_id, slot) for slot in range(len(cls.outputs()))]
    if not links:
        return None
    result: Any = get_type_hints(cls.run)["return"]
    if get_origin(result) is Generator:
        result = get_args(result)[2]
    return result(*links) if hasattr(result, "_fields") else links[0]
