"""What holds for every node that comes with Weft."""

import json

import pytest

import nodes
from executor.node import Node

CLASSES = sorted(
    {cls for cls in Node.registry.values() if cls.__module__.startswith("nodes.")},
    key=lambda cls: cls.__name__,
)


def test_every_class_can_be_imported_from_the_package() -> None:
    assert set(nodes.__all__) == {cls.__name__ for cls in CLASSES}
    assert all(getattr(nodes, cls.__name__) is cls for cls in CLASSES)


def test_comfyuis_names_are_further_names_of_the_same_nodes() -> None:
    assert Node.registry["CheckpointLoaderSimple"] is nodes.CheckpointLoader
    assert Node.registry["EmptyLatentImage"] is nodes.EmptyLatent


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_says_what_it_is_and_its_wire_is_json(cls: type[Node]) -> None:
    first_line = (cls.__doc__ or "").partition("\n")[0]
    assert first_line.endswith("."), f"{cls.__name__} has no docstring of one line"
    assert cls.category
    assert cls.outputs() or cls.is_output
    for item in cls.inputs().values():
        json.dumps([item.default, item.choices, dict(item.options)], allow_nan=False)
        if item.default is not None and item.at_least is not None:
            assert item.at_least <= item.default
        if item.default is not None and item.choices is not None:
            assert item.default in item.choices
