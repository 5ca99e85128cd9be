"""What a node costs that does nothing: checked and planned, executed, found in the cache."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from executor import Context, Node
from executor.engine import Engine
from executor.graph import check
from executor.job import Job
from executor.settings import Settings
from executor.workspace import Workspace

from .table import best_of, show


class BenchNumber(Node, category="benchmarks"):
    """A constant."""

    value: int = 0

    def run(self, ctx: Context) -> int:
        return self.value


class BenchAdd(Node, category="benchmarks"):
    """The sum of two numbers."""

    a: int
    b: int = 1

    def run(self, ctx: Context) -> int:
        return self.a + self.b


class BenchSink(Node, category="benchmarks", is_output=True):
    """Nothing, as an output."""

    value: int

    def run(self, ctx: Context) -> None:
        return None


def chain(length: int, start: int) -> dict[str, Any]:
    """A line of additions with one output at its end."""
    prompt: dict[str, Any] = {"0": {"class_type": "BenchNumber", "inputs": {"value": start}}}
    for i in range(1, length - 1):
        prompt[str(i)] = {"class_type": "BenchAdd", "inputs": {"a": [str(i - 1), 0], "b": i}}
    last = str(length - 2)
    return prompt | {"out": {"class_type": "BenchSink", "inputs": {"value": [last, 0]}}}


def fan(length: int, start: int) -> dict[str, Any]:
    """One constant that feeds pairs of an addition and an output."""
    prompt: dict[str, Any] = {"0": {"class_type": "BenchNumber", "inputs": {"value": start}}}
    for i in range((length - 1) // 2):
        prompt[f"a{i}"] = {"class_type": "BenchAdd", "inputs": {"a": ["0", 0], "b": i}}
        prompt[f"s{i}"] = {"class_type": "BenchSink", "inputs": {"value": [f"a{i}", 0]}}
    return prompt


def main() -> None:
    """Print µs a node for chains and fans of 10 to 10,000 nodes."""
    rows: list[list[object]] = []
    with TemporaryDirectory() as folder:
        workspace = Workspace(Settings(base_directory=Path(folder), device="cpu"))
        workspace.device  # noqa: B018  (imports torch before anything is timed)
        for shape in (chain, fan):
            for length in (10, 100, 1_000, 10_000):
                rows.append([shape.__name__, length, *_measured(workspace, shape, length)])
    heads = ("graph", "nodes", "check + keys", "execute", "cached")
    show("µs a node, trivial nodes", heads, rows)


def _measured(workspace: Workspace, shape: Any, length: int) -> list[str]:
    """µs a node: checking and keys, executing all, finding all in the cache."""
    engine = Engine(workspace, lambda event: None)
    start = iter(range(1_000_000))
    repeats = max(3, min(50, 3_000 // length))

    def checked() -> Job:
        number = next(start)
        graph = check(shape(length, number), workspace.folders).graph
        assert graph is not None
        return Job(str(number), graph)

    prompt = shape(length, -1)
    plan = best_of(repeats, lambda: check(prompt, workspace.folders))
    fresh = [checked() for _ in range(repeats)]

    def execute() -> None:
        engine.submit(fresh.pop())
        engine.run()

    executed = best_of(repeats, execute)
    graph = check(shape(length, 0), workspace.folders).graph
    assert graph is not None

    def look_up() -> None:
        engine.submit(Job(f"again {next(start)}", graph))
        engine.run()

    cached = best_of(repeats, look_up)
    return [f"{1e6 * seconds / length:.1f}" for seconds in (plan, executed, cached)]
