"""``/catalogue``: the models that applications can name, what they are and how they do.

Figures are those of a model's checkpoint, whoever asked for it and by whatever name. Nothing is
hashed or loaded for an answer: it says what is known.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from executor.api.catalogue_fields import Filters, HistoryFields
from executor.api.job_checkpoints import plain_name
from executor.api.keys import DISPATCHER, FOLDERS, LEDGER, MODELS, SETTINGS
from executor.api.model_card import absent_card, card
from executor.api.model_health import (
    Availability,
    counts_shown,
    figures_shown,
    providers_shown,
)
from executor.api.page import page_reply
from executor.api.refusal import Refusal
from executor.api.replies import json_reply
from executor.digests import Digests
from executor.errors import PathError, nearest
from executor.ledger.figures import DAY_MS, HOUR_MS, KEPT_MS, MINUTE_MS
from executor.ledger.figures_read import WINDOWS, CheckpointFigures, Figures
from executor.ledger.ledger import wall_clock_ms
from executor.public_models import PublicModel

MOST_BUCKETS = 120
"""In a plot: more are not told apart."""

WIDTHS_MS: Mapping[int, tuple[int, ...]] = {
    MINUTE_MS: tuple(minutes * MINUTE_MS for minutes in (1, 2, 5, 10, 15, 30)),
    HOUR_MS: tuple(hours * HOUR_MS for hours in (1, 2, 3, 6, 12)),
    DAY_MS: tuple(days * DAY_MS for days in (1, 2, 4)),
}
"""Of buckets that are made up of minutes, hours or days."""

_NOTHING = CheckpointFigures((), dict.fromkeys(WINDOWS, Figures()))
_LATEST = "7d"  # what models are put in order by


async def catalogue(request: web.Request) -> web.Response:
    """All models with what is known of them; for a browser that opens it, a page.

    Below ``/api`` it is never the page. Parameters leave out those that are not wanted.
    """
    is_page = "text/html" in request.headers.get("Accept", "")
    if is_page and not request.path.startswith("/api"):
        response = page_reply("catalogue")
    else:
        filters = Filters.read(request.query)
        models = await _entries(request.app)
        response = json_reply(
            {
                "models": _sorted([m for m in models if _is_wanted(m, filters)], filters.sort),
                "families": sorted({m["family"] for m in models if m["family"]}),
                "tasks": sorted({task for m in models for task in m["tasks"]}),
                "total": len(models),
            }
        )
    response.headers["Vary"] = "Accept"
    return response


async def history(request: web.Request) -> web.Response:
    """How a model did over the last ``hours``, bucket after bucket, without the empty ones.

    ``available`` holds the times at which it could be used: its file was there, and a worker.
    """
    hours = HistoryFields.read(request.query).hours
    name = request.match_info["name"]
    checkpoint = _checkpoint(await _cards(request.app), name)
    until_ms = wall_clock_ms()
    since_ms = until_ms - hours * HOUR_MS
    span_ms, width_ms = buckets_of(hours)
    ledger = request.app[LEDGER]
    buckets = await ledger.figures_over_time(
        checkpoint, span_ms=span_ms, width_ms=width_ms, after_ms=since_ms
    )
    availability = Availability(await ledger.presence(since_ms))
    return json_reply(
        {
            "name": name,
            "checkpoint": checkpoint,
            "since_ms": since_ms,
            "until_ms": until_ms,
            "width_ms": width_ms,
            "buckets": [
                {"since_ms": bucket.since_ms, **figures_shown(bucket.figures)} for bucket in buckets
            ],
            "first_seen_ms": availability.first_ms(checkpoint),
            "available": [
                [max(span.since_ms, since_ms), span.until_ms]
                for span in availability.spans(checkpoint)
                if span.until_ms > since_ms
            ],
        }
    )


def buckets_of(hours: int) -> tuple[int, int]:
    """Of which spans the buckets of so many hours are made up, and how long they are, in ms."""
    length_ms = hours * HOUR_MS
    span_ms = next(span_ms for span_ms in WIDTHS_MS if length_ms <= KEPT_MS[span_ms])
    for width_ms in WIDTHS_MS[span_ms]:
        if length_ms <= MOST_BUCKETS * width_ms:
            return span_ms, width_ms
    raise AssertionError(f"there is a width for {hours} hours")


async def _cards(app: web.Application) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every model's checkpoint and what it is, by its name; also those whose file is missing."""
    settings = app[SETTINGS]
    digests = Digests(app[FOLDERS].user)

    def look() -> dict[str, tuple[str, dict[str, Any]]]:
        there: Mapping[str, PublicModel] = app[MODELS].all()
        known = digests.known(model.file.path for model in there.values())
        return {
            name: (_plain(model.checkpoint), card(model, known.get(model.file.path)))
            for name, model in there.items()
        }

    found = await asyncio.to_thread(look)
    for name, said in settings.models.items():
        if name not in found:
            found[name] = (_plain(said.checkpoint), absent_card(name, said))
    return found


def _plain(file: str) -> str:
    try:
        return plain_name(file)
    except PathError:  # of the settings; there is no such file
        return file


def _checkpoint(cards: Mapping[str, tuple[str, Any]], name: str) -> str:
    """The checkpoint of the model of a name. Raises Refusal."""
    if name not in cards:
        hint = nearest(name[:100], cards)
        words = f"there is no model {name[:100]!r}{hint}"
        raise Refusal(404, "model_not_found", words, param="model")
    return cards[name][0]


async def _entries(app: web.Application) -> list[dict[str, Any]]:
    """All models, as they are shown."""
    cards = await _cards(app)
    now_ms = wall_clock_ms()
    figures = await app[LEDGER].figures()
    longest_ms = max(length_ms for length_ms, _ in WINDOWS.values())
    availability = Availability(await app[LEDGER].presence(now_ms - longest_ms))
    devices = {
        seat.name: seat.ready.device.name if seat.ready else None for seat in app[DISPATCHER].seats
    }
    cheapest = min((about["price"] for _, about in cards.values() if about["price"]), default=None)
    default = app[SETTINGS].default_model or next(iter(cards), None)
    entries: list[dict[str, Any]] = []
    for name, (checkpoint, about) in cards.items():
        found = figures.get(checkpoint, _NOTHING)
        entries.append(
            {
                "name": name,
                "checkpoint": checkpoint,
                "is_default": name == default,
                **about,
                "cost": _cost(about["price"], cheapest, found.total.pictures),
                "availability": {
                    **_available(has_file=bool(about["tasks"]), devices=devices.values()),
                    "first_seen_ms": availability.first_ms(checkpoint),
                    "share": {
                        window: availability.share(checkpoint, now_ms - length_ms, now_ms)
                        for window, (length_ms, _) in WINDOWS.items()
                    },
                },
                "providers": providers_shown(found, devices),
                "requests": found.total.requests,
                **counts_shown(found.total),
                "last_used_ms": found.last_ms,
                "windows": {name: figures_shown(figs) for name, figs in found.windows.items()},
            }
        )
    return entries


def _cost(price: float | None, cheapest: float | None, pictures: int) -> dict[str, Any] | None:
    """What a model's pictures cost; ``relative`` to those of the cheapest that cost anything."""
    if price is None:
        return None
    relative = None if cheapest is None else round(price / cheapest, 4)
    return {"so_far": round(price * pictures, 6), "relative": relative}


def _available(*, has_file: bool, devices: Iterable[str | None]) -> dict[str, Any]:
    """Whether a model can be used now, or why not."""
    ready = sum(device is not None for device in devices)
    why_not = None
    if not has_file:
        why_not = "its file is not there, or of a kind that cannot be run"
    elif not ready:
        why_not = "no worker is ready"
    return {
        "is_available": why_not is None,
        "why_not": why_not,
        "has_file": has_file,
        "ready_workers": ready,
    }


def _is_wanted(model: Mapping[str, Any], filters: Filters) -> bool:
    is_available = model["availability"]["is_available"]
    price, most = model["price"], filters.max_price
    return (
        filters.family in (None, model["family"])
        and (filters.task is None or filters.task in model["tasks"])
        and filters.available in (None, is_available)
        and filters.name.casefold() in f"{model['name']}\n{model['title']}".casefold()
        and (most is None or (price is not None and price <= most))
    )


_ORDERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "name": lambda model: model["name"].casefold(),
    "family": lambda model: model["family_title"],
    "price": lambda model: model["price"],
    "requests": lambda model: model["requests"],
    "success_rate": lambda model: model["windows"][_LATEST]["success_rate"],
    "latency": lambda model: model["windows"][_LATEST]["running_ms"]["p50"],
    "speed": lambda model: model["windows"][_LATEST]["pictures_per_second"],
    "last_used": lambda model: model["last_used_ms"],
    "size": lambda model: model["size_bytes"],
    "parameters": lambda model: model["parameters"],
}


def _sorted(models: Iterable[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """Models in an order, by name where that is equal; those of which it is not known come last."""
    order = _ORDERS[sort.removeprefix("-")]
    by_name = sorted(models, key=_ORDERS["name"])
    known = [model for model in by_name if order(model) is not None]
    known.sort(key=order, reverse=sort.startswith("-"))
    return known + [model for model in by_name if order(model) is None]


routes = [
    web.get("/catalogue", catalogue),
    web.get("/catalogue/{name:.+}/history", history),
]
