"""Constants for several inputs at once."""

import pytest
from pydantic import ValidationError

from executor import Context, Node
from nodes.primitive import (
    PrimitiveBoolean,
    PrimitiveFloat,
    PrimitiveInt,
    PrimitiveString,
    PrimitiveStringMultiline,
)

VALUES = [
    (PrimitiveInt, 2**63 - 1, "INT"),
    (PrimitiveFloat, -0.5, "FLOAT"),
    (PrimitiveString, "a cat", "STRING"),
    (PrimitiveStringMultiline, "a\ncat", "STRING"),
    (PrimitiveBoolean, True, "BOOLEAN"),
]


@pytest.mark.parametrize(("node", "value", "wire"), VALUES)
def test_a_primitive_puts_out_its_value(
    ctx: Context, node: type[Node], value: object, wire: str
) -> None:
    assert node.model_validate({"value": value}).run(ctx) == value
    assert [output.wire for output in node.outputs()] == [wire]


def test_values_of_another_type_are_refused() -> None:
    for node, value in (
        (PrimitiveInt, 2**63),
        (PrimitiveInt, 1.5),
        (PrimitiveFloat, float("nan")),
        (PrimitiveBoolean, "perhaps"),
    ):
        with pytest.raises(ValidationError, match="value"):
            node.model_validate({"value": value})


def test_a_whole_number_changes_after_each_run_as_a_seed_does() -> None:
    assert PrimitiveInt.inputs()["value"].options == {"control_after_generate": True}
    assert PrimitiveStringMultiline.inputs()["value"].options == {"multiline": True}
