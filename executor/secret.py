"""The server's own secret: one file that only its user can read, made when it is first needed.

Addresses of files, sessions of browsers and webhooks are signed with keys that follow from it, one
for each purpose, so that a signature for the one never passes for another. Whoever deletes the file
ends all of them.
"""

import hmac
import secrets
from pathlib import Path

from executor.errors import FileError, NameTaken
from executor.saving import privately, save_as

NAME = "secret"

BYTES = 32


class Secret:
    """What signatures are made with."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def key_for(self, purpose: str) -> bytes:
        """The key for one purpose."""
        return hmac.digest(self._content, purpose.encode(), "sha256")

    def for_webhooks(self, owner: str) -> str:
        """What webhooks of an owner's jobs are signed with, which the owner may know."""
        return self.key_for(f"webhooks of {owner}").hex()


def secret_of(folder: Path) -> Secret:
    """The secret that is kept in the user's folder. Raises FileError if it cannot be used."""
    path = folder / NAME
    try:
        if not path.exists():
            content = secrets.token_hex(BYTES).encode()
            save_as(folder, NAME, privately(content), may_replace=False)
    except NameTaken:
        pass  # another process was quicker
    try:
        return Secret(_parsed(path.read_text(encoding="ascii")))
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} does not hold the server's secret ({error}); delete it to get a new one"
        ) from error


def _parsed(text: str) -> bytes:
    content = bytes.fromhex(text)
    if len(content) != BYTES:
        raise ValueError(f"{len(content)} bytes where {BYTES} belong")
    return content
