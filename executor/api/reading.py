"""Reads a workflow for whoever has it in a file: JSON of either format, or a PNG that carries one.

Nothing is queued. The answer is what ``/prompt`` takes, with all that ``/prompt`` would find wrong,
so that a page can show the nodes without knowing how ComfyUI's editor or a PNG keeps them.
"""

import asyncio
from collections.abc import Mapping
from io import BytesIO
from typing import Any, cast

from aiohttp import web

from executor.api.body import MAX_JSON_BYTES, kind_of, parsed
from executor.api.keys import FOLDERS
from executor.api.refusal import Refusal, too_large
from executor.api.replies import json_text, text_reply
from executor.api.verdict import node_errors
from executor.editor import is_editor_format, to_prompt
from executor.errors import Kind, PictureError, Problem
from executor.graph import check
from executor.node import NodeId
from executor.paths import Folders
from executor.png_text import SIGNATURE, read_texts


async def read_workflow(request: web.Request) -> web.Response:
    """Answer ``{"prompt", "workflow", "problems", "node_errors"}``.

    ``workflow`` is the editor's file, or null; ``problems`` are those of no node.
    """
    body = await request.read()
    # In a thread: a large file takes long to unpack, convert and check.
    return text_reply(await asyncio.to_thread(_answer, body, request.app[FOLDERS]))


def _answer(body: bytes, folders: Folders) -> str:
    """Read, convert and check. Raises Refusal or PictureError for what holds no workflow."""
    prompt, editor = _embedded(body) if body.startswith(SIGNATURE) else (_json(body), None)
    problems: list[Problem] = []
    if is_editor_format(prompt):
        converted = to_prompt(prompt)
        problems += converted.problems
        prompt, editor = converted.prompt, converted.workflow
    nodes = _nodes(prompt)
    said = {(problem.node_id, problem.input) for problem in problems}
    problems += [
        problem
        for problem in check(nodes, folders).problems
        if problem.kind != Kind.MISSING or (problem.node_id, problem.input) not in said
    ]
    answer = {
        "prompt": nodes,
        "workflow": editor,
        "problems": [problem.message for problem in problems if problem.node_id is None],
        "node_errors": node_errors(problems, nodes),
    }
    try:
        return json_text(answer)
    except ValueError as error:  # 1e999 is JSON, but no number
        words = "a number in the file is too large; numbers are finite"
        raise Refusal(400, "invalid_json", words) from error


def _json(body: bytes) -> Any:
    """What a JSON file holds; the body of a request to ``/prompt`` is taken for its workflow."""
    if len(body) > MAX_JSON_BYTES:
        raise too_large(MAX_JSON_BYTES)
    match parsed(body):
        case {"prompt": dict(inner)} if "class_type" not in inner:
            return cast("dict[str, Any]", inner)
        case value:
            return value


def _embedded(body: bytes) -> tuple[Any, Any]:
    """The workflow in a PNG, and the editor's file beside it, if there is one."""
    texts = read_texts(BytesIO(body), "the picture")
    found = {
        name: parsed(texts[name].encode(errors="surrogatepass"))
        for name in ("prompt", "workflow")
        if name in texts
    }
    if not found:
        raise PictureError(
            "the picture carries no workflow: pictures lose them when edited or sent through "
            "most services"
        )
    return found.get("prompt", found.get("workflow")), found.get("workflow")


def _nodes(prompt: Any) -> Mapping[NodeId, Mapping[str, Any]]:
    """The workflow, if it is one as far as its shape goes. Raises Refusal."""
    if not isinstance(prompt, Mapping):
        what = "the file is empty" if prompt is None else f"the file holds {kind_of(prompt)}"
        words = f"{what}; a workflow is an object of nodes by id"
        raise Refusal(400, "invalid_prompt", words)
    nodes = cast("Mapping[NodeId, Any]", prompt)
    for node_id, node in nodes.items():
        match node:
            case {"class_type": str(), "inputs": dict()}:
                pass
            case _:
                words = "a node has a class_type and inputs"
                words = f"the file holds no workflow: {node_id[:100]!r} is no node; {words}"
                raise Refusal(400, "invalid_prompt", words)
    if not nodes:
        raise Refusal(400, "invalid_prompt", "the workflow is empty: it has no nodes")
    return nodes


routes = [web.post("/workflow", read_workflow)]
