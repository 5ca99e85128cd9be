"""``weft check``: everything that is wrong with a workflow, at once, and the models it needs."""

from pathlib import Path

from executor import graph, workflow_file
from executor.cli import Exit
from executor.cli.model_check import model_problems, needed_models
from executor.cli.terminal import as_object, complain, say, say_json
from executor.errors import WorkflowError
from executor.paths import Folders
from executor.settings import Settings


def check(path: Path, *, is_strict: bool, as_json: bool) -> int:
    """Check the workflow in a file. Raises FileError, WorkflowError."""
    file = workflow_file.read(path)
    folders = Folders(Settings.from_environment())
    checked = graph.check(file.prompt, folders)
    problems, warnings = file.besides(checked.problems), checked.warnings
    problems = [*problems, *model_problems(checked.graph, folders)]
    models = needed_models(checked.files, folders)
    if is_strict:
        problems, warnings = [*problems, *warnings], ()
    if as_json:
        say_json(
            {
                "problems": [as_object(problem) for problem in problems],
                "warnings": [as_object(warning) for warning in warnings],
                "models": [model.as_object() for model in models],
            }
        )
        return Exit.WRONG_INPUT if problems else Exit.DONE
    for warning in warnings:
        complain(f"warning: {warning}")
    for model in models:
        if model.path is None:
            complain(f"missing: {model.advice}")
    if problems:
        raise WorkflowError(problems)
    for model in models:
        say(f"needs {model.folder}/{model.name}")
    assert checked.graph is not None, "a workflow without problems has a graph"
    count, running = len(file.prompt), len(checked.graph.nodes)
    say(f"{path}: {count} nodes, {running} of them run; nothing is wrong")
    return Exit.DONE
