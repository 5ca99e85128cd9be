r"""Prompts as ComfyUI reads them: weights, escapes, embeddings, and cutting into chunks.

``(words)`` weighs 1.1 times what surrounds it, ``(words:1.3)`` weighs 1.3, ``\(`` and ``\)`` are
plain brackets, ``[words]`` means nothing special. ``embedding:name`` at the beginning of a piece,
or after a space or a line break, stands for the vectors of a textual inversion. Light: no torch; a
token's vector is whatever was found for it.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from executor.errors import InputError, PathError

V = TypeVar("V")

BRACKET_WEIGHT = 1.1
DEEPEST = 100  # nested brackets; 1.1 to that power is 13,780
LONG_GROUP = 8  # tokens: a group this long may be cut in two at a chunk's end, a shorter one not
_MARK = re.compile(r"(?:^|[ \n])embedding:")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a prompt with one weight."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Token(Generic[V]):
    """One place of the text encoder's input: a token's number, or a vector that stands for one."""

    value: int | V
    weight: float = 1.0


Group: TypeAlias = list[Token[V]]


def spans(text: str) -> list[Span]:
    """The pieces of a prompt by weight, in order. Raises InputError for brackets nested too deeply.

    Brackets that match nothing are read as ComfyUI reads them: a group opens where the depth leaves
    0 and closes where it comes back to 0; below 0, depth is counted and opens nothing.
    """
    hidden = text.replace("\\)", "\0").replace("\\(", "\1")
    return [
        Span(span.text.replace("\0", ")").replace("\1", "("), span.weight)
        for span in _weighted(hidden, 1.0, 0)
    ]


def _weighted(text: str, weight: float, depth: int) -> list[Span]:
    if depth > DEEPEST:
        raise InputError(f"a prompt may nest brackets {DEEPEST} deep; this one nests them deeper")
    found: list[Span] = []
    for part in _parts(text):
        if len(part) < 2 or part[0] != "(" or part[-1] != ")":
            found.append(Span(part, weight))
            continue
        inner, said = part[1:-1], None
        words, colon, number = inner.rpartition(":")
        if colon and words:
            said = _number(number)
        if said is None:
            found += _weighted(inner, weight * BRACKET_WEIGHT, depth + 1)
        else:
            found += _weighted(words, said, depth + 1)
    return found


def _parts(text: str) -> list[str]:
    """The text cut into outermost bracket groups and what lies between them."""
    parts: list[str] = []
    depth = start = 0
    for match in re.finditer(r"[()]", text):
        if match[0] == "(":
            if depth == 0:
                parts.append(text[start : match.start()])
                start = match.start()
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                parts.append(text[start : match.end()])
                start = match.end()
    parts.append(text[start:])
    return [part for part in parts if part]


def _number(text: str) -> float | None:
    """A weight, or None for words; "nan" and "inf", which would blacken the picture, are words."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def groups(
    text: str, tokenize: Callable[[str], Sequence[int]], embedding: Callable[[str], Sequence[V]]
) -> list[Group[V]]:
    """The tokens of a prompt, in groups that are cut only if they are long.

    ``embedding`` finds the vectors of a name, and raises PathError if there are none. An embedding
    that is not there is an error, not left out with a warning as in ComfyUI: the picture would
    silently be another one.
    """
    found: list[Group[V]] = []
    for span in spans(text):
        words, *marked = _MARK.split(span.text)
        found.append([Token(number, span.weight) for number in tokenize(words)])
        for piece in marked:
            vectors, words = _embedded(piece, embedding)
            found.append([Token(vector, span.weight) for vector in vectors])
            found.append([Token(number, span.weight) for number in tokenize(words)])
    return [group for group in found if group]


def embeddings_named(text: str) -> list[str]:
    """The embeddings that a prompt names, in their order."""
    pieces = [piece for span in spans(text) for piece in _MARK.split(span.text)[1:]]
    return [
        name.rstrip(",")
        for name in (piece.split(maxsplit=1)[0] for piece in pieces if piece.split())
    ]


def _embedded(piece: str, embedding: Callable[[str], Sequence[V]]) -> tuple[Sequence[V], str]:
    """The vectors that a piece after ``embedding:`` begins with, and the words behind the name.

    A comma may follow the name directly, unless that is part of the file's name.
    """
    name, words = [*piece.split(maxsplit=1), "", ""][:2]
    try:
        return embedding(name), words
    except PathError:
        bare = name.rstrip(",")
        if bare == name:
            raise
        return embedding(bare), f"{name[len(bare) :]} {words}"


def chunks(
    groups: Sequence[Group[V]], *, start: int, end: int, pad: int, length: int
) -> list[list[Token[V]]]:
    """The tokens in chunks of equal ``length``, each with its start and end token; at least one.

    A group that does not fit begins a new chunk, unless it is long: then it is cut where the chunk
    is full.
    """
    room = length - 2
    filled: list[list[Token[V]]] = [[]]
    for group in groups:
        rest = group
        while rest:
            free = room - len(filled[-1])
            if len(rest) > free and len(group) < min(LONG_GROUP, room + 1):
                filled.append([])
                continue
            filled[-1].extend(rest[:free])
            rest = rest[free:]
            if rest:
                filled.append([])
    return [
        [Token(start), *chunk, Token(end), *[Token(pad)] * (room - len(chunk))] for chunk in filled
    ]
