"""Those who ask a server that asks for tokens."""

from pathlib import Path
from typing import Any

from executor.tokens import add_token


def bearer(secret: str) -> dict[str, str]:
    """The header that shows a secret."""
    return {"Authorization": f"Bearer {secret}"}


def caller(base: Path, name: str, **limits: Any) -> dict[str, str]:
    """The headers of somebody new, whom a server below this folder knows at once."""
    return bearer(add_token(base / "user", name, **limits))
