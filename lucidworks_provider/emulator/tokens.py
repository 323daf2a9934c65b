# SPDX-License-Identifier: Apache-2.0
"""
The access tokens: who holds a live one, and why another is dead.

Vendor facts (section 2.3): a token lives 3600 s; asking for a new token of a scope deletes the existing one,
so whoever still uses it is cut off; scopes are independent of each other. Assumptions [A]: "existing" is
counted per client id, the old token dies at once, and a token issued for two scopes dies as a whole when one
of them is issued anew.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_SHORTEST, _LONGEST = 500, 1000  # documented length of access_token
_AIMED_LENGTH = 720
_REMEMBERED = 5_000
_LOGGED_JTI = 8


class Scope(Enum):
    """The scopes of Lucidworks AI."""

    PREDICT = "machinelearning.predict"
    MODEL = "machinelearning.model"


class TokenState(Enum):
    """What a bearer token is worth; the value is said in the 401 answer, which never repeats the token."""

    LIVE = "live"
    UNKNOWN = "The access token is unknown."
    EXPIRED = "The access token is expired."
    SUPERSEDED = "The access token was superseded by a newer token of the same scope."
    KILLED = "The access token was deleted."


@dataclass
class Token:
    """One issued token, without its secret text."""

    jti: str
    client_id: str
    scopes: tuple[Scope, ...]
    expires: float
    state: TokenState = TokenState.LIVE

    @property
    def jti_prefix(self) -> str:
        """Return the part that may be logged."""
        return self.jti[:_LOGGED_JTI]


class TokenRegistry:
    """All tokens of one emulator."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._tokens: dict[bytes, Token] = {}  # by SHA-256 of the text, in order of issuing

    def issue(
        self,
        client_id: str,
        scopes: tuple[Scope, ...],
        *,
        ttl: int,
        issuer: str,
        both_live: bool = False,
    ) -> tuple[str, Token]:
        """Make a token and, unless both may live, delete the live ones that share a scope with it."""
        now = self._clock()
        if not both_live:
            for old in self._live():
                if old.client_id == client_id and set(old.scopes) & set(scopes):
                    old.state = TokenState.SUPERSEDED
        token = Token(f"AT.{secrets.token_urlsafe(32)}", client_id, scopes, expires=now + ttl)
        text = self._encode(token, issued=now, issuer=issuer)
        self._tokens[_digest(text)] = token
        while len(self._tokens) > _REMEMBERED:
            del self._tokens[next(iter(self._tokens))]
        return text, token

    def find(self, text: str) -> tuple[Token | None, TokenState]:
        """Look up a bearer token and tell what it is worth now."""
        token = self._tokens.get(_digest(text))
        if token is None:
            return None, TokenState.UNKNOWN
        return token, self._state(token)

    def kill(self, scopes: Iterable[Scope]) -> int:
        """Delete live tokens of the given scopes, as another holder of the client id would do by issuing."""
        wanted = set(scopes)
        doomed = [token for token in self._live() if wanted & set(token.scopes)]
        for token in doomed:
            token.state = TokenState.KILLED
        return len(doomed)

    def live_count(self) -> int:
        """Count the tokens that would be accepted now."""
        return len(self._live())

    def _live(self) -> list[Token]:
        return [token for token in list(self._tokens.values()) if self._state(token) is TokenState.LIVE]

    def _state(self, token: Token) -> TokenState:
        if token.state is TokenState.LIVE and self._clock() >= token.expires:
            return TokenState.EXPIRED
        return token.state

    def _encode(self, token: Token, *, issued: float, issuer: str) -> str:
        """Sign a JWT of the documented length; an Okta-like set of claims [A] plus padding."""
        claims: dict[str, object] = {
            "ver": 1,
            "jti": token.jti,
            "iss": issuer,
            "aud": "https://api.lucidworks.com",
            "iat": int(issued),
            "exp": int(token.expires),
            "cid": token.client_id,
            "scp": [scope.value for scope in token.scopes],
            "sub": token.client_id,
            "emulated": True,
        }
        header = {"kid": uuid4().hex, "alg": "HS256", "typ": "JWT"}
        text = self._sign(header, claims)
        if len(text) < _AIMED_LENGTH:
            claims["pad"] = secrets.token_hex((_AIMED_LENGTH - len(text)) * 3 // 8)
            text = self._sign(header, claims)
        if not _SHORTEST <= len(text) <= _LONGEST:
            raise ValueError(f"a token of {len(text)} characters; use a shorter client id")
        return text

    def _sign(self, header: dict[str, str], claims: dict[str, object]) -> str:
        signed = f"{_segment(header)}.{_segment(claims)}"
        signature = hmac.new(self._key, signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{_base64url(signature)}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _segment(value: dict[str, object] | dict[str, str]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
