# SPDX-License-Identifier: Apache-2.0
"""
### Call an endpoint of your own choice

Calls an endpoint that has no operator. A task gets a session that sends the shared access token, only to the hosts
of the connection, and repeats a refused request with the next token. The tasks use `requests`, `aiohttp` (many calls
at a time), and a client that needs only a token.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from lucidworks_provider.retry_policy import LucidworksRetryPolicy

CONNECTION = "lucidworks_default"


@task(retries=2)
def use_cases() -> Any:
    """One call after the other."""
    from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

    with LucidworksAuthHook(CONNECTION).get_conn() as session:
        response = session.get("/ai/usecases")
        response.raise_for_status()
        return response.json()


@task(retries=2)
def several_at_a_time(calls: int = 10) -> int:
    """Many calls on a few connections."""
    import asyncio

    from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

    async def all_calls() -> list[int]:
        async with LucidworksAuthHook(CONNECTION).aget_conn() as session:

            async def one() -> int:
                async with session.get("/ai/usecases") as response:
                    response.raise_for_status()
                    return response.status

            return await asyncio.gather(*(one() for _ in range(calls)))

    return len(asyncio.run(all_calls()))


@task(retries=2)
def with_another_client() -> int:
    """A client that knows nothing of tokens gets one before each call, and reports a 401."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

    hook = LucidworksAuthHook(CONNECTION)
    url = hook.get_settings().application_base + "/ai/usecases"
    for _ in range(3):
        token = hook.get_token()
        request = Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
        try:
            with urlopen(request, timeout=60) as response:  # noqa: S310
                return int(response.status)
        except HTTPError as err:
            if err.code != 401:
                raise
            hook.invalidate(token)
    raise RuntimeError("three tokens in a row were refused")


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retry_policy": LucidworksRetryPolicy()},
    doc_md=__doc__,
    tags=["lucidworks"],
)
def call_an_endpoint() -> None:
    """See above."""
    use_cases()
    several_at_a_time()
    with_another_client()


call_an_endpoint()
