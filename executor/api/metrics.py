"""``/metrics``: how the server does, as Prometheus reads it.

What happens here is counted as it happens, in a registry of this application's own; what the ledger
and the workers know is asked when somebody wants to see it. No label holds anything that a client
makes up, so there are never more series than routes, node classes and workers make.
"""

from collections.abc import AsyncGenerator, Iterator
from time import perf_counter

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from executor.api.access_log import Handler
from executor.api.hub import Hub
from executor.api.keys import DISPATCHER, HUB, IS_ANSWERING, LEDGER
from executor.api.worker_metrics import worker_metrics
from executor.dispatch import Dispatcher, Happening
from executor.events import Ended, Started
from executor.ledger import Counts, JobEvent, State
from executor.seats import Running

WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Of jobs: from nothing to do, to a queue of an hour."""

ANSWERS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5, 30)
"""Of requests: most take a few milliseconds, uploads may take many seconds."""

_NO_ROUTE = "none"


class Metrics:
    """What is counted as it happens."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.wait_s = Histogram(
            "weft_queue_wait_seconds",
            "How long jobs waited in the queue before a worker had them.",
            buckets=WAITS_S,
            registry=self.registry,
        )
        self.duration_s = Histogram(
            "weft_job_duration_seconds",
            "How long jobs ran, by how they ended.",
            ["outcome"],
            buckets=WAITS_S,
            registry=self.registry,
        )
        self.requests = Counter(
            "weft_http_requests",
            "Requests by route, and by the status of their answer.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.answer_s = Histogram(
            "weft_http_request_duration_seconds",
            "How long it took to answer, without websockets and streams of events.",
            ["route"],
            buckets=ANSWERS_S,
            registry=self.registry,
        )

    def hear(self, job: Running, happening: Happening, kept: JobEvent | None) -> None:
        """Something happened to a job that a worker has."""
        match happening:
            # Before a later attempt, it did not only wait.
            case Started() if job.taken.attempt == 1:
                self.wait_s.observe((job.taken.started_ms - job.taken.created_ms) / 1000)
            case Ended(outcome=outcome) if kept is not None:
                duration_s = (kept.time_ms - job.taken.started_ms) / 1000
                self.duration_s.labels(outcome.value).observe(duration_s)
            case _:
                pass


METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)


async def watching(app: web.Application) -> AsyncGenerator[None]:
    """Count what becomes of jobs, as long as the application runs."""
    hear = app[METRICS].hear
    app[DISPATCHER].watchers.append(hear)
    yield
    app[DISPATCHER].watchers.remove(hear)


@web.middleware
async def count_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count a request, and how long its answer took."""
    began = perf_counter()
    status = "aborted"  # the client left before it had its answer
    try:
        response = await handler(request)
        status = str(response.status)
        return response
    except web.HTTPException as answer:
        status = str(answer.status)
        raise
    finally:
        metrics, route = request.app[METRICS], _route(request)
        method = "any" if route == _NO_ROUTE else request.method  # there, clients make them up
        metrics.requests.labels(method, route, status).inc()
        if not request.get(IS_ANSWERING):
            metrics.answer_s.labels(route).observe(perf_counter() - began)


def _route(request: web.Request) -> str:
    """The route as it was declared: the same for ``/x`` and ``/api/x``."""
    resource = request.match_info.route.resource
    return resource.canonical.removeprefix("/api") if resource else _NO_ROUTE


class Scrape(Collector):
    """All metrics at one moment."""

    def __init__(self, metrics: Metrics, counts: Counts, hub: Hub, dispatcher: Dispatcher) -> None:
        self._metrics, self._counts, self._hub = metrics, counts, hub
        self._seats = dispatcher.seats

    def collect(self) -> Iterator[Metric]:
        """One metric after the other."""
        jobs = GaugeMetricFamily(
            "weft_jobs", "Jobs in each state, as far as the history goes.", labels=["state"]
        )
        for state in State:
            jobs.add_metric([state.value], self._counts.of.get(state, 0))
        yield jobs
        sockets = sum(1 for _ in self._hub)
        yield GaugeMetricFamily("weft_websockets", "Websockets that are open.", sockets)
        yield from worker_metrics(self._seats)
        yield from self._metrics.registry.collect()


async def metrics(request: web.Request) -> web.Response:
    """The metrics, for Prometheus: jobs, requests, workers, devices, caches, node classes."""
    app = request.app
    scrape = Scrape(app[METRICS], await app[LEDGER].counts(), app[HUB], app[DISPATCHER])
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(scrape), headers={"Content-Type": content_type})


routes = [web.get("/metrics", metrics)]
