# SPDX-License-Identifier: Apache-2.0
"""The shell of the token protocol with a scripted store and service: what threads and accidents do to it."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth.protocol import Claim, TokenStore
from lucidworks_provider.client.auth.source import (
    ESTABLISHED,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    REFUSED_IN_A_ROW,
    MemoryStore,
    RefreshBackoff,
    TokenService,
    TokenSource,
    forget_sources,
    token_source,
)
from lucidworks_provider.client.auth.token import AccessToken, RevocationHistory, TokenCipher, TokenIdentity
from lucidworks_provider.client.http.messages import PREDICT_SCOPE
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import AuthenticationError, ServiceError, TokenError, TokenStoreError
from tests.identity_server import IdentityServer


class Later:
    """The clock of a process, which a test can put forward."""

    seconds = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.seconds


def source_of(store: TokenStore, service: IdentityServer, clock: Later | None = None) -> TokenSource:
    """A separate process, as the protocol sees it."""
    return TokenSource(store, TokenService(service, service.time), monotonic=clock or time.monotonic)


class Store(MemoryStore):
    """Calls what a test sets before each operation."""

    before_read: Callable[[], Any] = staticmethod(lambda: None)
    before_claim: Callable[[Claim], Any] = staticmethod(lambda _: None)
    before_publication: Callable[[AccessToken], Any] = staticmethod(lambda _: None)

    def read(self) -> protocol.Snapshot:
        self.before_read()
        return super().read()

    def write_claim(self, claim: Claim) -> None:
        self.before_claim(claim)
        super().write_claim(claim)

    def publish(self, token: AccessToken) -> None:
        self.before_publication(token)
        super().publish(token)


class Hanging(Store):
    """A store whose reads hang until the test releases them."""

    def hang(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.before_read = lambda: (self.entered.set(), self.leave.wait(20))

    def heal(self) -> None:
        self.before_read = lambda: None


class Stopped(BaseException):
    """As Airflow's own time-out of a task."""


def shared_token() -> AccessToken:
    now = time.time()
    return AccessToken("shared", now, now + 50, now + 60)


def test_a_token_is_requested_once_and_kept() -> None:
    service = IdentityServer()
    source = source_of(MemoryStore(), service)
    assert {source.get() for _ in range(100)} == {"token-1"}
    assert source.get("token-1") == "token-2"
    assert source.get("token-1") == "token-2", "another caller with the same refused token"
    assert service.asked == 2


def test_tokens_that_nothing_accepts_are_not_requested_without_end() -> None:
    service, clock = IdentityServer(), Later()
    source = source_of(MemoryStore(), service, clock)
    for _ in range(REFUSED_IN_A_ROW):
        source.invalidate(source.get())
    for _ in range(20):
        with pytest.raises(TokenError, match="in a row were refused"):
            source.get()
    assert service.asked == REFUSED_IN_A_ROW
    clock.seconds = FIRST_PAUSE
    source.invalidate(source.get())
    with pytest.raises(TokenError):
        source.get()
    assert service.asked == REFUSED_IN_A_ROW + 1, "one more try after each pause"


def test_a_server_that_returns_the_same_token_again_gets_a_second_call_with_it() -> None:
    """One 401, of a gateway for example: the token is used again, and no other system is blamed."""
    store, service, clock = MemoryStore(), IdentityServer(), Later()
    service.same_token = True
    source = source_of(store, service, clock)
    for round_ in range(10):
        assert source.get(source.get()) == "token-1"
        source.accepted("token-1", "embedding")
        assert service.asked == round_ + 2
    stored = store.read().token
    assert stored is not None
    assert stored.revocations == RevocationHistory()
    assert source.get(source.get()) == "token-1"
    for _ in range(REFUSED_IN_A_ROW - 1):
        source.invalidate("token-1")
        with suppress(TokenError):
            source.get()
    with pytest.raises(TokenError, match="in a row were refused"):
        source.get()


def test_a_token_that_others_shared_is_used_while_asking_is_held_off() -> None:
    store, service = MemoryStore(), IdentityServer()
    source = source_of(store, service)
    for _ in range(REFUSED_IN_A_ROW - 1):
        source.get(source.get())
    refused = source.get()
    store.publish(shared_token())
    assert source.get(refused) == "shared"


def test_the_pauses_double_and_an_established_token_counts_as_good() -> None:
    backoff, now, pauses = RefreshBackoff(), 0.0, []
    for _ in range(REFUSED_IN_A_ROW - 1):
        backoff.refused(now, 0.1)
        assert backoff.pause(now) == 0
    for _ in range(8):
        backoff.refused(now, 0.1)
        backoff.pause(now)
        pauses.append(backoff.until - now)
        now = backoff.until
    assert pauses == [FIRST_PAUSE * 2**n for n in range(5)] + [LONGEST_PAUSE] * 3
    fresh = RefreshBackoff()
    for _ in range(50):
        fresh.refused(now, ESTABLISHED)
        assert fresh.pause(now) == 0


def test_an_accepted_token_ends_the_story() -> None:
    service = IdentityServer()
    source = source_of(MemoryStore(), service)
    for _ in range(4 * REFUSED_IN_A_ROW):
        source.accepted(source.get(source.get()), "predict")
    assert service.asked == 4 * REFUSED_IN_A_ROW + 1


def test_a_failure_raises_in_every_waiter() -> None:
    service, clock = IdentityServer(seconds=0.2), Later()
    service.error = AuthenticationError("no", status=401)
    source = source_of(MemoryStore(), service, clock)
    barrier = threading.Barrier(20)

    def one(_: int) -> bool:
        barrier.wait()
        with pytest.raises(AuthenticationError) as caught:
            source.get()
        told = str(caught.value)
        # As callers do: an error names the document.
        caught.value.args = (f"Document 1: {told}",)
        return told == "no"

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(one, range(20)))
    for _ in range(5):
        with pytest.raises(AuthenticationError):
            source.get()
    assert service.asked == 1, "credentials that were refused are not tried at each call"
    service.error = None
    clock.seconds = 5
    assert source.get() == "token-2", "and not for ever"


async def test_coroutines_that_waited_for_a_failure_get_an_error_each() -> None:
    service = IdentityServer(seconds=0.1)
    service.error = AuthenticationError("no", status=401)
    source = source_of(MemoryStore(), service)
    errors = await asyncio.gather(*(source.aget() for _ in range(3)), return_exceptions=True)
    assert [(str(err), err.status) for err in errors] == [("no", 401)] * 3
    assert len(set(map(id, errors))) == 3


def test_a_short_lived_token_is_renewed_at_its_appointment() -> None:
    service = IdentityServer(lifetime=2.0)
    source = source_of(MemoryStore(), service)
    seen = set()
    end = time.monotonic() + 4.5
    while time.monotonic() < end:
        seen.add(source.get())
        time.sleep(0.01)
    assert 3 <= service.asked <= 4
    assert len(seen) == service.asked


def test_a_slow_refresh_keeps_its_claim_moving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEARTBEAT", 0.05)

    store, beats = Store(), []
    store.before_claim = lambda claim: beats.append(claim.heartbeat)
    source_of(store, IdentityServer(seconds=0.4)).get()
    assert beats[:6] == [0, 1, 2, 3, 4, 5]
    assert store.read().claim == protocol.RELEASED


@pytest.mark.parametrize("at", ["a heartbeat", "the publication"])
def test_a_refresh_whose_caller_is_stopped_is_published_all_the_same(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEARTBEAT", 0.05)
    store, service, stops = Store(), IdentityServer(seconds=0.2), [Stopped()]

    def stop(now: bool) -> None:
        if now and stops:
            raise stops.pop()

    if at == "a heartbeat":
        store.before_claim = lambda claim: stop(
            claim.heartbeat == 2
        )  # the first one comes before the refresh
    else:
        store.before_publication = lambda _: stop(True)
    with pytest.raises(Stopped):
        source_of(store, service).get()
    assert source_of(store, service).get() == "token-1"
    assert service.asked == 1


def test_a_task_that_is_stopped_does_not_wait_for_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEARTBEAT", 0.05)
    monkeypatch.setattr("lucidworks_provider.client.auth.source._LAST_WAIT", 0.1)
    store, release = Store(), threading.Event()

    def stop(claim: Claim) -> None:
        if claim.heartbeat == 2:
            raise Stopped

    store.before_claim = stop
    source = TokenSource(store, TokenService(lambda _: release.wait(20), time.time))
    began = time.monotonic()
    with pytest.raises(Stopped):
        source.get()
    assert time.monotonic() - began < 10
    release.set()
    assert store.read() == protocol.Snapshot(None, protocol.RELEASED)


@pytest.mark.parametrize(
    ("retry_after", "times"), [(None, [0, 5, 15, 35, 75, 135]), (50.0, [0, 50, 100, 150])]
)
def test_a_failed_renewal_is_repeated_less_and_less_often(
    retry_after: float | None, times: list[int]
) -> None:
    store, service, clock, now = MemoryStore(), IdentityServer(), Later(), time.time()
    store.publish(AccessToken("shared", now - 60, now - 1, now + 3600))
    service.error = ServiceError("down", status=503, retry_after=retry_after)
    source, asked = source_of(store, service, clock), []
    for second in range(180):
        before, clock.seconds = service.asked, second
        assert source.get() == "shared"
        asked += [second] * (service.asked - before)
    assert asked == times


def test_a_changed_connection_is_used_for_the_next_token() -> None:
    forget_sources()
    given = LucidworksSettings("lw", "i", "s", share_via="memory", ca_bundle="/missing.pem")
    source = token_source(given, PREDICT_SCOPE)
    corrected = replace(given, ca_bundle="/there.pem")
    assert token_source(corrected, PREDICT_SCOPE) is source
    assert source.service.token.args[0] == source.service.time.args[0] == corrected  # type: ignore[attr-defined]
    forget_sources()


async def test_a_cancelled_coroutine_does_not_cancel_the_refresh() -> None:
    store, service = MemoryStore(), IdentityServer(seconds=0.2)
    source = source_of(store, service)
    impatient = asyncio.create_task(source.aget())
    await asyncio.sleep(0.05)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert await source.aget() == "token-1"
    assert service.asked == 1


def test_a_clock_that_is_an_hour_off_is_corrected_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    store, service = MemoryStore(), IdentityServer(clock_off=3600)
    source = source_of(store, service)
    token = source.get()
    assert store.read().token.issued_at == pytest.approx(time.time() + 3600, abs=5)
    assert source.get() == token
    assert source.get(token) == "token-2"
    assert caplog.text.count("clock is -3600 s off") == 1


def test_a_store_that_goes_down_leaves_the_token_in_use(caplog: pytest.LogCaptureFixture) -> None:
    store, service = Store(), IdentityServer(lifetime=1.0)
    source = source_of(store, service)
    token = source.get()

    def fail() -> None:
        raise TokenStoreError("unreachable")

    store.before_read = fail
    time.sleep(0.92)
    assert source.get() == token
    assert "unreachable" in caplog.text
    with pytest.raises(TokenStoreError):
        source.get(token)
    assert service.asked == 1, "never by a refresh of one's own"


def test_peeking_never_refreshes() -> None:
    store, service = MemoryStore(), IdentityServer()
    source = source_of(store, service)
    assert source.peek() is None
    store.publish(shared_token())
    assert str(source.peek().value) == "shared"
    assert service.asked == 0


def test_only_the_same_secret_and_identity_open_a_sealed_token() -> None:
    identity = TokenIdentity("https://a", "s", "c", "machinelearning.predict")
    other = TokenIdentity("https://a", "s", "c", "machinelearning.model")
    token = AccessToken("value", 1, 2, 3)
    sealed = TokenCipher(identity, "secret").seal(token)
    assert "value" not in sealed
    assert TokenCipher(identity, "secret").open(sealed, "it") == token
    assert TokenCipher(identity, "rotated").open(sealed, "it") is None
    assert TokenCipher(other, "secret").open(sealed, "it") is None
    assert TokenCipher(identity, "secret").open("damaged", "it") is None


def test_a_forked_child_gets_locks_of_its_own() -> None:
    """Also a source that only a session still holds, while another thread of the parent was busy with it."""
    store, service, clock = Hanging(), IdentityServer(), Later()
    source = source_of(store, service, clock)
    assert source.get() == "token-1"
    clock.seconds = 3400
    store.hang()
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(source.get)
        assert store.entered.wait(10)
        store.heal()
        forget_sources()
        assert source.get() == "token-1", "what the store shows"
        store.leave.set()
        assert busy.exception(10) is not None, "the lock that it releases is another one"
    assert service.asked == 1


def test_a_good_token_is_not_held_back_by_a_store_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "GRACE", 0.1)
    store, clock = Hanging(), Later()
    source = source_of(store, IdentityServer(lifetime=60.0), clock)
    assert source.get() == "token-1"
    clock.seconds = 55
    store.hang()
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(source.get)
        assert store.entered.wait(10)
        begin = time.monotonic()
        assert source.get() == "token-1", "another thread"
        assert asyncio.run(asyncio.wait_for(source.aget(), 10)) == "token-1"
        assert time.monotonic() - begin < 8
        store.leave.set()
        assert looking.result(10) == "token-1"
