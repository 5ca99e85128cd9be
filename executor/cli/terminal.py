"""What the commands write, and where: results to stdout, complaints to stderr, one line each.

Text that came out of a file is written so that it cannot break a line or move the cursor.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from executor.errors import Problem, WeftError, WorkflowError


def say(text: str) -> None:
    """Write a line of the result."""
    sys.stdout.write(_printable(text) + "\n")


def complain(text: str) -> None:
    """Write a line about what is wrong."""
    sys.stderr.write(_printable(text) + "\n")


def say_json(value: Any) -> None:
    """Write the whole result as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def say_table(rows: Iterable[Sequence[str]]) -> None:
    """Write lines of columns; the last one is as wide as it is."""
    lines = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        say("  ".join([*cells, line[-1]]).rstrip())


def as_seen_from_here(path: Path) -> str:
    """A path, relative to the current directory if it lies below that."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def refuse(error: WeftError, *, as_json: bool) -> None:
    """Say why nothing was done."""
    if as_json:
        say_json({"problems": [as_object(problem) for problem in problems_of(error)]})
    else:
        for problem in problems_of(error):
            complain(f"error: {problem}")


def problems_of(error: WeftError) -> tuple[Problem | str, ...]:
    """What an error consists of."""
    return error.problems if isinstance(error, WorkflowError) else tuple(str(error).splitlines())


def as_object(problem: Problem | str) -> dict[str, Any]:
    """A problem as JSON."""
    if isinstance(problem, str):
        return {"message": problem}
    return {
        "message": problem.message,
        "kind": problem.kind.value,
        "node": problem.node_id,
        "class": problem.class_type,
        "input": problem.input,
    }


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
