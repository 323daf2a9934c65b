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

from lucidworks_provider.client.http.messages import Request, Response
from lucidworks_provider.client.settings import LucidworksSettings

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
