"""Submitting workflows, and what is said of those that cannot run."""

import pytest
from ledgers import on_a_loop
from servers import serving, sink

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


@on_a_loop
async def test_a_workflow_is_queued_runs_and_is_in_the_history(tmp_path):
    async with serving(tmp_path) as server:
        answer = await server.post("/prompt", {"prompt": sink(), "client_id": "me"})
        assert answer.keys() == {"prompt_id", "number", "node_errors"}
        assert answer["node_errors"] == {}
        entry = await server.over(answer["prompt_id"])
        assert entry["status"]["status_str"] == "success"
        (file,) = entry["outputs"]["2"]["images"]
        assert (tmp_path / "output" / file["filename"]).read_text() == "4.0"
