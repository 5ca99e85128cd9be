"""Tokens: the keys that clients show, each with its name, its limits, and what it may.

A token is a file of its own below the user's folder, so that the command line adds and removes them
while a server runs, and the server notices by looking at the folder. What is kept is the SHA-256 of
the secret: that is enough for 256 random bits, which nobody finds by trying as passwords are found,
and takes a microsecond where a password's hash must take long. The secret itself is shown once and
never written anywhere.
"""

import hmac
import logging
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import time_ns
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from executor.errors import FileError, NameTaken, PathError, nearest
from executor.saving import privately, save_as

log = logging.getLogger(__name__)

FOLDER = "tokens"
PREFIX = "weft_"
"""Of secrets: who finds one in a log or a repository knows what it is."""

BYTES = 32

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX = ".json"

# A folder's time may stand still for so long while files come and go (see `executor.paths`).
_TICK_NS = 2_000_000_000

_INDEXED = 16  # characters of a hash that tokens are found by, before all of it is compared


class Token(BaseModel):
    """A token, without its secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    created_ms: int
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    queued_jobs: Annotated[int, Field(ge=1)] | None = None
    is_admin: bool = False
    """It sees everybody's jobs and files, not only its own."""


def add_token(
    folder: Path,
    name: str,
    *,
    requests_per_minute: int | None = None,
    queued_jobs: int | None = None,
    is_admin: bool = False,
) -> str:
    """Make a token: its secret, which is kept nowhere. ``folder`` is the user's.

    Raises FileError if there is one of that name, or for a name that none can have.
    """
    if not _NAME.fullmatch(name):
        raise FileError(
            f"{name[:80]!r} cannot be a token's name: letters, digits, '.', '_' and '-' can, "
            "64 at most, the first a letter or a digit"
        )
    secret = PREFIX + secrets.token_urlsafe(BYTES)
    token = Token(
        name=name,
        sha256=_hash(secret),
        created_ms=time_ns() // 1_000_000,
        requests_per_minute=requests_per_minute,
        queued_jobs=queued_jobs,
        is_admin=is_admin,
    )
    content = token.model_dump_json().encode()
    try:
        save_as(folder / FOLDER, name + _SUFFIX, privately(content), may_replace=False)
    except NameTaken as error:
        words = f"there is a token {name!r} already; weft token remove {name} makes room"
        raise FileError(words) from error
    return secret


def remove_token(folder: Path, name: str) -> None:
    """Make a token's secret worthless. Raises PathError if there is none of that name."""
    if _NAME.fullmatch(name):
        try:
            (folder / FOLDER / (name + _SUFFIX)).unlink()
        except FileNotFoundError:
            pass
        else:
            return
    there = [token.name for token in Tokens(folder).all()]
    hint = nearest(name, there) or ("" if there else "; there is none at all")
    raise PathError(f"there is no token {name[:80]!r}{hint}")


@dataclass(frozen=True, slots=True)
class _Seen:
    """The folder as it was when it was last read."""

    stamp: tuple[int, int]
    read_ns: int
    files: Mapping[str, tuple[tuple[int, int, int], Token | None]]

    def is_of(self, stamp: tuple[int, int]) -> bool:
        """Whether nothing can have changed since, the folder having this stamp now."""
        return stamp == self.stamp and stamp[1] + _TICK_NS < self.read_ns


class Tokens:
    """All tokens, as they are at the moment of asking.

    A file that cannot be read is a token that nobody has; a folder that cannot be is full of such:
    what is damaged never opens the server.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._seen: _Seen | None = None
        self._by_hash: dict[str, list[Token]] = {}
        self._by_name: dict[str, Token] = {}
        self._is_empty = True

    @property
    def is_empty(self) -> bool:
        """Whether there is none, so that nobody is asked for one."""
        self._renew()
        return self._is_empty

    def all(self) -> tuple[Token, ...]:
        """All that can be used, by name."""
        self._renew()
        return tuple(self._by_name[name] for name in sorted(self._by_name))

    def named(self, name: str) -> Token | None:
        """The token of a name."""
        self._renew()
        return self._by_name.get(name)

    def of_secret(self, secret: str) -> Token | None:
        """The token whose secret this is.

        How long it takes says nothing of the hashes that there are, and to choose a secret by its
        hash is what SHA-256 makes impossible.
        """
        self._renew()
        hashed = _hash(secret)
        for token in self._by_hash.get(hashed[:_INDEXED], ()):
            if hmac.compare_digest(token.sha256, hashed):
                return token
        return None

    def _renew(self) -> None:
        """Look whether tokens came or went, some microseconds; read those that did."""
        try:
            about = self._folder.stat()
            stamp = about.st_ino, about.st_mtime_ns
            if self._seen is not None and self._seen.is_of(stamp):
                return
            self._read(stamp)
        except FileNotFoundError:
            self._use({})
            self._seen = None
        except OSError as error:
            log.error("tokens: %s cannot be read, so none is known: %s", self._folder, error)
            self._use({"": None})
            self._seen = None

    def _read(self, stamp: tuple[int, int]) -> None:
        before = self._seen.files if self._seen else {}
        read_ns = time_ns()
        files: dict[str, tuple[tuple[int, int, int], Token | None]] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = entry.name.removesuffix(_SUFFIX)
                if name == entry.name or not _NAME.fullmatch(name):
                    continue
                about = entry.stat()
                mark = about.st_ino, about.st_mtime_ns, about.st_size
                known = before.get(name)
                is_same = known is not None and known[0] == mark
                files[name] = known if known and is_same else (mark, self._token(name))
        if self._seen is None or files != self._seen.files:
            self._use({name: token for name, (_, token) in files.items()})
        self._seen = _Seen(stamp, read_ns, files)

    def _token(self, name: str) -> Token | None:
        path = self._folder / (name + _SUFFIX)
        try:
            token = Token.model_validate_json(path.read_bytes())
            if token.name != name:
                raise ValueError(f"it is of {token.name[:80]!r}")
        except (OSError, ValidationError, ValueError) as error:
            log.error("tokens: %s cannot be used: %s", path, str(error).replace("\n", " ")[:200])
            return None
        return token

    def _use(self, found: Mapping[str, Token | None]) -> None:
        self._is_empty = not found
        tokens = [token for token in found.values() if token]
        self._by_name = {token.name: token for token in tokens}
        self._by_hash = {}
        for token in tokens:
            self._by_hash.setdefault(token.sha256[:_INDEXED], []).append(token)


def _hash(secret: str) -> str:
    return sha256(secret.encode(errors="surrogateescape")).hexdigest()
