# SPDX-License-Identifier: Apache-2.0
"""
The shell of the token protocol: one source per identity and process, many callers, one mint.

There is one shell, a synchronous one. Coroutines hop into a thread for the rare slow path (once an hour)
and read a held token without it; so there is no second copy of the shell to keep alike, and a mint whose
caller is cancelled still gets published.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from lucidworks_provider.api.messages import without
from lucidworks_provider.api.tokens import Grant, check_scope, read_grant, token_request
from lucidworks_provider.auth import protocol
from lucidworks_provider.auth.holdoff import HoldOff
from lucidworks_provider.auth.protocol import Claim, Clocks, Command, Failed, Outcome, Reply
from lucidworks_provider.auth.stores import TokenStore, store_for
from lucidworks_provider.auth.token import CLOCK_TOLERANCE, AccessToken, TokenIdentity
from lucidworks_provider.connection import LucidworksSettings
from lucidworks_provider.errors import AuthenticationError, LucidworksError, TokenError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    token: AccessToken
    # Both by the monotonic clock, so that a wall clock that is set does not disturb a running process.
    since: float
    look_at: float


class TokenSource:
    """
    Hands out one identity's token to every thread and event loop of this process.

    :param store: where the fleet shares it.
    :param ask: asks the service for a new token.
    """

    def __init__(self, store: TokenStore, ask: Callable[[], Grant]) -> None:
        self._store = store
        self._ask = ask
        self._held: _Held | None = None
        self._turn = threading.Lock()
        self._failure: tuple[float, LucidworksError] | None = None
        self._hold_off = HoldOff()
        self._flights: dict[asyncio.AbstractEventLoop, asyncio.Task[str]] = {}
        # What to add to this host's clock to get the identity server's.
        self._offset = 0.0

    def get(self, refused: str | None = None) -> str:
        """
        An access token; from memory while it is fresh.

        :param refused: the token that was answered with 401, so that it is not handed out again.
        """
        value = self._fresh(refused)
        if value is not None:
            return value
        arrived = time.monotonic()
        with self._turn:
            value = self._fresh(refused)
            if value is not None:
                return value
            if self._failure is not None and self._failure[0] >= arrived:
                # Whoever waited here asked the same question at the same time.
                raise self._failure[1]
            try:
                return self._acquire(refused)
            except LucidworksError as err:
                self._failure = (time.monotonic(), err)
                raise

    async def aget(self, refused: str | None = None) -> str:
        """:meth:`get` for coroutines: a thread for the first caller, a wait for the others."""
        loop = asyncio.get_running_loop()
        while (value := self._fresh(refused)) is None:
            flight = self._flights.get(loop)
            if flight is None or flight.done():
                flight = loop.create_task(_in_thread(self.get, refused))
                self._flights[loop] = flight
                flight.add_done_callback(lambda _: self._flights.pop(loop, None))
            # Shielded: the mint of a cancelled caller is everybody's, and must be published.
            value = await asyncio.shield(flight)
            if value != refused:
                break
        return value

    def accepted(self, value: str) -> None:
        """Hear that a call with this token was not refused."""
        held = self._held
        if self._hold_off.refusals and held is not None and held.token.value == value:
            self._hold_off.accepted()

    def _forbidden(self, refused: str | None) -> TokenError | None:
        """Why no new token may be asked for at the moment, if so."""
        held, now = self._held, time.monotonic()
        if held is None or held.token.value != refused:
            return None
        self._hold_off.refused(now, now - held.since)
        pause = self._hold_off.pause(now)
        if not pause:
            return None
        return TokenError(
            f"{self._hold_off.refusals} access tokens in a row were refused with 401 before any call accepted one. "
            "Another system that asks for tokens with the same client id does that, and so does an application that "
            "is not entitled to what is asked, or an Application ID that belongs to other credentials. No new token "
            f"is asked for during {pause:.0f} s."
        )

    def peek(self) -> AccessToken | None:
        """The live token that this process holds or the store shows, without ever minting."""
        token = self._held.token if self._held else None
        if token is None or self._server_time() >= token.expires_at:
            token = self._store.read().token
        return token if token is not None and self._server_time() < token.expires_at else None

    def _fresh(self, refused: str | None) -> str | None:
        held = self._held
        if held is None or held.token.value == refused or time.monotonic() >= held.look_at:
            return None
        return held.token.value

    def _server_time(self) -> float:
        return time.time() + self._offset

    def _acquire(self, refused: str | None) -> str:
        """Perform the protocol's commands until it has a token."""
        conversation = protocol.acquire(
            held=self._held.token if self._held else None,
            refused=refused,
            forbidden=self._forbidden(refused),
            settle=self._store.settle,
            clocks=Clocks(time.monotonic, self._server_time),
        )
        reply: Reply = None
        try:
            while True:
                reply = self._perform(conversation.send(reply))
        except StopIteration as stop:
            outcome: Outcome = stop.value
        if outcome.warning:
            log.warning("Access token: %s", outcome.warning)
        wait = outcome.look_again
        if wait is None:
            wait = outcome.token.refresh_at - self._server_time()
        now = time.monotonic()
        same = self._held is not None and self._held.token == outcome.token
        self._held = _Held(outcome.token, self._held.since if same and self._held else now, now + wait)
        return outcome.token.value

    def _perform(self, command: Command) -> Reply:
        try:
            match command:
                case protocol.Read():
                    return self._store.read()
                case protocol.WriteClaim(claim):
                    self._store.write_claim(claim)
                case protocol.Pause(seconds):
                    time.sleep(seconds)
                case protocol.Mint(claim):
                    return self._mint(claim)
                case protocol.Publish(token):
                    self._store.publish(token)
        except LucidworksError as err:
            return Failed(err)
        return None

    def _mint(self, claim: Claim) -> AccessToken:
        """Ask for a token, moving the claim all the while, so that nobody takes a slow mint for a dead one."""

        def ask() -> AccessToken:
            before = time.time()
            grant = self._ask()
            self._set_clock(grant, before, time.time())
            return AccessToken.from_grant(grant, before + self._offset)

        with ThreadPoolExecutor(1, "lucidworks-mint") as pool:
            asking = pool.submit(ask)
            try:
                while not wait_for([asking], timeout=protocol.BEAT).done:
                    claim = claim.moved()
                    if isinstance(reply := self._perform(protocol.WriteClaim(claim)), Failed):
                        log.debug("The claim could not be renewed: %s", reply.error)
            except BaseException:
                # The task is being stopped, but what the service hands out is the whole fleet's.
                wait_for([asking])
                if asking.exception() is None:
                    self._perform(protocol.Publish(asking.result()))
                self._perform(protocol.WriteClaim(protocol.NOBODY))
                raise
            return asking.result()

    def _set_clock(self, grant: Grant, before: float, after: float) -> None:
        if grant.server_time is None:
            return
        offset = grant.server_time - (before + after) / 2
        slack = CLOCK_TOLERANCE + (after - before) / 2
        if abs(offset) <= slack:
            self._offset = 0.0
            return
        if self._offset == 0.0:
            log.warning("This host's clock is %.0f s off the identity server's; corrected for.", -offset)
        self._offset = offset


async def _in_thread(call: Callable[[str | None], str], refused: str | None) -> str:
    # asgiref, as Airflow's own SDK does: what calls the supervisor from a plain thread is unsafe on 3.0/3.1.
    from asgiref.sync import sync_to_async

    return await sync_to_async(call, thread_sensitive=False)(refused)


_sources: dict[tuple[str, ...], TokenSource] = {}
_sources_lock = threading.Lock()


def token_source(settings: LucidworksSettings, scope: str) -> TokenSource:
    """
    This process's source for a connection and scope: the same one for equal credentials.

    :raises ConfigurationError: the connection's ``share_via`` is not offered.
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
            source = TokenSource(store_for(settings, identity), partial(ask_service, settings, scope))
            _sources[key] = source
        return source


def ask_service(settings: LucidworksSettings, scope: str, *, attempts: int | None = None) -> Grant:
    """
    Ask the identity server for a new token, which deletes the one that lives. For the protocol's use.

    :param attempts: how often to try where the failure may pass.
    """
    # Loaded when a token is asked for, not when a DAG file is parsed.
    from tenacity import Retrying

    from lucidworks_provider.transport.retry import policy
    from lucidworks_provider.transport.sync import SyncTransport

    request = token_request(
        auth_url=settings.auth_url,
        auth_server_id=settings.auth_server_id,
        client_id=settings.client_id,
        client_secret=settings.client_secret,
        scope=check_scope(scope),
    )
    with closing(SyncTransport(settings)) as transport:

        def once() -> Grant:
            return read_grant(without(transport.send(request), settings.client_secret))

        try:
            return Retrying(**policy(replayable=True, attempts=attempts))(once)
        except AuthenticationError as err:
            said = str(err).rstrip(".")
            raise AuthenticationError(
                f"Connection {settings.conn_id!r}: {said}. Check Client ID and Client Secret.",
                status=err.status,
            ) from None


def forget_sources() -> None:
    """Drop what this process holds: in a forked child, whose locks may be taken by threads that are gone."""
    global _sources_lock  # noqa: PLW0603
    _sources_lock = threading.Lock()
    _sources.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_sources)
