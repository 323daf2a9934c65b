# SPDX-License-Identifier: Apache-2.0
"""
The test of a connection: whether each host responds, and accepts a token of its scope.

It runs in the API server and must be quick and harmless: a new token would invalidate that of running tasks. So the
shared token is used if there is one, and no request is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

from lucidworks_provider.client.auth.source import TokenSource, request_token
from lucidworks_provider.client.http.messages import MODEL_SCOPE, PREDICT_SCOPE, Call, Exchange, read_blanked
from lucidworks_provider.client.models import list_models
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.errors import (
    LucidworksError,
    MalformedResponseError,
    RateLimitError,
    TokenRefusedError,
    UnknownResourceError,
)

# Seconds for each request.
TIMEOUT = 10.0


def check_endpoints(
    settings: LucidworksSettings, source_of: Callable[[LucidworksSettings, str], TokenSource]
) -> tuple[bool, str]:
    """
    Check all endpoints of a connection.

    :param source_of: returns the token source of a scope.
    :return: whether all of them work, and a sentence for each.
    """
    short = replace(settings, timeout=min(settings.timeout, TIMEOUT))
    checks: list[tuple[str, str, str, Call[Any]]] = []
    # Without both, the error says what is missing.
    if settings.application_url or not settings.customer_id:
        checks.append(("Application", settings.application_base, PREDICT_SCOPE, list_use_cases()))
    if settings.customer_id:
        checks.append(("Models API", settings.models_url, MODEL_SCOPE, list_models()))
    passed, sentences = True, []
    for name, url, scope, listing in checks:
        works, message = _run(short, scope, listing.first(short), source_of(settings, scope))
        passed = passed and works
        sentences.append(f"{name} ({url}), scope {scope}: {message}")
    if not settings.application_url:
        sentences.append("Application: not tested, because the connection has no Application ID.")
    if not settings.customer_id:
        sentences.append("Models API: not tested, because the connection has no Customer ID.")
    return passed, " ".join(sentences)


def _run(
    settings: LucidworksSettings, scope: str, listing: Exchange[Any], source: TokenSource
) -> tuple[bool, str]:
    from lucidworks_provider.client.http.sync import SyncTransport

    try:
        live = source.peek()
        # Not stored: the API server cannot write Variables.
        token = live.value if live else request_token(settings, scope, single_attempt=True).access_token
    except LucidworksError as err:
        return False, f"no access token. {err}"
    access = "the shared access token" if live else f"a new access token of {settings.auth_url}"
    try:
        with closing(SyncTransport(settings)) as transport:
            response = transport.send_now(listing.request, token)
        read_blanked(listing.parse, response, token, settings.client_secret)
    except LucidworksError as err:
        return explain(err, access, assumed=scope == PREDICT_SCOPE)
    return True, f"works with {access}."


def explain(err: LucidworksError, access: str, *, assumed: bool) -> tuple[bool, str]:
    """
    What a failed request says about the connection.

    :param access: which token was sent.
    :param assumed: whether path and shape of the list are undocumented.
    :return: whether host and credentials are right anyway, and a message.
    """
    match err:
        case RateLimitError():
            return True, f"accepts {access}; the rate limit is reached (429)."
        case UnknownResourceError() if assumed:
            return True, (
                f"responds, but the list of use cases is not at use_cases_path ({err.status}). Whether it "
                f"accepts {access} was not tested."
            )
        case MalformedResponseError() if assumed:
            return (
                True,
                f"responds, but not with a known list. Whether it accepts {access} was not tested. {err}",
            )
        case TokenRefusedError():
            return False, (
                f"refuses {access}: either another system requests tokens with the same client id, or the "
                f"application has no permission. {err}"
            )
    return False, f"does not work with {access}. {err}"
