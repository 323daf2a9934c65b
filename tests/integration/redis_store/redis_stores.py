# SPDX-License-Identifier: Apache-2.0
"""Stores and tokens for the tests, and what the processes run that they start."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lucidworks_provider.client.auth.token import AccessToken, TokenCipher, TokenIdentity
from lucidworks_provider.hooks.stores.redis import RedisTokenStore
from tests.forks import PROCESSES, start

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.sharedctypes import SynchronizedArray
    from multiprocessing.synchronize import Barrier, Event

IDENTITY = TokenIdentity("https://identity.test", "server", "client", "machinelearning.predict")
LIVE = f"lucidworks:live:{IDENTITY.digest}"
CLAIM = f"lucidworks:claim:{IDENTITY.digest}"


def new_store(client_secret: str = "secret") -> RedisTokenStore:  # noqa: S107
    """A store as another process would have it."""
    return RedisTokenStore(
        "lucidworks_default", "shared_redis", IDENTITY, TokenCipher(IDENTITY, client_secret)
    )


def token(number: int, *, lifetime: float = 3600.0) -> AccessToken:
    """A token that is newer than those with a smaller number."""
    issued = 1_700_000_000.0 + number
    return AccessToken(f"token-{number}", issued, issued + lifetime * 0.9, issued + lifetime)


def at_once(count: int, what: Callable[..., None], *options: object) -> list[Any]:
    """The results of processes that do something at the same moment."""
    barrier, results = PROCESSES.Barrier(count), PROCESSES.Queue()
    processes = [start(what, *options, barrier, results) for _ in range(count)]
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(30)
    return found


def take_lease(barrier: Barrier, results: Queue[str | None]) -> None:
    """A process that tries to take the lease at the same moment as the others."""
    from lucidworks_provider.client.auth.protocol import Claim

    store = new_store()
    store.read()
    barrier.wait(60)
    store.write_claim(Claim(f"process-{os.getpid()}"))
    claim = store.read().claim
    results.put(claim.owner if claim else None)


def cold_start(port: int, barrier: Barrier, results: Queue[str]) -> None:
    """A process that needs a token at the same moment as the others; the number of refreshes is counted in Redis."""
    import redis

    from lucidworks_provider.client.auth.source import TokenService, TokenSource
    from lucidworks_provider.client.auth.token import TokenResponse

    counter = redis.Redis(host="127.0.0.1", port=port)

    def grant(single_attempt: bool = False) -> TokenResponse:
        number = counter.incr("refreshed")
        time.sleep(0.3)
        return TokenResponse(f"token-{number}", 3600.0, time.time())

    source = TokenSource(new_store(), TokenService(grant, time.time))
    barrier.wait(60)
    results.put(source.get())


def ask_to_probe(barrier: Barrier, results: Queue[float | None]) -> None:
    """A process whose pause is over at the same moment as the others'."""
    from lucidworks_provider.client.http.rate_limiter import SharedPause
    from lucidworks_provider.hooks.stores.redis import RedisClient, RedisPauseStore

    pause = SharedPause(lambda: RedisPauseStore(RedisClient("lw", "shared_redis", {}), "name"))
    barrier.wait(60)
    results.put(pause.ask(5.0, 0))


def send_on(url: str, mode: str, number: int, accepted: SynchronizedArray[float], stop: Event) -> None:
    """
    A process with four senders.

    :param mode: ``sync`` for threads, ``async`` for coroutines.
    :param accepted: when each process last got anything but a 429, by its number.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from lucidworks_provider.client.http.aio import shared_transport
    from lucidworks_provider.client.http.messages import get
    from lucidworks_provider.client.http.sync import SyncTransport
    from lucidworks_provider.client.settings import LucidworksSettings
    from lucidworks_provider.hooks.stores import AirflowStores

    urls = {"application_url": url, "auth_url": url, "models_url": url}
    stores = AirflowStores()
    settings = LucidworksSettings(
        "lw", "i", "s", share_via="redis", redis_conn_id="shared_redis", stores=stores, **urls
    )
    request = get("Use cases", f"{url}/ai/usecases", endpoint="list_use_cases")
    # Loading the library takes seconds on a busy machine; a task has done it for its token.
    stores.pause_store(settings, "other").read()

    def heard(status: int) -> None:
        if status != 429:
            accepted[number] = time.time()

    def sender(_: int) -> None:
        transport = SyncTransport(settings)
        while not stop.is_set():
            heard(transport.send(request, "t0ken").status)
            time.sleep(0.05)

    async def senders() -> None:
        async with shared_transport(settings) as transport:

            async def send() -> None:
                while not stop.is_set():
                    heard((await transport.send(request, "t0ken")).status)
                    await asyncio.sleep(0.05)

            await asyncio.gather(*(send() for _ in range(4)))

    if mode == "async":
        asyncio.run(senders())
    else:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(sender, range(4)))
