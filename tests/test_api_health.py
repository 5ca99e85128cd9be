"""Whether the server lives and is ready, as supervisors ask."""

import asyncio

import pytest
from ledgers import on_a_loop
from servers import serving

from executor.api import health
from executor.api.keys import LEDGER

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


@on_a_loop
async def test_a_server_with_a_worker_is_ready(tmp_path):
    async with serving(tmp_path) as server:
        assert await server.get("/livez") == {"status": "ok"}

        async def is_ready() -> bool:
            async with server.client.get("/readyz") as answer:
                return answer.status == 200

        await server.until(is_ready)
        told = await server.get("/api/readyz")
        assert told == {"status": "ok", "ledger": "ok", "workers": {"cpu:0": "ok"}}


@on_a_loop
async def test_one_worker_of_several_is_enough_and_none_is_too_few(tmp_path):
    async with serving(tmp_path, workers=2) as server:
        seats = server.dispatcher.seats

        async def are_ready() -> bool:
            return all(seat.ready for seat in seats)

        await server.until(are_ready)
        seats[0].ready = None  # as while it is replaced
        told = await server.get("/readyz")
        assert told["workers"] == {"cpu:0": "not ready", "cpu:1": "ok"}
        seats[1].ready = None
        told = await server.get("/readyz", 503)
        assert (told["status"], told["ledger"]) == ("unavailable", "ok")
        assert set(told["workers"].values()) == {"not ready"}
        assert await server.get("/livez") == {"status": "ok"}


@on_a_loop
async def test_a_server_without_its_ledger_is_not_ready_but_lives(tmp_path):
    async with serving(tmp_path) as server:
        server.ledger._reader._is_open = False
        told = await server.get("/readyz", 503)
        assert "closed" in told["ledger"]
        assert await server.get("/livez") == {"status": "ok"}
        server.ledger._reader._is_open = True


@on_a_loop
async def test_a_ledger_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "LEDGER_S", 0.05)
    async with serving(tmp_path) as server:
        taken = [server.ledger._reader._idle.get() for _ in range(2)]  # as by two endless queries
        told = await server.get("/readyz", 503)
        assert "no answer" in told["ledger"]
        for connection in taken:
            server.ledger._reader._idle.put(connection)
        assert (await server.app[LEDGER].counts()).remaining == 0


@on_a_loop
async def test_a_server_that_is_about_to_end_is_not_ready(tmp_path):
    async with serving(tmp_path) as server:
        seats = server.dispatcher.seats

        async def is_ready() -> bool:
            return all(seat.ready for seat in seats)

        await server.until(is_ready)
        server.dispatcher.is_closing = True
        told = await server.get("/readyz", 503)
        assert told["status"] == "stopping"
        server.dispatcher.is_closing = False


@on_a_loop
async def test_what_is_no_http_gets_a_line_in_the_log_and_no_traceback(tmp_path, caplog):
    async with serving(tmp_path) as server:
        reader, writer = await asyncio.open_connection(server.client.host, server.client.port)
        writer.write(b"GET /prompt HTTP/1.1\r\nHost: a\r\nBad header\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
    (record,) = [record for record in caplog.records if record.name == "aiohttp.server"]
    assert record.exc_info is None
    assert "Error handling request" in record.getMessage()
