"""Node classes as ``/object_info`` describes them, in the form that all clients understand.

Combos are lists of their values (ComfyUI's "V1" form), constants with a default are still
``required`` as editors show them, and inputs are in the order of their declaration, by which
editors save their values.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from executor.node import Input, Node

Names: TypeAlias = Callable[[str], Sequence[str]]
"""Gives the files of a named folder."""

_OWN_PACKAGES = ("nodes.", "custom_nodes.")


class Listed(NamedTuple):
    """A class of ComfyUI's that is told of and cannot be run."""

    display_name: str
    inputs: Mapping[str, str]  # the files to choose from: input, folder
    outputs: tuple[str, ...]


LISTED: Mapping[str, Listed] = {
    "ImageOnlyCheckpointLoader": Listed(
        "Image Only Checkpoint Loader",
        {"ckpt_name": "checkpoints"},
        ("MODEL", "CLIP_VISION", "VAE"),
    ),
}
"""Without it the official frontend 1.27.10 makes no file widget of any node.

It maps the inputs of some loaders to folders, and ends where one is not there. A workflow with this
one is refused as with any unknown class. It is marked deprecated, so that menus leave it out.
"""


def definitions(classes: Mapping[str, type[Node]], names: Names) -> dict[str, Any]:
    """What clients are told of all these classes, and of those that are only listed."""
    abouts = {
        item.wire: item.port.about
        for cls in classes.values()
        for item in cls.inputs().values()
        if item.port is not None
    }
    listed = {
        name: _listed(name, listed, names) for name, listed in LISTED.items() if name not in classes
    }
    return {
        **{name: definition(name, cls, names, abouts) for name, cls in classes.items()},
        **listed,
    }


def definition(
    name: str, cls: type[Node], names: Names, abouts: Mapping[str, str]
) -> dict[str, Any]:
    """What clients are told of a class under one of its names."""
    inputs: dict[str, dict[str, Any]] = {"required": {}, "optional": {}, "hidden": {}}
    for item in cls.inputs().values():
        inputs[_section(item)][item.name] = input_definition(item, names)
    outputs = cls.outputs()
    return {
        "input": inputs,
        "input_order": {section: list(items) for section, items in inputs.items()},
        "output": [output.wire for output in outputs],
        "output_is_list": [False for _ in outputs],
        "output_name": [output.name for output in outputs],
        "output_tooltips": [abouts.get(output.wire, "") for output in outputs],
        "name": name,
        "display_name": cls.display_name,
        "description": cls.description(),
        "python_module": module_of(cls),
        "category": cls.category,
        "output_node": cls.is_output,
        "deprecated": False,
        "experimental": False,
        "api_node": False,
    }


def module_of(cls: type[Node]) -> str:
    """Where a class is from; the frontend tells packs apart by what follows ``custom_nodes``."""
    module = cls.__module__
    return module if f"{module}.".startswith(_OWN_PACKAGES) else f"custom_nodes.{module}"


def _section(item: Input) -> str:
    """What may be left out is a socket without a value; a widget always has one."""
    return "required" if item.is_required or item.default is not None else "optional"


def input_definition(item: Input, names: Names) -> list[Any]:
    """An input's type, or the values of a combo, and its options."""
    options = dict(item.options)
    if item.default is not None:
        options["default"] = item.default
    if item.wire in ("INT", "FLOAT"):
        limits = {"min": item.at_least, "max": item.at_most, "step": item.step}
        options |= {name: limit for name, limit in limits.items() if limit is not None}
    if item.port is not None:
        options.setdefault("tooltip", item.port.about)
    kind: Any = item.wire
    if item.choices is not None:
        kind = list(item.choices)
    elif item.file is not None:
        kind = list(names(item.file.folder))
    return [kind, options]


def _listed(name: str, listed: Listed, names: Names) -> dict[str, Any]:
    inputs = {key: [list(names(folder)), {}] for key, folder in listed.inputs.items()}
    sections = {"required": inputs, "optional": {}, "hidden": {}}
    return {
        "input": sections,
        "input_order": {section: list(items) for section, items in sections.items()},
        "output": list(listed.outputs),
        "output_is_list": [False for _ in listed.outputs],
        "output_name": list(listed.outputs),
        "output_tooltips": ["" for _ in listed.outputs],
        "name": name,
        "display_name": listed.display_name,
        "description": "Weft does not run this node. It is listed because editors ask for it.",
        "python_module": "nodes",
        "category": "not in Weft",
        "output_node": False,
        "deprecated": True,
        "experimental": False,
        "api_node": False,
    }
