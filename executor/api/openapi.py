"""``/openapi.json``: every route of the server, as OpenAPI 3.1 describes one; and a page of it.

The document is made from the routes themselves: what they are for is said by their handlers'
docstrings, what belongs together by the modules that they are in. Parameters and schemas are those
of ``descriptions``.
"""

import re
import sys
from collections.abc import Mapping
from inspect import cleandoc
from typing import Any

from aiohttp import web

from executor import __version__
from executor.api.api_page import html_of, page_reply
from executor.api.descriptions import DESCRIPTIONS, SCHEMAS, Description, Parameter, Schema, ref
from executor.api.replies import json_reply

DOCUMENT: web.AppKey[Mapping[str, Any]] = web.AppKey("document", dict)

_TWIN = "/api"
"""Below which all routes are again, but those of the frontend's files."""

_ABOUT = (
    "Runs workflows of diffusion models, in the protocol of ComfyUI's frontends and clients. Every "
    "route is there with and without /api in front of it."
)


async def openapi(request: web.Request) -> web.Response:
    """This server's routes, as OpenAPI 3.1 describes them."""
    return json_reply(request.app[DOCUMENT])


async def api_page(request: web.Request) -> web.Response:
    """The same for people: a page that lists all routes."""
    return page_reply(html_of(request.app[DOCUMENT]))


def document(router: web.UrlDispatcher) -> dict[str, Any]:
    """The description of all routes that there are."""
    found = {
        (route.method, route.resource.canonical): route
        for route in router.routes()
        if route.resource is not None and route.method != "HEAD"  # which each GET has beside it
    }
    paths: dict[str, dict[str, Any]] = {}
    tags: dict[str, str] = {}
    for (method, path), route in found.items():
        if path.startswith(f"{_TWIN}/") and (method, path.removeprefix(_TWIN)) in found:
            continue
        item = paths.setdefault(path, {})
        if (method, _TWIN + path) not in found:
            item["servers"] = [{"url": "/"}]
        module = route.handler.__module__
        tag = module.rpartition(".")[2]
        tags[tag] = _first_sentence(sys.modules[module].__doc__ or "")
        item[method.lower()] = _operation(method, path, tag, route.handler.__doc__ or "")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Weft",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}, {"url": _TWIN}],
        "tags": [{"name": name, "description": tags[name]} for name in sorted(tags)],
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": SCHEMAS, "securitySchemes": _SCHEMES},
        "security": [{name: []} for name in _SCHEMES] + [{}],
    }


_SCHEMES: Mapping[str, Any] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "Where the server has tokens (weft token add NAME); without any, nobody is "
        "asked for one.",
    },
}


def _operation(method: str, path: str, tag: str, doc: str) -> dict[str, Any]:
    """One route and method."""
    summary, _, more = cleandoc(doc).replace("``", "").partition("\n\n")
    summary = " ".join(summary.split())
    described = DESCRIPTIONS.get((method, path), Description())
    operation: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", path)]),
        "tags": [tag],
        "summary": summary,
        "description": " ".join(more.split()),
        "parameters": [
            *({**_PATH, "name": name} for name in re.findall(r"{(\w+)}", path)),
            *map(_parameter, described.takes),
        ],
        "responses": _responses(described, summary),
    }
    if described.body is not None:
        operation["requestBody"] = {"content": {described.body_type: {"schema": described.body}}}
    return operation


_PATH: Mapping[str, Any] = {"in": "path", "required": True, "schema": {"type": "string"}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.is_required,
        "description": parameter.about,
        "schema": parameter.schema,
    }


def _responses(described: Description, summary: str) -> dict[str, Any]:
    """The answers: one that is meant, and one for all that is wrong with a request."""
    meant = _answer(summary, described.answer, described.answer_type)
    responses = {str(status): meant for status in described.statuses}
    return {**responses, "default": _answer("What is wrong.", ref("Error"), "application/json")}


def _answer(about: str, schema: Schema | None, content_type: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": about}
    if schema is not None:
        answer["content"] = {content_type: {"schema": schema}}
    return answer


def _first_sentence(doc: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(doc.replace("``", "").split()), maxsplit=1)[0]


routes = [web.get("/openapi.json", openapi), web.get("/docs/api", api_page)]
