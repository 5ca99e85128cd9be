"""Sessions of browsers: a signed cookie that stands for a token, so that no page knows the secret.

Nothing is kept: a session says which token it is for and when it ends, and is signed together with
the token's hash. It outlives a restart, and ends with its token.
"""

import hmac
from time import time

from aiohttp import web

from executor.secret import Secret
from executor.tokens import Token, Tokens

LASTS_S = 30 * 86_400

_MOST_CHARACTERS = 200


class Sessions:
    """What makes them, and knows its own again."""

    def __init__(self, secret: Secret) -> None:
        self._key = secret.key_for("session")
        # Browsers keep cookies by host, whatever the port: each server has a name of its own.
        self.cookie = f"weft_{secret.key_for('cookie').hex()[:8]}"

    def begin(self, response: web.Response, token: Token, *, is_secure: bool) -> None:
        """Have a browser show a session from now on."""
        ends_s = int(time()) + LASTS_S
        response.set_cookie(
            self.cookie,
            f"{ends_s}.{self._signature(ends_s, token)}.{token.name}",
            max_age=LASTS_S,
            httponly=True,
            samesite="Strict",
            secure=is_secure,
        )

    def end(self, response: web.Response) -> None:
        """Have a browser forget its session."""
        response.del_cookie(self.cookie, httponly=True, samesite="Strict")

    def token_of(self, request: web.Request, tokens: Tokens) -> Token | None:
        """The token that a request's session stands for, if it shows one that counts."""
        value = request.cookies.get(self.cookie)
        if value is None or len(value) > _MOST_CHARACTERS:
            return None
        ends, _, rest = value.partition(".")
        signature, _, name = rest.partition(".")
        token = tokens.named(name)
        if token is None or not (ends.isascii() and ends.isdigit() and signature.isascii()):
            return None
        is_ours = hmac.compare_digest(self._signature(int(ends), token), signature)
        return token if is_ours and int(ends) > time() else None

    def _signature(self, ends_s: int, token: Token) -> str:
        text = f"{ends_s}.{token.name}.{token.sha256}"
        return hmac.new(self._key, text.encode(), "sha256").hexdigest()
