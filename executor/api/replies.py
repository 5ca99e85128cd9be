"""Answers in JSON, as browsers' parsers take it: no NaN, no infinity."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web


def json_text(value: Any) -> str:
    """A value as compact JSON. Raises ValueError for a NaN."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def json_reply(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with a value."""
    return text_reply(json_text(value), status=status, headers=headers)


def text_reply(
    text: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with what is JSON already."""
    # A lone surrogate, which JSON lets through, becomes its escape again.
    body = text.encode(errors="backslashreplace")
    return web.Response(
        body=body, status=status, headers=headers, content_type="application/json", charset="utf-8"
    )
