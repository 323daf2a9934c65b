# SPDX-License-Identifier: Apache-2.0
"""
One pause for all processes of a deployment while a service answers every request with 429.

The rate limit belongs to the application, and an Airflow deployment is many short processes: if each sent its own
probe, fifty tasks would receive fifty 429s per ``Retry-After``. So one process claims the right to probe, in the
store that also shares the access token.

=====================  =============================================================================================
a process that         does
=====================  =============================================================================================
was refused            claims the right to probe for as long as a response may take; if another process has the
                       claim, it waits and reads the record again
had its probe refused  writes the pause that the service requests
had it accepted        writes when the pause ended: every process that stopped before that resumes
=====================  =============================================================================================

Every record expires, so a process that dies blocks nothing. The pause only saves requests: when the store is down,
or with ``share_via`` ``memory``, each process probes for itself.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from hashlib import sha256
from typing import Concatenate, ParamSpec, Protocol

from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.client.sharing import shared_stores
from lucidworks_provider.errors import LucidworksError

log = logging.getLogger(__name__)
P = ParamSpec("P")

# Seconds: the longest pause that is accepted from a record, and how long its end is kept.
LONGEST, REMEMBERED = 120.0, 60.0
# Seconds without an access after the store failed.
REST = 60.0
# A pause may end early: the share of its remaining time after which to read the record again.
SHARE = 0.1


@dataclass(frozen=True, slots=True)
class PauseRecord:
    """
    The state of the pause in the store.

    :param owner: of the pause or of the claim; empty if there is none.
    :param left: seconds until it expires.
    :param ended: seconds since a pause ended, if one has ended recently.
    """

    owner: str = ""
    left: float = 0.0
    ended: float | None = None


class PauseStore(Protocol):
    """
    Every method raises an error of this package when the store cannot be used.

    :param look_every: seconds between two reads, at least.
    """

    look_every: float

    def read(self) -> PauseRecord: ...

    def claim(self, owner: str, seconds: float) -> bool:
        """Write a record if there is none; return whether ``owner`` has it."""

    def write(self, owner: str, seconds: float) -> None:
        """Replace the record."""

    def end(self) -> None:
        """Remove the record and write the time."""


def _best_effort(
    method: Callable[Concatenate[SharedPause, P], float | None],
) -> Callable[Concatenate[SharedPause, P], float | None]:
    """Return 0 if the store is down, and leave it alone for a while."""

    @wraps(method)
    def call(self: SharedPause, /, *args: P.args, **kwargs: P.kwargs) -> float | None:
        if time.monotonic() >= self._rest_until:
            try:
                return method(self, *args, **kwargs)
            except LucidworksError as err:
                log.debug("The pause after a 429 is not shared for now: %s", err)
                self._rest_until = time.monotonic() + REST
        return 0.0

    return call


class SharedPause:
    """The pause of an application, as one process sees it."""

    def __init__(self, store: PauseStore) -> None:
        self._store = store
        self._me = uuid.uuid4().hex
        self._rest_until = 0.0

    @_best_effort
    def ask(self, seconds: float, stopped: float) -> float | None:
        """
        Claim the right to probe.

        :param seconds: for which no other process may probe.
        :param stopped: seconds since this process has stopped sending.
        :return: 0 if it may probe; else seconds until the next call; None if the pause is over.
        """
        record = self._store.read()
        if record.owner:
            return min(record.left, max(self._store.look_every, SHARE * record.left))
        if record.ended is not None and record.ended < stopped:
            return None
        return 0.0 if self._store.claim(self._me, min(seconds, LONGEST)) else self._store.look_every

    @_best_effort
    def hold(self, seconds: float) -> None:
        """Start a pause, unless another process has started a longer one."""
        record = self._store.read()
        if record.owner in {"", self._me} or record.left < seconds:
            self._store.write(self._me, min(seconds, LONGEST))

    @_best_effort
    def end(self) -> None:
        """End the pause, unless another process has started one since."""
        if self._store.read().owner in {"", self._me}:
            self._store.end()


def shared_pause(settings: LucidworksSettings, base_url: str) -> SharedPause | None:
    """Return the pause of the application at a base URL; None if the settings' ``share_via`` shares none."""
    if settings.share_via == "memory":
        return None
    name = sha256(base_url.encode()).hexdigest()[:32]
    store = shared_stores(settings.share_via).pause_store(settings, name)
    return None if store is None else SharedPause(store)
