"""How a model does, as the catalogue shows it: its figures, and when it could be used.

A model can be used while its file is there and some worker takes jobs. Times are milliseconds.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from executor.ledger.figures_read import CheckpointFigures, Figures
from executor.ledger.presence import Presence, Span

PERCENTS = (50, 95, 99)


def figures_shown(figures: Figures) -> dict[str, Any]:
    """What became of jobs in some time, and how long they waited and ran."""
    speed = figures.pictures_per_second
    return {
        "requests": figures.requests,
        **counts_shown(figures),
        "pictures_per_second": None if speed is None else round(speed, 4),
        "waiting_ms": {
            f"p{percent}": _rounded(figures.waiting_ms(percent)) for percent in PERCENTS
        },
        "running_ms": {f"p{percent}": _rounded(figures.run_ms(percent)) for percent in PERCENTS},
    }


def counts_shown(figures: Figures) -> dict[str, Any]:
    """What became of jobs, without how long they took."""
    rate = figures.success_rate
    return {
        "succeeded": figures.succeeded,
        "failed": figures.failed,
        "cancelled": figures.cancelled,
        "timed_out": figures.timed_out,
        "success_rate": None if rate is None else round(rate, 4),
        "pictures": figures.pictures,
    }


def providers_shown(
    found: CheckpointFigures, devices: dict[str, str | None]
) -> list[dict[str, Any]]:
    """The workers that have run a model, and those that can, with the device of who is ready."""
    ran = {provider.worker: provider for provider in found.providers if provider.worker}
    shown: list[dict[str, Any]] = []
    for worker in dict.fromkeys((*devices, *ran)):
        provider = ran.get(worker)
        figures = provider.figures if provider else Figures()
        shown.append(
            {
                "worker": worker,
                "device": devices.get(worker),
                "is_ready": devices.get(worker) is not None,
                "requests": figures.requests,
                **counts_shown(figures),
                "last_used_ms": provider.last_ms if provider else None,
            }
        )
    return shown


class Availability:
    """When models could be used, out of what was seen of files and workers."""

    def __init__(self, seen: Collection[Presence]) -> None:
        self._files = {one.name: one for one in seen if one.kind == "checkpoint"}
        self._workers = union(span for one in seen if one.kind == "worker" for span in one.spans)

    def spans(self, checkpoint: str) -> list[Span]:
        """When a model could be used, as far as it was asked for."""
        file = self._files.get(checkpoint)
        return intersection(union(file.spans), self._workers) if file else []

    def first_ms(self, checkpoint: str) -> int | None:
        """When its file was first seen; None if never."""
        file = self._files.get(checkpoint)
        return file.first_ms if file else None

    def share(self, checkpoint: str, since_ms: int, until_ms: int) -> float | None:
        """For which part of a time it could be used, since it was first seen; None if later."""
        first_ms = self.first_ms(checkpoint)
        if first_ms is None or first_ms >= until_ms:
            return None
        since_ms = max(since_ms, first_ms)
        window = [Span(since_ms, until_ms)]
        there = intersection(self.spans(checkpoint), window)
        return round(sum(s.until_ms - s.since_ms for s in there) / (until_ms - since_ms), 4)


def union(spans: Iterable[Span]) -> list[Span]:
    """The times that any of them has, in order and apart."""
    joined: list[Span] = []
    for span in sorted(spans, key=lambda span: span.since_ms):
        if joined and span.since_ms <= joined[-1].until_ms:
            until_ms = max(joined[-1].until_ms, span.until_ms)
            joined[-1] = Span(joined[-1].since_ms, until_ms)
        else:
            joined.append(span)
    return joined


def intersection(first: Sequence[Span], second: Sequence[Span]) -> list[Span]:
    """The times that both have, each of them in order and apart."""
    common: list[Span] = []
    i = j = 0
    while i < len(first) and j < len(second):
        since_ms = max(first[i].since_ms, second[j].since_ms)
        until_ms = min(first[i].until_ms, second[j].until_ms)
        if since_ms < until_ms:
            common.append(Span(since_ms, until_ms))
        if first[i].until_ms <= second[j].until_ms:
            i += 1
        else:
            j += 1
    return common


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 1)
