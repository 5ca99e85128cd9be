"""A submitted workflow: read from what a client sent, checked, and made a job.

Nothing here waits or touches the ledger; for a large workflow it runs in a thread.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from executor.api.body import flag, kind_of, text, texts
from executor.api.job_checkpoints import checkpoints_of
from executor.api.refusal import Refusal
from executor.api.replies import json_text
from executor.api.verdict import node_errors, refused
from executor.editor import is_editor_format, to_prompt
from executor.errors import JobRefused, Kind, Problem
from executor.graph import Graph, check
from executor.ledger import NewJob
from executor.ledger.records import name_fault, shortened
from executor.node import NodeId
from executor.paths import PLACES, Folders, parts_of

SECRETS = frozenset({"auth_token_comfy_org", "api_key_comfy_org", "client_id"})
"""In extra data: keys to others' services, of no use here, and what tells clients apart. They
would be shown in the queue and the history, so they are not kept."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client sent, in its place and of the right type."""

    prompt: Any
    extra_data: Mapping[str, Any]
    targets: tuple[NodeId, ...] | None
    number: float | None
    is_front: bool
    client_id: str
    prompt_id: str | None = None
    idempotency_key: str | None = None
    ttl_ms: int | None = None
    timeout_ms: int | None = None
    workflow_id: str | None = None
    """In place of the one that the editor gave to its file."""

    @property
    def size(self) -> int:
        """About how many nodes there are to check."""
        if is_editor_format(self.prompt):
            return len(self.prompt["nodes"]) + len(self.prompt["links"])
        return len(cast("dict[str, Any]", self.prompt)) if isinstance(self.prompt, dict) else 0


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file that a node will read, by its place and its name there."""

    node_id: NodeId
    class_type: str
    input: str
    place: str
    name: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A job that can be queued, and what of the workflow cannot run."""

    new: NewJob
    node_errors: Mapping[NodeId, Any]
    files: tuple[ReadFile, ...]
    """Of the input, output and temp folders, which may be others'."""


def submission(
    body: Mapping[str, Any], client_id: str | None, idempotency_key: str | None
) -> Submission:
    """Read a request to run a workflow. ``client_id`` is the one in the address.

    Raises Refusal, JobRefused.
    """
    prompt = body if is_editor_format(body) else body.get("prompt")
    if prompt is None:
        hint = ""
        if any(isinstance(node, dict) and "class_type" in node for node in body.values()):
            hint = '; this body looks like one, put it under "prompt"'
        words = f'"prompt" must hold the workflow{hint}'
        raise Refusal(400, Kind.NO_PROMPT, "No workflow", details=words)
    extra_data = _object(body, "extra_data")
    _object(extra_data, "extra_pnginfo")
    prompt_id = text(body, "prompt_id") or None
    if prompt_id and (fault := name_fault(prompt_id)):
        raise JobRefused(f"prompt_id {fault}, got {shortened(prompt_id)}")
    targets = None
    if body.get("partial_execution_targets") is not None:
        targets = tuple(texts(body, "partial_execution_targets"))
    return Submission(
        prompt=prompt,
        extra_data={name: value for name, value in extra_data.items() if name not in SECRETS},
        targets=targets,
        number=_number(body.get("number")),
        is_front=flag(body, "front"),
        client_id=text(body, "client_id") or client_id or "",
        prompt_id=prompt_id,
        idempotency_key=idempotency_key,
    )


def admitted(submission: Submission, folders: Folders) -> Admitted:
    """Check a workflow completely.

    Raises Refusal if none of its outputs can run, JobRefused if it cannot be kept.
    """
    prompt, extra_data = submission.prompt, submission.extra_data
    if is_editor_format(prompt):
        converted = to_prompt(prompt)
        if converted.problems:
            raise refused(converted.problems, converted.prompt)
        prompt = converted.prompt
        pnginfo = {"workflow": converted.workflow, **(extra_data.get("extra_pnginfo") or {})}
        extra_data = {**extra_data, "extra_pnginfo": pnginfo}
    checked = check(prompt, folders, submission.targets)
    if checked.graph is None:
        problems = checked.problems
        if not problems:
            words = "partial_execution_targets names no node that leaves anything behind"
            problems = (Problem(Kind.NO_OUTPUTS, words),)
        raise refused(problems, prompt)
    new = NewJob(
        prompt=_text_of(prompt),
        extra_data=_text_of(extra_data),
        targets=checked.graph.outputs,
        id=submission.prompt_id,
        number=submission.number,
        is_front=submission.is_front,
        client_id=submission.client_id,
        ttl_ms=submission.ttl_ms,
        timeout_ms=submission.timeout_ms,
        idempotency_key=submission.idempotency_key,
        workflow_id=submission.workflow_id or _workflow_id(extra_data),
        checkpoints=checkpoints_of(checked.graph),
    )
    files = tuple(_files(checked.graph, folders))
    return Admitted(new, node_errors(checked.problems, prompt), files)


def _files(graph: Graph, folders: Folders) -> Iterator[ReadFile]:
    for node_id, node in graph.nodes.items():
        for name, folder, file in node.files():
            place, plain = folders.placed(folder, file)
            if place in (*PLACES, "latents"):
                place = "input" if place == "latents" else place
                plain = "/".join(parts_of(plain))
                yield ReadFile(node_id, type(node).__name__, name, place, plain)


def _text_of(value: Any) -> str:
    try:
        return json_text(value)
    except ValueError as error:  # 1e999 is JSON, but no number
        words = "a number is too large; numbers are finite"
        raise Refusal(400, "invalid_json", words) from error


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        words = f"{name} must be an object, got {kind_of(value)}"
        raise Refusal(400, "bad_request", words)
    return cast("dict[str, Any]", value)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refusal(400, "bad_request", f"number must be a number, got {kind_of(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise Refusal(400, "bad_request", "number must be between ±2^53") from error


def _workflow_id(extra_data: Mapping[str, Any]) -> str | None:
    """The id that the editor gave to its file, if it is one."""
    match extra_data:
        case {"extra_pnginfo": {"workflow": {"id": str(workflow_id)}}}:
            return None if name_fault(workflow_id) else workflow_id
        case _:
            return None
