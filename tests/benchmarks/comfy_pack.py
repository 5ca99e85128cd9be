"""The nodes of ``graphs`` as ComfyUI wants them, to measure it with the same workflows.

Copy this file into its folder ``custom_nodes``, start it, then run ``python -m tests.benchmarks
server --against http://127.0.0.1:8188``.
"""

from typing import Any, ClassVar

INT = ("INT", {"default": 0, "min": -(2**31), "max": 2**31})


class BenchNumber:
    """A constant."""

    CATEGORY, FUNCTION = "benchmarks", "run"
    RETURN_TYPES: ClassVar = ("INT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": INT}}

    def run(self, value: int) -> tuple[int]:
        return (value,)


class BenchAdd:
    """The sum of two numbers."""

    CATEGORY, FUNCTION = "benchmarks", "run"
    RETURN_TYPES: ClassVar = ("INT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"a": INT, "b": INT}}

    def run(self, a: int, b: int) -> tuple[int]:
        return (a + b,)


class BenchSink:
    """Nothing, as an output."""

    CATEGORY, FUNCTION, OUTPUT_NODE = "benchmarks", "run", True
    RETURN_TYPES: ClassVar = ()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": INT}}

    def run(self, value: int) -> dict[str, Any]:
        return {}


NODE_CLASS_MAPPINGS = {
    "BenchNumber": BenchNumber,
    "BenchAdd": BenchAdd,
    "BenchSink": BenchSink,
}
