"""``%date:yyyy-MM-dd%``, ``%width%`` and ``%NodeTitle.input%`` in the names of files to be kept.

The placeholders and their patterns are ComfyUI's, whose editor fills in some of them and whose
server others; here all are filled in at one place, when the file is kept. What is no placeholder
stays as it is. Whether the result is a fit name is for ``executor.paths`` to say.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, cast

_PLACEHOLDER = re.compile(r"%([^%]+)%")
_DATE_PART = re.compile(r"yyyy|yy|MM?|dd?|hh?|mm?|ss?")
# What ComfyUI's editor replaces in values, so that a value makes no folder; and half characters.
_UNFIT = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f\ud800-\udfff]')
# A value may be a whole prompt: cut, lest hours of work fail at being kept.
_MOST_BYTES = 100


def expand(
    prefix: str,
    *,
    now: datetime,
    size: tuple[int, int] | None = None,
    prompt: Mapping[str, Any] | None = None,
) -> str:
    """The prefix with its placeholders filled in.

    Args:
        prefix: with ``%date:…%`` (``yyyy yy MM M dd d hh h mm m ss s``), ``%year% %month% %day%
            %hour% %minute% %second%``, ``%width% %height%``, ``%Node.input%``.
        now: the time that it is.
        size: width and height of the picture in pixels.
        prompt: the workflow in API format. A node is named by its title, else by its class.
    """
    values = {
        **{part: f"{getattr(now, part):02}" for part in ("month", "day", "hour", "minute")},
        "year": f"{now.year:04}",
        "second": f"{now.second:02}",
    }
    if size is not None:
        values |= {"width": str(size[0]), "height": str(size[1])}
    done: list[str] = []
    rest = prefix
    while match := _PLACEHOLDER.search(rest):
        name = match[1]
        if name.startswith("date:"):
            value = _date(name.removeprefix("date:"), now)
        else:
            value = values.get(name) or _input_value(name, prompt or {})
        # Where nothing is meant, the second % may yet open the next placeholder.
        end = match.end() - 1 if value is None else match.end()
        done += [rest[:end]] if value is None else [rest[: match.start()], value]
        rest = rest[end:]
    return "".join([*done, rest])


def _date(pattern: str, now: datetime) -> str:
    """A time as a pattern says it; doubled letters mean two digits."""
    numbers = {"M": now.month, "d": now.day, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        text = match[0]
        if text[0] == "y":
            return f"{now.year:04}"[-len(text) :]
        return f"{numbers[text[0]]:0{len(text)}}"

    return _DATE_PART.sub(part, pattern)


def _input_value(name: str, prompt: Mapping[str, Any]) -> str | None:
    """What ``Node.input`` is set to, made fit for a file's name; None if it is no constant."""
    for position in (index for index, character in enumerate(name) if character == "."):
        node_name, input_name = name[:position], name[position + 1 :]
        for inputs in _named(node_name, prompt):
            value = inputs.get(input_name)
            if isinstance(value, str | int | float):
                return _fit(_spelt(value))
    return None


def _fit(value: str) -> str:
    """A value as a part of a name: of fair length, never ``..`` alone."""
    cut = _UNFIT.sub("_", value).encode()[:_MOST_BYTES].decode(errors="ignore")
    return cut if cut.strip(". ") else "_" * len(cut)


def _named(name: str, prompt: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The inputs of the nodes of that title, then of those of that class."""
    nodes: list[Mapping[str, Any]] = list(prompt.values())
    titled = [node for node in nodes if _title(node) == name]
    for node in titled + [node for node in nodes if node.get("class_type") == name]:
        yield node.get("inputs", {})


def _title(node: Mapping[str, Any]) -> Any:
    meta: Any = node.get("_meta")
    return cast("Mapping[str, Any]", meta).get("title") if isinstance(meta, Mapping) else None


def _spelt(value: str | int | float) -> str:
    """A constant as an editor shows it: ``true``, and 8.0 as 8."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
