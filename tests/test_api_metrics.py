"""The metrics: what they count is what happened."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import on_a_loop
from prometheus_client.parser import text_string_to_metric_families
from servers import Served, failing, open_gate, sampling, serving, sink, waiting

from executor.api.worker_metrics import ROWS, buckets

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


class Scraped:
    """The samples of one look at the metrics."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for f in self.families.values() for sample in f.samples]

    def of(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have such labels."""
        return sum(s.value for s in self.samples if s.name == name and _has(s.labels, labels))

    def labels(self, name: str, label: str) -> set[str]:
        """The values that a label has."""
        return {s.labels[label] for s in self.samples if s.name == name}


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())


async def scrape(server: Served) -> Scraped:
    async with server.client.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        return Scraped(await answer.text())


async def figures(server: Served) -> None:
    """Have the worker tell how it stands now, and not some seconds later."""
    seat, thread = server.dispatcher.seats[0], server.workers[-1]
    before = seat.figures
    assert thread.worker
    thread.worker._tell_figures()

    async def are_new() -> bool:
        return seat.figures is not before

    await server.until(are_new)


@on_a_loop
async def test_jobs_are_counted_by_state_and_timed_by_outcome(tmp_path):
    async with serving(tmp_path, capacity=1) as server:
        await server.over(await server.submit(sink()))
        await server.over(await server.submit(failing()))
        long = await server.submit(waiting("gate"))
        await server.running(long)
        for value in range(3):
            await server.submit(sink(10 + value))
        seen = await scrape(server)
        states = {state: seen.of("weft_jobs", state=state) for state in ("queued", "running")}
        assert states == {"queued": 3, "running": 1}
        assert seen.of("weft_jobs", state="succeeded") == 1
        assert seen.of("weft_job_duration_seconds_count", outcome="succeeded") == 1
        assert seen.of("weft_job_duration_seconds_count", outcome="failed") == 1
        assert seen.of("weft_worker_jobs", worker="cpu:0") == 1
        waits = seen.of("weft_queue_wait_seconds_count")
        assert waits in (2, 3)  # the third began, but it may not have said so yet
        await server.post("/interrupt", {"prompt_id": long})
        open_gate("gate")
        await server.over(long)
        seen = await scrape(server)
        assert seen.of("weft_job_duration_seconds_count", outcome="cancelled") == 1


@on_a_loop
async def test_what_workers_tell_is_shown(tmp_path):
    async with serving(tmp_path) as server:
        for _ in range(2):
            await server.over(await server.submit(sampling(4)))
        await server.over(await server.submit(sampling(4, seed=1)))
        await figures(server)
        seen = await scrape(server)
        meter = server.workers[0].worker.engine.meter  # pyright: ignore
        assert seen.of("weft_worker_ready", worker="cpu:0") == 1
        assert seen.of("weft_node_runs_total", node="ToySample") == 2
        assert seen.of("weft_node_seconds_total", node="ToySample") == pytest.approx(
            meter.node_seconds["ToySample"]
        )
        assert seen.of("weft_cache_hits_total") == meter.hits > 0
        assert seen.of("weft_cache_misses_total") == meter.misses > 0
        passes = sum(meter.batches.values())
        assert seen.of("weft_batch_rows_count") == passes >= 8
        assert seen.of("weft_batch_rows_sum") == sum(r * n for r, n in meter.batches.items())
        assert seen.labels("weft_cache_bytes", "tier") == {"device", "host"}
        assert seen.of("weft_cache_bytes") > 0
        for name in ("free_bytes", "bytes"):
            assert seen.of(f"weft_device_memory_{name}", worker="cpu:0") > 0
        assert "weft_device_memory_allocated_bytes" in seen.families


@on_a_loop
async def test_a_worker_that_was_replaced_is_counted_and_its_memory_is_not(tmp_path):
    async with serving(tmp_path) as server:
        await server.over(await server.submit(sink()))
        await figures(server)
        seat = server.dispatcher.seats[0]
        seat.ready = None
        assert not (await scrape(server)).labels("weft_device_memory_free_bytes", "worker")
        server.workers[0]._give_up()

        async def is_back() -> bool:
            return seat.ready is not None and seat.restarts == 1

        await server.until(is_back)
        seen = await scrape(server)
        assert seen.of("weft_worker_restarts_total", worker="cpu:0") == 1


@on_a_loop
async def test_requests_are_counted_by_route_whatever_is_asked_for(tmp_path):
    async with serving(tmp_path) as server:
        for path in ("/history/a", "/api/history/b", "/history/c"):
            await server.get(path)
        await server.get("/jobs/none", 404)
        await server.post("/prompt", {"prompt": {}}, 400)
        await server.get("/queue", 403, headers={"Origin": "http://evil.example"})
        for number in range(20):
            await server.get(f"/nothing/{number}", 404)
        for method in ("LOCK", "PROPFIND", "PUT"):
            async with server.client.request(method, "/queue") as answer:
                assert answer.status == 405
        async with server.connect("me"):
            seen = await scrape(server)
            assert seen.of("weft_websockets") == 1
        total = "weft_http_requests_total"
        assert seen.of(total, method="GET", route="/history/{job_id}", status="200") == 3
        assert seen.of(total, route="/jobs/{job_id}", status="404") == 1
        assert seen.of(total, method="POST", route="/prompt", status="400") == 1
        assert seen.of(total, route="/queue", status="403") == 1
        assert seen.of(total, route="/{path}", status="404") == 20
        assert seen.of(total, method="any", route="none", status="405") == 3
        assert seen.labels(total, "method") == {"GET", "POST", "any"}
        count = "weft_http_request_duration_seconds_count"
        assert seen.of(count, route="/history/{job_id}") == 3
        seen = await scrape(server)
        assert seen.of("weft_websockets") == 0
        assert seen.of(total, route="/ws", status="101") == 1
        assert seen.of(count, route="/ws") == 0  # it lasts as long as its client likes


@on_a_loop
async def test_each_application_counts_for_itself_and_as_its_reader_likes(tmp_path):
    async with serving(tmp_path / "a") as one, serving(tmp_path / "b") as other:
        await one.get("/queue")
        assert (await scrape(one)).of("weft_http_requests_total", route="/queue") == 1
        assert (await scrape(other)).of("weft_http_requests_total", route="/queue") == 0
        wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with one.client.get("/metrics", headers=wanted) as answer:
            assert answer.content_type == "application/openmetrics-text"
            assert (await answer.text()).endswith("# EOF\n")


@on_a_loop
async def test_every_metric_says_what_it_is(tmp_path):
    async with serving(tmp_path) as server:
        await server.over(await server.submit(sampling(2)))
        await figures(server)
        for name, family in (await scrape(server)).families.items():
            assert name.startswith(("weft_", "process_"))
            assert family.documentation.endswith("."), name


@given(st.dictionaries(st.integers(1, 300), st.integers(1, 1000)))
def test_buckets_only_rise_and_end_with_all(batches):
    counted = buckets(batches)
    values = [value for _, value in counted]
    assert values == sorted(values)
    assert counted[-1] == ("+Inf", sum(batches.values()))
    for most, (name, value) in zip(ROWS, counted, strict=False):
        assert float(name) == most
        assert value == sum(count for rows, count in batches.items() if rows <= most)
