# SPDX-License-Identifier: Apache-2.0
"""
The token endpoint: OAuth 2.0 client credentials with the parameters in the query.

Source: https://doc.lucidworks.com/api-reference/request-access-token
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from lucidworks_provider.client.api.http import (
    Request,
    Response,
    check_token_status,
    parse_object,
    vendor_message,
)
from lucidworks_provider.client.api.scopes import SCOPES
from lucidworks_provider.errors import AuthenticationError, InputError, MalformedAnswerError

# The documented lifetime, for a response without `expires_in`.
DEFAULT_LIFETIME = 3600.0
# Longer lifetimes are errors of the service.
_LONGEST_LIFETIME = 30 * 24 * 3600.0
_NAME = "Token request"
# What a header can carry.
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """
    The response of the token endpoint.

    :param lifetime: seconds.
    :param server_time: the response's ``Date`` as seconds since the epoch, or None.
    :param seconds: how long the request took.
    """

    access_token: str = field(repr=False)
    lifetime: float
    server_time: float | None
    seconds: float = 0.0


def check_scope(scope: str) -> str:
    """Refuse a scope that the vendor does not document."""
    if scope not in SCOPES:
        raise InputError(f"Scope {scope!r} is unknown; use one of {', '.join(SCOPES)}.")
    return scope


def token_request(
    *, auth_url: str, auth_server_id: str, client_id: str, client_secret: str, scope: str
) -> Request:
    """Build the documented request: Basic authentication, everything else in query and headers."""
    return Request(
        name=_NAME,
        method="POST",
        url=f"{auth_url}/oauth2/{auth_server_id}/v1/token",
        # The last response has the token that is valid.
        replayable=True,
        endpoint="token",
        params=(("scope", scope), ("grant_type", "client_credentials")),
        headers={
            "Accept": "application/json",
            "Cache-Control": "no-cache",
            "Content-Type": "application/x-www-form-urlencoded",
        },
        basic=(client_id, client_secret),
    )


def parse_token_response(response: Response) -> TokenResponse:
    """
    Parse the response of the token endpoint.

    :raises AuthenticationError: the credentials or the scope were refused.
    :raises MalformedAnswerError: a success without an access token.
    """
    check_token_status(response, _NAME)
    body = parse_object(response.body, _NAME, status=response.status)
    access_token = body.get("access_token")
    if "error" in body and not access_token:
        message = vendor_message(response.body)
        raise AuthenticationError(f"{_NAME}: HTTP {response.status}: {message}", status=response.status)
    if not isinstance(access_token, str) or not _TOKEN.fullmatch(access_token.strip()):
        # The body is not shown, as it may contain a token with another name.
        raise MalformedAnswerError(
            f"{_NAME}: HTTP {response.status} without an `access_token`; fields: {sorted(body)!r}",
            status=response.status,
        )
    lifetime = _lifetime(body, access_token)
    return TokenResponse(
        access_token.strip(), lifetime, server_time(response) or _issued_at(access_token, lifetime)
    )


def _lifetime(body: dict[str, Any], access_token: str) -> float:
    """``expires_in``, else the token's own ``exp - iat``, else the documented hour."""
    try:
        seconds = float(body["expires_in"])
    except (KeyError, TypeError, ValueError, OverflowError):
        claims = _claims(access_token)
        try:
            seconds = float(claims["exp"]) - float(claims["iat"])
        except (KeyError, TypeError, ValueError, OverflowError):
            seconds = DEFAULT_LIFETIME
    return min(seconds, _LONGEST_LIFETIME) if seconds > 0 else DEFAULT_LIFETIME


def _issued_at(access_token: str, lifetime: float) -> float | None:
    """The server's clock by the token's own ``exp``, for responses without a ``Date``."""
    try:
        moment = float(_claims(access_token)["exp"]) - lifetime
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return moment if 0 < moment < float("inf") else None


def _claims(access_token: str) -> dict[str, Any]:
    """The payload of a JWT: base64url without padding; empty for anything else."""
    try:
        payload = access_token.split(".")[1]
        decoded = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError, binascii.Error):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def server_time(response: Response) -> float | None:
    """The response's ``Date`` in seconds since the epoch; None where there is none."""
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
