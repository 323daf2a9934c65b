# SPDX-License-Identifier: Apache-2.0
"""Stores and tokens for the tests, and what the processes run that they start."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lucidworks_provider.auth.cipher import TokenCipher
from lucidworks_provider.auth.redis_store import RedisStore
from lucidworks_provider.auth.token import AccessToken, TokenIdentity

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

IDENTITY = TokenIdentity("https://identity.test", "server", "client", "machinelearning.predict")
LIVE = f"lucidworks:live:{IDENTITY.digest}"
CLAIM = f"lucidworks:claim:{IDENTITY.digest}"


def new_store(client_secret: str = "secret") -> RedisStore:  # noqa: S107
    """A store as another process would have it."""
    return RedisStore("lucidworks_default", "shared_redis", IDENTITY, TokenCipher(IDENTITY, client_secret))


def token(number: int, *, lifetime: float = 3600.0) -> AccessToken:
    """A token that is newer than those with a smaller number."""
    issued = 1_700_000_000.0 + number
    return AccessToken(f"token-{number}", issued, issued + lifetime * 0.9, issued + lifetime)


def take_lease(name: str, barrier: Barrier, results: Queue[str | None]) -> None:
    """A process that tries to take the lease at the same moment as the others."""
    from lucidworks_provider.auth.protocol import Claim

    store = new_store()
    store.read()
    barrier.wait(60)
    store.write_claim(Claim(name))
    claim = store.read().claim
    results.put(claim.owner if claim else None)


def cold_start(port: int, barrier: Barrier, results: Queue[str]) -> None:
    """A process that needs a token at the same moment as the others; the number of mints is counted in Redis."""
    import redis

    from lucidworks_provider.api.tokens import Grant
    from lucidworks_provider.auth.source import Service, TokenSource

    counter = redis.Redis(host="127.0.0.1", port=port)

    def grant(hurry: bool = False) -> Grant:
        number = counter.incr("minted")
        time.sleep(0.3)
        return Grant(f"token-{number}", 3600.0, time.time())

    source = TokenSource(new_store(), Service(grant, time.time))
    barrier.wait(60)
    results.put(source.get())


def ask_to_probe(barrier: Barrier, results: Queue[float | None]) -> None:
    """A process whose pause is over at the same moment as the others'."""
    from lucidworks_provider.sharing.pause import RedisPause, SharedPause
    from lucidworks_provider.sharing.redis_client import RedisClient

    pause = SharedPause(RedisPause(RedisClient("lw", "shared_redis", {}), "name"))
    barrier.wait(60)
    results.put(pause.ask(5.0, 0))


def send_on(url: str, mode: str, until: float, results: Queue[float | str]) -> None:
    """
    A process with four senders; tells that it got anything but a 429, and at its end when it last did.

    :param mode: ``sync`` for threads, ``async`` for coroutines.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor
    from threading import Lock

    from lucidworks_provider.api.messages import get
    from lucidworks_provider.connection import LucidworksSettings
    from lucidworks_provider.transport.aio import shared_transport
    from lucidworks_provider.transport.request_queue import queue_of
    from lucidworks_provider.transport.sync import SyncTransport

    urls = {"application_url": url, "auth_url": url, "models_url": url}
    settings = LucidworksSettings("lw", "i", "s", share_via="redis", redis_conn_id="shared_redis", **urls)
    request = get("Use cases", f"{url}/ai/usecases", endpoint="list_use_cases")
    # Loading the library and connecting takes seconds on a busy machine; a task has done it for its token.
    pause = queue_of(url, settings)._pause
    assert pause is not None
    pause._store.read()
    accepted = [0.0]
    lock = Lock()

    def heard(status: int) -> None:
        if status != 429:
            with lock:
                if len(accepted) == 1:
                    results.put("begun")
                accepted.append(time.time())

    def sender(_: int) -> None:
        transport = SyncTransport(settings)
        while time.time() < until:
            heard(transport.send(request, "t0ken").status)
            time.sleep(0.05)

    async def senders() -> None:
        async with shared_transport(settings) as transport:

            async def send() -> None:
                while time.time() < until:
                    heard((await transport.send(request, "t0ken")).status)
                    await asyncio.sleep(0.05)

            await asyncio.gather(*(send() for _ in range(4)))

    if mode == "async":
        asyncio.run(senders())
    else:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(sender, range(4)))
    results.put(max(accepted))
