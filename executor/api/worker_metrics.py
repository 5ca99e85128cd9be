"""What workers tell of themselves, as Prometheus' metrics, made when somebody asks.

A worker that was replaced begins again at nothing, which is what a counter may do.
"""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from executor.seats import Seat

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Up to which batch sizes are counted together; 32 rows is the usual limit."""


def worker_metrics(seats: Sequence[Seat]) -> Iterator[Metric]:
    """All that is known of the workers; memory and caches of those that run only."""
    yield from _presence(seats)
    yield from _memory(seats)
    yield from _work(seats)


def _presence(seats: Sequence[Seat]) -> Iterator[Metric]:
    ready = GaugeMetricFamily(
        "weft_worker_ready", "1 if the worker takes jobs, 0 while it starts.", labels=["worker"]
    )
    jobs = GaugeMetricFamily(
        "weft_worker_jobs", "Jobs that the worker runs now.", labels=["worker"]
    )
    restarts = CounterMetricFamily(
        "weft_worker_restarts", "Workers that were replaced since they died.", labels=["worker"]
    )
    for seat in seats:
        ready.add_metric([seat.name], int(seat.ready is not None))
        jobs.add_metric([seat.name], len(seat.running))
        restarts.add_metric([seat.name], seat.restarts)
    yield from (ready, jobs, restarts)


def _memory(seats: Sequence[Seat]) -> Iterator[Metric]:
    total = GaugeMetricFamily(
        "weft_device_memory_bytes", "Memory of the worker's device.", labels=["worker"]
    )
    free = GaugeMetricFamily(
        "weft_device_memory_free_bytes", "What of it can be had.", labels=["worker"]
    )
    allocated = GaugeMetricFamily(
        "weft_device_memory_allocated_bytes", "What of it the worker holds.", labels=["worker"]
    )
    cached = GaugeMetricFamily(
        "weft_cache_bytes",
        "Results and models kept for later, on the device or in the host's memory.",
        labels=["worker", "tier"],
    )
    for seat in seats:
        if seat.ready is None:
            continue  # what its predecessor told is not true any more
        total.add_metric([seat.name], seat.ready.device.total_bytes)
        if figures := seat.figures:
            free.add_metric([seat.name], figures.free_bytes)
            allocated.add_metric([seat.name], figures.allocated_bytes)
            cached.add_metric([seat.name, "device"], figures.cached_device_bytes)
            cached.add_metric([seat.name, "host"], figures.cached_host_bytes)
    yield from (total, free, allocated, cached)


def _work(seats: Sequence[Seat]) -> Iterator[Metric]:
    hits = CounterMetricFamily(
        "weft_cache_hits", "Nodes whose results were there when their job began.", labels=["worker"]
    )
    misses = CounterMetricFamily(
        "weft_cache_misses", "Nodes whose results were not there.", labels=["worker"]
    )
    runs = CounterMetricFamily("weft_node_runs", "Nodes that ran.", labels=["worker", "node"])
    seconds = CounterMetricFamily(
        "weft_node_seconds", "How long nodes of a class ran.", labels=["worker", "node"]
    )
    batches = HistogramMetricFamily(
        "weft_batch_rows", "Rows of each forward pass of a diffusion model.", labels=["worker"]
    )
    for seat in seats:
        if seat.figures is None:
            continue
        meter = seat.figures.meter
        hits.add_metric([seat.name], meter.hits)
        misses.add_metric([seat.name], meter.misses)
        for node, count in meter.node_runs.items():
            runs.add_metric([seat.name, node], count)
        for node, spent in meter.node_seconds.items():
            seconds.add_metric([seat.name, node], spent)
        rows = sum(size * count for size, count in meter.batches.items())
        batches.add_metric([seat.name], buckets(meter.batches), rows)
    yield from (hits, misses, runs, seconds, batches)


def buckets(batches: Mapping[int, int]) -> list[tuple[str, float]]:
    """Forward passes by their rows, each bucket with all that are smaller, as Prometheus has it."""
    counted = [
        (f"{most}.0", float(sum(count for rows, count in batches.items() if rows <= most)))
        for most in ROWS
    ]
    return [*counted, ("+Inf", float(sum(batches.values())))]
