# SPDX-License-Identifier: Apache-2.0
"""
The test of a connection: whether each host responds, and accepts a token of its scope.

It runs in the API server and must be quick and harmless: a new token would invalidate that of running tasks. So the
shared token is used if there is one, and no request is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from lucidworks_provider.client.auth.source import TokenSource, request_token
from lucidworks_provider.client.http.messages import MODEL_SCOPE, PREDICT_SCOPE, Exchange, read_blanked
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


@dataclass(frozen=True, slots=True)
class EndpointCheck:
    """
    A host that takes tokens of one scope.

    :param listing: reads a list.
    :param assumed: whether path and shape of that list are undocumented.
    """

    name: str
    url: str
    scope: str
    listing: Exchange[Any]
    assumed: bool = False


def endpoints_of(settings: LucidworksSettings) -> Iterator[EndpointCheck]:
    """The hosts of a connection, besides the identity server."""
    use_cases = list_use_cases().first(settings)
    yield EndpointCheck("Application", settings.application_base, PREDICT_SCOPE, use_cases, True)
    if settings.customer_id:
        models = list_models().first(settings)
        yield EndpointCheck("Models API", settings.models_url, MODEL_SCOPE, models)


def check_endpoints(
    settings: LucidworksSettings, source_of: Callable[[LucidworksSettings, str], TokenSource]
) -> tuple[bool, str]:
    """
    Check all endpoints of a connection.

    :param source_of: returns the token source of a scope.
    :return: whether all of them work, and a sentence for each.
    """
    short = replace(settings, timeout=min(settings.timeout, TIMEOUT))
    passed, sentences = True, []
    for check in endpoints_of(short):
        works, message = _run(short, check, source_of(settings, check.scope))
        passed = passed and works
        sentences.append(f"{check.name} ({check.url}), scope {check.scope}: {message}")
    if not settings.customer_id:
        sentences.append("Models API: not tested, because the connection has no Customer ID.")
    return passed, " ".join(sentences)


def _run(settings: LucidworksSettings, check: EndpointCheck, source: TokenSource) -> tuple[bool, str]:
    from lucidworks_provider.client.http.sync import SyncTransport

    try:
        live = source.peek()
        # Not stored: the API server cannot write Variables.
        token = live.value if live else request_token(settings, check.scope, single_attempt=True).access_token
    except LucidworksError as err:
        return False, f"no access token. {err}"
    access = "the shared access token" if live else f"a new access token of {settings.auth_url}"
    try:
        with closing(SyncTransport(settings)) as transport:
            response = transport.send(check.listing.request, token)
        read_blanked(check.listing.parse, response, token, settings.client_secret)
    except LucidworksError as err:
        return explain(err, access, assumed=check.assumed)
    return True, f"works with {access}."


def explain(err: LucidworksError, access: str, *, assumed: bool) -> tuple[bool, str]:
    """
    What a failed request says about the connection.

    :param access: which token was sent.
    :param assumed: of :class:`EndpointCheck`.
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
