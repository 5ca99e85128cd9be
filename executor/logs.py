"""The log of the server: a line for each thing that happened, for people or for machines.

Whoever logs adds what the line is about as ``extra=about(job="…", seconds=1.5)``, beside the words.
Text for people has it behind the words; JSON, one object a line, has it under its own names. JSON
lines stay one line whatever is in them; in text only what is about something is kept from that.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, TypeAlias

LogFormat: TypeAlias = Literal["text", "json"]

_ATTRIBUTE = "about"

OWN_NAMES = frozenset({"time", "level", "logger", "message", "exception"})
"""Of a JSON line; what a line is about has other names."""


def about(**values: str | float) -> Mapping[str, Mapping[str, str | float]]:
    """What a line is about, for ``extra``; nothing that is empty."""
    assert OWN_NAMES.isdisjoint(values), f"a line has these of its own: {sorted(OWN_NAMES)}"
    return {_ATTRIBUTE: {name: value for name, value in values.items() if value != ""}}


def _about(record: logging.LogRecord) -> Mapping[str, str | float]:
    return getattr(record, _ATTRIBUTE, {})


class TextLines(logging.Formatter):
    """``when LEVEL logger: words job='…' seconds=1.5``."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, as far as it is no traceback."""
        line = super().formatMessage(record)
        for name, value in _about(record).items():
            line += f" {name}={ascii(value) if isinstance(value, str) else value}"
        return line


class JsonLines(logging.Formatter):
    """``{"time": …, "level": …, "logger": …, "message": …, "job": …}``, in one line of ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_about(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def formatter(format: LogFormat) -> logging.Formatter:
    """How lines are written."""
    if format == "json":
        return JsonLines()
    return TextLines("%(asctime)s %(levelname)s %(name)s: %(message)s")


def log_to(stream: TextIO = sys.stderr, *, format: LogFormat) -> None:
    """Write the whole process's log to a stream, from INFO on, warnings of Python's too."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(format))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers = [handler]
    logging.captureWarnings(capture=True)
