# SPDX-License-Identifier: Apache-2.0
"""
The access tokens: which of them are live, and why the others are not.

Vendor facts (section 2.3): a token lives 3600 s; a request for a new token of a scope invalidates the
existing one for every client; scopes are independent of each other. Assumptions [A]: "existing" is
counted per client id, the old token becomes invalid at once, and a token of two scopes becomes invalid when a
token of one of them is issued.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl
from uuid import uuid4

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.errors import ApiError, OAuthError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from starlette.requests import Request

    from lucidworks_provider.emulator.calls import Call
    from lucidworks_provider.emulator.settings import EmulatorSettings

_SHORTEST, _LONGEST = 500, 1000  # documented length of access_token
_AIMED_LENGTH = 720
_REMEMBERED = 5_000
_LOGGED_JTI = 8


class Scope(StrEnum):
    PREDICT = "machinelearning.predict"
    MODEL = "machinelearning.model"


class TokenState(StrEnum):
    """State of a bearer token; the value is the message of the 401 response, which never repeats the token."""

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
        return self.jti[:_LOGGED_JTI]


class TokenRegistry:
    """All tokens of one emulator."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens: dict[str, Token] = {}  # by their text, in order of issuing

    def issue(
        self, client_id: str, scopes: tuple[Scope, ...], settings: EmulatorSettings
    ) -> tuple[str, Token]:
        """Make a token and, unless both may live, delete the live ones that share a scope with it."""
        now = self._clock()
        if not settings.both_tokens_live:
            for old in self._live():
                if old.client_id == client_id and set(old.scopes) & set(scopes):
                    old.state = TokenState.SUPERSEDED
        token = Token(f"AT.{secrets.token_urlsafe(32)}", client_id, scopes, expires=now + settings.token_ttl)
        text = _jwt(token, issued=now, server=settings.auth_server_id)
        self._tokens[text] = token
        while len(self._tokens) > _REMEMBERED:
            del self._tokens[next(iter(self._tokens))]
        return text, token

    def find(self, text: str) -> tuple[Token | None, TokenState]:
        token = self._tokens.get(text)
        return token, self._state(token) if token else TokenState.UNKNOWN

    def kill(self, scopes: Iterable[Scope]) -> int:
        """Delete live tokens of the given scopes, as another holder of the client id would do by issuing."""
        wanted = set(scopes)
        doomed = [token for token in self._live() if wanted & set(token.scopes)]
        for token in doomed:
            token.state = TokenState.KILLED
        return len(doomed)

    def live_count(self) -> int:
        return len(self._live())

    def _live(self) -> list[Token]:
        return [token for token in list(self._tokens.values()) if self._state(token) is TokenState.LIVE]

    def _state(self, token: Token) -> TokenState:
        if token.state is TokenState.LIVE and self._clock() >= token.expires:
            return TokenState.EXPIRED
        return token.state


def _jwt(token: Token, *, issued: float, server: str) -> str:
    """Write a JWT of the documented length: an Okta-like set of claims [A], padding, a random signature."""
    claims: dict[str, object] = {
        "ver": 1,
        "jti": token.jti,
        "iss": f"https://identity.lucidworks.com/oauth2/{server}",
        "aud": "https://api.lucidworks.com",
        "iat": int(issued),
        "exp": int(token.expires),
        "cid": token.client_id,
        "scp": token.scopes,
        "sub": token.client_id,
        "emulated": True,
    }
    ends = _segment({"kid": uuid4().hex, "alg": "HS256", "typ": "JWT"}), secrets.token_urlsafe(32)
    room = _AIMED_LENGTH - len("..".join(ends)) - len(_segment(claims))
    if room > 0:
        claims["pad"] = secrets.token_hex(room * 3 // 8)
    text = f"{ends[0]}.{_segment(claims)}.{ends[1]}"
    if not _SHORTEST <= len(text) <= _LONGEST:
        raise ValueError(f"a token of {len(text)} characters; use a shorter client id")
    return text


def _segment(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).rstrip(b"=").decode()


# All three are documented as required (section 2.1).
_REQUIRED_HEADERS = {
    "Accept": "application/json",
    "Cache-Control": "no-cache",
    "Content-Type": "application/x-www-form-urlencoded",
}


async def issue_token(call: Call) -> Response:
    """Issue a token for a client; an older one of the same scope dies at once."""
    settings = call.settings
    if call.request.path_params["auth"] != settings.auth_server_id:
        raise ApiError(404, "There is no such authorization server.")
    client_id = _authenticate(call.request, settings.clients)
    call.record.client_id = client_id
    _check_headers(call.request)
    parameters = await _parameters(call.request, query_only=settings.query_only)
    grant_type = parameters.get("grant_type")
    if grant_type is None:
        raise OAuthError(400, "invalid_request", "The parameter grant_type is missing.")
    if grant_type != "client_credentials":
        raise OAuthError(400, "unsupported_grant_type", "The grant type must be client_credentials.")
    scopes = _scopes(parameters.get("scope"))
    text, token = call.state.tokens.issue(client_id, scopes, settings)
    call.record.jti_prefix = token.jti_prefix
    for scope in scopes:
        call.state.log.issued[scope] += 1
    body = {
        "token_type": "Bearer",
        "expires_in": settings.token_ttl,
        "access_token": text,
        "scope": " ".join(scopes),
    }
    return JSONResponse(body, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})


def _authenticate(request: Request, clients: Mapping[str, str]) -> str:
    """Check the Basic pair: encoded once, as the vendor's command line does (section 2.1)."""
    kind, _, encoded = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        raise _invalid_client("Basic authentication is required.")
    try:
        client_id, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise _invalid_client("The Basic credentials are not base64 of UTF-8.") from None
    known = clients.get(client_id, "")
    if not colon or not known or not hmac.compare_digest(known.encode(), secret.encode()):
        raise _invalid_client("The client id or the client secret is wrong.")
    return client_id


def _invalid_client(message: str) -> OAuthError:
    return OAuthError(401, "invalid_client", message, {"WWW-Authenticate": 'Basic realm="lucidworks"'})


def _check_headers(request: Request) -> None:
    for name, needed in _REQUIRED_HEADERS.items():
        sent = [part.partition(";")[0].strip().lower() for part in request.headers.get(name, "").split(",")]
        if needed not in sent:
            raise OAuthError(400, "invalid_request", f"The header {name}: {needed} is missing.")


async def _parameters(request: Request, *, query_only: bool) -> dict[str, str]:
    """Read the documented query parameters; a form body is a guess of section 2.1 and can be switched off."""
    pairs = parse_qsl(request.url.query, keep_blank_values=True)
    body = await request.body()
    if body and not query_only:
        try:
            pairs += parse_qsl(body.decode(), keep_blank_values=True)
        except ValueError:
            raise OAuthError(400, "invalid_request", "The body is not a form in UTF-8.") from None
    names = [name for name, _ in pairs]
    for name in ("grant_type", "scope"):
        if names.count(name) > 1:
            raise OAuthError(400, "invalid_request", f"The parameter {name} is given twice.")
    return dict(pairs)


def _scopes(text: str | None) -> tuple[Scope, ...]:
    """Read one or more scopes; the separator is not documented, a space is OAuth's own [A]."""
    if text is None or not text.strip():
        raise OAuthError(400, "invalid_request", "The parameter scope is missing.")
    try:
        return tuple(dict.fromkeys(Scope(name) for name in text.split()))
    except ValueError:
        raise OAuthError(
            400, "invalid_scope", "The scope is unknown or not granted to this client."
        ) from None
