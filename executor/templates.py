"""Workflow templates: ordinary workflow files in which inputs are named, to be set from outside.

A node says so beside its title: ``"_meta": {"title": …, "parameters": {"text": "prompt"}}`` means
that its input ``text`` is set by the parameter ``prompt``. Several inputs may have one parameter.
What the file itself says is the default, so a template runs as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from executor.errors import FileError, InputError, nearest
from executor.node import NodeId
from executor.workflow_file import read

Prompt = Mapping[NodeId, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Template:
    """A workflow, and which of its inputs each parameter sets."""

    name: str
    prompt: Prompt
    places: Mapping[str, Sequence[tuple[NodeId, str]]]

    @classmethod
    def read(cls, path: Path) -> "Template":
        """The template in a workflow file. Raises FileError if none is there."""
        file = read(path)
        if not isinstance(file.prompt, dict) or file.problems:
            raise FileError(f"{path} is no workflow in API format, which a template must be")
        prompt = cast("Prompt", file.prompt)
        places: dict[str, list[tuple[NodeId, str]]] = {}
        for node_id, node in prompt.items():
            for name, parameter in _parameters(node):
                if name not in node.get("inputs", {}):
                    raise FileError(
                        f"{path}: node {node_id} names its input {name!r} {parameter!r}, but has "
                        f"no such input{nearest(name, node.get('inputs', {}))}"
                    )
                places.setdefault(parameter, []).append((node_id, name))
        if not places:
            raise FileError(
                f'{path} names none of its inputs; write "parameters" beside a node\'s title, '
                'like "_meta": {"parameters": {"text": "prompt"}}'
            )
        return cls(path.stem, prompt, places)

    def defaults(self) -> dict[str, Any]:
        """What each parameter is where nobody says."""
        return {
            parameter: self.prompt[places[0][0]]["inputs"][places[0][1]]
            for parameter, places in self.places.items()
        }

    def filled(self, values: Mapping[str, Any]) -> dict[NodeId, dict[str, Any]]:
        """The workflow with these parameters. Raises InputError for one that it has not."""
        prompt = {
            node_id: {**node, "inputs": dict(node["inputs"])}
            for node_id, node in self.prompt.items()
        }
        for parameter, value in values.items():
            if parameter not in self.places:
                hint = nearest(parameter, self.places)
                raise InputError(f"the template {self.name} has no parameter {parameter!r}{hint}")
            for node_id, name in self.places[parameter]:
                prompt[node_id]["inputs"][name] = value
        return prompt


def side_by_side(prompts: Iterable[Prompt]) -> dict[NodeId, dict[str, Any]]:
    """Several workflows as one; the nodes of the n-th have ids like ``n:4``.

    Equal nodes of them run once all the same, as equal content has equal keys.
    """
    joined: dict[NodeId, dict[str, Any]] = {}
    for index, prompt in enumerate(prompts):
        for node_id, node in prompt.items():
            inputs = {name: _moved(value, index) for name, value in node["inputs"].items()}
            joined[f"{index}:{node_id}"] = {**node, "inputs": inputs}
    return joined


def _moved(value: Any, index: int) -> Any:
    """A link to a node of the same workflow leads to it in the joined one."""
    match value:
        case [str() as source, int() as slot]:
            return [f"{index}:{source}", slot]
        case _:
            return value


def _parameters(node: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Which inputs of a node are named, and how."""
    match node.get("_meta"):
        case {"parameters": dict(parameters)}:
            named = cast("dict[str, Any]", parameters)
            return [(name, said) for name, said in named.items() if isinstance(said, str)]
        case _:
            return ()
