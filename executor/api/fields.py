"""What the fields of requests have in common: limits, choices of nodes, and words for faults."""

from collections.abc import Mapping
from typing import Any

from pydantic import AfterValidator

from executor.errors import nearest
from executor.node import Node

MOST_PROMPT = 32_000  # characters, as in OpenAI's own limit


def choice_of(class_name: str, input_name: str) -> AfterValidator:
    """One of the choices that a node class has for an input."""

    def check(value: str) -> str:
        choices = Node.registry[class_name].inputs()[input_name].choices or ()
        if value not in choices:
            hint = nearest(value[:40], choices) or f"; it takes {', '.join(choices)}"
            raise ValueError(f"there is no {value[:40]!r}{hint}")
        return value

    return AfterValidator(check)


def words_of(fault: Mapping[str, Any]) -> str:
    """What pydantic found wrong with a field."""
    if fault["type"] == "missing":
        return "it is required"
    said = fault["msg"].removeprefix("Value error, ")
    given = fault["input"]
    shown = "" if isinstance(given, (dict, list)) else f", got {str(given)[:40]!r}"
    return f"{said[0].lower()}{said[1:]}{shown}"
