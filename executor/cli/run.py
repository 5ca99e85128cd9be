"""``weft run``: a workflow on an engine in this process, watched on the terminal."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from executor import workflow_file
from executor.cli import Exit
from executor.cli.changes import changed
from executor.cli.model_check import model_problems
from executor.cli.progress import Bars
from executor.cli.terminal import as_object, as_seen_from_here, complain, say, say_json
from executor.context import SavedFile
from executor.errors import PathError, Problem, WorkflowError
from executor.events import Ended, Event, Executed, Failed, Failure, Outcome
from executor.graph import Graph, check
from executor.node import NodeId
from executor.paths import Folders
from executor.settings import Settings
from executor.workspace import Workspace

_EXITS = {
    Outcome.SUCCEEDED: Exit.DONE,
    Outcome.FAILED: Exit.FAILED,
    Outcome.CANCELLED: Exit.INTERRUPTED,
    Outcome.TIMED_OUT: Exit.FAILED,
}


def run(
    path: Path, *, changes: Sequence[str], seed: int | None, output: Path | None, as_json: bool
) -> int:
    """Run the workflow in a file. Raises FileError, WorkflowError before anything has run."""
    given: dict[str, Any] = {} if output is None else {"output_directory": output}
    workspace = Workspace(Settings.from_environment(**given))
    _check_writable(workspace.folders.place("output"))
    file = workflow_file.read(path, seed)
    prompt, problems = changed(file.prompt, changes, seed)
    checked = check(prompt, workspace.folders)
    problems += file.besides(checked.problems)
    problems += model_problems(checked.graph, workspace.folders)
    if problems or checked.graph is None:
        raise WorkflowError(problems)
    if not as_json:
        for warning in checked.warnings:
            complain(f"warning: {warning}")
    extra = file.extra_pnginfo
    if changes or seed is not None:  # the editor's graph would tell of another picture
        extra = {name: value for name, value in extra.items() if name != "workflow"}
    record = _drive(workspace, checked.graph, prompt, extra)
    if as_json:
        say_json(record.as_object(checked.warnings))
    else:
        for _, saved in record.files:
            say(_path(saved, workspace.folders))
        for failure in record.failures.values():
            complain(f"error: {failure.message}")
    return _EXITS[record.outcome]


def _check_writable(folder: Path) -> None:
    """Raise PathError now, not when the picture is there, if nothing can be kept in a folder."""
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # a name that is too long
        raise PathError(f"{folder} cannot be the folder to save in: {error.strerror}") from error
    if not there.is_dir():
        raise PathError(f"{folder} cannot be the folder to save in: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PathError(f"{folder} cannot be the folder to save in: {there} must not be written to")


class _Record:
    """What happened to the job, as far as its user wants to know it afterwards."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.files: list[tuple[NodeId, SavedFile]] = []
        self.failures: dict[NodeId, Failure] = {}
        self.outcome = Outcome.CANCELLED  # until it is told otherwise

    def __call__(self, event: Event) -> None:
        match event:
            case Executed(node_id=node_id, files=files):
                self.files += [(node_id, saved) for saved in files]
            case Failed(node_id=node_id, failure=failure):
                self.failures[node_id] = failure
            case Ended(outcome=outcome):
                self.outcome = outcome
            case _:
                pass

    def as_object(self, warnings: Sequence[Problem]) -> dict[str, Any]:
        """All of it, as JSON."""
        return {
            "outcome": self.outcome.value,
            "files": [
                {
                    "path": _path(saved, self.folders),
                    "node": node_id,
                    "type": saved.type,
                    "kind": saved.kind,
                }
                for node_id, saved in self.files
            ],
            "errors": [
                {
                    "message": failure.message,
                    "node": node_id,
                    "class": failure.class_type,
                    "traceback": list(failure.traceback),
                }
                for node_id, failure in self.failures.items()
            ],
            "warnings": [as_object(warning) for warning in warnings],
        }


def _drive(
    workspace: Workspace, graph: Graph, prompt: Mapping[str, Any], extra: Mapping[str, Any]
) -> _Record:
    """Run one job to its end, or until the user interrupts it."""
    record = _Record(workspace.folders)
    with Bars(graph) as bars:
        from executor.engine import Engine  # here, so that the bars are up while torch loads
        from executor.job import Job

        def emit(event: Event) -> None:
            record(event)
            bars(event)

        engine = Engine(workspace, emit)
        job = Job("run", graph, prompt, extra)
        with suppress(KeyboardInterrupt):  # wherever it came: the process ends, files are whole
            engine.submit(job)
            engine.run()
    return record


def _path(saved: SavedFile, folders: Folders) -> str:
    """Where a saved file is, as seen from the current directory if it lies below that."""
    return as_seen_from_here(folders.place(saved.type) / saved.subfolder / saved.filename)
