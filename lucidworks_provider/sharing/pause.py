# SPDX-License-Identifier: Apache-2.0
"""
One pause for the whole fleet: after a 429, one process asks again and the others wait for what it hears.

The limit is the application's, and an Airflow fleet is many short processes: were each to ask again for itself, fifty
tasks would draw fifty refusals each ``Retry-After``. So a refusal is written where the fleet shares its token, and a
process that would send into the pause finds it there.

==========================  ==========================================================================================
who                         does
==========================  ==========================================================================================
a process's first request,  looks whether there is a pause, and waits for its end
or the first for a while
who was refused             writes the pause down, unless a longer one stands
whose own pause is over     takes the pause for itself if nobody has it, for as long as a refusal would last, and asks
                            the service; else waits as long as it stands, and looks again
who asked and was refused   writes the new pause
who asked and was accepted  writes that it is over: all go on
==========================  ==========================================================================================

Whoever dies takes nothing along: what is written ends by itself. Nothing here is needed for a right result. When the
store is down, or processes cannot see each other's (``share_via`` ``memory``), each of them asks for itself.

What a process has under way when another is refused cannot be called back, and one that sends all the time hears of
it by a refusal of its own.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from lucidworks_provider.connection import LucidworksSettings
from lucidworks_provider.errors import LucidworksError
from lucidworks_provider.sharing.redis_client import RedisClient, Server, text_of
from lucidworks_provider.sharing.variables import get_variable, set_variable

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds: the longest pause that is believed, and how long it is remembered that one is over.
LONGEST, REMEMBERED = 120.0, 60.0
# Seconds after a failure of the store in which it is left alone.
REST = 60.0
# The share of what is left of a pause after which is looked again: it may be over sooner.
SHARE = 0.1
# Whose pause it is when it is nobody's any more.
OVER = "over"


@dataclass(frozen=True, slots=True)
class Standing:
    """
    What is written.

    :param owner: which process wrote it, or :data:`OVER`.
    :param left: seconds until it counts no more.
    """

    owner: str
    left: float


class PauseStore(Protocol):
    """
    Where the pause is written. Every method raises an error of this package when it cannot.

    :param settle: seconds between claiming and believing it.
    :param look_every: seconds between two looks, at least.
    """

    settle: float
    look_every: float

    def read(self) -> Standing | None:
        """What stands, or None."""

    def claim(self, owner: str, seconds: float) -> None:
        """Write where nothing stands."""

    def write(self, owner: str, seconds: float) -> None:
        """Write over whatever stands."""


class SharedPause:
    """
    One process's part in the pause of an application.

    :param store: where it is written.
    """

    def __init__(self, store: PauseStore) -> None:
        self._store = store
        self._me = uuid.uuid4().hex
        self._rest_until = 0.0

    def look(self) -> float:
        """Seconds for which the fleet pauses; 0 if it does not."""
        standing = self._tried(self._store.read)
        return 0.0 if standing is None or standing.owner == OVER else standing.left

    def ask(self, seconds: float) -> float | None:
        """
        Ask for the right to send the one request that finds out whether the pause is over.

        :param seconds: for how long nobody else shall.
        :return: 0 for the right; how many seconds to wait before the next question; None if the pause is over.
        """
        return self._tried(lambda: self._ask(min(seconds, LONGEST)), otherwise=0.0)

    def hold(self, seconds: float) -> None:
        """Have the fleet pause."""
        self._tried(lambda: self._hold(min(seconds, LONGEST)))

    def end(self) -> None:
        """Have the fleet go on."""
        self._tried(self._end)

    def _ask(self, seconds: float) -> float | None:
        standing = self._store.read()
        if standing is None:
            self._store.claim(self._me, seconds)
            time.sleep(self._store.settle)
            standing = self._store.read()
            if standing is None or standing.owner == self._me:
                return 0.0
        if standing.owner == OVER:
            return None
        return min(standing.left, max(self._store.look_every, SHARE * standing.left))

    def _hold(self, seconds: float) -> None:
        standing = self._store.read()
        if standing is None or standing.owner in {self._me, OVER} or standing.left < seconds:
            self._store.write(self._me, seconds)

    def _end(self) -> None:
        standing = self._store.read()
        # Another's is newer: it was refused after this one was accepted.
        if standing is None or standing.owner == self._me:
            self._store.write(OVER, REMEMBERED)

    def _tried(self, work: Callable[[], T], otherwise: Any = None) -> T | Any:
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

    # Longer than a write takes (17 ms measured) by an order of magnitude.
    settle = 0.3
    look_every = 1.0

    _DESCRIPTION = "Until when airflow-provider-lucidworks sends nothing after a 429; made anew when deleted."

    def __init__(self, name: str) -> None:
        self._key = f"lucidworks_pause_{name}"

    def read(self) -> Standing | None:
        """What stands, or None."""
        text = get_variable(self._key)
        if text is None:
            # Every process looks: without one, each would leave a 404 in the API server's log.
            self.write(OVER, 0.0)
            return None
        try:
            match json.loads(text):
                case [str(owner), int() | float() as until, int() | float() as seconds]:
                    left = min(until - time.time(), seconds, LONGEST)
                    return Standing(owner, left) if left > 0 else None
        except (ValueError, RecursionError):
            pass  # written by hand
        return None

    def claim(self, owner: str, seconds: float) -> None:
        """Write; whoever wrote last has it, once that has settled."""
        self.write(owner, seconds)

    def write(self, owner: str, seconds: float) -> None:
        """Write over whatever stands."""
        value = json.dumps([owner, round(time.time() + seconds, 3), round(seconds, 3)])
        set_variable(self._key, value, self._DESCRIPTION)


class RedisPause:
    """
    A key that Redis ends by its own clock.

    :param redis: the server.
    :param name: of the application.
    """

    settle = 0.0
    look_every = 0.25

    def __init__(self, redis: RedisClient, name: str) -> None:
        self._redis = redis
        self._key = f"lucidworks:pause:{name}"

    def read(self) -> Standing | None:
        """What stands, or None."""

        def look(server: Server) -> tuple[bytes | None, Any]:
            with server.client.pipeline(transaction=False) as pipe:
                pipe.get(self._key)
                pipe.pttl(self._key)
                owner, left = pipe.execute(raise_on_error=False)
                return text_of(owner), left

        owner, left = self._redis.use(look)
        # Without an end, or without words, it was written by hand.
        if not owner or not isinstance(left, int) or left < 0:
            return None
        # In its last millisecond, which is 0, it stands: nobody else could claim it.
        return Standing(owner.decode(errors="replace"), min(max(left, 1) / 1000, LONGEST))

    def claim(self, owner: str, seconds: float) -> None:
        """Write where nothing stands, in one step."""
        self._write(owner, seconds, nx=True)

    def write(self, owner: str, seconds: float) -> None:
        """Write over whatever stands."""
        self._write(owner, seconds, nx=False)

    def _write(self, owner: str, seconds: float, *, nx: bool) -> None:
        left = max(1, round(seconds * 1000))
        self._redis.use(lambda server: server.client.set(self._key, owner, px=left, nx=nx))
