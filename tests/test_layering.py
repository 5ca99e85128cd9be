"""Imports point down, and what must be light is light: in the source, and in a fresh process."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = {"torch", "diffusers", "transformers", "safetensors", "numpy", "scipy", "PIL", "torchsde"}
"""Takes seconds to import, or hundreds of megabytes: only what computes with it imports it."""

COMPUTES = (
    "executor/animation.py",
    "executor/models/",
    "executor/sampling/",
    "executor/blending.py",
    "executor/compositing.py",
    "executor/conditioning.py",
    "executor/devices.py",
    "executor/edges.py",
    "executor/image_filters.py",
    "executor/latent_file.py",
    "executor/latent_mixing.py",
    "executor/latents.py",
    "executor/masks.py",
    "executor/pictures.py",
    "executor/presence.py",
    "executor/residency.py",
    "executor/resampling.py",
    "executor/streaming.py",
    "executor/testing.py",
    "executor/testing_control.py",
    "executor/testing_upscale.py",
    "executor/testing_vision.py",
    "executor/tiling.py",
    "executor/weight_place.py",
)
"""What nodes and the engine import when something runs; all else is light."""

VOCABULARY = {"executor"} | {
    f"executor.{name}"
    for name in (
        "context",
        "errors",
        "events",
        "node",
        "patches",
        "ports",
        "sampling_ports",
        "steps",
    )
}

ENGINE = {
    f"executor.{name}"
    for name in ("cache", "cli", "engine", "fabric", "graph", "job", "session", "worker")
} | {"executor.workspace", "executor.models.library", "executor.api", "executor.ledger"}

SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("executor", "nodes")
    for path in (ROOT / folder).rglob("*.py")
)


def text(source: str) -> str:
    return (ROOT / source).read_text(encoding="utf-8")


def is_light(source: str) -> bool:
    """Whether a module computes nothing, or says itself that it is light."""
    return not source.startswith(COMPUTES) or "Light:" in text(source).split('"""')[1]


def imports(source: str) -> Iterator[str]:
    """The modules that a file imports, wherever in it, and the names that it imports from them."""
    for node in ast.walk(ast.parse(text(source))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source}: imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def roots(source: str) -> set[str]:
    return {name.split(".")[0] for name in imports(source)}


def ours(source: str) -> set[str]:
    """Our own modules that a file imports, names in them left off."""
    return {_module(name) for name in imports(source) if name.startswith("executor")}


def _module(name: str) -> str:
    path = ROOT / name.replace(".", "/")
    is_module = path.is_dir() or path.with_suffix(".py").is_file()
    return name if is_module else name.rpartition(".")[0]


def is_below(module: str, *above: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in above)


def fresh(code: str) -> set[str]:
    """The top-level modules that a new process has loaded after running ``code``."""
    show = "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code + show]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_importing_the_declarations_and_the_command_line_loads_nothing_heavy() -> None:
    loaded = fresh("import executor, executor.__main__, nodes\nfrom executor import *")
    assert {"executor", "nodes", "pydantic"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_importing_all_that_is_light_loads_nothing_heavy() -> None:
    light = [source for source in SOURCES if is_light(source) and "launcher" not in source]
    names = [source.removesuffix(".py").removesuffix("/__init__") for source in light]
    loaded = fresh("\n".join(f"import {name.replace('/', '.')}" for name in names))
    assert "networkx" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_help_of_the_command_line_loads_hardly_anything() -> None:
    loaded = fresh("from executor.__main__ import parser\nparser().format_help()")
    assert "executor" in loaded
    assert loaded.isdisjoint(HEAVY | {"pydantic", "networkx", "aiohttp", "rich"})


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_imports_what_is_above_it(source: str) -> None:
    assert roots(source).isdisjoint({"server", "tests"})
    if source.startswith("executor/"):
        assert "nodes" not in roots(source)
    if not source.startswith("executor/api/"):
        assert "aiohttp" not in roots(source)
    if source != "executor/graph.py":
        assert "networkx" not in roots(source)


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("executor/sampling/")])
def test_sampling_knows_the_vocabulary_only(source: str) -> None:
    assert all(is_below(module, "executor.sampling") for module in ours(source) - VOCABULARY)


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("executor/models/")])
def test_models_know_the_vocabulary_devices_noise_schedules_and_sizes_only(source: str) -> None:
    known = ("executor.models", "executor.devices", "executor.resampling", "executor.tiling")
    known += ("executor.presence", "executor.residency")
    known += ("executor.sampling.noise_schedules", "executor.sampling.schedules")
    assert all(is_below(module, *known) for module in ours(source) - VOCABULARY)


@pytest.mark.parametrize("module", sorted(VOCABULARY - {"executor"}))
def test_the_vocabulary_knows_itself_only(module: str) -> None:
    assert ours(f"{module.replace('.', '/')}.py") <= VOCABULARY


@pytest.mark.parametrize("source", [s for s in SOURCES if s.startswith("nodes/")])
def test_nodes_know_no_engine(source: str) -> None:
    assert not any(is_below(module, *ENGINE) for module in ours(source))
