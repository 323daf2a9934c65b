# SPDX-License-Identifier: Apache-2.0
"""
One pause for the whole fleet: where a service refuses everything, one process asks again and the others wait.

The limit is the application's, and an Airflow fleet is many short processes: were each to ask again for itself,
fifty tasks would receive fifty 429s each ``Retry-After``. So who wants to ask again claims the right to do so where
the fleet shares its token.

==========================  ========================================================================================
who                         does
==========================  ========================================================================================
whose requests are refused  claims the right to ask for as long as an answer may take; if another has it, waits
                            and looks again
who asked and was refused   writes the pause that the service asks for
who asked and was accepted  writes when the pause ended: who stopped before that resumes
==========================  ========================================================================================

Whoever dies takes nothing along: what is written expires. Nothing here is needed for a right result. When the store
is down, or processes cannot see each other's (``share_via`` ``memory``), each asks for itself.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from lucidworks_provider.connection import LucidworksSettings
from lucidworks_provider.errors import LucidworksError
from lucidworks_provider.sharing.redis_client import RedisClient, Server, text_of
from lucidworks_provider.sharing.variables import get_variable, set_variable

log = logging.getLogger(__name__)

# Seconds: the longest pause that is believed, and how long the end of one is remembered.
LONGEST, REMEMBERED = 120.0, 60.0
# Seconds after a failure of the store in which it is left alone.
REST = 60.0
# Seconds by which the clocks of two hosts may differ, for what one of them has written just now.
SKEW = 2.0
# A pause may end sooner than it says: the share of what is left of it after which to look again.
SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Shared:
    """
    What is written.

    :param owner: of the pause, or of the right to ask; empty if there is none.
    :param left: seconds until it expires.
    :param ended: seconds since a pause ended, if one has ended of late.
    """

    owner: str = ""
    left: float = 0.0
    ended: float | None = None


class PauseStore(Protocol):
    """
    Where it is written. Every method raises an error of this package when it cannot.

    :param look_every: seconds between two looks, at least.
    """

    look_every: float

    def read(self) -> Shared:
        """What is written."""

    def claim(self, owner: str, seconds: float) -> bool:
        """Write where there is no owner; whether that is now the owner."""

    def write(self, owner: str, seconds: float) -> None:
        """Write over whatever is there."""

    def end(self) -> None:
        """Remove the owner, and note the time."""


class SharedPause:
    """
    One process's part in the pause of an application.

    :param store: where it is written.
    """

    def __init__(self, store: PauseStore) -> None:
        self._store = store
        self._me = uuid.uuid4().hex
        self._rest_until = 0.0

    def ask(self, seconds: float, stopped: float) -> float | None:
        """
        Ask for the right to send the one request that finds out whether the pause is over.

        :param seconds: for how long nobody else shall.
        :param stopped: seconds since this process has stopped sending.
        :return: 0 for the right; how many seconds to wait before the next question; None if the pause is over.
        """

        def ask() -> float | None:
            shared = self._store.read()
            if shared.owner:
                return min(shared.left, max(self._store.look_every, SHARE * shared.left))
            if shared.ended is not None and shared.ended < stopped:
                return None
            return 0.0 if self._store.claim(self._me, min(seconds, LONGEST)) else self._store.look_every

        return self._tried(ask, otherwise=0.0)

    def hold(self, seconds: float) -> None:
        """Have the fleet pause, unless a longer pause stands."""

        def hold() -> None:
            shared = self._store.read()
            if shared.owner in {"", self._me} or shared.left < seconds:
                self._store.write(self._me, min(seconds, LONGEST))

        self._tried(hold)

    def end(self) -> None:
        """Have the fleet resume, unless another process was refused since."""

        def end() -> None:
            if self._store.read().owner in {"", self._me}:
                self._store.end()

        self._tried(end)

    def _tried(self, work: Callable[[], float | None], otherwise: float | None = None) -> float | None:
        if time.monotonic() < self._rest_until:
            return otherwise
        try:
            return work()
        except LucidworksError as err:
            log.debug("The pause after a 429 is this process's own for now: %s", err)
            self._rest_until = time.monotonic() + REST
            return otherwise


def shared_pause(settings: LucidworksSettings, base_url: str) -> SharedPause | None:
    """
    The pause of an application, where the connection's ``share_via`` says; None for a process on its own.

    :param base_url: of the application.
    """
    name = sha256(base_url.encode()).hexdigest()[:32]
    match settings.share_via:
        case "memory":
            return None
        case "redis" if settings.redis_conn_id:
            return SharedPause(RedisPause(RedisClient(settings.conn_id, settings.redis_conn_id, {}), name))
        case "redis":
            return None  # the token's store says what is missing
    return SharedPause(VariablePause(name))


class VariablePause:
    """
    A Variable with the hosts' own time: clocks that differ make a pause longer or shorter, at most twice as long.

    :param name: of the application.
    """

    look_every = 1.0
    # Seconds after which a claim is read back; longer than a write takes (17 ms measured) by an order of magnitude.
    SETTLE = 0.3

    _DESCRIPTION = "Until when airflow-provider-lucidworks sends nothing after a 429; made anew when deleted."

    def __init__(self, name: str) -> None:
        self._key = f"lucidworks_pause_{name}"

    def read(self) -> Shared:
        """What is written."""
        try:
            match json.loads(get_variable(self._key) or "null"):
                case [
                    str(owner),
                    int() | float() as at,
                    int() | float() as seconds,
                    int() | float() as ended,
                ]:
                    now = time.time()
                    left = min(at - now, seconds, LONGEST)
                    since = max(0.0, now - ended) if -SKEW < now - ended < REMEMBERED else None
                    return Shared(owner, left, since) if left > 0 else Shared(ended=since)
        except (ValueError, RecursionError):
            pass  # written by hand
        return Shared()

    def claim(self, owner: str, seconds: float) -> bool:
        """Write; whoever wrote last has it, once that has settled."""
        self.write(owner, seconds)
        time.sleep(self.SETTLE)
        return self.read().owner in {"", owner}

    def write(self, owner: str, seconds: float) -> None:
        """Write over whatever is there."""
        value = [owner, round(time.time() + seconds, 3), round(seconds, 3), 0]
        set_variable(self._key, json.dumps(value), self._DESCRIPTION)

    def end(self) -> None:
        """Remove the owner, and note the time."""
        set_variable(self._key, json.dumps(["", 0, 0, round(time.time(), 3)]), self._DESCRIPTION)


class RedisPause:
    """
    Two keys that Redis expires by its own clock.

    :param redis: the server.
    :param name: of the application.
    """

    look_every = 0.25

    def __init__(self, redis: RedisClient, name: str) -> None:
        self._redis = redis
        self._key = f"lucidworks:pause:{name}"
        self._ended = f"lucidworks:pause-ended:{name}"

    def read(self) -> Shared:
        """What is written."""

        def look(server: Server) -> tuple[bytes | None, Any, Any]:
            with server.client.pipeline(transaction=False) as pipe:
                pipe.get(self._key)
                pipe.pttl(self._key)
                pipe.pttl(self._ended)
                owner, left, ended = pipe.execute(raise_on_error=False)
                return text_of(owner), left, ended

        owner, left, ended = self._redis.use(look)
        since = REMEMBERED - ended / 1000 if isinstance(ended, int) and ended >= 0 else None
        # Without an end, or without words, it was written by hand.
        if not owner or not isinstance(left, int) or left < 0:
            return Shared(ended=since)
        # In its last millisecond, which is 0, it stands: nobody else could claim it.
        return Shared(owner.decode(errors="replace"), min(max(left, 1) / 1000, LONGEST), since)

    def claim(self, owner: str, seconds: float) -> bool:
        """Write where there is no owner, in one step."""
        return bool(self._set(self._key, owner, seconds, nx=True)) or not self.read().owner

    def write(self, owner: str, seconds: float) -> None:
        """Write over whatever is there."""
        self._set(self._key, owner, seconds)

    def end(self) -> None:
        """Remove the owner, and note the time."""
        self._set(self._ended, "", REMEMBERED)
        self._redis.use(lambda server: server.client.delete(self._key))

    def _set(self, key: str, value: str, seconds: float, *, nx: bool = False) -> object:
        left = max(1, round(seconds * 1000))
        return self._redis.use(lambda server: server.client.set(key, value, px=left, nx=nx))
