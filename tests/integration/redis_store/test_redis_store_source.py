# SPDX-License-Identifier: Apache-2.0
"""The whole protocol over Redis: one refresh for all processes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis_server import RedisServer
from redis_stores import CLAIM, at_once, cold_start, new_store

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth.protocol import Claim
from lucidworks_provider.client.auth.source import TokenCache, TokenService, TokenSource
from lucidworks_provider.errors import TokenStoreError
from tests.identity_server import IdentityServer


def new_source(identity: IdentityServer) -> TokenSource:
    """A separate process, as the protocol sees it."""
    return TokenSource(new_store(), TokenService(identity, identity.time))


def test_eight_processes_start_cold_and_one_token_is_refreshed(idle_server: RedisServer) -> None:
    idle_server.start()
    assert set(at_once(8, cold_start, idle_server.port)) == {"token-1"}
    assert idle_server.client().get("refreshed") == b"1"
    assert idle_server.client().exists(CLAIM) == 0, "the lease was given up"


def test_a_token_that_every_process_was_refused_is_replaced_once(server: RedisServer) -> None:
    identity = IdentityServer(clock_off=0.0, seconds=0.1)
    sources = [new_source(identity) for _ in range(12)]
    assert {source.get() for source in sources} == {"token-1"}
    barrier = threading.Barrier(len(sources))

    def refused(source: TokenSource) -> str:
        barrier.wait()
        return source.get("token-1")

    with ThreadPoolExecutor(len(sources)) as pool:
        assert set(pool.map(refused, sources)) == {"token-2"}
    assert identity.asked == 2


def test_a_process_that_dies_with_the_lease_delays_the_others_by_its_rest(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CLAIM_TIMEOUT", 1.0)
    new_store().write_claim(Claim("dead"))
    identity, started = IdentityServer(clock_off=0.0), time.monotonic()
    assert new_source(identity).get() == "token-1"
    assert 0.7 < time.monotonic() - started < 3.0


def test_a_refresh_that_takes_longer_than_the_lease_keeps_it(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CLAIM_TIMEOUT", 0.6)
    monkeypatch.setattr(protocol, "HEARTBEAT", 0.15)
    identity = IdentityServer(clock_off=0.0, seconds=1.5)
    sources = [new_source(identity) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(TokenSource.get, sources)) == {"token-1"}
    assert identity.asked == 1


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call reads the store, as if the cached token were old."""
    monkeypatch.setattr(TokenCache, "fresh", lambda *_: None)


def test_a_token_that_the_server_has_lost_is_shared_again(server: RedisServer, no_patience: None) -> None:
    identity = IdentityServer(clock_off=0.0)
    source = new_source(identity)
    held = source.get()
    server.client().flushall()
    assert source.get() == held
    assert new_source(identity).get() == held
    assert identity.asked == 1


def test_a_held_token_survives_the_server(
    server: RedisServer, no_patience: None, caplog: pytest.LogCaptureFixture
) -> None:
    identity = IdentityServer(clock_off=0.0)
    source = new_source(identity)
    held = source.get()
    server.stop()
    assert source.get() == held
    assert "the token store is down" in caplog.text
    with pytest.raises(TokenStoreError):
        source.get(held)
    with pytest.raises(TokenStoreError):
        new_source(identity).get()
    assert identity.asked == 1, "without the store no token is requested"
