"""Outboxes: what is kept for a client that falls behind, and that nobody waits for it."""

import asyncio
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import on_a_loop
from servers import heard, serving, sink

from executor.api.hub import Hub, Socket
from executor.api.keys import HUB
from executor.api.outbox import (
    CROWDED_MESSAGES,
    MAX_BYTES,
    MAX_RESULT_BYTES,
    Message,
    Outbox,
    Rank,
)

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


async def drained(outbox: Outbox) -> list[Message]:
    messages: list[Message] = []
    while len(outbox):
        messages += await outbox.take()
    return messages


def payloads(messages: list[Message]) -> list[str | bytes]:
    return [message.payload for message in messages]


def numbered(rank: Rank):
    return st.builds(lambda n: (rank, n), st.integers(0, 5))


@given(st.lists(st.one_of(*(numbered(rank) for rank in Rank)), max_size=60), st.integers(0, 1))
def test_durable_messages_all_come_in_their_order_and_of_others_the_newest(puts, is_behind):
    async def scene() -> None:
        outbox = Outbox()
        extra = CROWDED_MESSAGES * is_behind
        for number in range(extra):
            outbox.put(Message(f"first {number}"))
        for position, (rank, number) in enumerate(puts):
            key = None if rank is Rank.DURABLE else (rank, number)
            outbox.put(Message(f"{position}", rank, key))
        told = payloads(await drained(outbox))[extra:]
        durable = [str(i) for i, (rank, _) in enumerate(puts) if rank is Rank.DURABLE]
        assert [text for text in told if text in durable] == durable
        newest = {put: str(i) for i, put in enumerate(puts) if put[0] is not Rank.DURABLE}
        kept = set(told) - set(durable)
        if not is_behind:
            assert told == sorted(told, key=int)
            assert kept == set(newest.values())
        else:  # at most: the newest of each, and no preview that came when it was behind
            assert kept <= set(newest.values())
            assert {newest[put] for put in newest if put[0] is Rank.PROGRESS} <= kept

    asyncio.run(scene())


@on_a_loop
async def test_previews_go_first_then_what_names_nodes_is_joined():
    outbox = Outbox()
    outbox.put(Message(b"preview", Rank.PREVIEW, "p"))
    for number in range(CROWDED_MESSAGES + 10):
        key = ("executing", number)
        outbox.put(Message(f"node {number}", Rank.PROGRESS, key, "executing"))
    outbox.put(Message("end"))
    outbox.put(Message(b"preview", Rank.PREVIEW, "p"))
    assert payloads(await drained(outbox)) == [f"node {CROWDED_MESSAGES + 9}", "end"]
    outbox.put(Message(b"preview", Rank.PREVIEW, "p"))  # it has caught up
    assert payloads(await drained(outbox)) == [b"preview"]


@on_a_loop
async def test_large_previews_make_way_long_before_durable_messages_are_at_risk():
    outbox = Outbox()
    for number in range(100):
        outbox.put(Message(bytes(100_000), Rank.PREVIEW, number))
        outbox.put(Message(f"{number}"))
    assert not outbox.is_overrun
    told = payloads(await drained(outbox))
    assert [text for text in told if isinstance(text, str)] == [str(n) for n in range(100)]


@on_a_loop
async def test_a_client_that_is_too_slow_for_durable_messages_is_dropped_once():
    dropped = []
    socket = Socket("me", lambda: dropped.append("me"), leave=asyncio.Event().wait)
    for _ in range(2 * MAX_BYTES // 1_000_000):
        socket.post(Message("x" * 1_000_000))
    assert socket.outbox.is_overrun
    assert set(dropped) == {"me"}
    assert len(socket.outbox) == 0


@on_a_loop
async def test_results_are_no_reason_to_leave_anything_else_out():
    outbox = Outbox()
    for number in range(20):
        outbox.put(Message(bytes(1_000_000), is_result=True))
        outbox.put(Message(bytes(100), Rank.PREVIEW, ("preview", number)))
    assert [len(m.payload) for m in await drained(outbox)] == [1_000_000, 100] * 20
    assert not outbox.is_overrun


@on_a_loop
async def test_results_stay_where_a_client_that_is_behind_loses_previews():
    outbox = Outbox()
    outbox.put(Message(b"result", is_result=True))
    outbox.put(Message(bytes(3 * 2**20), Rank.PREVIEW, "p"))
    outbox.put(Message(b"result", is_result=True))
    assert payloads(await drained(outbox)) == [b"result", b"result"]


@on_a_loop
async def test_a_client_that_takes_no_results_is_dropped_at_last():
    dropped = []
    socket = Socket("me", lambda: dropped.append("me"), leave=asyncio.Event().wait)
    picture = bytes(16 * 2**20)  # the same memory each time
    for _ in range(MAX_RESULT_BYTES // len(picture)):
        socket.post(Message(picture, is_result=True))
    assert dropped == ["me"]
    assert len(socket.outbox) == 0


@on_a_loop
async def test_what_was_held_comes_without_what_was_told_otherwise():
    outbox = Outbox()
    outbox.hold()
    taking = asyncio.create_task(outbox.take())
    for seq in (3, 4, None, 5):
        outbox.put(Message(f"{seq}", seq=seq))
    await asyncio.sleep(0)
    assert not taking.done()
    outbox.release(after=4)
    assert payloads(await taking) == ["None", "5"]


@on_a_loop
async def test_a_hub_forgets_who_is_gone_and_shares_nothing_between_clients_or_owners():
    hub = Hub()
    sockets = [
        Socket(name, lambda: None, asyncio.Event().wait, scope)
        for name, scope in (("a", None), ("a", "ann"), ("a", "bob"), ("b", "ann"))
    ]
    for socket in sockets:
        hub.add(socket)
    assert hub.of("a", "ann") == sockets[:2]
    assert hub.of("a", "") == sockets[:1]
    assert hub.of("", "ann") == []
    assert len(hub) == 4
    for socket in sockets:
        hub.remove(socket)
        hub.remove(socket)
    assert list(hub) == []
    assert len(hub) == 0
    assert not hub.of("a", "ann")


@on_a_loop
async def test_messages_of_every_length_arrive_as_they_were_sent(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        lengths = (0, 1, 124, 125, 126, 127, 65_534, 65_535, 65_536, 300_000)
        texts = ["ü" * (length // 2) + "x" * (length % 2) for length in lengths]
        sent = [*texts, *(bytes(length) for length in lengths), "end"]
        await heard(ws)
        (socket,) = server.app[HUB].of("me", "")
        for payload in sent:
            socket.post(Message(payload))
        assert [(await ws.receive()).data for _ in sent] == sent


@on_a_loop
async def test_many_idle_clients_cost_little_and_disturb_nobody(tmp_path):
    async with serving(tmp_path) as server:
        tracemalloc.start()
        try:
            crowd = [
                await server.connect(f"c{i}") for i in range(90)
            ]  # aiohttp's client has a hundred
            # Both ends of each are in this process; measured are 30 kB for the two.
            assert tracemalloc.get_traced_memory()[0] / len(crowd) < 100_000
        finally:
            tracemalloc.stop()
        await server.over(await server.submit(sink()))
        for ws in crowd:
            assert (await heard(ws))["data"]["sid"]
        await asyncio.gather(*(ws.close() for ws in crowd))
        hub = server.app[HUB]
        await server.until(lambda: _is_empty(hub))


async def _is_empty(hub: Hub) -> bool:
    return not list(hub)
