# SPDX-License-Identifier: Apache-2.0
"""The lease: one owner, which must keep it alive."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis_server import RedisServer
from redis_stores import CLAIM, at_once, new_store, take_lease

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Snapshot


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of 0.4 s."""
    monkeypatch.setattr(protocol, "CLAIM_TIMEOUT", 0.4)


def test_an_empty_server_shows_no_owner_and_no_token(server: RedisServer) -> None:
    assert new_store().read() == Snapshot(None, RELEASED)


def test_of_many_threads_one_gets_the_lease(server: RedisServer) -> None:
    stores = [new_store() for _ in range(4)]
    for number in range(10):
        server.client().flushall()
        barrier = threading.Barrier(32)

        def take(name: int, barrier: threading.Barrier = barrier, number: int = number) -> str | None:
            store = stores[name % len(stores)]
            barrier.wait()
            store.write_claim(Claim(f"{number}-{name}"))
            claim = store.read().claim
            return claim.owner if claim else None

        with ThreadPoolExecutor(32) as pool:
            seen = set(pool.map(take, range(32)))
        assert len(seen) == 1, "the first and the last see the same owner"
        assert seen.pop() in {f"{number}-{name}" for name in range(32)}


def test_of_several_processes_one_gets_the_lease(server: RedisServer) -> None:
    [seen] = set(at_once(4, take_lease))
    assert seen.startswith("process-")


def test_the_owner_renews_it_and_no_other_moves_it(server: RedisServer, short_lease: None) -> None:
    owner, stranger, claim = new_store(), new_store(), Claim("owner")
    for _ in range(6):
        owner.write_claim(claim)
        stranger.write_claim(Claim("stranger", 99))
        assert stranger.read().claim == claim
        assert 0 < server.client().pttl(CLAIM) <= 400
        time.sleep(0.15)
        claim = claim.next_heartbeat()


def test_a_lease_that_is_not_renewed_ends(server: RedisServer, short_lease: None) -> None:
    store = new_store()
    store.write_claim(Claim("dead"))
    time.sleep(0.5)
    assert store.read().claim == RELEASED
    store.write_claim(Claim("next"))
    assert store.read().claim == Claim("next")
    store.write_claim(Claim("dead", 1))
    assert store.read().claim == Claim("next"), "the dead one is too late"


def test_only_the_owner_gives_it_up(server: RedisServer) -> None:
    store, claim = new_store(), Claim("owner")
    store.release_claim(claim)
    store.write_claim(claim)
    store.release_claim(Claim("stranger"))
    store.release_claim(Claim("owne"))
    assert store.read().claim == claim
    store.release_claim(claim.next_heartbeat().next_heartbeat())
    assert store.read().claim == RELEASED
    assert server.client().exists(CLAIM) == 0


SPOILT: dict[str, Callable[[Any], object]] = {
    "no claim": lambda client: client.set(CLAIM, b"\xff\xfe damaged"),
    "empty": lambda client: client.set(CLAIM, ""),
    "a list": lambda client: client.rpush(CLAIM, "a", "b"),
    "one that never ends": lambda client: client.set(CLAIM, "somebody 3"),
    "one of an hour": lambda client: client.set(CLAIM, "somebody 3", ex=3600),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_is_no_lease_stops_no_process(server: RedisServer, spoil: Callable[[Any], object]) -> None:
    spoil(server.client())
    store = new_store()
    store.read()
    store.release_claim(Claim("mine"))
    store.write_claim(Claim("mine"))
    assert store.read().claim == Claim("mine")


def test_the_server_may_forget_the_scripts(server: RedisServer) -> None:
    store = new_store()
    store.write_claim(Claim("a"))
    server.client().script_flush()
    store.write_claim(Claim("a", 1))
    server.client().script_flush()
    store.release_claim(Claim("a"))
    assert store.read().claim == RELEASED
