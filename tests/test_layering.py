"""Imports point down, and what must be light is light: in the source, and in a fresh process."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = {"torch", "diffusers", "transformers", "safetensors", "numpy", "scipy", "PIL", "torchsde"}
"""Takes seconds to import, or hundreds of megabytes; whoever runs a node does it, nobody else."""

SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("executor", "nodes")
    for path in (ROOT / folder).rglob("*.py")
)


def imports(source: str, *, at_import_only: bool = False) -> Iterator[str]:
    """The modules that a file imports: all of them, or those that importing it imports too."""
    todo: list[ast.AST] = [ast.parse((ROOT / source).read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module
            yield from (f"{module}.{name.name}" for name in node.names)
        elif at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif at_import_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def roots(source: str, *, at_import_only: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(source, at_import_only=at_import_only)}


def fresh(code: str) -> set[str]:
    """The top-level modules that a new process has loaded after running ``code``."""
    show = "; import sys; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code + show]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return set(ran.stdout.split())


def test_importing_the_declarations_and_the_command_line_loads_nothing_heavy() -> None:
    loaded = fresh("import executor, executor.__main__, nodes; from executor import *")
    assert {"executor", "nodes", "pydantic"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_help_of_the_command_line_loads_hardly_anything() -> None:
    loaded = fresh("from executor.__main__ import parser; parser().format_help()")
    assert "executor" in loaded
    assert loaded.isdisjoint(HEAVY | {"pydantic", "networkx", "aiohttp", "rich"})


@pytest.mark.parametrize("source", SOURCES)
def test_imports_point_down(source: str) -> None:
    found = roots(source)
    assert "server" not in found
    assert "tests" not in found
    if source.startswith("executor/"):
        assert "nodes" not in found
    if not source.startswith("executor/api/"):
        assert "aiohttp" not in found
    if source != "executor/graph.py":
        assert "networkx" not in found
