# SPDX-License-Identifier: Apache-2.0
"""
When a process may send requests to an application whose rate limit is unknown.

The limit may be shared with other processes, and a gateway may answer 429 at random. A decision without a clock:
times are passed in, and the caller waits, locks and talks to the other processes.

==============  ==============================================================================================
state           what may be sent
==============  ==============================================================================================
``FREE``        everything: no limit is known
``LIMITED``     ``rate`` requests a second, evenly
``SUSPECTING``  nothing until a request in flight is answered: two 429s in a row were received
``PAUSED``      nothing until the pause ends; then one process of the fleet sends one request, the probe
``PROBING``     nothing until the probe is answered; a 429 starts the next pause
==============  ==============================================================================================

*One 429* delays its own request only, by its ``Retry-After``; the caller does that. *Two in a row* stop all
requests until one in flight is accepted, which ends it at no cost. When none is, a probe follows, and only its
refusal starts a pause. So a service that refuses everything receives one request a pause, and random 429s cost
nothing.

*A limit* is detected by a CUSUM test: the log-likelihood of the recent answers under a raised share of 429s against
their likelihood under the usual share. The usual share is :data:`NOISE` while no limit is known. Below a limit it
is 0, or, for a process without others on the same limit, what was refused in the times in which the rate was too
low to be the cause.

*The rate* restarts from what was accepted since the cut before, divided by the time since: a token bucket was empty
at both cuts, so this is the rate at which it fills. It stays below this value for a while, returns to it, grows
slowly beyond, and exponentially when nothing was refused for longer. Unused turns take the growth back.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

from lucidworks_provider.transport import retry

# The share of 429s that needs no limit to explain it, and the one that does.
NOISE, LIMIT_SHARE = 0.05, 0.2
# The smallest share that is assumed, and what a limit adds to the usual share: one 429 is enough where there is none.
LEAST_SHARE, ADDED_SHARE = 1e-4, 0.05
# Log-likelihood ratio that detects a limit: a false alarm in 10 million answers; below a limit it costs little.
DETECT, CUT = 18.0, 5.0
# Requests a second of a first estimate at least: a bucket that others emptied says little.
FIRST_RATE, SLOWEST = 10.0, 1 / 60
# A rate that no process reaches is no limit.
FASTEST = 10_000.0
# Seconds of a bucket's burst while nothing else is known of it.
BURST = 1.0
# One estimate from few requests must not stop everything.
LEAST_LEFT = 0.85
# Between the estimate and the rate that was refused: a window loses what was not used, so its estimate is too low.
NEARNESS = 0.75
# Below the limit a bucket fills and 429s have another cause: for seconds, or for so many requests.
BELOW, FAR_BELOW, BELOW_SECONDS, BELOW_REQUESTS = 0.95, 0.88, 3.0, 20.0
# Requests a second of a limit at least, for a usual share of 429s: below it each second has too few of them to tell.
LEAST_RATE = 20.0
# A share of 429s below the limit that is none.
QUIET = 0.002
# Where growth begins, and its size: per second and root of the rate, so that several processes become equal.
RESTART, GROWTH = 0.985, 0.05
# Without a 429 for so long (or so many requests), the limit may have been raised. Seconds for a factor of e.
CALM_SECONDS, CALM_REQUESTS, E_SECONDS = 7.0, 45.0, 12.0
# Seconds in which a late turn may be made up for; more would be a burst.
SLACK = 0.1
# An unused turn takes back this many times its growth, so a rate of which a fifth is unused does not grow.
UNUSED = 4.0
# What is forgotten, at a cut, of what was refused below the limit, and requests before this counts.
FORGET, ENOUGH = 0.8, 100.0
# So many cuts in a row before the rate was back: 429s that no rate prevents, so this is no limit.
IN_VAIN = 6
# Several processes must not resume in the same instant.
JITTER = 0.1
# Seconds before the first probe: a short window that is used up ends meanwhile.
PROBE_DELAY = 0.1
# Seconds after which an unanswered probe or request no longer delays the others; a 429 comes sooner.
PATIENCE = 2.0
# How often accepted requests are noted before a limit is known, and how many notes are kept.
NOTE_SECONDS, NOTES = 0.5, 20


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
    :param refusals: answers with the status 429.
    :param paused: seconds in which nothing could be sent.
    """

    rate: float | None
    refusals: int
    paused: float


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
        self._sent = self._answered = self._accepted = 0
        # Of the last 429: its permit, and what had been accepted. How many there were in a row.
        self._refused_permit, self._refused_at, self._in_a_row = -1, 0.0, 0
        self._accepted_before = 0
        self._score = 0.0
        # Pauses.
        self._until = self._stopped_at = self._pause = 0.0
        self._pauses = 0
        self._permitted = False
        self._probe = -1
        # Since the last cut: its time (moved by unused turns), what had been accepted, the permit.
        self._cut_at, self._cut_accepted, self._cut_permit = 0.0, 0, -1
        self._base = self._active_since = self._next = 0.0
        self._in_vain = 0
        self._notes: deque[tuple[float, int]] = deque(maxlen=NOTES)
        # Answers below the limit.
        self._below = self._below_refused = 0.0

    @property
    def stats(self) -> RateLimitStats:
        """For a progress line or a report."""
        return RateLimitStats(self.rate, self.refusals, self.paused)

    @property
    def stopped(self) -> bool:
        """Whether nothing but a probe may be sent."""
        return self.state not in {State.FREE, State.LIMITED}

    @property
    def stopped_at(self) -> float | None:
        """When the current stop began: an earlier end of the fleet's pause does not end it."""
        return self._stopped_at if self.stopped else None

    def wait(self, now: float) -> float:
        """Seconds until the next request may be sent; 0 for at once. Call again after each answer."""
        if self.state is State.FREE:
            return 0.0
        return max(0.0, (self._until if self.stopped else self._next) - now)

    def must_ask(self) -> bool:
        """Whether to ask the fleet before a request is sent; :meth:`agreed` takes its answer."""
        return self._shared and self.stopped and not self._permitted

    def agreed(self, seconds: float | None, now: float) -> None:
        """
        Take the answer of the fleet.

        :param seconds: for which it pauses; 0 for the permission to probe; None if the probe of another process was
            accepted.
        """
        if not self.stopped:
            return
        if seconds is None:
            self._resume(now)
        elif seconds:
            self.state, self._until = State.PAUSED, now + seconds
        else:
            self._permitted = True

    def sent(self, now: float) -> int:
        """Count a request; returns the permit for its answer."""
        self._sent += 1
        if self.stopped:
            self.state, self._probe, self._permitted = State.PROBING, self._sent, False
            self._until = now + PATIENCE
        elif self.rate is not None:
            self._take_turn(now)
        elif not self._notes or now - self._notes[-1][0] >= NOTE_SECONDS:
            self._notes.append((now, self._accepted))
        return self._sent

    def accepted(self, permit: int, now: float) -> bool:
        """Count any answer but a 429; returns whether the fleet is to resume."""
        self._answered += 1
        self._accepted += 1
        if permit > self._refused_permit:
            self._in_a_row = 0
            if self.stopped and (self.state is State.SUSPECTING or permit >= self._probe >= 0):
                asked = self.state is not State.SUSPECTING
                self._resume(now)
                return asked
        return False

    def lost(self, permit: int, now: float) -> None:
        """Count a request without an answer. If it was the probe, the next request is."""
        self._answered += 1
        if self.state is State.PROBING and permit == self._probe:
            self.state, self._until = State.PAUSED, now
        self._check_suspicion(now)

    def refused(self, permit: int, now: float, retry_after: float | None, jitter: float) -> float | None:
        """
        Count a 429.

        :param jitter: a random number from 0 to 1.
        :return: seconds of the pause that begins, if one does.
        """
        self.refusals += 1
        self._answered += 1
        self._in_a_row += 1
        limited = self._is_limited(permit, now)
        self._refused_permit, self._refused_at = max(permit, self._refused_permit), now
        if self.state is State.PROBING and permit == self._probe:
            self._pauses += 1
            pause = retry_after or min(
                retry.LONGEST_WAIT, retry.FIRST_WAIT * 2.0 ** min(self._pauses - 1, 10)
            )
            self._pause = min(pause, retry.LONGEST_RETRY_AFTER)
            self.state, self._until = State.PAUSED, now + self._pause * (1 + JITTER * jitter)
            return self._pause
        if not self.stopped:
            if limited:
                self._cut(now)
            if self._in_a_row >= 2:
                self._suspect(now)
        self._check_suspicion(now)
        return None

    def _suspect(self, now: float) -> None:
        self.state, self._until, self._stopped_at = State.SUSPECTING, now + PATIENCE, now
        self._permitted, self._probe, self._pauses, self._pause = False, -1, 0, 0.0

    def _check_suspicion(self, now: float) -> None:
        """Send the probe at once if no answer is outstanding."""
        if self.state is State.SUSPECTING and self._answered >= self._sent:
            self.state, self._until = State.PAUSED, now + PROBE_DELAY

    def _resume(self, now: float) -> None:
        self.paused += now - self._stopped_at
        self._in_a_row = 0
        if self.rate is None and (self._pauses or self._score >= DETECT):
            self._cut(self._stopped_at)
        self.state = State.FREE if self.rate is None else State.LIMITED
        self._next = max(self._next, now)

    def _is_limited(self, permit: int, now: float) -> bool:
        """Update the CUSUM test with a 429 and the answers accepted before it."""
        accepted, self._accepted_before = self._accepted - self._accepted_before, self._accepted
        if self.rate is None:
            usual, limited, enough = NOISE, LIMIT_SHARE, DETECT
        elif permit <= self._cut_permit:
            return False
        else:
            usual, enough = self._floor(), CUT
            limited = usual + ADDED_SHARE
            if self._cut_at and now - self._active_since < self._below_seconds():
                self._below_refused += 1
        usual = max(usual, LEAST_SHARE)
        self._score = max(0.0, self._score + accepted * math.log((1 - limited) / (1 - usual)))
        self._score += math.log(limited / usual)
        return self._score >= enough

    def _floor(self) -> float:
        if not self._alone or self._base < LEAST_RATE:
            return 0.0
        return min(NOISE, self._below_refused / max(self._below, ENOUGH))

    def _below_share(self) -> float:
        """Far below the limit only where the usual share of 429s is to be found, and is not known to be 0."""
        unknown = self._below < ENOUGH or self._floor() > QUIET
        return FAR_BELOW if self._alone and self._base >= LEAST_RATE and unknown else BELOW

    def _below_seconds(self) -> float:
        return max(BELOW_SECONDS, BELOW_REQUESTS / self._base)

    def _cut(self, now: float) -> None:
        """Estimate the limit from what was accepted."""
        if self.rate is None:
            burst = max(BURST, self._pause)
            estimate = max(((self._accepted - n) / (now - at + burst) for at, n in self._notes), default=0.0)
            self._base = max(FIRST_RATE, estimate)
        else:
            early = now - self._active_since < self._below_seconds()
            self._in_vain = self._in_vain + 1 if early else 0
            passed = now - self._cut_at
            estimate = (self._accepted - self._cut_accepted) / passed if passed > 0 else 0.0
            estimate /= 1 - self._floor()
            self._base = max(
                SLOWEST, LEAST_LEFT * self.rate, min(self.rate, estimate + NEARNESS * (self.rate - estimate))
            )
        self._cut_at = self._active_since = now
        self._cut_accepted, self._cut_permit = self._accepted, self._sent
        self._score = 0.0
        self._below, self._below_refused = FORGET * self._below, FORGET * self._below_refused
        self.rate = self._below_share() * self._base
        if self.state is State.FREE:
            self.state, self._next = State.LIMITED, now
        if not self._alone and self._in_vain >= IN_VAIN and self._base >= FIRST_RATE:
            self._set_free()

    def _set_free(self) -> None:
        self.rate, self._in_vain, self._score = None, 0, 0.0
        self._notes.clear()
        if self.state is State.LIMITED:
            self.state = State.FREE

    def _take_turn(self, now: float) -> None:
        unused = now - SLACK - self._next
        below = self._below_seconds()
        active = now - self._active_since
        if unused > 0:
            self._cut_at += unused
            active = max(min(active, below), active - UNUSED * unused)
            self._active_since = now - active
        rate = self._base
        if active < below:
            rate *= self._below_share()
            self._below += 1
        else:
            calm = max(CALM_SECONDS, CALM_REQUESTS / rate)
            rate = RESTART * rate + GROWTH * math.sqrt(rate) * (active - below)
            if active > calm:
                rate *= math.exp(min(20.0, ((active - calm) / E_SECONDS) ** 2))
        self.rate = rate
        self._next = max(self._next, now - SLACK) + 1 / rate
        if rate > FASTEST:
            self._set_free()
