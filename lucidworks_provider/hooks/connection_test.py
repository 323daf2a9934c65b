# SPDX-License-Identifier: Apache-2.0
"""
The test button of a connection: whether each host responds and accepts a token of its scope.

It runs in the API server, so it must be quick, and must not disturb running tasks: a new token invalidates theirs. It
uses the shared token where there is one, and retries nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from lucidworks_provider.client.api.messages import Request, check_status, redact
from lucidworks_provider.client.api.model_calls import list_models_request
from lucidworks_provider.client.api.prediction_calls import use_cases_request
from lucidworks_provider.client.api.scopes import MODEL_SCOPE, PREDICT_SCOPE
from lucidworks_provider.client.auth.source import TokenSource, ask_service
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import (
    LucidworksError,
    RateLimitError,
    TokenRefusedError,
    UnknownResourceError,
)

# Seconds for each request.
TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class EndpointCheck:
    """
    A host that accepts tokens of one scope.

    :param request: reads a list.
    :param assumed: the path of that list is not documented.
    """

    name: str
    url: str
    scope: str
    request: Request
    assumed: bool = False


def endpoints_of(settings: LucidworksSettings) -> Iterator[EndpointCheck]:
    """The hosts of a connection, besides the identity server."""
    base = settings.application_base
    yield EndpointCheck("Application", base, PREDICT_SCOPE, use_cases_request(settings.use_cases_url), True)
    if settings.customer_id:
        base = settings.models_base
        yield EndpointCheck("Models API", settings.models_url, MODEL_SCOPE, list_models_request(base))


def check_endpoints(
    settings: LucidworksSettings, source_of: Callable[[LucidworksSettings, str], TokenSource]
) -> tuple[bool, str]:
    """
    Check all hosts.

    :param source_of: returns the source of tokens of a scope.
    :return: whether all checks succeeded, and a sentence for each host.
    """
    short = replace(settings, timeout=min(settings.timeout, TIMEOUT))
    succeeded, sentences = True, []
    for check in endpoints_of(short):
        works, message = _try(short, check, source_of(settings, check.scope))
        succeeded = succeeded and works
        sentences.append(f"{check.name} ({check.url}), scope {check.scope}: {message}")
    if not settings.customer_id:
        sentences.append("Models API: not tried, since the connection has no Customer ID.")
    return succeeded, " ".join(sentences)


def _try(settings: LucidworksSettings, check: EndpointCheck, source: TokenSource) -> tuple[bool, str]:
    from lucidworks_provider.client.http.sync import SyncTransport

    try:
        live = source.peek()
        # Not through the store: the API server cannot write Variables.
        token = live.value if live else ask_service(settings, check.scope, hurry=True).access_token
    except LucidworksError as err:
        return False, f"no access. {err}"
    access = "the fleet's live access" if live else f"a new access of {settings.auth_url}"
    try:
        with closing(SyncTransport(settings)) as transport:
            answer = redact(transport.send(check.request, token), token, settings.client_secret)
        check_status(answer, check.request.name)
    except LucidworksError as err:
        return judge(err, access, assumed=check.assumed)
    return True, f"works with {access}."


def judge(err: LucidworksError, access: str, *, assumed: bool) -> tuple[bool, str]:
    """
    What a failed check means.

    :param err: its error.
    :param access: the token that was sent, for the message.
    :param assumed: of :class:`EndpointCheck`.
    :return: whether host and credentials are valid all the same, and a message.
    """
    match err:
        case RateLimitError():
            return True, f"accepts {access}, and is busy (429)."
        case UnknownResourceError() if assumed:
            return True, (
                f"answers, but the list of use cases is not where use_cases_path says ({err.status}); so the host is "
                f"there, and whether it accepts {access} is not proven."
            )
        case TokenRefusedError():
            return False, (
                f"refuses {access}. Another system that asks for tokens with the same client id causes that, or an "
                f"application that is not entitled. {err}"
            )
    return False, f"does not work with {access}. {err}"
