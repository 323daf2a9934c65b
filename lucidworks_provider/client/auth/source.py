# SPDX-License-Identifier: Apache-2.0
"""
The shell of the token protocol: one source per identity and process, many callers, one refresh.

There is one shell, a synchronous one. Coroutines hop into a thread for the rare slow path (once an hour)
and read a held token without it; so there is no second copy of the shell to keep alike, and a refresh whose
caller is cancelled still gets published.
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
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakKeyDictionary, WeakSet

from lucidworks_provider import metrics
from lucidworks_provider.client.api.messages import Answer, Request, read_blanked
from lucidworks_provider.client.api.tokens import (
    TokenResponse,
    check_scope,
    read_grant,
    server_time,
    token_request,
)
from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth import protocol as commands
from lucidworks_provider.client.auth.clock import Clocks, ServerClock
from lucidworks_provider.client.auth.protocol import Claim, Command, Conversation, Failed, Outcome, Reply
from lucidworks_provider.client.auth.redaction import redact_in_logs
from lucidworks_provider.client.auth.stores import TokenStore, store_for
from lucidworks_provider.client.auth.token import AccessToken, TokenIdentity
from lucidworks_provider.client.auth.token_cache import TokenCache
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import AuthenticationError, LucidworksError
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

# The same warning is not repeated within this time, in seconds.
_QUIET = 60.0
# Asking for the time is worth no longer wait, in seconds.
_TIME_TIMEOUT = 2.0
# A renewal of a token that still works must not keep its user waiting for long.
_HURRY_TIMEOUT = 10.0
# Credentials that were refused are not tried at each call: seconds, doubling.
_FIRST_REST = 5.0
_LONGEST_REST = 60.0


# Also those that only a session still holds.
_all_sources: WeakSet[TokenSource] = WeakSet()


@dataclass(frozen=True, slots=True)
class Service:
    """
    What a source asks of the identity server.

    :param grant: asks for a new token, which deletes the one that lives; in a hurry if told so.
    :param time: asks for nothing but the time, in seconds since the epoch.
    """

    grant: Callable[[bool], TokenResponse]
    time: Callable[[], float | None]


class TokenSource:
    """
    Hands out one identity's token to every thread and event loop of this process.

    :param store: where the fleet shares it.
    :param service: the identity server.
    :param clock: the identity server's clock, shared by all sources of this process that use that server.
    """

    def __init__(self, store: TokenStore, service: Service, clock: ServerClock | None = None) -> None:
        self._store = store
        self._service = service
        self._clock = clock or ServerClock()
        self._clocks = Clocks(time.monotonic, self._clock.now, lambda: self._clock.sure)
        self._holding = TokenCache()
        # One thread at a time talks to the store; the other lock guards single steps of `_holding`.
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        # Until when, and what: told to all who ask in this time.
        self._failure: tuple[float, LucidworksError] | None = None
        self._rest = 0.0
        self._flights: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[str]] = WeakKeyDictionary()
        _all_sources.add(self)
        self._warned: tuple[str, float] = ("", 0.0)

    def get(self, refused: str | None = None) -> str:
        """
        An access token; from memory while it is fresh.

        :param refused: the token that was answered with 401, so that it is not handed out again.
        """
        if refused is not None:
            self.invalidate(refused)
        arrived = time.monotonic()
        value = self._holding.fresh(arrived)
        if value is not None:
            return value
        # Whoever holds a token that still works waits no longer for another thread's new one than for another
        # process's: the store may be slow, and the token is good.
        if self._holding.usable(arrived) is None or not self._turn.acquire(timeout=protocol.GRACE):
            good = self._holding.usable(time.monotonic())
            if good is not None:
                return good
            self._turn.acquire()
        try:
            value = self._holding.fresh(time.monotonic())
            if value is not None:
                return value
            if self._failure is not None and self._failure[0] >= arrived:
                # Whoever waited here asked the same question at the same time; or the answer will be the same.
                raise self._failure[1].with_traceback(None)
            return self._acquire_good()
        finally:
            self._turn.release()

    async def aget(self, refused: str | None = None) -> str:
        """:meth:`get` for coroutines: a thread for the first caller, a wait for the others."""
        if refused is not None:
            self.invalidate(refused)
        loop = asyncio.get_running_loop()
        while (value := self._holding.fresh(time.monotonic())) is None:
            flight = self._flights.get(loop)
            if flight is None or flight.done():
                flight = loop.create_task(in_thread(self.get))
                self._flights[loop] = flight
                flight.add_done_callback(partial(self._landed, loop))
            good = self._holding.usable(time.monotonic())
            # Waited for and not awaited: the refresh of a cancelled caller is everybody's, and must be published.
            await asyncio.wait({flight}, timeout=None if good is None else protocol.GRACE)
            value = flight.result() if flight.done() else self._holding.usable(time.monotonic())
            if value is not None and value not in self._holding.refused:
                break
        return value

    def hide_held(self) -> None:
        """Keep the token in use out of logs, however many others came after it."""
        if (held := self._holding.held) is not None:
            redact_in_logs(held.token.value)

    def after_fork(self) -> None:
        """In a forked child: locks may be held by threads that are gone, and flights belong to their loops."""
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._flights = WeakKeyDictionary()
        self._holding = TokenCache()
        self._store.after_fork()

    def _landed(self, loop: asyncio.AbstractEventLoop, flight: asyncio.Task[str]) -> None:
        self._flights.pop(loop, None)
        # Looked at, since all who waited may have been cancelled.
        _ = flight.cancelled() or flight.exception()

    def invalidate(self, value: str) -> None:
        """Hear that a token was answered with 401. By comparison: one that is not in use any more is ignored."""
        with self._lock:
            self._holding.refuse(value, time.monotonic())

    def accepted(self, value: str, endpoint: str) -> None:
        """Hear that an endpoint has answered a call with this token with neither 401 nor 403."""
        with self._lock:
            self._holding.accepted(value, endpoint)

    def token_after_403(self, value: str, endpoint: str) -> str | None:
        """
        The token to repeat a call with that was answered with 403; None where the 403 is not about the token.

        Another one of the fleet, if there is one. A new one only as :meth:`TokenCache.forbid` allows.

        :param value: the token of the call.
        :raises TokenError: the token is dead, and no other can be had now.
        """
        with self._lock:
            refused = self._holding.forbid(value, endpoint, time.monotonic())
        if refused:
            return self.get()
        with self._turn:
            held = self._holding.usable(time.monotonic())
            if held is not None and held != value:
                return held
            try:
                return self._acquire(self._holding.look(value, self._store.settle, self._clocks))
            except LucidworksError:
                return None

    async def atoken_after_403(self, value: str, endpoint: str) -> str | None:
        """:meth:`token_after_403` for coroutines."""
        return await in_thread(self.token_after_403, value, endpoint)

    def peek(self) -> AccessToken | None:
        """The live token that this process holds or the store shows, without ever refreshing."""
        held = self._holding.held
        if held is not None and self._holding.usable(time.monotonic()) is not None:
            return held.token
        token = self._store.read().token
        if token is not None and self._clock.now() >= token.expires_at and not self._clock.sure:
            self._perform(commands.AskTime())
        return token if token is not None and self._clock.now() < token.expires_at else None

    def _acquire_good(self) -> str:
        try:
            value = self._acquire(self._holding.acquire(self._store.settle, self._clocks))
            while value in self._holding.refused:
                # Another caller heard that while this one was looking.
                value = self._acquire(self._holding.acquire(self._store.settle, self._clocks))
        except LucidworksError as err:
            self._rest = self._rest_after(err)
            self._failure = (time.monotonic() + self._rest, err)
            raise
        return value

    def _rest_after(self, err: LucidworksError) -> float:
        """For how long the same failure is told again without a new try, in seconds."""
        if err.retryable:
            return 0.0
        return min(_LONGEST_REST, 2 * self._rest) if self._rest else _FIRST_REST

    def _acquire(self, conversation: Conversation) -> str:
        """Perform the protocol's commands until it has a token."""
        reply: Reply = None
        unshared: AccessToken | None = None
        try:
            while True:
                command = conversation.send(reply)
                reply = self._perform(command)
                if isinstance(reply, AccessToken):
                    unshared = reply
                elif isinstance(command, commands.Publish) and reply is None:
                    unshared = None
        except StopIteration as stop:
            outcome: Outcome = stop.value
        except BaseException:
            # The task is being stopped, but what the service handed out is the whole fleet's.
            if unshared is not None:
                self._perform(commands.Publish(unshared))
            raise
        if outcome.warning:
            self._warn(outcome.warning)
        self._rest = 0.0
        redact_in_logs(outcome.token.value)
        for source in list(_all_sources):
            # The filter remembers the latest tokens; those of quiet scopes must not drop out.
            source.hide_held()
        with self._lock:
            self._holding.take(outcome, self._clocks)
        return outcome.token.value

    def _perform(self, command: Command) -> Reply:
        try:
            match command:
                case commands.Read():
                    return self._store.read()
                case commands.WriteClaim(claim):
                    self._store.write_claim(claim)
                case commands.Withdraw(claim):
                    self._store.withdraw(claim)
                case commands.Pause(seconds):
                    time.sleep(seconds)
                case commands.AskTime():
                    before = time.time()
                    self._clock.hear(self._service.time(), before, time.time())
                case commands.Refresh(claim, hurry):
                    return self._refresh(claim, hurry=hurry)
                case commands.Publish(token):
                    self._store.publish(token)
        except LucidworksError as err:
            return Failed(err)
        return None

    def _refresh(self, claim: Claim, *, hurry: bool) -> AccessToken:
        """Ask for a token, moving the claim all the while, so that nobody takes a slow refresh for a dead one."""

        def ask() -> AccessToken:
            grant = self._service.grant(hurry)
            redact_in_logs(grant.access_token)
            now = time.time()
            self._clock.hear(grant.server_time, now - grant.seconds, now)
            return AccessToken.from_grant(grant, self._clock.now() - grant.seconds)

        with ThreadPoolExecutor(1, "lucidworks-refresh") as pool:
            asking = pool.submit(ask)
            try:
                while not wait_for([asking], timeout=protocol.HEARTBEAT).done:
                    claim = claim.moved()
                    if isinstance(reply := self._perform(commands.WriteClaim(claim)), Failed):
                        log.debug("The claim could not be renewed: %s", reply.error)
            except BaseException:
                # The task is being stopped, but what the service hands out is the whole fleet's.
                wait_for([asking])
                if asking.exception() is None:
                    self._perform(commands.Publish(asking.result()))
                self._perform(commands.Withdraw(claim))
                raise
            return asking.result()

    def _warn(self, text: str) -> None:
        said, when = self._warned
        now = time.monotonic()
        if text == said and now - when < _QUIET:
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

    :raises ConfigurationError: the connection's ``share_via`` lacks what it needs.
    :raises InputError: an unknown scope.
    """
    identity = TokenIdentity(
        settings.auth_url, settings.auth_server_id, settings.client_id, check_scope(scope)
    )
    # The secret takes part, so that a wrong or rotated one never gets the right one's token.
    secret = hashlib.sha256(settings.client_secret.encode()).hexdigest()
    key = (identity.digest, secret, settings.share_via, settings.redis_conn_id or "")
    with _sources_lock:
        source = _sources.get(key)
        if source is None:
            service = Service(partial(ask_service, settings, scope), partial(ask_time, settings))
            clock = _server_clocks.setdefault(settings.auth_url, ServerClock())
            source = TokenSource(store_for(settings, identity), service, clock)
            _sources[key] = source
        return source


def ask_service(settings: LucidworksSettings, scope: str, hurry: bool = False) -> TokenResponse:
    """
    Ask the identity server for a new token, which deletes the one that lives. For the protocol's use.

    :param hurry: one short attempt, instead of several where the failure may pass.
    """
    # Loaded when a token is asked for, not when a DAG file is parsed.
    from tenacity import Retrying

    from lucidworks_provider.client.http.retry import policy
    from lucidworks_provider.client.http.sync import SyncTransport

    if hurry:
        settings = replace(settings, timeout=min(settings.timeout, _HURRY_TIMEOUT))
    request = token_request(
        auth_url=settings.auth_url,
        auth_server_id=settings.auth_server_id,
        client_id=settings.client_id,
        client_secret=settings.client_secret,
        scope=check_scope(scope),
    )
    pair = b64encode(f"{settings.client_id}:{settings.client_secret}".encode()).decode()
    with closing(SyncTransport(settings)) as transport:

        def once() -> TokenResponse:
            begin = time.monotonic()
            grant = read_blanked(read_grant, transport.send(request), settings.client_secret, pair)
            metrics.refreshed(scope)
            # Of this attempt, without those before it.
            return replace(grant, seconds=time.monotonic() - begin)

        try:
            return Retrying(**policy(replayable=True, attempts=1 if hurry else None))(once)
        except AuthenticationError as err:
            said = str(err).rstrip(".")
            raise AuthenticationError(
                f"Connection {settings.conn_id!r}: {said}. Check Client ID and Client Secret.",
                status=err.status,
            ) from None


def ask_time(settings: LucidworksSettings) -> float | None:
    """
    The identity server's clock, from the ``Date`` of any answer of its host.

    Nothing documented is called and no credentials are sent: every answer of an HTTP server that has a clock
    says the time (RFC 9110, 6.6.1). Asked before a refresh for which nothing but this host's clock speaks.
    """
    from lucidworks_provider.client.http.sync import SyncTransport

    request = Request("Time", "HEAD", f"{settings.auth_url}/", replayable=True, endpoint="clock")
    with closing(SyncTransport(replace(settings, timeout=min(settings.timeout, _TIME_TIMEOUT)))) as transport:
        answer: Answer = transport.send(request)
    return server_time(answer)


def forget_sources() -> None:
    """Drop what this process holds: in a forked child, whose locks may be taken by threads that are gone."""
    global _sources_lock  # noqa: PLW0603
    _sources_lock = threading.Lock()
    _sources.clear()
    _server_clocks.clear()
    for source in list(_all_sources):
        source.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_sources)
