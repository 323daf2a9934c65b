# SPDX-License-Identifier: Apache-2.0
"""The token: never an older one over a newer one, never in the clear, never for ever."""

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from redis_server import RedisServer
from redis_stores import LIVE, new_store, token

from lucidworks_provider.client.auth.protocol import RELEASED, Snapshot
from lucidworks_provider.client.auth.token import RevocationHistory


def test_what_is_published_is_read_by_others_and_stored_as_ciphertext(server: RedisServer) -> None:
    new_store().publish(token(1))
    assert new_store().read() == Snapshot(token(1), RELEASED)
    stored = server.client().get(LIVE)
    assert stored
    assert b"token-1" not in stored


def test_an_older_token_never_replaces_a_newer_one_and_the_same_one_may_have_more(
    server: RedisServer,
) -> None:
    store, again = new_store(), replace(token(3), revocations=RevocationHistory((1.0, 2.0), warned_at=2.0))
    courses = ((token(2), token(2)), (token(1), token(2)), (token(3), token(3)), (again, again))
    for published, stored in courses:
        store.publish(published)
        assert store.read().token == stored


def test_of_many_that_publish_at_once_the_newest_stays(server: RedisServer) -> None:
    stores = [new_store() for _ in range(4)]
    for _ in range(5):
        server.client().flushall()
        numbers = list(range(32))
        random.shuffle(numbers)
        barrier = threading.Barrier(len(numbers) + 1)
        done = threading.Event()

        def publish(number: int, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            stores[number % len(stores)].publish(token(number))

        def watch(barrier: threading.Barrier = barrier, done: threading.Event = done) -> list[float]:
            store, seen = new_store(), []
            barrier.wait()
            while not done.is_set():
                if (found := store.read().token) is not None:
                    seen.append(found.issued_at)
            return seen

        with ThreadPoolExecutor(len(numbers) + 1) as pool:
            watching = pool.submit(watch)
            list(pool.map(publish, numbers))
            done.set()
            seen = watching.result()
        assert stores[0].read().token == token(31)
        assert seen == sorted(seen), "no reader sees an older token after a newer one"


@pytest.mark.parametrize("lifetime", [0.5, 3600.0])
def test_a_dead_token_goes_away_some_time_after_its_end(server: RedisServer, lifetime: float) -> None:
    # Issued years ago by this host's clock: only the token's own times count.
    new_store().publish(token(1, lifetime=lifetime))
    assert server.client().pttl(LIVE) == pytest.approx((lifetime + 600) * 1000, abs=5_000)


SPOILT: dict[str, Callable[[Any], object]] = {
    "damaged": lambda client: client.set(LIVE, b"\xff\xfe damaged"),
    "empty": lambda client: client.set(LIVE, ""),
    "a hash": lambda client: client.hset(LIVE, "value", "x"),
    "a list": lambda client: client.rpush(LIVE, "a", "b"),
    "another secret": lambda client: new_store("rotated").publish(token(99)),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_is_no_token_is_reported_once_and_replaced(
    server: RedisServer, spoil: Callable[[Any], object], caplog: pytest.LogCaptureFixture
) -> None:
    spoil(server.client())
    store = new_store()
    with caplog.at_level(logging.WARNING):
        assert [store.read() for _ in range(5)] == [Snapshot(None, RELEASED)] * 5
    assert caplog.text.count("will be replaced") == 1
    store.publish(token(1))
    assert store.read().token == token(1)
    server.client().set(LIVE, "damaged anew")
    store.read()
    assert caplog.text.count("will be replaced") == 2


def test_scopes_share_nothing(server: RedisServer) -> None:
    from lucidworks_provider.client.auth.token import TokenCipher, TokenIdentity
    from lucidworks_provider.hooks.stores.redis import RedisTokenStore

    other = TokenIdentity("https://identity.test", "server", "client", "machinelearning.model")
    new_store().publish(token(1))
    store = RedisTokenStore("lucidworks_default", "shared_redis", other, TokenCipher(other, "secret"))
    assert store.read() == Snapshot(None, RELEASED)
