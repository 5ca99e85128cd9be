"""A workflow as the user has it in a file: JSON of either format, or a PNG that carries one.

Reading says what is wrong with the file; whether the workflow in it can run is ``executor.graph``'s
to say.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor.editor import is_editor_format, to_prompt
from executor.errors import FileError, Kind, Problem, nearest
from executor.png_text import SIGNATURE, read_workflow


@dataclass(frozen=True, slots=True)
class WorkflowFile:
    """What a file holds: the workflow, and what its pictures shall carry besides."""

    prompt: Any
    extra_pnginfo: Mapping[str, Any] = field(default_factory=dict[str, Any])
    problems: Sequence[Problem] = ()  # with what the editor had drawn

    def besides(self, found: Sequence[Problem]) -> list[Problem]:
        """All problems: of the file, and what a check found that does not only follow from them."""
        said = {(problem.node_id, problem.input) for problem in self.problems}
        more = [p for p in found if p.kind != Kind.MISSING or (p.node_id, p.input) not in said]
        return [*self.problems, *more]


def read(path: Path, seed: int | None = None) -> WorkflowFile:
    """Read a workflow; what the editor has drawn is converted. Raises FileError if there is none.

    ``seed`` picks among the alternatives of dynamic prompts.
    """
    file = _read(path)
    if not is_editor_format(file.prompt):
        return file
    converted = to_prompt(file.prompt, seed or 0)
    extra = {**file.extra_pnginfo, "workflow": converted.workflow}
    return WorkflowFile(converted.prompt, extra, converted.problems)


def _read(path: Path) -> WorkflowFile:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise FileError(f"{path}: there is no such file{nearest(path.name, beside)}") from error
    except IsADirectoryError as error:
        raise FileError(f"{path} is a folder; name a workflow file in it") from error
    except (OSError, ValueError) as error:  # not ours to read; a NUL in the name
        raise FileError(f"{path} cannot be read: {error}") from error
    if content.startswith(SIGNATURE):
        return WorkflowFile(*read_workflow(path))
    if not content.strip():
        raise FileError(f"{path} is empty; a workflow is a JSON object of nodes by id")
    match _json(path, content):
        case {"prompt": dict(inner)} if "class_type" not in inner:
            return WorkflowFile(inner)  # the body of a request to a server
        case value:
            return WorkflowFile(value)


def _json(path: Path, content: bytes) -> Any:
    def unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # a parser would keep the last, and a node be lost
            names = [name for name, _ in pairs]
            twice = next(name for name in found if names.count(name) > 1)
            raise FileError(f"{path}: an object in it has {twice!r} twice; keep one of the two")
        return found

    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=unambiguous)
    except UnicodeDecodeError as error:
        words = f"{path} is neither text nor a PNG; a workflow is a JSON file or a PNG with one"
        raise FileError(words) from error
    except RecursionError as error:
        raise FileError(f"{path} is nested too deeply to be a workflow") from error
    except json.JSONDecodeError as error:
        words = f"{path} is no JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise FileError(words) from error
    except ValueError as error:  # a number of thousands of digits
        raise FileError(f"{path} is no JSON that can be read: {error}") from error
