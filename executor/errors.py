"""What can go wrong, and how it is said.

    WeftError
    ├── WorkflowError        a workflow that cannot run: every problem in it at once
    ├── FileError            a file that is not what it should be; says which file and what would do
    │   ├── PathError        a name that leads to nothing, or that no file can have
    │   │   └── OutsideError a name that leads out of its folder
    │   ├── NameTaken        a name that another file has, which must not be replaced
    │   ├── PictureError     not a picture, truncated, or too large
    │   └── ModelFileError   corrupt, hostile, incomplete, of an unknown or another family
    ├── SettingsError        a setting that cannot be: every one of them at once
    ├── LedgerError          the durable queue cannot be opened, read or written
    ├── NetworkError         something elsewhere in the network that cannot be had, or must not
    ├── JobRefused           a job that cannot be queued as it is
    │   ├── JobExists        another job has its id
    │   └── QueueFull        its owner has as many that wait as may
    └── InputError           a value that a node cannot work with, found only when it runs

A message says where, what, and what would do. Mistakes in a workflow are values (``Problem``),
collected and reported together; only broken invariants of our own are ``assert``s.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Kinds of problem, by their names on the ComfyUI wire."""

    NO_PROMPT = "no_prompt"
    INVALID_PROMPT = "invalid_prompt"
    NO_OUTPUTS = "prompt_no_outputs"
    CYCLE = "dependency_cycle"
    MISSING = "required_input_missing"
    UNKNOWN_INPUT = "unknown_input"
    BAD_LINK = "bad_linked_input"
    PORT_MISMATCH = "return_type_mismatch"
    INVALID_TYPE = "invalid_input_type"
    TOO_SMALL = "value_smaller_than_min"
    TOO_LARGE = "value_bigger_than_max"
    NOT_IN_LIST = "value_not_in_list"
    INVALID_VALUE = "custom_validation_failed"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a workflow: where it is, what is wrong, and what would do."""

    kind: Kind
    message: str
    node_id: str | None = None
    class_type: str | None = None
    input: str | None = None
    received: Any = None

    def __str__(self) -> str:
        where = (
            f"{self.class_type or 'node'} (node {self.node_id})" if self.node_id is not None else ""
        )
        return f"{where}: {self.message}" if where else self.message


class WeftError(Exception):
    """The root of every error that Weft raises on purpose."""


class WorkflowError(WeftError):
    """A workflow that cannot run, with all its problems, one line each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class SettingsError(WeftError):
    """Settings that cannot be, one line each."""


class FileError(WeftError):
    """A file that is not what it should be."""


class PathError(FileError):
    """A name that leads to no file, or that no file can have."""


class OutsideError(PathError):
    """A name that leads out of its folder."""


class NameTaken(FileError):
    """A name that another file has, which must not be replaced."""


class PictureError(FileError):
    """A file that is no picture, or one that must not be opened."""


class ModelFileError(FileError):
    """A model file that cannot be loaded; nothing of it was."""


class LedgerError(WeftError):
    """The durable queue cannot be opened, read or written; nothing of what was asked is done."""


class NetworkError(WeftError):
    """Something elsewhere in the network that cannot be had, or must not be asked for."""


class JobRefused(WeftError):
    """A job that cannot be queued as it is."""


class JobExists(JobRefused):
    """A job whose id another one has."""


class QueueFull(JobRefused):
    """A job whose owner has as many that wait already as may."""


class InputError(WeftError):
    """A value that a node cannot work with, found only when it runs."""


def nearest(wanted: str, offered: Iterable[str], *, most: int = 3) -> str:
    """``"; did you mean 'a' or 'b'?"``, or nothing if no offered name is near."""
    return did_you_mean(near_names(wanted, offered, most=most))


def did_you_mean(near: Sequence[str]) -> str:
    """What completes a message that there is no such name."""
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def near_names(wanted: str, offered: Iterable[str], *, most: int = 3) -> list[str]:
    """The offered names that are like the wanted one, the nearest first."""
    folded = {name.casefold(): name for name in offered}
    near = get_close_matches(wanted.casefold(), folded, n=most, cutoff=0.6)
    return [folded[name] for name in near]
