"""Workflows run in this process, one after another: prompts in, files out.

For scripts, notebooks and tests. What did not change since an earlier run of the session does not
run again. Node classes are known once they are imported: ``import nodes`` brings Weft's own.
Somebody who wants to watch, cancel, or run many at once uses ``executor.engine`` itself.
"""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from executor.context import SavedFile
from executor.engine import Engine
from executor.errors import WeftError, WorkflowError
from executor.events import Event, Executed
from executor.graph import check
from executor.job import Job
from executor.node import NodeId
from executor.settings import Settings
from executor.workspace import Workspace


class Session:
    """An engine with its folders, its models and its cache, for one workflow at a time."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Use these settings, or those of the environment."""
        self.settings = settings or Settings.from_environment()
        self.workspace = Workspace(self.settings)
        self.engine = Engine(self.workspace, self._note)
        self._files: dict[NodeId, tuple[SavedFile, ...]] = {}
        self._ids = count(1)

    def run(self, prompt: Mapping[NodeId, Any]) -> dict[NodeId, list[Path]]:
        """Run a workflow in ComfyUI's API format; gives what each node left behind.

        Raises WorkflowError if something is wrong with it, and WeftError with a line for each node
        that failed.
        """
        checked = check(prompt, self.workspace.folders)
        if checked.graph is None or checked.problems:
            raise WorkflowError(checked.problems)
        self._files = {}
        job = Job(str(next(self._ids)), checked.graph, prompt)
        self.engine.submit(job)
        self.engine.run()
        if job.failures:
            raise WeftError("\n".join(str(failure) for failure in job.failures.values()))
        return {
            node_id: [self._path(saved) for saved in self._files[node_id]]
            for node_id in prompt
            if self._files.get(node_id)
        }

    def _note(self, event: Event) -> None:
        if isinstance(event, Executed):
            self._files[event.node_id] = event.files

    def _path(self, saved: SavedFile) -> Path:
        return self.workspace.folders.place(saved.type) / saved.subfolder / saved.filename
