"""Pictures with the shipped model: one, the same again, and many prompts that share batches."""

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nodes
from executor.engine import Engine
from executor.graph import check
from executor.job import Job
from executor.settings import Settings
from executor.workflow import Workflow
from executor.workspace import Workspace

from .table import best_of, show

assert nodes  # registers the classes

WORKFLOW = Path(__file__).parents[2] / "workflows" / "text_to_image.json"


def main() -> None:
    """Print CPU seconds a picture of ``workflows/text_to_image.json``."""
    rows: list[list[object]] = []
    with TemporaryDirectory() as folder:
        workspace = Workspace(Settings(base_directory=Path(folder), device="cpu"))
        engine = Engine(workspace, lambda event: None)
        run(engine, 1, first_seed=0)  # loads the model
        for what, count, seed in (
            ("one picture", 1, 100),
            ("the same again", 1, 100),
            ("4 together, other seeds", 4, 200),
            ("8 together, other seeds", 8, 300),
        ):
            seconds = best_of(1, lambda count=count, seed=seed: run(engine, count, seed))
            rows.append([what, f"{seconds:.3f}", f"{seconds / count:.3f}"])
    heads = ("what", "CPU seconds", "a picture")
    show("workflows/text_to_image.json (128 px, 20 steps, CFG)", heads, rows)


def run(engine: Engine, count: int, first_seed: int) -> None:
    """Run the workflow with so many seeds, all jobs at once."""
    prompt: dict[str, Any] = Workflow.load(WORKFLOW).prompt()
    for seed in range(first_seed, first_seed + count):
        one = deepcopy(prompt)
        for node in one.values():
            if "seed" in node["inputs"]:
                node["inputs"]["seed"] = seed
        graph = check(one, engine.workspace.folders).graph
        assert graph is not None
        engine.submit(Job(f"{seed} {id(one)}", graph, one))
    engine.run()
