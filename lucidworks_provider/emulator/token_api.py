# SPDX-License-Identifier: Apache-2.0
"""``POST /oauth2/{auth}/v1/token`` of the identity host (section 2)."""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.calls import ApiError, Call, OAuthError
from lucidworks_provider.emulator.tokens import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

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
    text, token = call.state.tokens.issue(
        client_id,
        scopes,
        ttl=settings.token_ttl,
        issuer=f"https://identity.lucidworks.com/oauth2/{settings.auth_server_id}",
        both_live=settings.both_tokens_live,
    )
    call.record.jti_prefix = token.jti_prefix
    for scope in scopes:
        call.state.log.issued[scope.value] += 1
    body = {
        "token_type": "Bearer",
        "expires_in": settings.token_ttl,
        "access_token": text,
        "scope": " ".join(scope.value for scope in scopes),
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
