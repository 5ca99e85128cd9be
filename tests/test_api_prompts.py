"""Submitting workflows, and what is said of those that cannot run."""

import asyncio
import gzip
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from ledgers import on_a_loop
from servers import sampling, serving, sink, waiting

from executor.api.app import FEATURES
from executor.ledger import State
from executor.logs import formatter

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch

WORKFLOWS = Path(__file__).parents[1] / "workflows"


@on_a_loop
async def test_a_workflow_is_queued_runs_and_is_in_the_history(tmp_path):
    async with serving(tmp_path) as server:
        answer = await server.post("/prompt", {"prompt": sink(), "client_id": "me"})
        assert answer.keys() == {"prompt_id", "number", "node_errors"}
        assert type(answer["number"]) is int
        assert answer["node_errors"] == {}
        entry = await server.over(answer["prompt_id"])
        assert entry["status"]["status_str"] == "success"
        (file,) = entry["outputs"]["2"]["images"]
        assert (tmp_path / "output" / file["filename"]).read_text() == "4.0"


@on_a_loop
async def test_each_route_is_there_with_and_without_api_before_it(tmp_path):
    async with serving(tmp_path) as server:
        there = {(route.method, _path(route)) for route in server.app.router.routes()}
        wanted = [cast(web.RouteDef, route) for routes in FEATURES for route in routes]
        for prefix in ("", "/api"):
            paths = {(r.method, prefix + re.sub(r":[^}]+", "", r.path)) for r in wanted}
            assert paths <= there
        answer = await server.post("/api/prompt", {"prompt": sink()})
        assert answer["prompt_id"] in await server.get(f"/api/history/{answer['prompt_id']}") or (
            await server.over(answer["prompt_id"])
        )


def _path(route: web.AbstractRoute) -> str:
    return route.resource.canonical if route.resource else ""


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "nonsense"],
)
@on_a_loop
async def test_json_is_json_whatever_the_content_type_says(tmp_path, content_type):
    async with serving(tmp_path) as server:
        headers = {"Content-Type": content_type} if content_type else None
        skipped = ["Content-Type"] if content_type is None else []
        body = b"\xef\xbb\xbf" + json.dumps({"prompt": sink()}).encode()
        asked = server.client.post("/prompt", data=body, headers=headers, skip_auto_headers=skipped)
        async with asked as answer:
            assert answer.status == 200


@on_a_loop
async def test_prompt_is_a_ping_that_says_what_remains(tmp_path):
    async with serving(tmp_path) as server:
        assert await server.get("/prompt") == {"exec_info": {"queue_remaining": 0}}
        job_id = await server.submit(waiting("w"))
        await server.running(job_id)
        assert await server.get("/prompt") == {"exec_info": {"queue_remaining": 1}}


@on_a_loop
async def test_inputs_that_no_node_knows_do_no_harm(tmp_path):
    async with serving(tmp_path) as server:
        prompt = sink()
        prompt["2"]["inputs"]["upload"] = "image"
        answer = await server.post("/prompt", {"prompt": prompt})
        assert answer["node_errors"] == {}


# What cannot run


@on_a_loop
async def test_a_mistake_is_said_in_comfyuis_shape(tmp_path):
    async with serving(tmp_path) as server:
        prompt = {
            "1": {"class_type": "ToyDivide", "inputs": {"a": 7, "by": 0}},
            "2": {"class_type": "ToySink", "inputs": {"value": ["1", 0]}},
        }
        answer = await server.post("/prompt", {"prompt": prompt}, status=400)
        assert answer["error"]["type"] == "prompt_outputs_failed_validation"
        assert answer["error"].keys() == {"type", "message", "details", "extra_info"}
        assert "ToyDivide (node 1): by must be ≥ 1, got 0" in answer["error"]["details"]
        node = answer["node_errors"]["1"]
        assert node["class_type"] == "ToyDivide"
        assert node["dependent_outputs"] == ["2"]
        (error,) = node["errors"]
        assert error["type"] == "value_smaller_than_min"
        assert error["details"] == "by must be ≥ 1, got 0"
        assert error["extra_info"] == {
            "input_name": "by",
            "received_value": 0,
            "input_config": ["INT", {"default": 1, "min": 1}],
        }
        assert await server.get("/prompt") == {"exec_info": {"queue_remaining": 0}}


@pytest.mark.parametrize(
    ("prompt", "type"),
    [
        ({}, "no_prompt"),
        (None, "no_prompt"),
        ([], "invalid_prompt"),
        ("x", "invalid_prompt"),
        ({"1": 5}, "invalid_prompt"),
        ({"1": {"inputs": {}}}, "invalid_prompt"),
        ({"1": {"class_type": "Nothing", "inputs": {}}}, "invalid_prompt"),
        ({"1": {"class_type": "ToyNumber", "inputs": {}}}, "prompt_no_outputs"),
        ({"1": {"class_type": "ToySink", "inputs": {}}}, "prompt_outputs_failed_validation"),
        (
            {"1": {"class_type": "ToySink", "inputs": {"value": ["1", 0]}}},
            "prompt_outputs_failed_validation",
        ),
        (
            {"1": {"class_type": "ToySink", "inputs": {"value": ["9", 0]}}},
            "prompt_outputs_failed_validation",
        ),
        (
            {"1": {"class_type": "ToySink", "inputs": {"value": "1" * 5_000}}},
            "prompt_outputs_failed_validation",
        ),
    ],
)
@on_a_loop
async def test_what_is_no_workflow_is_refused_with_its_type_and_words(tmp_path, prompt, type):
    async with serving(tmp_path) as server:
        answer = await server.post("/prompt", {"prompt": prompt}, status=400)
        assert answer["error"]["type"] == type
        assert answer["error"]["details"]
        assert len(json.dumps(answer)) < 5_000


@on_a_loop
async def test_a_cycle_is_named(tmp_path):
    async with serving(tmp_path) as server:
        prompt = {
            "1": {"class_type": "ToyAdd", "inputs": {"a": ["2", 0]}},
            "2": {"class_type": "ToyAdd", "inputs": {"a": ["1", 0]}},
            "3": {"class_type": "ToySink", "inputs": {"value": ["2", 0]}},
        }
        answer = await server.post("/prompt", {"prompt": prompt}, status=400)
        (error,) = answer["node_errors"]["1"]["errors"]
        assert error["type"] == "dependency_cycle"
        assert answer["node_errors"]["1"]["dependent_outputs"] == ["3"]


@on_a_loop
async def test_the_outputs_that_can_run_do_and_the_others_are_told(tmp_path):
    async with serving(tmp_path) as server:
        prompt = {**sink(), "3": {"class_type": "ToySink", "inputs": {"value": "many"}}}
        answer = await server.post("/prompt", {"prompt": prompt})
        assert answer["node_errors"]["3"]["errors"][0]["type"] == "invalid_input_type"
        assert (await server.over(answer["prompt_id"]))["outputs"].keys() == {"2"}


@on_a_loop
async def test_a_workflow_full_of_mistakes_gets_an_answer_that_can_be_read(tmp_path):
    async with serving(tmp_path) as server:
        prompt = {str(i): {"class_type": "ToySink", "inputs": {"value": "x"}} for i in range(2_000)}
        answer = await server.post("/prompt", {"prompt": prompt}, status=400)
        assert len(answer["node_errors"]) == 100
        assert answer["error"]["details"].endswith("… and 1,900 more")


# What a client may say beside the workflow


@on_a_loop
async def test_partial_targets_run_alone(tmp_path):
    async with serving(tmp_path) as server:
        prompt = {**sink(), "3": {"class_type": "ToySink", "inputs": {"value": 1.5, "name": "b"}}}
        job_id = await server.submit(prompt, partial_execution_targets=["3"])
        entry = await server.over(job_id)
        assert entry["outputs"].keys() == {"3"}
        assert entry["prompt"][4] == ["3"]
        for targets in (["1"], ["9"], []):
            body = {"prompt": prompt, "partial_execution_targets": targets}
            answer = await server.post("/prompt", body, status=400)
            assert answer["error"]["type"] == "prompt_no_outputs"


@on_a_loop
async def test_a_clients_own_id_comes_back_and_means_one_job(tmp_path):
    async with serving(tmp_path) as server:
        body = {"prompt": sink(), "prompt_id": "my job/1"}
        first = await server.post("/prompt", body)
        assert first["prompt_id"] == "my job/1"
        assert await server.post("/prompt", body) == first
        other = await server.post("/prompt", {**body, "prompt": sink(5)}, status=409)
        assert other["error"]["type"] == "job_exists"
        assert "my job/1" in other["error"]["message"]
        page = await server.get("/jobs")
        assert page["pagination"]["total"] == 1


@on_a_loop
async def test_an_idempotency_key_gets_the_first_answer_again(tmp_path):
    async with serving(tmp_path) as server:
        headers = {"Idempotency-Key": "k1"}
        bodies = [{"prompt": sink()}] * 3
        answers = await asyncio.gather(
            *(server.post("/prompt", body, headers=headers) for body in bodies)
        )
        assert answers[0] == answers[1] == answers[2]
        assert (await server.get("/jobs"))["pagination"]["total"] == 1


@on_a_loop
async def test_number_and_front_decide_the_order(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        blocker = await server.submit(waiting("w"))
        await server.running(blocker)
        ids = [
            await server.submit(sink(1)),
            await server.submit(sink(2), front=True),
            await server.submit(sink(3), number=-10.5),
        ]
        pending = (await server.get("/queue"))["queue_pending"]
        assert [item[1] for item in pending] == [ids[2], ids[1], ids[0]]
        assert pending[0][0] == -10.5
        assert type(pending[1][0]) is int


@on_a_loop
async def test_extra_data_is_kept_but_secrets_and_client_ids_are_not(tmp_path):
    async with serving(tmp_path) as server:
        extra = {
            "extra_pnginfo": {"workflow": {"id": "w-1", "nodes": []}},
            "auth_token_comfy_org": "secret",
            "api_key_comfy_org": "secret",
        }
        job_id = await server.submit(sink(), client_id="hidden id", extra_data=extra)
        entry = await server.over(job_id)
        assert entry["prompt"][3] == {"extra_pnginfo": extra["extra_pnginfo"]}
        assert "hidden id" not in json.dumps([entry, await server.get(f"/jobs/{job_id}")])
        (job,) = (await server.get("/jobs"))["jobs"]
        assert job["workflow_id"] == "w-1"


@on_a_loop
async def test_a_file_of_the_editor_is_converted_and_kept_for_the_pictures(tmp_path):
    editor: dict[str, Any] = {
        "nodes": [
            {"id": 1, "type": "ToyNumber", "outputs": [{"links": [1]}], "widgets_values": [6]},
            {
                "id": 2,
                "type": "ToySink",
                "inputs": [{"name": "value", "type": "FLOAT", "link": 1}],
                "widgets_values": [0, "edited"],
            },
        ],
        "links": [[1, 1, 0, 2, 0, "INT"]],
        "version": 0.4,
    }
    async with serving(tmp_path) as server:
        for body in ({"prompt": editor}, editor):
            job_id = (await server.post("/prompt", body))["prompt_id"]
            entry = await server.over(job_id)
            assert entry["prompt"][2]["1"]["inputs"] == {"value": 6}
            assert entry["prompt"][3]["extra_pnginfo"]["workflow"] == editor
        editor["nodes"][1]["type"] = "Nothing"
        answer = await server.post("/prompt", {"prompt": editor}, status=400)
        assert "Nothing" in answer["error"]["details"]


@on_a_loop
async def test_a_large_workflow_is_checked_beside_other_requests(tmp_path):
    async with serving(tmp_path) as server:
        prompt = {
            str(i): {
                "class_type": "ToyAdd",
                "inputs": {"a": [str(i - 1), 0] if i else 0, "b": 1},
            }
            for i in range(2_000)
        }
        prompt["end"] = {"class_type": "ToySink", "inputs": {"value": ["1999", 0]}}
        entry = await server.over(await server.submit(prompt))
        (file,) = entry["outputs"]["end"]["images"]
        assert (tmp_path / "output" / file["filename"]).read_text() == "2000.0"


@on_a_loop
async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        blocker = await server.submit(waiting("w"))
        await server.running(blocker)
        job_id = await server.submit(sink())
        for seat in server.dispatcher.seats:
            seat.ready = None  # it gives out nothing more
    async with serving(tmp_path) as server:
        entry = await server.over(job_id)
        assert entry["status"]["completed"]
        assert await server.state(blocker) is State.SUCCEEDED


# Bad input


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe\xff", "no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"prompt":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, "nested too deeply"),
        (b'{"prompt":{},"number":NaN}', "NaN"),
        (b'{"prompt":{},"number":Infinity}', "Infinity"),
        (b'{"prompt":{},"number":' + b"9" * 5_000 + b"}", "no JSON"),
        (b"[]", "an object, got a list"),
        (b"3", "an object, got a number"),
        (b"", "workflow"),
        (b'{"prompt":{},"number":"x"}', "number must be a number, got a text"),
        (b'{"prompt":{},"number":true}', "number must be a number, got true"),
        (b'{"prompt":{},"number":1e999}', "number must be between"),
        (b'{"prompt":{},"front":"yes"}', "front must be true or false"),
        (b'{"prompt":{},"client_id":5}', "client_id must be a text"),
        (b'{"prompt":{},"prompt_id":[]}', "prompt_id must be a text"),
        (b'{"prompt":{},"extra_data":[]}', "extra_data must be an object"),
        (b'{"prompt":{},"extra_data":{"extra_pnginfo":[]}}', "extra_pnginfo must be an object"),
        (b'{"prompt":{},"partial_execution_targets":[1]}', "must be a list of texts"),
        (b'{"1":{"class_type":"ToySink"}}', 'put it under \\"prompt\\"'),
    ],
)
@on_a_loop
async def test_a_body_that_makes_no_sense_is_refused(tmp_path, body, words):
    async with serving(tmp_path) as server:
        if words == "number must be between":
            body = json.dumps({"prompt": sink()}).encode()[:-1] + b',"number":1e999}'
        async with server.client.post("/prompt", data=body) as answer:
            text = await answer.text()
            assert answer.status == 400, text
            assert words in text
            assert json.loads(text)["error"]["type"]
        assert await server.get("/prompt") == {"exec_info": {"queue_remaining": 0}}


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_id": "x" * 300},
        {"prompt_id": "a\nb"},
        {"client_id": "\0"},
        {"extra_data": {"a": "\ud800"}},
        {"number": 2**60},
    ],
)
@on_a_loop
async def test_what_cannot_be_kept_is_refused(tmp_path, change):
    async with serving(tmp_path) as server:
        answer = await server.post("/prompt", {"prompt": sink(), **change}, status=400)
        assert answer["error"]["type"] == "job_refused"
        assert next(iter(change)) in answer["error"]["message"]


@on_a_loop
async def test_infinite_numbers_and_deep_constants_are_refused(tmp_path):
    async with serving(tmp_path) as server:
        infinite = json.dumps({"prompt": sink(), "extra_data": {"x": "HERE"}})
        body = infinite.replace('"HERE"', "1e999")
        async with server.client.post("/prompt", data=body) as answer:
            assert answer.status == 400
            assert "finite" in await answer.text()
        for depth in (300, 700, 900, 950, 980, 990):
            prompt = json.dumps({"prompt": sink()}).replace('"toy"', "[" * depth + "]" * depth)
            async with server.client.post("/prompt", data=prompt) as answer:
                assert answer.status == 400, await answer.text()


@on_a_loop
async def test_a_body_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    async with serving(tmp_path) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.client.port)
        for size, limit in ((200 * 2**20, "100 MiB"), (50 * 2**20, "32 MiB")):
            head = f"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n{{"
            writer.write(head.encode())
            answer = await reader.readuntil(b"}")
            assert answer.startswith(b"HTTP/1.1 413")
            assert limit.encode() in answer
            writer.close()
            await writer.wait_closed()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.client.port)
        writer.close()
        await writer.wait_closed()


@on_a_loop
async def test_a_body_of_too_many_values_or_without_a_length_is_refused(tmp_path):
    async def endless():
        for _ in range(40):
            yield b" " * 2**20

    async with serving(tmp_path) as server:
        for item in (b"0,", b"[[]],"):
            many = b'{"prompt":[' + item * 400_000 + b"0]}"
            async with server.client.post("/prompt", data=BytesIO(many)) as answer:
                assert answer.status == 413
                assert "300,000 values" in await answer.text()
        async with server.client.post("/prompt", data=endless()) as answer:
            assert answer.status == 413
        await server.submit(sampling(2))


@on_a_loop
async def test_a_body_that_is_not_what_its_headers_say_is_refused(tmp_path):
    async with serving(tmp_path) as server:
        headers = {"Content-Encoding": "gzip"}
        asked = server.client.post("/prompt", data=b"no gzip at all", headers=headers)
        async with asked as answer:
            assert answer.status == 400
            assert json.loads(await answer.text())["error"]["type"] == "bad_request"
        bomb = gzip.compress(b" " * 50 * 2**20)
        async with server.client.post("/prompt", data=bomb, headers=headers) as answer:
            assert answer.status == 413


@on_a_loop
async def test_the_log_has_a_line_for_each_request_and_its_job(tmp_path, caplog):
    caplog.set_level("INFO", logger="executor.api.access_log")
    async with serving(tmp_path) as server:
        job_id = await server.submit(sink(), prompt_id="job-7")
        await server.get(f"/history/{job_id}%0Aforged?key=secret")
    submitted = [r for r in caplog.records if r.getMessage().startswith("POST /prompt 200")]
    assert [record.__dict__["about"] for record in submitted] == [{"job": "job-7"}]
    lines = [formatter("text").format(record) for record in caplog.records]
    assert not any("\n" in line or "secret" in line for line in lines)


@on_a_loop
async def test_unknown_routes_and_methods_are_answered_in_json(tmp_path):
    async with serving(tmp_path) as server:
        answer = await server.get("/nothing", status=404)
        assert answer["error"]["type"] == "not_found"
        answer = await server.post("/history/x", {}, status=405)
        assert "GET" in answer["error"]["message"]
