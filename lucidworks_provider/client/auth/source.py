# SPDX-License-Identifier: Apache-2.0
"""
Performs the token protocol: one :class:`TokenSource` per identity and process, many callers, one refresh.

The shell is synchronous. Coroutines read a cached token directly, and run the slow path (once an hour) in a thread.
So there is no asynchronous copy of it, and a refresh whose caller is cancelled is still published.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from weakref import WeakKeyDictionary, WeakSet

from lucidworks_provider import metrics
from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth.protocol import (
    RELEASED,
    Acquisition,
    Claim,
    Clocks,
    Command,
    Failed,
    HeartbeatMonitor,
    Outcome,
    Reply,
    Snapshot,
    TokenStore,
)
from lucidworks_provider.client.auth.token import (
    AccessToken,
    TokenIdentity,
    TokenResponse,
    parse_token_response,
    server_time,
    token_request,
)
from lucidworks_provider.client.http.messages import SCOPES, Request, Response, read_blanked
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import AuthenticationError, InputError, LucidworksError, TokenError
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

# The same warning is not repeated within this time, in seconds.
_WARNING_INTERVAL = 60.0
# Timeout of a request for the time, in seconds.
_CLOCK_TIMEOUT = 2.0
# Timeout of a refresh while the old token still works, in seconds.
_SINGLE_ATTEMPT_TIMEOUT = 10.0
# A task that is being stopped waits so long for a token that was requested, in seconds.
_LAST_WAIT = 10.0
# Seconds until refused credentials are tried again; doubling.
_FIRST_FAILURE_BACKOFF = 5.0
_MAX_FAILURE_BACKOFF = 60.0
# Differences of clocks up to this are ignored, in seconds; a Date header has no fractions.
TOLERANCE = 2.0


class ServerClock:
    """
    The identity server's clock: this host's, corrected by ``Date`` headers.

    The times of a shared token are the server's, so a host with a wrong clock must know the difference before it
    takes a token for expired. All other times in a process are of the monotonic clock.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._synchronized = False

    @property
    def synchronized(self) -> bool:
        """Whether a response was compared."""
        return self._synchronized

    def now(self) -> float:
        """Seconds since the epoch by the server's clock."""
        return time.time() + self._offset

    def observe(self, server_time: float | None, before: float, after: float) -> None:
        """
        Correct the clock by a ``Date`` header.

        :param server_time: its value in seconds since the epoch; None for a response without it.
        :param before: this host's clock when the request was sent.
        :param after: this host's clock when the response arrived.
        """
        if server_time is None:
            return
        offset = server_time - (before + after) / 2
        known, self._synchronized = self._offset, True
        self._offset = offset if abs(offset) > TOLERANCE + (after - before) / 2 else 0.0
        if self._offset != 0.0 and known == 0.0:
            log.warning(
                "This host's clock is %.0f s off the identity server's. Access tokens work, because "
                "they use the server's clock. Synchronise this host's clock (NTP).",
                -offset,
            )


REFUSED_IN_A_ROW = 5
FIRST_PAUSE = 30.0
LONGEST_PAUSE = 600.0
# A token that was in use for so many seconds counts as accepted.
ESTABLISHED = 60.0


@dataclass
class RefreshBackoff:
    """
    Stops requests for new tokens when a 401 is not about the token.

    A 401 usually means that another system has requested a token, and the next one works. An application that is not
    entitled to a model, or an Application ID of other credentials, gets a 401 with every token, and each new token
    invalidates the one that other processes use. So tokens that are refused one after the other, without an accepted
    call in between, are counted. From ``REFUSED_IN_A_ROW`` on this process requests a new one only after a pause that
    doubles each time. Tokens that other processes have shared are used meanwhile.

    Times are of the monotonic clock.
    """

    refusals: int = 0
    until: float = 0.0

    def accepted(self) -> None:
        self.refusals, self.until = 0, 0.0

    def refused(self, now: float, in_use_for: float) -> None:
        """Count a refusal of the token in use."""
        if in_use_for >= ESTABLISHED:
            self.refusals = 0
        if now < self.until:
            # A token that another process shared during the pause does not prolong it.
            return
        self.refusals += 1
        if self.refusals >= REFUSED_IN_A_ROW:
            beyond = self.refusals - REFUSED_IN_A_ROW
            self.until = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**beyond)

    def pause(self, now: float) -> float:
        """Seconds until a new token may be requested: one after each pause."""
        return max(0.0, self.until - now)


# How many refused tokens are remembered.
_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class CachedToken:
    """
    A token in use. Times are of the monotonic clock, so that a change of the wall clock has no effect.

    :param since: when this process began to use it.
    :param reread_at: when the store is read again.
    :param expires_at: when it expires.
    """

    token: AccessToken
    since: float
    reread_at: float
    expires_at: float


@dataclass
class TokenCache:
    """The state of a :class:`TokenSource`: its token, and which tokens were refused. Not thread-safe."""

    held: CachedToken | None = None
    refused: tuple[str, ...] = field(default=(), repr=False)
    # Those of `refused` that got a 403.
    after_403: tuple[str, ...] = field(default=(), repr=False)
    # Endpoints that accepted the token in use.
    endpoints: set[str] = field(default_factory=set)
    backoff: RefreshBackoff = field(default_factory=RefreshBackoff)
    monitor: HeartbeatMonitor = field(default_factory=HeartbeatMonitor)
    # Renewals of the token in use that failed.
    renewals_failed: int = 0

    def fresh(self, now: float) -> str | None:
        """The token, if it can be used without reading the store."""
        held = self.held
        if held is None or now >= held.reread_at or held.token.value in self.refused:
            return None
        return held.token.value

    def usable(self, now: float) -> str | None:
        """The token, if it still works, even past its refresh time."""
        held = self.held
        if held is None or now >= held.expires_at or held.token.value in self.refused:
            return None
        return held.token.value

    def refuse(self, value: str, now: float) -> None:
        """Record a 401. Only the first one about the token in use counts."""
        held = self.held
        if held is not None and held.token.value == value and value not in self.refused:
            self.backoff.refused(now, now - held.since)
            self.refused = (*self.refused, value)[-_REMEMBERED:]

    def refuse_after_403(self, value: str, endpoint: str, now: float) -> bool:
        """
        Record a 403: either the token was invalidated, or the application is not entitled to the endpoint.

        :return: whether it is refused, as after a 401: this endpoint accepted it before, and it did not itself
            replace a token that was refused with 403. So 403s cost at most one refresh in a token's lifetime.
        """
        held = self.held
        if (
            held is None
            or held.token.value != value
            or held.token.after_403
            or endpoint not in self.endpoints
        ):
            return False
        self.refuse(value, now)
        if value not in self.after_403:
            self.after_403 = (*self.after_403, value)[-_REMEMBERED:]
        return True

    def accepted(self, value: str, endpoint: str) -> None:
        """Record a response of an endpoint to a call with this token that is neither 401 nor 403."""
        if self.held is not None and self.held.token.value == value:
            self.endpoints.add(endpoint)
            if self.backoff.refusals:
                self.backoff.accepted()

    def acquire_other(self, value: str, settle: float, clocks: Clocks) -> Acquisition:
        """Start the protocol for a token of the store other than this one, without a refresh."""
        return protocol.acquire(
            held=None,
            refused=(*self.refused, value),
            settle=settle,
            clocks=clocks,
            forbidden=TokenError("There is no other shared access token."),
            monitor=self.monitor,
        )

    def acquire(self, settle: float, clocks: Clocks) -> Acquisition:
        """Start the protocol for the next token."""
        held = self.held
        return protocol.acquire(
            # Expired by the monotonic clock, whatever the wall clock says.
            held=held.token if held is not None and clocks.monotonic() < held.expires_at else None,
            refused=self.refused,
            settle=settle,
            clocks=clocks,
            forbidden=self._forbidden(clocks.monotonic()),
            monitor=self.monitor,
            after_403=self.after_403,
        )

    def use(self, outcome: Outcome, clocks: Clocks) -> None:
        token, now, server_now = outcome.token, clocks.monotonic(), clocks.server()
        # The remaining lifetime is never longer than the lifetime, whatever a clock says.
        if server_now < token.issued_at < token.refresh_at:
            server_now = token.issued_at
        expires_at, reread_at = now + (token.expires_at - server_now), now + (token.refresh_at - server_now)
        same = self.held is not None and self.held.token.value == token.value
        if outcome.refreshed or not same:
            self.renewals_failed = 0
        if (check_after := outcome.check_after) is not None:
            if outcome.renewal_failed:
                backoff = protocol.CHECK_AFTER * 2.0 ** min(self.renewals_failed, 10)
                check_after = max(check_after, min(backoff, protocol.LONGEST_CHECK_AFTER))
                self.renewals_failed += 1
            reread_at = min(now + check_after, expires_at)
        if outcome.refreshed and token.value in self.refused:
            # An identity server may return its last token again. Then a call is repeated with it, and may be refused.
            self.refused = tuple(value for value in self.refused if value != token.value)
            same = False
        if not same:
            self.endpoints = set()
        self.held = CachedToken(token, self.held.since if same and self.held else now, reread_at, expires_at)

    def _forbidden(self, now: float) -> TokenError | None:
        """The reason why this process must not request a token now, if there is one."""
        if self.held is None or self.held.token.value not in self.refused:
            return None
        pause = self.backoff.pause(now)
        if not pause:
            return None
        return TokenError(
            f"{self.backoff.refusals} access tokens in a row were refused with 401 before any call accepted one. "
            "Either another system requests tokens with the same client id (create a separate integration for it), "
            "or the application has no permission for the request, or the Application ID belongs to other "
            f"credentials. No new token is requested for {pause:.0f} s."
        )


class MemoryStore:
    """For one process: a second one with the same client ID would invalidate its tokens."""

    settle = 0.0

    def __init__(self) -> None:
        self._snapshot = Snapshot()

    def read(self) -> Snapshot:
        return self._snapshot

    def write_claim(self, claim: Claim) -> None:
        self._snapshot = Snapshot(self._snapshot.token, claim)

    def release_claim(self, claim: Claim) -> None:
        self._snapshot = Snapshot(self._snapshot.token, RELEASED)

    def publish(self, token: AccessToken) -> None:
        self._snapshot = Snapshot(token, self._snapshot.claim)


# Includes those that only a session refers to.
_all_sources: WeakSet[TokenSource] = WeakSet()


@dataclass(frozen=True, slots=True)
class TokenService:
    """
    Requests to the identity server.

    :param token: requests a new token, which invalidates the last one; its argument requests a single attempt.
    :param time: its clock, in seconds since the epoch.
    """

    token: Callable[[bool], TokenResponse]
    time: Callable[[], float | None]


class TokenSource:
    """
    Provides the token of one identity to all threads and event loops of this process.

    :param store: where the processes share it.
    :param service: the identity server.
    :param clock: the identity server's clock, shared by all sources of this process that use that server.
    :param monotonic: this process's clock.
    """

    def __init__(
        self,
        store: TokenStore,
        service: TokenService,
        clock: ServerClock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        # Replaced when the connection was changed, e.g. its `ca_bundle`.
        self.service = service
        self._clock = clock or ServerClock()
        self._monotonic = monotonic
        self._clocks = Clocks(monotonic, self._clock.now, lambda: self._clock.synchronized)
        self._cache = TokenCache()
        # One thread at a time runs the protocol; the other lock guards single steps of `_cache`.
        self._acquiring = threading.Lock()
        self._lock = threading.Lock()
        # The last failure, raised again to callers that arrived before this time.
        self._failure: tuple[float, LucidworksError] | None = None
        self._failure_backoff = 0.0
        self._flights: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[str]] = WeakKeyDictionary()
        _all_sources.add(self)
        self._warned: tuple[str, float] = ("", 0.0)

    def get(self, refused: str | None = None) -> str:
        """
        An access token; from memory while it is fresh.

        :param refused: the token that was refused with 401, so that it is not returned again.
        """
        if refused is not None:
            self.invalidate(refused)
        arrived = self._monotonic()
        value = self._cache.fresh(arrived)
        if value is not None:
            return value
        # With a token that still works, wait for another thread no longer than for another process.
        if self._cache.usable(arrived) is None or not self._acquiring.acquire(timeout=protocol.GRACE):
            good = self._cache.usable(self._monotonic())
            if good is not None:
                return good
            self._acquiring.acquire()
        try:
            value = self._cache.fresh(self._monotonic())
            if value is not None:
                return value
            if self._failure is not None and self._failure[0] >= arrived:
                # Callers that waited share the failure of the one that tried.
                raise copy(self._failure[1])
            return self._acquire_good()
        finally:
            self._acquiring.release()

    async def aget(self, refused: str | None = None) -> str:
        """:meth:`get` for coroutines: a thread for the first caller, a wait for the others."""
        if refused is not None:
            self.invalidate(refused)
        loop = asyncio.get_running_loop()
        while (value := self._cache.fresh(self._monotonic())) is None:
            flight = self._flights.get(loop)
            if flight is None or flight.done():
                flight = loop.create_task(in_thread(self.get))
                self._flights[loop] = flight
                flight.add_done_callback(partial(self._flight_done, loop))
            good = self._cache.usable(self._monotonic())
            # Not awaited directly: a cancelled caller must not cancel the refresh.
            await asyncio.wait({flight}, timeout=None if good is None else protocol.GRACE)
            if flight.done() and isinstance(failed := flight.exception(), LucidworksError):
                raise copy(failed)
            value = flight.result() if flight.done() else self._cache.usable(self._monotonic())
            if value is not None and value not in self._cache.refused:
                break
        return value

    def after_fork(self) -> None:
        """Reset in a forked child: its locks may be held by threads of the parent."""
        self._acquiring, self._lock = threading.Lock(), threading.Lock()
        self._flights = WeakKeyDictionary()
        self._cache = TokenCache()

    def _flight_done(self, loop: asyncio.AbstractEventLoop, flight: asyncio.Task[str]) -> None:
        self._flights.pop(loop, None)
        # Retrieve the exception: all callers may have been cancelled.
        _ = flight.cancelled() or flight.exception()

    def invalidate(self, value: str) -> None:
        """Record a 401. A token that is no longer in use is ignored."""
        with self._lock:
            self._cache.refuse(value, self._monotonic())

    def accepted(self, value: str, endpoint: str) -> None:
        """Record a response of an endpoint to a call with this token that is neither 401 nor 403."""
        with self._lock:
            self._cache.accepted(value, endpoint)

    def token_after_403(self, value: str, endpoint: str) -> str | None:
        """
        The token with which to repeat a call after a 403; None where the 403 is not about the token.

        Another one of the store, if there is one. A new one only as :meth:`TokenCache.refuse_after_403` allows.

        :param value: the token of the call.
        :raises TokenError: the token was invalidated, and there is no other now.
        """
        with self._lock:
            refused = self._cache.refuse_after_403(value, endpoint, self._monotonic())
        if refused:
            return self.get()
        with self._acquiring:
            held = self._cache.usable(self._monotonic())
            if held is not None and held != value:
                return held
            try:
                return self._acquire(self._cache.acquire_other(value, self._store.settle, self._clocks))
            except LucidworksError:
                return None

    async def atoken_after_403(self, value: str, endpoint: str) -> str | None:
        """:meth:`token_after_403` for coroutines."""
        return await in_thread(self.token_after_403, value, endpoint)

    def peek(self) -> AccessToken | None:
        """The live token of this process or the store, without a refresh."""
        held = self._cache.held
        if held is not None and self._cache.usable(self._monotonic()) is not None:
            return held.token
        token = self._store.read().token
        if token is not None and self._clock.now() >= token.expires_at and not self._clock.synchronized:
            self.perform(protocol.FetchTime())
        return token if token is not None and self._clock.now() < token.expires_at else None

    def _acquire_good(self) -> str:
        try:
            value = self._acquire(self._cache.acquire(self._store.settle, self._clocks))
            while value in self._cache.refused:
                # A call was refused with 401 meanwhile.
                value = self._acquire(self._cache.acquire(self._store.settle, self._clocks))
        except LucidworksError as err:
            self._failure_backoff = self._failure_backoff_after(err)
            self._failure = (self._monotonic() + self._failure_backoff, copy(err))
            raise
        return value

    def _failure_backoff_after(self, err: LucidworksError) -> float:
        """Seconds until the next try; 0 for a failure that may pass."""
        if err.retryable:
            return 0.0
        return min(_MAX_FAILURE_BACKOFF, 2 * self._failure_backoff or _FIRST_FAILURE_BACKOFF)

    def _acquire(self, acquisition: Acquisition) -> str:
        """Perform the protocol's commands until it returns a token."""
        reply: Reply = None
        unpublished: AccessToken | None = None
        try:
            while True:
                command = acquisition.send(reply)
                reply = self.perform(command)
                if isinstance(reply, AccessToken):
                    unpublished = reply
                elif isinstance(command, protocol.Publish) and reply is None:
                    unpublished = None
        except StopIteration as stop:
            outcome: Outcome = stop.value
        except BaseException:
            # The task is being stopped; other processes need the new token.
            if unpublished is not None:
                self.perform(protocol.Publish(unpublished))
            raise
        if outcome.warning:
            self._warn(outcome.warning)
        self._failure_backoff = 0.0
        with self._lock:
            self._cache.use(outcome, self._clocks)
        return outcome.token.value

    def perform(self, command: Command) -> Reply:
        try:
            match command:
                case protocol.Read():
                    return self._store.read()
                case protocol.WriteClaim(claim):
                    self._store.write_claim(claim)
                case protocol.ReleaseClaim(claim):
                    self._store.release_claim(claim)
                case protocol.Sleep(seconds):
                    time.sleep(seconds)
                case protocol.FetchTime():
                    before = time.time()
                    self._clock.observe(self.service.time(), before, time.time())
                case protocol.Refresh(claim, single_attempt):
                    return self._refresh(claim, single_attempt=single_attempt)
                case protocol.Publish(token):
                    self._store.publish(token)
        except LucidworksError as err:
            return Failed(err)
        return None

    def _refresh(self, claim: Claim, *, single_attempt: bool) -> AccessToken:
        """Request a token, and renew the claim meanwhile."""

        def request() -> AccessToken:
            response = self.service.token(single_attempt)
            now = time.time()
            self._clock.observe(response.server_time, now - response.seconds, now)
            return AccessToken.from_response(response, self._clock.now() - response.seconds)

        requested: Future[AccessToken] = Future()

        def run() -> None:
            try:
                requested.set_result(request())
            except BaseException as err:  # noqa: BLE001  # raised by `result`
                requested.set_exception(err)

        # A daemon: the end of the process does not wait for an identity server that does not respond.
        threading.Thread(target=run, name="lucidworks-refresh", daemon=True).start()
        try:
            while not wait_for([requested], timeout=protocol.HEARTBEAT).done:
                claim = claim.next_heartbeat()
                if isinstance(reply := self.perform(protocol.WriteClaim(claim)), Failed):
                    log.debug("The claim could not be renewed: %s", reply.error)
        except BaseException:
            # The task is being stopped; other processes need the new token.
            if wait_for([requested], timeout=_LAST_WAIT).done and requested.exception() is None:
                self.perform(protocol.Publish(requested.result()))
            self.perform(protocol.ReleaseClaim(claim))
            raise
        return requested.result()

    def _warn(self, text: str) -> None:
        last_text, when = self._warned
        now = self._monotonic()
        if text == last_text and now - when < _WARNING_INTERVAL:
            log.debug("Access token: %s", text)
            return
        self._warned = (text, now)
        log.warning("Access token: %s", text)


_sources: dict[tuple[str, ...], TokenSource] = {}
_server_clocks: dict[str, ServerClock] = {}
_sources_lock = threading.Lock()


def token_source(settings: LucidworksSettings, scope: str) -> TokenSource:
    """
    This process's source for a connection and scope: the same one for equal credentials.

    :raises ConfigurationError: the connection's ``share_via`` needs Airflow.
    :raises InputError: an unknown scope.
    """
    if scope not in SCOPES:
        raise InputError(f"Scope {scope!r} is unknown; use one of {', '.join(SCOPES)}.")
    identity = (settings.auth_url, settings.auth_server_id, settings.client_id, scope)
    # The secret is part of the key, so that a wrong or rotated one never gets the token of the right one.
    secret = hashlib.sha256(settings.client_secret.encode()).hexdigest()
    key = (*identity, secret, settings.share_via, settings.redis_conn_id or "")
    service = TokenService(partial(request_token, settings, scope), partial(request_time, settings))
    with _sources_lock:
        source = _sources.get(key)
        if source is not None:
            source.service = service
        else:
            clock = _server_clocks.setdefault(settings.auth_url, ServerClock())
            store: TokenStore = MemoryStore()
            if settings.share_via != "memory":
                store = settings.shared_stores.token_store(settings, TokenIdentity(*identity))
            source = TokenSource(store, service, clock)
            _sources[key] = source
        return source


def request_token(settings: LucidworksSettings, scope: str, single_attempt: bool = False) -> TokenResponse:
    """
    Request a new token, which invalidates the last one: for the protocol, and the test of a connection.

    :param single_attempt: without the retries, and with a short timeout.
    """
    # Imported when a token is requested, not when a DAG file is parsed.
    from lucidworks_provider.client.http.sync import SyncTransport
    from lucidworks_provider.retrying import policy, retry_call

    if single_attempt:
        settings = replace(settings, timeout=min(settings.timeout, _SINGLE_ATTEMPT_TIMEOUT))
    request = token_request(settings, scope)
    pair = b64encode(f"{settings.client_id}:{settings.client_secret}".encode()).decode()
    with closing(SyncTransport(settings)) as transport:

        def attempt() -> TokenResponse:
            start = time.monotonic()
            response = read_blanked(
                parse_token_response, transport.send(request), settings.client_secret, pair
            )
            metrics.refreshed(scope)
            return replace(response, seconds=time.monotonic() - start)

        try:
            return retry_call(attempt, **policy(replayable=True, attempts=1 if single_attempt else None))
        except AuthenticationError as err:
            raise AuthenticationError(f"Connection {settings.conn_id!r}: {err}", status=err.status) from None


def request_time(settings: LucidworksSettings) -> float | None:
    """
    The identity server's clock, from the ``Date`` of any response of its host (RFC 9110, 6.6.1).

    Sends no credentials. Used before a refresh that only this host's clock calls for.
    """
    from lucidworks_provider.client.http.sync import SyncTransport

    address, uncached = f"{settings.auth_url}/", {"Cache-Control": "no-cache"}
    request = Request("Time", "HEAD", address, replayable=True, endpoint="clock", headers=uncached)
    with closing(
        SyncTransport(replace(settings, timeout=min(settings.timeout, _CLOCK_TIMEOUT)))
    ) as transport:
        response: Response = transport.send(request)
    return server_time(response)


def forget_sources() -> None:
    """Forget all sources, in a forked child: locks may be held by threads of the parent."""
    global _sources_lock  # noqa: PLW0603
    _sources_lock = threading.Lock()
    _sources.clear()
    _server_clocks.clear()
    for source in list(_all_sources):
        source.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_sources)
