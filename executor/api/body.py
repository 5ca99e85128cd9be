"""What a request brings: JSON, whatever its Content-Type says, and parameters.

Everything is bounded before it is parsed, since parsing holds the interpreter and with it all
other requests.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from aiohttp import web

from executor.api.refusal import Refusal, too_large

MAX_JSON_BYTES = 32 * 2**20
"""Workflows are kilobytes, a few megabytes with pictures in them."""

MAX_JSON_VALUES = 300_000
"""By the commas and brackets. At most some 100 ms to parse; a workflow of 10,000 nodes has half."""

_COUNTED_BYTES = 2**18  # how much is counted at a time


async def json_body(request: web.Request) -> Any:
    """The body as JSON; None if it is empty. Raises Refusal."""
    if (request.content_length or 0) > MAX_JSON_BYTES:
        raise too_large(MAX_JSON_BYTES)
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise too_large(MAX_JSON_BYTES)
    return parsed(bytes(body))


async def object_body(request: web.Request) -> dict[str, Any]:
    """The body as an object; an empty body is an empty object. Raises Refusal."""
    value = await json_body(request)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(400, "invalid_json", f"the body must be an object, got {kind_of(value)}")
    return cast("dict[str, Any]", value)


def parsed(body: bytes) -> Any:
    """JSON; None for nothing. Raises Refusal."""
    if not body.strip():
        return None
    values = 0
    for start in range(0, len(body), _COUNTED_BYTES):
        end = start + _COUNTED_BYTES
        values += sum(body.count(sign, start, end) for sign in (b",", b"[", b"{"))
        if values > MAX_JSON_VALUES:
            words = f"the body has more than {MAX_JSON_VALUES:,} values"
            raise Refusal(413, "request_too_large", words)
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        words = f"the body is no JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise Refusal(400, "invalid_json", words) from error
    except UnicodeDecodeError as error:
        words = "the body is no JSON: it is not encoded in UTF-8"
        raise Refusal(400, "invalid_json", words) from error
    except RecursionError as error:
        raise Refusal(400, "invalid_json", "the body is nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        words = f"the body is no JSON that can be read: {error}"
        raise Refusal(400, "invalid_json", words) from error


def _refuse_constant(name: str) -> Any:
    words = f"{name} is no JSON, and no input takes it; numbers are finite"
    raise Refusal(400, "invalid_json", words)


def kind_of(value: Any) -> str:
    """What kind of JSON value it is, for a message."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"


def texts(values: Mapping[str, Any], name: str) -> list[str]:
    """A list of ids in a body; one that is not there is empty. Raises Refusal."""
    value = values.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(
        isinstance(item, str) for item in cast("list[Any]", value)
    ):
        raise Refusal(400, "bad_request", f"{name} must be a list of texts, got {kind_of(value)}")
    return cast("list[str]", value)


def flag(values: Mapping[str, Any], name: str) -> bool:
    """Whether something in a body is on; what is not there is off. Raises Refusal."""
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refusal(400, "bad_request", f"{name} must be true or false, got {kind_of(value)}")
    return bool(value)


def text(values: Mapping[str, Any], name: str) -> str | None:
    """A text in a body, or None if there is none. Raises Refusal."""
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise Refusal(400, "bad_request", f"{name} must be a text, got {kind_of(value)}")
    return value


def whole_number(request: web.Request, name: str, *, most: int = 2**53) -> int | None:
    """A whole number among the parameters, at most ``most``; None if it is not there.

    Raises Refusal for what is no number.
    """
    value = request.query.get(name)
    if value is None or value == "":
        return None
    try:
        if len(value) > 20:
            raise ValueError("longer than any number that means something")
        return min(int(value), most)
    except ValueError as error:
        words = f"{name} must be a whole number, got {value[:40]!r}"
        raise Refusal(400, "bad_request", words) from error
