"""``weft token``: the keys that a server asks for; it notices at once what changes here."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from executor.cli import Exit
from executor.cli.terminal import complain, say, say_json, say_table
from executor.errors import PathError
from executor.paths import Folders
from executor.secret import secret_of
from executor.settings import Settings
from executor.tokens import Token, Tokens, add_token, remove_token


def user_folder(base_directory: Path | None, user_directory: Path | None) -> Path:
    """The folder of the server that is meant, by its own settings. Raises SettingsError."""
    given: dict[str, Any] = {"base_directory": base_directory, "user_directory": user_directory}
    chosen = {name: path for name, path in given.items() if path is not None}
    return Folders(Settings.from_environment(**chosen)).user


def add(
    folder: Path,
    name: str,
    *,
    requests_per_minute: int | None,
    queued_jobs: int | None,
    is_admin: bool,
    as_json: bool,
) -> int:
    """Make a token, and print its secret, which nobody can do again. Raises FileError."""
    secret = add_token(
        folder,
        name,
        requests_per_minute=requests_per_minute,
        queued_jobs=queued_jobs,
        is_admin=is_admin,
    )
    if as_json:
        say_json({"name": name, "token": secret})
        return Exit.DONE
    say(secret)
    complain(f"this is the token {name!r}; keep it now, it is not shown again")
    return Exit.DONE


def show(folder: Path, *, as_json: bool) -> int:
    """List all tokens, without their secrets."""
    tokens = Tokens(folder).all()
    if as_json:
        say_json({"tokens": [token.model_dump(exclude={"sha256"}) for token in tokens]})
    elif tokens:
        say_table([("name", "made", "requests a minute", "queued jobs", ""), *map(_row, tokens)])
    else:
        say(f"there are no tokens in {folder}; weft token add NAME makes one")
    return Exit.DONE


def remove(folder: Path, name: str, *, as_json: bool) -> int:
    """Remove a token. Raises PathError."""
    remove_token(folder, name)
    if as_json:
        say_json({"removed": name})
    return Exit.DONE


def webhook_secret(folder: Path, name: str | None, *, as_json: bool) -> int:
    """Print what webhooks are signed with: those of a token's jobs, or of jobs without one.

    Raises PathError for a token that there is not.
    """
    if name is not None and Tokens(folder).named(name) is None:
        raise PathError(f"there is no token {name[:80]!r}")
    secret = secret_of(folder).for_webhooks(name or "")
    if as_json:
        say_json({"name": name, "webhook_secret": secret})
    else:
        say(secret)
    return Exit.DONE


def _row(token: Token) -> tuple[str, str, str, str, str]:
    made = datetime.fromtimestamp(token.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    limits = [
        "any" if most is None else f"{most:,}"
        for most in (token.requests_per_minute, token.queued_jobs)
    ]
    return token.name, made, limits[0], limits[1], "admin" if token.is_admin else ""
