"""Nodes that hold one constant, so that several inputs can be set at one place."""

import sys
from typing import Annotated

from pydantic import Field

from executor import Context, Node, Widget


class PrimitiveInt(Node, category="utils/primitive", display_name="Int"):
    """A whole number."""

    value: Annotated[
        int, Field(ge=-sys.maxsize, le=sys.maxsize), Widget({"control_after_generate": True})
    ] = 0

    def run(self, ctx: Context) -> int:
        return self.value


class PrimitiveFloat(Node, category="utils/primitive", display_name="Float"):
    """A number."""

    value: Annotated[float, Field(ge=-sys.maxsize, le=sys.maxsize), Widget({"step": 0.1})] = 0.0

    def run(self, ctx: Context) -> float:
        return self.value


class PrimitiveString(Node, category="utils/primitive", display_name="String"):
    """A text on one line."""

    value: str = ""

    def run(self, ctx: Context) -> str:
        return self.value


class PrimitiveStringMultiline(Node, category="utils/primitive", display_name="String (Multiline)"):
    """A text of several lines."""

    value: Annotated[str, Widget({"multiline": True})] = ""

    def run(self, ctx: Context) -> str:
        return self.value


class PrimitiveBoolean(Node, category="utils/primitive", display_name="Boolean"):
    """True or false."""

    value: bool = False

    def run(self, ctx: Context) -> bool:
        return self.value
