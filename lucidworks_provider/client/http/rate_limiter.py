# SPDX-License-Identifier: Apache-2.0
"""
When a process may send requests to an application whose rate limit is unknown.

The limit may be shared with other processes, and a gateway may send 429s at random. Three classes share the work:
:class:`AdaptiveRateLimiter` decides, without a clock, a lock or I/O, as times are parameters; :class:`SharedPause`
agrees on pauses with the other processes of the deployment; :class:`RequestQueue` lets the threads and coroutines of
this process wait.

==============  ==============================================================================================
state           what may be sent
==============  ==============================================================================================
``FREE``        everything: no limit is known
``LIMITED``     ``rate`` requests a second, evenly
``SUSPECTING``  nothing until a request in flight has ended: two 429s in a row were received
``PAUSED``      nothing until the pause ends; then one process sends one request, the probe
``PROBING``     another probe after each ``PATIENCE``; the first response decides: a 429 starts the next pause
==============  ==============================================================================================

*One 429* delays its own request by its ``Retry-After``; the caller does that. *Two in a row* stop all requests until
one in flight is accepted. If none is, a probe follows, and only its refusal starts a pause. So a service that refuses
everything receives one request per pause, and random 429s cost nothing.

*A limit* is detected by a CUSUM test: the log-likelihood of the responses under a raised share of 429s against their
likelihood under the usual share. The usual share is ``NOISE`` while no limit is known. Below a limit it is 0 or, for
a process that is alone on the limit, the share of 429s while the rate was too low to cause them.

*The rate* after a 429 is what was accepted since the cut before, divided by the time since: a token bucket was empty
at both cuts, so this is the rate at which it is filled. The process stays below it for a while, returns to it, then
grows slowly, and exponentially after a longer time without a cut. Unused turns take growth back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property, partial, wraps
from hashlib import sha256
from typing import Concatenate, ParamSpec, Protocol

from lucidworks_provider import retrying
from lucidworks_provider.client.http.messages import Request, Response, retry_after
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import AcquireTimeoutError, LucidworksError, RateLimitError
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)
P = ParamSpec("P")

# The largest share of 429s that is taken for noise, what a limit adds to the usual share, and the smallest usual
# share: with it, one 429 reaches CUT.
NOISE, ADDED_SHARE, LEAST_SHARE = 0.05, 0.1, 0.0005
# Log-likelihood ratios: the first 429s are a limit (one false alarm in 10 million responses), and so are later ones.
DETECT, CUT = 18.0, 5.0
# Requests a second: a first estimate is at least this, as other processes may have emptied the bucket; a limit below
# it gives too few responses to measure a usual share.
FIRST_RATE = 10.0
# Seconds of its rate that an unknown bucket holds.
BURST = 1.0
# The lowest rate in requests a second, and the share of the rate that a cut keeps at least: an estimate may be wrong.
SLOWEST, LEAST_LEFT = 1 / 60, 0.85
# Weight of the refused rate against the estimate, which is too low where unused requests expire with their window.
NEARNESS = 0.75
# Shares of the limit at which a bucket fills up, and at which 429s have another cause; for seconds or requests.
BELOW, FAR_BELOW, BELOW_SECONDS, BELOW_REQUESTS = 0.95, 0.88, 3.0, 20.0
# Growth begins at this share, with so much per second and root of the rate, which makes several processes equal.
RESTART, GROWTH = 0.985, 0.05
# The limit may have been raised after so many times the seconds below it; then seconds for a factor of e.
CALM, E_SECONDS = 2.25, 12.0
# The exponent of that factor, at most.
MOST_GROWTH = 30.0
# Refused probes in a row that are an outage, those of other processes included.
REFUSED_PROBES = 6
# Seconds for which late turns are made up; more would be a burst.
SLACK = 0.1
# An unused turn takes back so many times its growth: a rate of which a quarter is unused does not grow.
UNUSED = 4.0
# So many cuts in a row below the limit have another cause: there is no limit.
IN_VAIN = 6
# Of a pause: processes must not resume at the same instant.
JITTER = 0.1
# Seconds before the first probe, in which a short window ends.
PROBE_DELAY = 0.1
# Seconds after which a probe without a response is followed by another.
PATIENCE = 2.0
# What a cut keeps of the measured usual share, which may change.
KEPT = 0.8
# Seconds that a first estimate looks back, at most.
LOOK_BACK = 10.0


class State(Enum):
    """See the table above."""

    FREE = "free"
    LIMITED = "limited"
    SUSPECTING = "suspecting"
    PAUSED = "paused"
    PROBING = "probing"


@dataclass(frozen=True, slots=True)
class RateLimitStats:
    """
    What is known of an application's limit.

    :param rate: requests a second, or None if no limit is known.
    :param refusals: responses with the status 429.
    :param paused: seconds in which nothing could be sent.
    :param refused_for: seconds for which the service has refused everything, one probe after the other; 0 if it has
        not.
    """

    rate: float | None
    refusals: int
    paused: float
    refused_for: float = 0.0


class AdaptiveRateLimiter:
    """
    The requests of one process to one application.

    Call the methods under a lock. Send a request after :meth:`wait` returned 0 and :meth:`must_ask` False.

    :param shared: whether pauses are agreed with other processes.
    :param alone: whether no other process uses the limit.
    """

    def __init__(self, *, shared: bool = False, alone: bool = False) -> None:
        self.state = State.FREE
        self.rate: float | None = None
        self.refusals = 0
        self.paused = 0.0
        self._shared, self._alone = shared, alone
        # Requests are numbered as they are sent; the number is the permit.
        self._sent = self._ended = self._accepted = 0
        # The last 429: its permit, how many there were in a row, and how many requests were accepted before it.
        self._refused_permit, self._in_a_row, self._accepted_before = -1, 0, 0
        self._score = 0.0
        # The stop: its begin, its end or that of the current step, and the last pause.
        self._stopped_at = self._until = self._pause = 0.0
        # The probes: the first since one was refused (-1 if none), and the last.
        self._permitted, self._first_probe, self._probe, self._refused_probes = False, -1, -1, 0
        # The last pause of another process that was counted.
        self._others_pause = ""
        # The last cut: its time (later by unused turns), how many requests were accepted before it, the last permit.
        self._cut_at, self._cut_accepted, self._cut_permit = -math.inf, 0, -1
        # The estimate of the limit, the begin of the time without a cut (later by unused turns), the next turn.
        self._limit = self._calm_since = self._next = 0.0
        self._in_vain = 0
        # Requests and 429s below the limit.
        self._below = self._below_refused = 0.0

    @property
    def stats(self) -> RateLimitStats:
        return RateLimitStats(self.rate, self.refusals, self.paused)

    @property
    def stopped(self) -> bool:
        """Whether nothing but a probe may be sent."""
        return self.state not in {State.FREE, State.LIMITED}

    @property
    def refused_probes(self) -> int:
        """Of the current stop, those of other processes included."""
        return self._refused_probes

    def refused_for(self, now: float) -> float:
        """
        Return the seconds of a stop in which the service refused one probe after the other; else 0.

        A few refused probes are not an outage: other processes may have been faster, or nothing was sent for a while.
        """
        return now - self._stopped_at if self.stopped and self._refused_probes >= REFUSED_PROBES else 0.0

    @property
    def stopped_at(self) -> float | None:
        """When the current stop began: a shared pause that ended earlier does not end it."""
        return self._stopped_at if self.stopped else None

    def wait(self, now: float) -> float:
        """Return the seconds until the next request may be sent. Call again after each response."""
        if self.state is State.FREE:
            return 0.0
        return max(0.0, (self._until if self.stopped else self._next) - now)

    def must_ask(self) -> bool:
        """Whether to ask the other processes before sending; :meth:`agreed` takes the reply."""
        return self._shared and self.stopped and not self._permitted

    def agreed(self, seconds: float | None, now: float, others_pause: str = "") -> None:
        """
        Take the reply of :meth:`SharedPause.ask`.

        :param seconds: of the pause; 0 for the permission to probe; None if the pause is over.
        :param others_pause: see :attr:`SharedPause.others_pause`.
        """
        if not self.stopped:
            return
        # In a fleet each process seldom probes.
        self._refused_probes += others_pause not in {"", self._others_pause}
        self._others_pause = others_pause
        if seconds is None:
            self._resume(now)
        elif seconds:
            self.state, self._until = State.PAUSED, now + seconds
        else:
            self._permitted = True

    def sent(self, now: float) -> int:
        """Count a request; return the permit for its response."""
        self._sent += 1
        if self.stopped:
            self.state, self._probe, self._permitted = State.PROBING, self._sent, False
            if self._first_probe < 0:
                self._first_probe = self._sent
            self._until = now + PATIENCE
        elif self.rate is not None:
            self._take_turn(now)
        elif now - self._cut_at > LOOK_BACK:
            self._cut_at, self._cut_accepted = now, self._accepted
        return self._sent

    def accepted(self, permit: int, now: float) -> bool:
        """Count any response but a 429; return whether the shared pause is over."""
        self._ended += 1
        self._accepted += 1
        if permit <= self._refused_permit:
            return False
        self._in_a_row = 0
        was_probe = self._is_probe(permit)
        if was_probe or self.state is State.SUSPECTING:
            self._resume(now)
        return was_probe

    def lost(self, permit: int, now: float) -> None:
        """Count a request without a response. If it was the probe, the next request is."""
        self._ended += 1
        if self.state is State.PROBING and permit == self._probe:
            self.state, self._until = State.PAUSED, now
        self._check_suspicion(now)

    def refused(self, permit: int, now: float, retry_after: float | None, jitter: float) -> float | None:
        """
        Count a 429.

        :param jitter: a random number from 0 to 1.
        :return: the seconds of a pause that begins, if one does.
        """
        self.refusals += 1
        self._ended += 1
        self._in_a_row += 1
        is_limit = self._is_limit(permit, now)
        self._refused_permit = max(permit, self._refused_permit)
        if self._is_probe(permit):
            self._first_probe = -1
            self._refused_probes += 1
            pause = retry_after or min(retrying.LONGEST_WAIT, max(retrying.FIRST_WAIT, 2 * self._pause))
            self._pause = min(pause, retrying.LONGEST_RETRY_AFTER)
            self.state, self._until = State.PAUSED, now + self._pause * (1 + JITTER * jitter)
            return self._pause
        if not self.stopped:
            if is_limit:
                self._cut(now)
            if self._in_a_row >= 2:
                self.state, self._until, self._stopped_at = State.SUSPECTING, now + PATIENCE, now
                self._permitted, self._first_probe, self._pause, self._refused_probes = False, -1, 0.0, 0
        self._check_suspicion(now)
        return None

    def _is_probe(self, permit: int) -> bool:
        """Whether its response decides. Not only that of the last probe: responses may take longer than PATIENCE."""
        return self.stopped and permit >= self._first_probe >= 0

    def _check_suspicion(self, now: float) -> None:
        """Probe soon if no response is outstanding."""
        if self.state is State.SUSPECTING and self._ended >= self._sent:
            self.state, self._until = State.PAUSED, now + PROBE_DELAY

    def _resume(self, now: float) -> None:
        stopped = now - self._stopped_at
        self.paused += stopped
        self._in_a_row = 0
        if self.rate is None and (self._pause or self._score >= DETECT):
            self._cut(self._stopped_at)
        # A long stop, in which nothing was sent, says nothing about the limit.
        self._calm_since += max(0.0, stopped - E_SECONDS)
        self.state = State.FREE if self.rate is None else State.LIMITED
        self._next = max(self._next, now)

    def _is_limit(self, permit: int, now: float) -> bool:
        """Update the CUSUM test with a 429 and the responses accepted before it."""
        accepted, self._accepted_before = self._accepted - self._accepted_before, self._accepted
        if self.rate is None:
            usual, threshold = NOISE, DETECT
        elif permit <= self._cut_permit:
            return False
        else:
            usual, threshold = max(LEAST_SHARE, self._usual_share()), CUT
            self._below_refused += now - self._calm_since < self._seconds_below()
        limited = usual + ADDED_SHARE
        self._score = max(0.0, self._score + accepted * math.log((1 - limited) / (1 - usual)))
        self._score += math.log(limited / usual)
        return self._score >= threshold

    def _usual_share(self) -> float:
        """Return the share of 429s below the limit. It is 0 beside other processes, which may cause them."""
        if not self._alone or self._limit < FIRST_RATE:
            return 0.0
        return min(NOISE, self._below_refused / max(self._below, BELOW_REQUESTS))

    def _seconds_below(self) -> float:
        return max(BELOW_SECONDS, BELOW_REQUESTS / self._limit)

    def _cut(self, now: float) -> None:
        """Estimate the limit from what was accepted, and start below it."""
        accepted, seconds = self._accepted - self._cut_accepted, now - self._cut_at
        if self.rate is None:
            self._limit = max(FIRST_RATE, accepted / (seconds + max(BURST, self._pause)))
        else:
            early = now - self._calm_since < self._seconds_below()
            self._in_vain = self._in_vain + 1 if early else 0
            estimate = accepted / max(seconds, SLACK) / (1 - self._usual_share())
            estimate = min(self.rate, estimate + NEARNESS * (self.rate - estimate))
            self._limit = max(SLOWEST, LEAST_LEFT * self.rate, estimate)
        self._cut_at = self._calm_since = now
        self._cut_accepted, self._cut_permit = self._accepted, self._sent
        self._below, self._below_refused = KEPT * self._below, KEPT * self._below_refused
        self._score = 0.0
        self.rate = self._share_below() * self._limit
        if not self._alone and self._in_vain >= IN_VAIN and self._limit >= FIRST_RATE:
            self.rate, self._in_vain = None, 0
        if not self.stopped:
            self.state, self._next = State.FREE if self.rate is None else State.LIMITED, max(self._next, now)

    def _share_below(self) -> float:
        return FAR_BELOW if self._usual_share() > LEAST_SHARE else BELOW

    def _take_turn(self, now: float) -> None:
        below, calm = self._seconds_below(), now - self._calm_since
        unused = now - SLACK - self._next
        if unused > 0:
            self._cut_at += unused
            calm = max(min(calm, below), calm - UNUSED * unused)
            self._calm_since = now - calm
        self._next = max(self._next, now - SLACK)
        if calm < below:
            self.rate = self._share_below() * self._limit
            self._below += 1
        else:
            self.rate = RESTART * self._limit + GROWTH * math.sqrt(self._limit) * (calm - below)
            if calm > CALM * below:
                self.rate *= math.exp(min(MOST_GROWTH, ((calm - CALM * below) / E_SECONDS) ** 2))
        self._next += 1 / self.rate


# Seconds: the longest pause that is accepted from a record, and how long its end is kept.
MAX_PAUSE, END_KEPT = 120.0, 60.0
# Seconds without an access after the store failed.
STORE_REST = 60.0
# A pause may end early: the share of its remaining time after which to read the record again.
READ_AGAIN = 0.1


@dataclass(frozen=True, slots=True)
class PauseRecord:
    """
    The state of the pause in the store.

    :param owner: of the pause or of the claim, and the number of the pause; empty if there is none.
    :param left: seconds until it expires.
    :param ended: seconds since a pause ended, if one has ended recently.
    """

    owner: str = ""
    left: float = 0.0
    ended: float | None = None

    @property
    def is_pause(self) -> bool:
        """A claim has no number."""
        return " " in self.owner


class PauseStore(Protocol):
    """
    Every method raises an error of this package when the store cannot be used. What replaces a record keeps the time
    at which a pause ended.

    :param read_interval: seconds between two reads, at least.
    """

    read_interval: float

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
                self._rest_until = time.monotonic() + STORE_REST
        return 0.0

    return call


class SharedPause:
    """
    One pause of an application for all processes of a deployment, while the service refuses every request with 429.

    A deployment is many short processes: if each sent its own probe, fifty tasks would receive fifty 429s per
    ``Retry-After``. So one process claims the right to probe, in the store that also shares the access token.

    =====================  =========================================================================================
    a process that         does
    =====================  =========================================================================================
    was refused            claims the right to probe for as long as a response may take; if another process has the
                           claim, it waits and reads the record again
    had its probe refused  writes the pause that the service requests
    had it accepted        writes when the pause ended: every process that stopped before that resumes
    =====================  =========================================================================================

    Every record expires, so a process that dies blocks nothing. The pause only saves requests: when the store is
    down, each process probes for itself.

    :param new_store: called before the first use, which most processes never have.
    :ivar others_pause: the last pause of another process, which begins with a refused probe; not one after which this
        process is about to resume, as a probe was accepted since it stopped.
    """

    def __init__(self, new_store: Callable[[], PauseStore]) -> None:
        self._new_store = new_store
        self._me = uuid.uuid4().hex
        self._pauses = 0
        self._rest_until = 0.0
        self.others_pause = ""

    @cached_property
    def _store(self) -> PauseStore:
        return self._new_store()

    @_best_effort
    def ask(self, seconds: float, stopped: float) -> float | None:
        """
        Claim the right to probe.

        :param seconds: for which no other process may probe.
        :param stopped: seconds since this process has stopped sending.
        :return: 0 if it may probe; else seconds until the next call; None if the pause is over.
        """
        record = self._store.read()
        accepted = record.ended is not None and record.ended < stopped
        if record.owner:
            if record.is_pause and not accepted and not self._is_mine(record):
                self.others_pause = record.owner
            return min(record.left, max(self._store.read_interval, READ_AGAIN * record.left))
        if accepted:
            return None
        return 0.0 if self._store.claim(self._me, min(seconds, MAX_PAUSE)) else self._store.read_interval

    @_best_effort
    def hold(self, seconds: float) -> None:
        """Start a pause, unless another process has started a longer one."""
        record = self._store.read()
        if self._is_mine(record) or record.left < seconds:
            self._pauses += 1
            self._store.write(f"{self._me} {self._pauses}", min(seconds, MAX_PAUSE))

    @_best_effort
    def end(self) -> None:
        """End the pause, unless another process has started one since. A slow probe outlasts its own claim."""
        record = self._store.read()
        if self._is_mine(record) or not record.is_pause:
            self._store.end()

    def _is_mine(self, record: PauseRecord) -> bool:
        return record.owner.partition(" ")[0] in {"", self._me}


def shared_pause(settings: LucidworksSettings, base_url: str) -> SharedPause | None:
    """Return the pause of the application at a base URL; with ``share_via`` ``memory`` there is none."""
    if settings.share_via == "memory":
        return None
    name = sha256(base_url.encode()).hexdigest()[:32]
    return SharedPause(lambda: settings.shared_stores.pause_store(settings, name))


# Seconds after which a waiter checks that the loop of the first one is still open.
_CHECK_FIRST = 5.0


class _Waiter:
    """
    A thread, or a coroutine of an event loop.

    :param refused_probes: when it began to wait.
    """

    def __init__(self, refused_probes: int, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.refused_probes = refused_probes
        self._loop = loop
        self._woken: Future[None] = Future()

    @property
    def gone(self) -> bool:
        """Whether its loop was closed while it waited."""
        return self._loop is not None and self._loop.is_closed()

    def wake(self) -> None:
        with suppress(InvalidStateError):
            self._woken.set_result(None)

    def sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            self._woken.result(seconds)
        self._woken = Future()

    async def asleep(self, seconds: float) -> None:
        # Up to Python 3.11, wait_for ignores a cancellation that comes with the result.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.wrap_future(self._woken)
        self._woken = Future()


@asynccontextmanager
async def acquired_by(
    requests: AbstractAsyncContextManager[object], begin_by: float | None
) -> AsyncIterator[None]:
    """
    Hold one of a number of requests at once.

    :param begin_by: in the clock of ``time.monotonic``; limits only the wait.
    :raises AcquireTimeoutError: the others did not end by then.
    """
    async with AsyncExitStack() as held:
        try:
            async with asyncio.timeout(None if begin_by is None else begin_by - time.monotonic()):
                await held.enter_async_context(requests)
        except TimeoutError:
            raise AcquireTimeoutError("Other requests have not ended in time.") from None
        yield


class RequestQueue:
    """
    The requests of this process to one application: first in, first out.

    One queue per application (base URL) and process serves threads and the coroutines of every event loop. Only the
    first waiter sleeps until a time; the others sleep until they are the first. While no limit is known, the queue
    is empty. The Models API is another host with another queue. Token requests have none: there is one per hour and
    deployment.

    :param pause: shared with other processes, if any.
    :param alone: whether no other process uses the application.
    """

    def __init__(self, pause: SharedPause | None = None, *, alone: bool = False) -> None:
        self._pause = pause
        self._limiter = AdaptiveRateLimiter(shared=pause is not None, alone=alone)
        # Reentrant: the garbage collector may close a waiting coroutine, which then leaves the queue, at any time.
        self._lock = threading.RLock()
        self._waiters: deque[_Waiter] = deque()

    @property
    def stats(self) -> RateLimitStats:
        return replace(self._limiter.stats, refused_for=self.refused_for)

    @property
    def refused_for(self) -> float:
        """Seconds for which the service has refused everything, one probe after the other; 0 if it has not."""
        with self._lock:
            return self._limiter.refused_for(time.monotonic())

    def acquire(self, begin_by: float | None = None) -> int:
        """
        Wait for the permit to send one request; pass it to :meth:`ended` afterwards.

        :param begin_by: in the clock of ``time.monotonic``.
        :raises AcquireTimeoutError: there is no permit by then.
        :raises RateLimitError: the service has refused everything for ``LONGEST_REFUSAL``, and again during this
            wait. Not with ``begin_by``, which limits the wait.
        """
        permit, _ = self._try_acquire()
        if permit is not None:
            return permit
        with self._waiting(_Waiter(self._limiter.refused_probes)) as waiter:
            while True:
                permit, seconds = self._try_acquire(waiter)
                if permit is not None:
                    return permit
                seconds = self._before(begin_by, seconds, waiter)
                if seconds:
                    waiter.sleep(seconds)
                else:
                    self._agree(self._ask())

    async def aacquire(self, begin_by: float | None = None) -> int:
        """:meth:`acquire` for a coroutine."""
        permit, _ = self._try_acquire()
        if permit is not None:
            return permit
        with self._waiting(_Waiter(self._limiter.refused_probes, asyncio.get_running_loop())) as waiter:
            while True:
                permit, seconds = self._try_acquire(waiter)
                if permit is not None:
                    return permit
                seconds = self._before(begin_by, seconds, waiter)
                if seconds:
                    await waiter.asleep(seconds)
                else:
                    self._agree(await in_thread(self._ask))

    def ended(self, permit: int, response: Response | None) -> Callable[[], object] | None:
        """
        Count the response to a request.

        :param response: None if there was none.
        :return: an update of the shared pause, if one is due; it may block, and is optional.
        """
        pause, resumed = None, False
        with self._lock:
            now = time.monotonic()
            if response is None:
                self._limiter.lost(permit, now)
            elif response.status == 429:
                pause = self._limiter.refused(permit, now, retry_after(response), random.random())
            else:
                resumed = self._limiter.accepted(permit, now)
            self._wake_first()
        if self._pause is None:
            return None
        if resumed:
            return self._pause.end
        return None if pause is None else partial(self._pause.hold, pause)

    def _try_acquire(self, waiter: _Waiter | None = None) -> tuple[int | None, float]:
        """Return a permit, or None and the seconds to sleep: 0 if the shared pause has to be asked first."""
        with self._lock:
            while self._waiters and self._waiters[0].gone:
                self._waiters.popleft()
            if self._waiters and self._waiters[0] is not waiter:
                return None, _CHECK_FIRST
            now = time.monotonic()
            seconds = self._limiter.wait(now)
            if seconds > 0 or self._limiter.must_ask():
                return None, seconds
            return self._limiter.sent(now), 0.0

    def _before(self, begin_by: float | None, seconds: float, waiter: _Waiter) -> float:
        """Shorten a wait: it does not end after ``begin_by``, or in an outage."""
        if begin_by is not None:
            if (left := begin_by - time.monotonic()) <= 0:
                raise AcquireTimeoutError("The rate limiter has not permitted the request in time.")
            return min(seconds, left)
        # One more refusal: after a time without requests, the first one is sent, whatever was known before.
        if (
            self._limiter.refused_probes != waiter.refused_probes
            and self.refused_for > retrying.LONGEST_REFUSAL
        ):
            raise RateLimitError(
                "HTTP 429: the service has refused every request for "
                f"{retrying.LONGEST_REFUSAL:.0f} s; this one was not sent.",
                status=429,
            )
        return seconds

    def _ask(self) -> float | None:
        """Called by the first waiter only, without the lock, as it may block."""
        stopped_at = self._limiter.stopped_at
        if self._pause is None or stopped_at is None:
            return 0.0
        return self._pause.ask(PATIENCE, time.monotonic() - stopped_at)

    def _agree(self, seconds: float | None) -> None:
        with self._lock:
            others_pause = "" if self._pause is None else self._pause.others_pause
            self._limiter.agreed(seconds, time.monotonic(), others_pause)

    @contextmanager
    def _waiting(self, waiter: _Waiter) -> Iterator[_Waiter]:
        with self._lock:
            self._waiters.append(waiter)
        try:
            yield waiter
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                self._wake_first()

    def _wake_first(self) -> None:
        if self._waiters:
            self._waiters[0].wake()


_queues: dict[str, RequestQueue] = {}


def queue_of(base_url: str, settings: LucidworksSettings) -> RequestQueue:
    """
    Return this process's queue for a base URL.

    :param settings: of the connection; those of the first call decide how the pause is shared.
    """
    queue = _queues.get(base_url)
    if queue is None:
        # With `memory`, one process has the client, and so the application, to itself.
        new = RequestQueue(shared_pause(settings, base_url), alone=settings.share_via == "memory")
        queue = _queues.setdefault(base_url, new)  # atomic: threads may have created two
    return queue


def queue_for(request: Request, settings: LucidworksSettings) -> RequestQueue | None:
    """Return the queue of a request; None for one without a limit, a token request or a reading of the clock."""
    if request.basic is not None or request.method == "HEAD":
        return None
    application_url = settings.application_url or ""
    is_application = request.url.startswith(f"{application_url}/")
    return queue_of(application_url if is_application else settings.models_url, settings)


def forget_queues() -> None:
    """Drop all queues: in a forked child, a thread that no longer exists may hold their locks."""
    _queues.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_queues)
