"""What was found wrong with a workflow, in ComfyUI's shape and our words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from executor.api.definitions import input_definition
from executor.api.refusal import Refusal
from executor.api.replies import json_text
from executor.errors import Kind, Problem
from executor.node import Node, NodeId

MOST_NODES = 100
"""Nodes whose errors are told one by one; a reader of more has enough to do with these."""

MOST_SHOWN_CHARS = 1_000
"""Of a received value that is sent back; a picture in a text would double the traffic."""

TITLES: Mapping[Kind, str] = {
    Kind.NO_PROMPT: "No workflow",
    Kind.INVALID_PROMPT: "Not a node that can run",
    Kind.NO_OUTPUTS: "Nothing to run",
    Kind.CYCLE: "A node feeds itself",
    Kind.MISSING: "A required input is missing",
    Kind.UNKNOWN_INPUT: "There is no such input",
    Kind.BAD_LINK: "A link leads nowhere",
    Kind.PORT_MISMATCH: "A link joins different types",
    Kind.INVALID_TYPE: "An input has a value of the wrong type",
    Kind.TOO_SMALL: "An input is too small",
    Kind.TOO_LARGE: "An input is too large",
    Kind.NOT_IN_LIST: "An input is not among its choices",
    Kind.INVALID_VALUE: "An input has a value that cannot be",
}

_WHOLE = (Kind.NO_PROMPT, Kind.INVALID_PROMPT, Kind.NO_OUTPUTS)


def refused(problems: Sequence[Problem], prompt: Any) -> Refusal:
    """The answer to a workflow of which nothing can run."""
    whole = [problem for problem in problems if problem.kind in _WHOLE]
    for kind in _WHOLE:
        found = [str(problem) for problem in whole if problem.kind is kind]
        if found:
            title, type = TITLES[kind], str(kind)
            break
    else:
        title, type = "No output of the workflow can run", "prompt_outputs_failed_validation"
        found = list(map(str, problems))
    return Refusal(
        400,
        type,
        title,
        details="\n".join(_first(found)),
        node_errors=node_errors(problems, prompt),
    )


def node_errors(problems: Sequence[Problem], prompt: Any) -> dict[NodeId, Any]:
    """The errors of each node, and which outputs do not run because of them."""
    by_node: dict[NodeId, list[Problem]] = {}
    for problem in problems:
        if problem.node_id is not None:
            by_node.setdefault(problem.node_id, []).append(problem)
    users = _users(prompt)
    outputs = _outputs(prompt)
    return {
        node_id: {
            "errors": [_error(problem) for problem in found],
            "dependent_outputs": [n for n in _reached(node_id, users) if n in outputs],
            "class_type": found[0].class_type or "",
        }
        for node_id, found in list(by_node.items())[:MOST_NODES]
    }


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - MOST_NODES
    return [*lines[:MOST_NODES], f"… and {more:,} more"] if more > 0 else lines


def _error(problem: Problem) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if problem.input is not None:
        cls = Node.registry.get(problem.class_type or "")
        known = cls.inputs().get(problem.input) if cls else None
        extra["input_name"] = problem.input
        extra["received_value"] = _shown(problem.received)
        if known is not None:
            # Without the files of a folder: the disk is not walked for each mistake.
            extra["input_config"] = input_definition(known, lambda folder: ())
    return {
        "type": str(problem.kind),
        "message": TITLES[problem.kind],
        "details": problem.message,
        "extra_info": extra,
    }


def _shown(value: Any) -> Any:
    """A received value, unless it is long."""
    text = json_text(value)
    return value if len(text) <= MOST_SHOWN_CHARS else text[:MOST_SHOWN_CHARS] + "…"


def _users(prompt: Any) -> dict[NodeId, list[NodeId]]:
    """Which nodes take something from a node, as far as the prompt can be read."""
    users: dict[NodeId, list[NodeId]] = {}
    for node_id, inputs in _nodes(prompt):
        for value in inputs.values():
            match value:
                case [str(source), _]:
                    users.setdefault(source, []).append(node_id)
                case _:
                    pass
    return users


def _nodes(prompt: Any) -> Iterable[tuple[NodeId, Mapping[str, Any]]]:
    if isinstance(prompt, Mapping):
        for node_id, spec in cast("Mapping[NodeId, Any]", prompt).items():
            match spec:
                case {"inputs": dict(inputs)}:
                    yield node_id, cast("dict[str, Any]", inputs)
                case _:
                    pass


def _outputs(prompt: Any) -> set[NodeId]:
    found: set[NodeId] = set()
    if isinstance(prompt, Mapping):
        for node_id, spec in cast("Mapping[NodeId, Any]", prompt).items():
            match spec:
                case {"class_type": str(name)} if name in Node.registry:
                    if Node.registry[name].is_output:
                        found.add(node_id)
                case _:
                    pass
    return found


def _reached(start: NodeId, users: Mapping[NodeId, list[NodeId]]) -> list[NodeId]:
    """A node and all that depends on it."""
    reached, todo = {start: None}, [start]
    while todo:
        for user in users.get(todo.pop(), ()):
            if user not in reached:
                reached[user] = None
                todo.append(user)
    return list(reached)
