# SPDX-License-Identifier: Apache-2.0
"""Calls whose results are made up, in place of those of the client."""

from collections.abc import Callable
from typing import Any

from lucidworks_provider.client.http.messages import Call, Steps
from lucidworks_provider.client.settings import LucidworksSettings


def returning(value: Any) -> Callable[..., Call[Any]]:
    """An endpoint that sends nothing and returns a value."""

    def steps(_: LucidworksSettings) -> Steps[Any]:
        yield from ()
        return value

    return lambda *_, **__: Call(steps)


def raising(error: BaseException) -> Callable[..., Call[Any]]:
    """An endpoint that sends nothing and fails."""

    def steps(_: LucidworksSettings) -> Steps[Any]:
        yield from ()
        raise error

    return lambda *_, **__: Call(steps)


def then(endpoint: Callable[..., Call[Any]], change: Callable[[Any], Any]) -> Callable[..., Call[Any]]:
    """An endpoint that is performed, and whose result is changed afterwards."""

    def changed(*arguments: Any, **options: Any) -> Call[Any]:
        made = endpoint(*arguments, **options)

        def steps(settings: LucidworksSettings) -> Steps[Any]:
            return change((yield from made.steps(settings)))

        return Call(steps)

    return changed
