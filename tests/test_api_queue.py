"""The queue, interrupting, cancelling, and the newest frontend's list of jobs."""

import json

import pytest
from ledgers import on_a_loop
from servers import failing, open_gate, serving, sink, waiting

from executor.ledger import NewJob, State

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


@on_a_loop
async def test_the_queue_shows_what_runs_and_what_waits(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        assert await server.get("/queue") == {"queue_running": [], "queue_pending": []}
        first = await server.submit(waiting("w"), client_id="me")
        await server.running(first)
        second = await server.submit(sink(), extra_data={"a": 1})
        queue = await server.get("/queue")
        assert queue["queue_running"] == [[1, first, waiting("w"), {}, ["1"]]]
        assert queue["queue_pending"] == [[2, second, sink(), {"a": 1}, ["2"]]]
        assert await server.get("/prompt") == {"exec_info": {"queue_remaining": 2}}


@on_a_loop
async def test_who_does_not_say_how_many_gets_the_newest_hundred(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        first = await server.submit(waiting("w"))
        await server.running(first)
        for i in range(250):
            await server.ledger.submit(NewJob(prompt=json.dumps(sink(i)), targets=("2",)))
        pending = (await server.get("/queue"))["queue_pending"]
        assert [item[0] for item in pending] == list(range(152, 252))
        page = (await server.get("/queue?offset=0&max_items=3"))["queue_pending"]
        assert [item[0] for item in page] == [2, 3, 4]
        assert (await server.get("/prompt"))["exec_info"]["queue_remaining"] == 251


@on_a_loop
async def test_deleting_from_the_queue_cancels(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        first = await server.submit(waiting("w"))
        await server.running(first)
        ids = [await server.submit(sink(i)) for i in range(3)]
        assert await server.post("/queue", {"delete": [ids[1], first, "nobody"]}) is None
        assert await server.state(ids[1]) is State.CANCELLED
        assert await server.state(first) is State.RUNNING  # it does not wait any more
        await server.post("/queue", {"clear": True})
        assert await server.get("/prompt") == {"exec_info": {"queue_remaining": 1}}
        open_gate("w")
        await server.over(first)
        entry = (await server.get(f"/history/{ids[1]}"))[ids[1]]
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
        assert (await server.get("/history")).keys() == {first}  # of what ran


@pytest.mark.parametrize(
    "body", ['{"clear":1}', '{"delete":"x"}', '{"delete":[1]}', "[]", "{", '{"clear":NaN}']
)
@on_a_loop
async def test_what_makes_no_sense_changes_nothing(tmp_path, body):
    async with serving(tmp_path, capacity=1) as server:
        await server.running(await server.submit(waiting("w")))
        waits = await server.submit(sink())
        for path in ("/queue", "/history"):
            async with server.client.post(path, data=body) as answer:
                assert answer.status == 400
        assert await server.state(waits) is State.QUEUED


# Interrupting


@on_a_loop
async def test_an_interrupt_stops_the_job_that_it_names_and_only_a_running_one(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        runs = await server.submit(waiting("w"))
        await server.running(runs)
        waits = await server.submit(sink())
        assert await server.post("/interrupt", {"prompt_id": waits}) is None
        assert await server.post("/interrupt", {"prompt_id": "nobody"}) is None
        assert await server.state(runs) is State.RUNNING
        await server.post("/interrupt", {"prompt_id": runs})
        assert await server.state(runs) is State.CANCELLED
        entry = await server.over(runs)
        assert entry["status"]["status_str"] == "error"
        assert entry["status"]["completed"] is False
        open_gate("w")
        await server.over(waits)


@on_a_loop
async def test_an_interrupt_without_a_name_never_stops_anothers_job(tmp_path):
    async with serving(tmp_path, workers=2, capacity=1) as server:
        mine = await server.submit(waiting("a"), client_id="me")
        yours = await server.submit(waiting("b"), client_id="you")
        await server.running(mine)
        await server.running(yours)
        answer = await server.post("/interrupt", status=409)
        assert "prompt_id" in answer["error"]["message"]
        assert await server.post("/interrupt?clientId=nobody", {}) is None
        assert {await server.state(job) for job in (mine, yours)} == {State.RUNNING}
        assert await server.post("/interrupt?clientId=me", {}) is None
        assert await server.state(mine) is State.CANCELLED
        assert await server.state(yours) is State.RUNNING
        assert await server.post("/interrupt") is None  # now there is no doubt
        assert await server.state(yours) is State.CANCELLED
        assert await server.post("/interrupt") is None  # nothing runs


@on_a_loop
async def test_free_takes_the_flags_that_clients_send(tmp_path):
    async with serving(tmp_path) as server:
        await server.over(await server.submit(sink()))
        assert await server.post("/free", {"unload_models": True, "free_memory": True}) is None
        await server.post("/free")
        await server.post("/free", {"unload_models": "yes"}, status=400)
        entry = await server.over(await server.submit(sink()))
        assert "execution_cached" not in [kind for kind, _ in entry["status"]["messages"]]


# Jobs


@on_a_loop
async def test_jobs_are_listed_by_status_newest_first(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        done = await server.submit(sink())
        await server.over(done)
        failed = await server.submit(failing())
        await server.over(failed)
        runs = await server.submit(waiting("w"))
        await server.running(runs)
        waits = await server.submit(sink(5))
        page = await server.get("/jobs?status=in_progress,pending&limit=200&offset=0")
        assert [job["id"] for job in page["jobs"]] == [waits, runs]
        assert [job["status"] for job in page["jobs"]] == ["pending", "in_progress"]
        assert page["pagination"] == {"offset": 0, "limit": 200, "total": 2, "has_more": False}
        page = await server.get("/jobs?status=completed,failed,cancelled&limit=1")
        assert page["pagination"] == {"offset": 0, "limit": 1, "total": 2, "has_more": True}
        (job,) = page["jobs"]
        assert job["id"] == failed
        assert job["execution_error"]["node_id"] == "3"
        assert job["execution_error"]["exception_message"] == "ToyFail (node 3): it had to be"
        oldest = (await server.get("/jobs?sort_order=asc"))["jobs"][0]
        assert oldest["id"] == done
        assert oldest["outputs_count"] == 1
        assert oldest["preview_output"]["nodeId"] == "2"
        assert oldest["preview_output"]["mediaType"] == "images"
        assert oldest["execution_end_time"] >= oldest["execution_start_time"] > 10**12
        assert oldest["create_time"] > 10**12
        assert len((await server.get("/jobs?sort_by=execution_duration"))["jobs"]) == 4


@on_a_loop
async def test_a_job_shows_its_workflow_and_its_results(tmp_path):
    async with serving(tmp_path) as server:
        job_id = await server.submit(sink(), extra_data={"a": 1})
        entry = await server.over(job_id)
        job = await server.get(f"/jobs/{job_id}")
        assert job["status"] == "completed"
        assert job["outputs"] == entry["outputs"]
        assert job["workflow"] == {"prompt": sink(), "extra_data": {"a": 1}}
        assert job["execution_status"] == entry["status"]
        answer = await server.get("/jobs/nobody", status=404)
        assert "nobody" in answer["error"]["message"]


@on_a_loop
async def test_a_job_can_be_cancelled_wherever_it_is(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        runs = await server.submit(waiting("w"))
        await server.running(runs)
        waits = [await server.submit(sink(i)) for i in range(3)]
        assert await server.post(f"/jobs/{waits[0]}/cancel") == {"cancelled": True}
        assert await server.post(f"/jobs/{waits[0]}/cancel") == {"cancelled": False}
        assert await server.post("/jobs/nobody/cancel") == {"cancelled": False}
        answer = await server.post("/jobs/cancel", {"job_ids": [runs, waits[1], "nobody"]})
        assert answer == {"cancelled": True}
        assert await server.state(runs) is State.CANCELLED
        open_gate("w")
        await server.over(waits[2])
        states = [await server.state(job_id) for job_id in waits]
        assert states == [State.CANCELLED, State.CANCELLED, State.SUCCEEDED]


@pytest.mark.parametrize(
    "query",
    ["status=done", "limit=x", "offset=1e3", "limit=" + "9" * 99, "sort_by=size", "sort_order=up"],
)
@on_a_loop
async def test_parameters_that_make_no_sense_are_refused(tmp_path, query):
    async with serving(tmp_path) as server:
        answer = await server.get(f"/jobs?{query}", status=400)
        assert query.split("=")[0] in answer["error"]["message"]


@on_a_loop
async def test_numbers_beyond_all_pages_are_no_fault(tmp_path):
    async with serving(tmp_path) as server:
        page = await server.get(f"/jobs?offset={2**63}&limit=-5")
        assert page["jobs"] == []
        assert await server.get(f"/queue?offset={2**63}&max_items={2**63}")
        assert await server.get(f"/history?offset={2**63}") == {}
