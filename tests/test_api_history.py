"""The history: what became of jobs, as clients poll it."""

import pytest
from ledgers import on_a_loop
from servers import failing, serving, sink, waiting

from executor.ledger import NewJob, State

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


@on_a_loop
async def test_an_entry_has_all_that_clients_read(tmp_path):
    async with serving(tmp_path) as server:
        answer = await server.post("/prompt", {"prompt": sink(), "extra_data": {"a": 1}})
        job_id = answer["prompt_id"]
        entry = await server.over(job_id)
        assert entry.keys() == {"prompt", "outputs", "status", "meta"}
        assert entry["prompt"] == [answer["number"], job_id, sink(), {"a": 1}, ["2"]]
        (file,) = entry["outputs"]["2"]["images"]
        assert file == {"filename": file["filename"], "subfolder": "", "type": "output"}
        assert entry["status"]["status_str"] == "success"
        assert entry["status"]["completed"] is True
        assert [kind for kind, _ in entry["status"]["messages"]] == [
            "execution_start",
            "execution_success",
        ]
        assert all(data["prompt_id"] == job_id for _, data in entry["status"]["messages"])
        assert entry["meta"] == {
            "2": {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"}
        }


@on_a_loop
async def test_a_job_that_is_not_over_or_not_there_has_none(tmp_path):
    async with serving(tmp_path) as server:
        job_id = await server.submit(waiting("w"))
        for polled in (job_id, "nobody", "a%2Fb", "%00", "%ff", "x" * 5_000):
            assert await server.get(f"/history/{polled}") == {}


@on_a_loop
async def test_a_failure_keeps_what_was_made_and_says_what_was_not(tmp_path):
    async with serving(tmp_path) as server:
        entry = await server.over(await server.submit(failing()))
        assert entry["outputs"].keys() == {"2"}
        assert entry["status"]["status_str"] == "error"
        kind, error = entry["status"]["messages"][-1]
        assert kind == "execution_error"
        assert error["exception_message"] == "ToyFail (node 3): it had to be"


@on_a_loop
async def test_the_history_is_oldest_first_and_paged(tmp_path):
    async with serving(tmp_path, capacity=0) as server:
        ids = []
        for i in range(120):
            ids.append((await server.ledger.submit(NewJob(prompt=f'{{"{i}":{{}}}}'))).id)
        for taken in await server.ledger.take(200):
            await server.ledger.finish(taken.id, taken.attempt, State.SUCCEEDED)
        assert list(await server.get("/history")) == ids[20:]
        assert list(await server.get("/history?max_items=3")) == ids[-3:]
        assert list(await server.get("/history?max_items=3&offset=-1")) == ids[-3:]
        assert list(await server.get("/history?max_items=3&offset=10")) == ids[10:13]
        assert list(await server.get("/history?max_items=0")) == []
        assert list(await server.get("/history?offset=0")) == ids[:100]
        answer = await server.get("/history?max_items=many", status=400)
        assert "max_items must be a whole number, got 'many'" in answer["error"]["message"]


@on_a_loop
async def test_jobs_can_be_forgotten_but_not_while_they_run(tmp_path):
    async with serving(tmp_path) as server:
        ids = [await server.submit(sink(i)) for i in range(3)]
        for job_id in ids:
            await server.over(job_id)
        runs = await server.submit(waiting("w"))
        assert await server.post("/history", {"delete": [ids[0], runs, "nobody"]}) is None
        assert (await server.get("/history")).keys() == {ids[1], ids[2]}
        assert len(list((tmp_path / "output").iterdir())) == 3  # the files stay
        await server.post("/history", {"clear": True})
        assert await server.get("/history") == {}
        assert not (await server.state(runs)).is_over
