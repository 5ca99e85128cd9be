"""``weft nodes``: which node classes there are, and what one of them takes and gives."""

import json
from typing import Any

from executor.cli import Exit
from executor.cli.terminal import say, say_json, say_table
from executor.errors import InputError, nearest
from executor.node import Input, Node


def nodes(name: str | None, *, as_json: bool) -> int:
    """List all classes, or describe the one of this name. Raises InputError if there is none."""
    if name is not None:
        cls = Node.registry.get(name)
        if cls is None:
            raise InputError(f"there is no node class {name!r}{nearest(name, Node.registry)}")
        say_json(_as_object(cls)) if as_json else _describe(cls)
        return Exit.DONE
    classes = sorted(set(Node.registry.values()), key=lambda cls: (cls.category, cls.__name__))
    if as_json:
        say_json({cls.__name__: _as_object(cls) for cls in classes})
    else:
        say_table((cls.__name__, cls.category, _first_line(cls)) for cls in classes)
    return Exit.DONE


def _describe(cls: type[Node]) -> None:
    """Write all that a class says of itself."""
    say(cls.__name__)
    for line in (cls.__doc__ or "").strip().splitlines():
        say(f"  {line.strip()}".rstrip())
    say(f"category: {cls.category}{' (output)' if cls.is_output else ''}")
    if cls.aliases:
        say(f"also: {', '.join(cls.aliases)}")
    if cls.inputs():
        say("inputs:")
        say_table((f"  {i.name}", i.wire, _range(i)) for i in cls.inputs().values())
    if cls.outputs():
        say("outputs:")
        rows = enumerate(cls.outputs())
        say_table((f"  {slot}", output.name, output.wire) for slot, output in rows)


def _range(item: Input) -> str:
    """What values an input takes, in words."""
    parts: list[str] = []
    if item.is_required:
        parts.append("required")
    elif item.default is not None:
        parts.append(f"default {json.dumps(item.default)}")
    else:
        parts.append("may be left out")
    if item.choices:
        parts.append(f"one of {', '.join(map(str, item.choices))}")
    if item.file:
        parts.append(f"a file in {item.file.folder}")
    if item.at_least is not None and item.at_most is not None:
        parts.append(f"{item.at_least} to {item.at_most}")
    elif item.at_least is not None:
        parts.append(f"at least {item.at_least}")
    elif item.at_most is not None:
        parts.append(f"at most {item.at_most}")
    if item.step is not None:
        parts.append(f"in steps of {item.step}")
    return "; ".join(parts)


def _as_object(cls: type[Node]) -> dict[str, Any]:
    return {
        "name": cls.__name__,
        "aliases": list(cls.aliases),
        "category": cls.category,
        "description": (cls.__doc__ or "").strip(),
        "is_output": cls.is_output,
        "inputs": {item.name: _input_object(item) for item in cls.inputs().values()},
        "outputs": [{"name": output.name, "type": output.wire} for output in cls.outputs()],
    }


def _input_object(item: Input) -> dict[str, Any]:
    """What is known of an input, without what does not apply to it."""
    known = {
        "type": item.wire,
        "required": item.is_required,
        "default": item.default,
        "choices": None if item.choices is None else list(item.choices),
        "folder": item.file.folder if item.file else None,
        "min": item.at_least,
        "max": item.at_most,
        "step": item.step,
    }
    return {key: value for key, value in known.items() if value is not None}


def _first_line(cls: type[Node]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]
