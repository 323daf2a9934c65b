# SPDX-License-Identifier: Apache-2.0
"""
A call as a value: how to build its request, and how to parse the response.

A client performs it, synchronously or asynchronously. A call of several requests is a generator that yields
exchanges, and receives the parsed response of each, or its error.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lucidworks_provider.client.api.http import Request, Response
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import (
    ForbiddenError,
    LucidworksError,
    RequestRefusedError,
    UnknownResourceError,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Exchange(Generic[T]):
    """
    A request, and the parser of its response.

    :param attempts: requests at most; None for the number of the retry policy.
    """

    request: Request
    parse: Callable[[Response], T]
    attempts: int | None = None


Steps = Generator[Exchange[Any], Any, T]


@dataclass(frozen=True, slots=True)
class Call(Generic[T_co]):
    """
    What a client can perform.

    :param steps: takes the settings, yields exchanges and returns the result.
    """

    steps: Callable[[LucidworksSettings], Steps[T_co]]


def endpoint(
    build: Callable[[LucidworksSettings], Request],
    parse: Callable[[Response], T],
    attempts: int | None = None,
) -> Call[T]:
    """Return a call of one request."""

    def steps(settings: LucidworksSettings) -> Steps[T]:
        parsed: T = yield Exchange(build(settings), parse, attempts)
        return parsed

    return Call(steps)


def naming_models(
    use_case: str,
    model_id: str,
    build: Callable[[LucidworksSettings], Request],
    parse: Callable[[Response], T],
    *,
    refusals: tuple[type[LucidworksError], ...] = (
        UnknownResourceError,
        RequestRefusedError,
        ForbiddenError,
    ),
) -> Call[T]:
    """
    Return a call of one request, whose error for an unknown use case or model suggests those that the service lists.

    :param refusals: possible errors for an unknown one; which of them is undocumented.
    """

    def steps(settings: LucidworksSettings) -> Steps[T]:
        try:
            parsed: T = yield Exchange(build(settings), parse)
        except refusals as err:
            refused: LucidworksError = err
        else:
            return parsed
        # Imported here since triggers import this module, and only poll jobs.
        from lucidworks_provider.client.api.prediction_calls import nearest, read_use_cases, use_cases_request

        try:
            listed = yield Exchange(use_cases_request(settings.use_cases_url), read_use_cases, attempts=1)
            hint = nearest(listed, use_case, model_id)
        except LucidworksError:
            hint = ""
        if hint:
            refused.args = (f"{str(refused).rstrip('.')}. {hint}", *refused.args[1:])
        raise refused from None

    return Call(steps)
