# SPDX-License-Identifier: Apache-2.0
"""
What the test button of a connection asks: whether each host answers, and accepts a token of its scope.

It runs in the API server, where nobody should wait for long, and must not harm the tasks that run: a new token
deletes the one that they use. So the fleet's live token is borrowed where there is one, and nothing is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from lucidworks_provider.client.api.messages import Request, check_status, redact
from lucidworks_provider.client.api.model_calls import list_models_request
from lucidworks_provider.client.api.prediction_calls import use_cases_request
from lucidworks_provider.client.api.scopes import MODEL_SCOPE, PREDICT_SCOPE
from lucidworks_provider.client.auth.source import TokenSource, request_token
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
    A host that takes tokens of one scope.

    :param request: reads a list, and changes nothing.
    :param assumed: the path of that list stands on no page of the vendor.
    """

    name: str
    url: str
    scope: str
    request: Request
    assumed: bool = False


def endpoints_of(settings: LucidworksSettings) -> Iterator[EndpointCheck]:
    """The hosts that a connection leads to, besides the identity server."""
    base = settings.application_base
    yield EndpointCheck("Application", base, PREDICT_SCOPE, use_cases_request(settings.use_cases_url), True)
    if settings.customer_id:
        base = settings.models_base
        yield EndpointCheck("Models API", settings.models_url, MODEL_SCOPE, list_models_request(base))


def check_endpoints(
    settings: LucidworksSettings, source_of: Callable[[LucidworksSettings, str], TokenSource]
) -> tuple[bool, str]:
    """
    Ask all of them.

    :param source_of: where the fleet's live token of a scope is seen.
    :return: whether all of it works, and a sentence for each place.
    """
    short = replace(settings, timeout=min(settings.timeout, TIMEOUT))
    good, said = True, []
    for place in endpoints_of(short):
        works, words = _try(short, place, source_of(settings, place.scope))
        good = good and works
        said.append(f"{place.name} ({place.url}), scope {place.scope}: {words}")
    if not settings.customer_id:
        said.append("Models API: not tried, since the connection has no Customer ID.")
    return good, " ".join(said)


def _try(settings: LucidworksSettings, place: EndpointCheck, source: TokenSource) -> tuple[bool, str]:
    from lucidworks_provider.client.http.sync import SyncTransport

    try:
        live = source.peek()
        # Not through the store: the API server cannot write Variables.
        token = live.value if live else request_token(settings, place.scope, single_attempt=True).access_token
    except LucidworksError as err:
        return False, f"no access. {err}"
    access = "the fleet's live access" if live else f"a new access of {settings.auth_url}"
    try:
        with closing(SyncTransport(settings)) as transport:
            answer = redact(transport.send(place.request, token), token, settings.client_secret)
        check_status(answer, place.request.name)
    except LucidworksError as err:
        return judge(err, access, assumed=place.assumed)
    return True, f"works with {access}."


def judge(err: LucidworksError, access: str, *, assumed: bool) -> tuple[bool, str]:
    """
    What a failed look says about the connection.

    :param err: what came back.
    :param access: whose token was shown.
    :param assumed: of :class:`EndpointCheck`.
    :return: whether host and credentials are right all the same, and words.
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
