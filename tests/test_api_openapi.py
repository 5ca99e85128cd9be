"""The description of the routes: all of them, and nothing that is not so."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
from ledgers import on_a_loop
from servers import serving, sink
from test_api_page import Elements

from executor.api.descriptions import DESCRIPTIONS, SCHEMAS

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


def fault(value: Any, schema: Any, where: str = "answer") -> str:
    """Why a value is not what a schema says, for what schemas here say; or nothing."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    kinds |= {"number": (int, float), "null": type(None)}
    if "$ref" in schema:
        return fault(value, SCHEMAS[schema["$ref"].rpartition("/")[2]], where)
    if "anyOf" in schema:
        faults = [fault(value, one, where) for one in schema["anyOf"]]
        return "" if "" in faults else faults[0]
    if "enum" in schema and value not in schema["enum"]:
        return f"{where}: {value!r} is none of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        return f"{where}: {value!r} is not {schema['const']!r}"
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(isinstance(value, kinds[type]) for type in types):
        return f"{where}: {value!r} is no {types}"
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            if name not in value:
                return f"{where} has no {name}"
        for name, item in value.items():
            of = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if of is None and schema.get("properties"):
                return f"{where}: nobody told of {name}"
            if of and (found := fault(item, of, f"{where}.{name}")):
                return found
    if isinstance(value, list):
        for place, item in enumerate(value):
            of = (schema.get("prefixItems") or [schema.get("items", {})] * len(value))[place]
            if found := fault(item, of, f"{where}[{place}]"):
                return found
    return ""


def test_the_check_of_this_test_finds_what_is_wrong():
    job = {"id": "a", "status": "pending", "create_time": 1, "priority": 1, "outputs_count": 0}
    assert fault(job, SCHEMAS["Job"]) == ""
    for wrong in ({"status": "lost"}, {"id": 5}, {"surprise": 1}):
        assert fault(job | wrong, SCHEMAS["Job"])
    del job["id"]
    assert fault(job, SCHEMAS["Job"]) == "answer has no id"


@on_a_loop
async def test_every_route_is_in_the_document_and_says_what_it_does(tmp_path):
    async with serving(tmp_path) as server:
        document = await server.get("/openapi.json")
        assert document["openapi"].startswith("3.1")
        told = {(m.upper(), p) for p, item in document["paths"].items() for m in item}
        there = set[tuple[str, str]]()
        for route in server.app.router.routes():
            assert route.resource is not None
            path = route.resource.canonical
            if route.method != "HEAD":
                there.add((route.method, path.removeprefix("/api")))
                only_here = document["paths"][path.removeprefix("/api")].get("servers")
                assert (only_here is None) == (path not in ("/", "/{path}"))
        assert {item for item in told if item[0] != "SERVERS"} == there
        for path, item in document["paths"].items():
            for method, operation in item.items():
                if method != "servers":
                    assert operation["summary"].endswith("."), f"{method} {path}"


@on_a_loop
async def test_the_document_holds_together(tmp_path):
    async with serving(tmp_path) as server:
        document = await server.get("/openapi.json")
        operations = [o for i in document["paths"].values() for m, o in i.items() if m != "servers"]
        ids = [operation["operationId"] for operation in operations]
        assert len(ids) == len(set(ids))
        tags = {tag["name"] for tag in document["tags"]}
        assert {tag for operation in operations for tag in operation["tags"]} == tags
        for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
            assert name in document["components"]["schemas"]
        for path, item in document["paths"].items():
            for method, operation in item.items():
                if method != "servers":
                    asked = [p["name"] for p in operation["parameters"] if p["in"] == "path"]
                    assert asked == re.findall(r"{(\w+)}", path)
        assert all(tag["description"] for tag in document["tags"])


@on_a_loop
async def test_whatever_is_described_is_a_route(tmp_path):
    async with serving(tmp_path) as server:
        paths = (await server.get("/openapi.json"))["paths"]
        for method, path in DESCRIPTIONS:
            assert method.lower() in paths.get(path, {}), f"{method} {path}"


@on_a_loop
async def test_answers_are_as_described(tmp_path):
    async with serving(tmp_path) as server:
        body = {"prompt": sink(), "client_id": "me", "prompt_id": "a"}
        assert fault(body, SCHEMAS["Submission"]) == ""
        answer = await server.post("/prompt", body)
        assert fault(answer, DESCRIPTIONS["POST", "/prompt"].answer) == ""
        await server.over("a")
        for (method, path), described in DESCRIPTIONS.items():
            is_json = described.answer_type == "application/json"
            if method != "GET" or described.answer is None or not is_json:
                continue
            asked = path.replace("{job_id}", "a").replace("{folder}", "vae")
            asked = asked.replace("{name}", "ToySink").replace("{file}", "a")
            if "{" in asked or any(parameter.is_required for parameter in described.takes):
                continue
            if path.startswith(
                "/catalogue/"
            ):  # of models and comparisons: test_api_model_catalogue
                continue
            answer = await server.get(asked)
            if path == "/jobs/{job_id}":  # a job of the list, with more
                for name in ("outputs", "workflow", "execution_status"):
                    del answer[name]
            assert fault(answer, described.answer, path) == ""
        refused = await server.post("/prompt", {"prompt": {}}, 400)
        assert fault(refused, SCHEMAS["Error"]) == ""


@pytest.mark.parametrize("path", ["/docs/api", "/api/docs/api"])
@on_a_loop
async def test_the_page_lists_all_routes_and_asks_for_nothing(tmp_path, path):
    async with serving(tmp_path) as server:
        document = await server.get("/openapi.json")
        async with server.client.get(path) as answer:
            assert answer.content_type == "text/html"
            policy = answer.headers["Content-Security-Policy"].split("; ")
            html = await answer.text()
            address = answer.url
        elements = Elements(html)
        style = b64encode(sha256(elements.inline["style"].encode()).digest()).decode()
        assert {"default-src 'none'", f"style-src 'sha256-{style}'"} <= set(policy)
        assert "url(" not in html
        assert "@import" not in html
        for tag, attributes in elements.found:
            assert tag not in ("script", "link", "img", "iframe")
            assert not any(name == "style" or name.startswith("on") for name in attributes)
        for listed, item in document["paths"].items():
            assert f"<code>{listed}</code>" in html
            assert all(f"<b>{m.upper()}</b>" in html for m in item if m != "servers")
        (link,) = [a["href"] for _, a in elements.found if "href" in a]
        assert await server.get(str(address.join(type(address)(str(link))).path)) == document
