"""What ``--set`` and ``--seed`` change in a workflow before it runs.

Only what a change names is looked at; whether the result can run is ``executor.graph``'s to say.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from executor.errors import Kind, Problem, nearest
from executor.node import Node, NodeId

SEEDS = ("seed", "noise_seed")


def changed(
    prompt: Any, changes: Iterable[str], seed: int | None = None
) -> tuple[Any, list[Problem]]:
    """The workflow with ``NODE.INPUT=VALUE`` changes and a seed, and what was wrong with those.

    What is no workflow is left as it is: the check says so.
    """
    nodes = _nodes(prompt)
    if nodes is None:
        return prompt, []
    problems: list[Problem] = []
    if seed is not None:
        seeded = [(node_id, name) for node_id in nodes for name in _inputs(nodes[node_id], SEEDS)]
        for node_id, name in seeded:
            nodes[node_id]["inputs"][name] = seed
        if not seeded:
            words = f"--seed: no node of this workflow has an input {' or '.join(SEEDS)}"
            problems.append(Problem(Kind.INVALID_VALUE, words))
    for change in changes:
        problem = _change(nodes, change)
        if problem:
            problems.append(Problem(Kind.INVALID_VALUE, f"--set {change}: {problem}"))
    return nodes, problems


def _nodes(prompt: Any) -> dict[NodeId, dict[str, Any]] | None:
    """A copy that may be written to, or None if this is no workflow."""
    if not isinstance(prompt, Mapping):
        return None
    nodes: dict[NodeId, dict[str, Any]] = {}
    for node_id, spec in cast("Mapping[NodeId, Any]", prompt).items():
        if not isinstance(spec, Mapping):
            return None
        node = cast("Mapping[str, Any]", spec)
        if not isinstance(node.get("inputs", {}), Mapping):
            return None
        nodes[node_id] = {**node, "inputs": {**node.get("inputs", {})}}
    return nodes


def _change(nodes: dict[NodeId, dict[str, Any]], change: str) -> str | None:
    """Put one change in; answers what is wrong with it."""
    target, equals, text = change.partition("=")
    address, dot, name = target.rpartition(".")
    if not (equals and dot and address and name):
        return "write NODE.INPUT=VALUE, like 3.steps=20"
    found = _addressed(nodes, address)
    if not found:
        return f"there is no node {address!r}{nearest(address, _addresses(nodes))}"
    if len(found) > 1:
        return f"{len(found)} nodes are {address!r}; name one by its id: {', '.join(found)}"
    node = nodes[found[0]]
    cls = Node.registry.get(str(node.get("class_type")))
    if cls and name not in cls.inputs():
        return f"{cls.__name__} has no input {name!r}{nearest(name, cls.inputs())}"
    is_text = cls is not None and cls.inputs()[name].wire in ("STRING", "COMBO")
    node["inputs"][name] = _value(text, is_text=is_text)
    return None


def _addressed(nodes: Mapping[NodeId, Mapping[str, Any]], address: str) -> list[NodeId]:
    """The nodes that an id, a title or the name of a class may mean."""
    if address in nodes:
        return [address]
    titled = [node_id for node_id, node in nodes.items() if _title(node) == address]
    if titled:
        return titled
    cls = Node.registry.get(address, address)
    return [
        node_id
        for node_id, node in nodes.items()
        if cls == Node.registry.get(str(node.get("class_type")), node.get("class_type"))
    ]


def _addresses(nodes: Mapping[NodeId, Mapping[str, Any]]) -> list[str]:
    """All ids, titles and classes."""
    titles = [_title(node) for node in nodes.values()]
    classes = [str(node.get("class_type")) for node in nodes.values()]
    return [*nodes, *(title for title in titles if title), *classes]


def _title(node: Mapping[str, Any]) -> str | None:
    meta = node.get("_meta")
    title = cast("Mapping[str, Any]", meta).get("title") if isinstance(meta, Mapping) else None
    return title if isinstance(title, str) else None


def _inputs(node: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Those of the names that are inputs of a node."""
    cls = Node.registry.get(str(node.get("class_type")))
    known: Iterable[str] = cls.inputs() if cls else node["inputs"]
    return [name for name in names if name in known]


def _value(text: str, *, is_text: bool) -> Any:
    """JSON, or else text; for an input that takes text, a number is text too."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if is_text and not isinstance(value, (str, list)) else value
