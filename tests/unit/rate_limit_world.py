# SPDX-License-Identifier: Apache-2.0
"""A simulated service with a rate limit, and processes that send to it; an hour of it takes seconds."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from lucidworks_provider.client.http.rate_limiter import (
    END_KEPT,
    PATIENCE,
    AdaptiveRateLimiter,
    PauseRecord,
    SharedPause,
)


class Unlimited(AdaptiveRateLimiter):
    """A plain loop: each request only waits for itself."""

    def wait(self, now: float) -> float:
        return 0.0

    def refused(self, *_: object) -> None:
        return None


class Limit(Protocol):
    """What decides over requests."""

    rate: float

    def take(self, now: float) -> float | None:
        """None for a request that is accepted, else the seconds of ``Retry-After``."""


@dataclass
class Bucket:
    """
    A token bucket.

    :param burst: seconds of its rate that it holds.
    """

    rate: float
    burst: float = 1.0
    tokens: float = math.inf
    at: float = 0.0

    def take(self, now: float) -> float | None:
        size = max(1.0, self.rate * self.burst)
        self.tokens = min(size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return None
        return max(1.0, math.ceil((1 - self.tokens) / self.rate))


@dataclass
class Sliding:
    """So many requests in any window of some seconds."""

    rate: float
    seconds: float = 1.0
    times: deque[float] = field(default_factory=deque)

    def take(self, now: float) -> float | None:
        while self.times and now - self.times[0] >= self.seconds:
            self.times.popleft()
        if len(self.times) < max(1, round(self.rate * self.seconds)):
            self.times.append(now)
            return None
        return max(1.0, math.ceil(self.seconds - (now - self.times[0])))


@dataclass
class Fixed:
    """So many requests in each of the windows that follow each other."""

    rate: float
    seconds: float = 1.0
    window: int = -1
    taken: int = 0

    def take(self, now: float) -> float | None:
        if int(now / self.seconds) != self.window:
            self.window, self.taken = int(now / self.seconds), 0
        if self.taken < max(1, round(self.rate * self.seconds)):
            self.taken += 1
            return None
        return max(1.0, math.ceil((self.window + 1) * self.seconds - now))


@dataclass
class Shedding:
    """
    429 at random, whatever the rate.

    :param behind: the limit that decides over the others.
    """

    share: float
    random: random.Random
    behind: Limit | None = None
    retry_after: float = 1.0

    def __post_init__(self) -> None:
        self.rate = self.behind.rate if self.behind else math.inf

    def take(self, now: float) -> float | None:
        if self.random.random() < self.share:
            return self.retry_after
        return self.behind.take(now) if self.behind else None


@dataclass
class Storm:
    """Everything is refused from one time to another."""

    begin: float
    end: float
    retry_after: float = 2.0
    behind: Limit | None = None

    def __post_init__(self) -> None:
        self.rate = self.behind.rate if self.behind else math.inf

    def take(self, now: float) -> float | None:
        if self.begin <= now < self.end:
            return self.retry_after
        return self.behind.take(now) if self.behind else None


@dataclass
class Fleet:
    """
    The store of the pause of several processes.

    :param read_interval: seconds between two reads of the pause, at least.
    """

    read_interval: float = 0.25
    now: Callable[[], float] = lambda: 0.0
    owner: str = ""
    until: float = 0.0
    ended_at: float = -math.inf

    def read(self) -> PauseRecord:
        now = self.now()
        ended = now - self.ended_at if now - self.ended_at < END_KEPT else None
        return (
            PauseRecord(self.owner, self.until - now, ended) if now < self.until else PauseRecord(ended=ended)
        )

    def claim(self, owner: str, seconds: float) -> bool:
        if not self.read().owner:
            self.write(owner, seconds)
        return self.owner == owner

    def write(self, owner: str, seconds: float) -> None:
        self.owner, self.until = owner, self.now() + seconds

    def end(self) -> None:
        self.until = self.ended_at = self.now()


class Arrival(NamedTuple):
    """A request at the service; ``sent`` is when it left its process."""

    time: float
    accepted: bool
    process: int
    sent: float


@dataclass
class Process:
    """
    Sends whatever it has to send, as soon as it may.

    :param free: connections that nothing is sent on.
    :param backlog: requests that wait to be sent; None for more than can be sent.
    """

    number: int
    free: int
    limiter: Any
    pause: SharedPause | None = None
    backlog: int | None = None
    # Earlier attempts of refused requests whose wait is over.
    again: deque[int] = field(default_factory=deque)
    alarm: float = math.inf
    busy_until: float = 0.0
    # When each 429 was received.
    heard: list[float] = field(default_factory=list)


@dataclass
class World:
    """
    :param latency: seconds from sending to the answer, least and most.
    :param retry_after: whether the service says how long to wait.
    :param late: seconds that a timer goes off late, on average.
    :param stalls: seconds for which a process does nothing at all, at most; about every half second.
    :param work: requests of each process until it is done; None for no end.
    :param occupies: whether a refused request keeps its connection while it waits.
    :param limiter: makes the limiter of a process.
    """

    limit: Limit
    processes: int = 1
    connections: int = 32
    latency: tuple[float, float] = (0.001, 0.005)
    retry_after: bool = True
    late: float = 0.001
    stalls: float = 0.0
    seed: int = 0
    work: int | None = None
    occupies: bool = False
    limiter: Callable[[], Any] = AdaptiveRateLimiter
    fleet: Fleet | None = None
    now: float = 0.0
    arrivals: list[Arrival] = field(default_factory=list)
    done_at: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._counter = itertools.count()
        self.left = math.inf if self.work is None else self.work * self.processes
        self.senders = [
            Process(number, self.connections, self.limiter(), self._pause(), self.work)
            for number in range(self.processes)
        ]
        for sender in self.senders:
            self.at(self.random.uniform(0, 0.1), self._send, sender)
            if self.stalls:
                self.at(0.5, self._stall, sender)

    def _pause(self) -> SharedPause | None:
        if (fleet := self.fleet) is None:
            return None
        fleet.now = lambda: self.now
        return SharedPause(lambda: fleet)

    def at(self, time: float, call: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (time, next(self._counter), call, arguments))

    def run(self, until: float) -> World:
        """Continue until a time, or until all work is done."""
        while self.left > 0 and self._events and self._events[0][0] <= until:
            self.now, _, call, arguments = heapq.heappop(self._events)
            call(*arguments)
        self.now = self.done_at = self.now if self.left <= 0 else until
        return self

    def demand(self, a_second: float, since: float, until: float) -> None:
        """From now on there is only so much to do, at random times."""
        for sender in self.senders:
            sender.backlog = 0
            time = since
            while (time := time + self.random.expovariate(a_second)) < until:
                self.at(time, self._ask, sender)

    def saturate(self) -> None:
        """From now on there is more to do than can be sent."""
        for sender in self.senders:
            sender.backlog = None
            self.at(self.now, self._send, sender)

    def used(self, since: float, until: float) -> float:
        """Accepted requests a second as a share of the limit."""
        accepted = sum(one.accepted for one in self.arrivals if since <= one.time < until)
        return accepted / (until - since) / self.limit.rate

    def refused(self, since: float = 0.0, until: float = math.inf) -> float:
        """The share of requests that were answered with 429."""
        between = [one for one in self.arrivals if since <= one.time < until]
        return sum(not one.accepted for one in between) / max(1, len(between))

    def least(self, since: float, until: float) -> float:
        """The share of the process with the fewest accepted requests, of a fair share."""
        counts = [0] * self.processes
        for one in self.arrivals:
            counts[one.process] += one.accepted and since <= one.time < until
        return min(counts) * self.processes / max(1, sum(counts))

    def _ask(self, sender: Process) -> None:
        sender.backlog = (sender.backlog or 0) + 1
        self._send(sender)

    def _repeat(self, sender: Process, attempt: int) -> None:
        if self.occupies:
            sender.free += 1
        sender.again.append(attempt)
        self._send(sender)

    def _send(self, sender: Process) -> None:
        while sender.free and (sender.again or sender.backlog != 0):
            if self.now < sender.busy_until:
                self.at(sender.busy_until, self._send, sender)
                return
            wait = sender.limiter.wait(self.now)
            if wait > 0:
                then = self.now + wait + self.random.expovariate(1 / self.late)
                if not self.now < sender.alarm <= then:
                    sender.alarm = then
                    self.at(then, self._send, sender)
                return
            if sender.pause is not None and sender.limiter.must_ask():
                reply = sender.pause.ask(PATIENCE, self.now - sender.limiter.stopped_at)
                sender.limiter.agreed(reply, self.now, sender.pause.others_pause)
                continue
            permit = sender.limiter.sent(self.now)
            sender.free -= 1
            attempt = sender.again.popleft() if sender.again else 0
            if sender.backlog is not None and not attempt:
                sender.backlog -= 1
            there = self.now + (lasts := self.random.uniform(*self.latency)) * self.random.uniform(0.3, 0.7)
            self.at(there, self._arrive, sender, permit, attempt, self.now, self.now + lasts)

    def _arrive(self, sender: Process, permit: int, attempt: int, sent: float, back: float) -> None:
        wait = self.limit.take(self.now)
        self.arrivals.append(Arrival(self.now, wait is None, sender.number, sent))
        self.at(back, self._answer, sender, permit, attempt, wait)

    def _answer(self, sender: Process, permit: int, attempt: int, wait: float | None) -> None:
        if wait is None:
            sender.free += 1
            self.left -= 1
            if sender.limiter.accepted(permit, self.now) and sender.pause is not None:
                sender.pause.end()
        else:
            sender.heard.append(self.now)
            asked = wait if self.retry_after else None
            pause = sender.limiter.refused(permit, self.now, asked, self.random.random())
            if pause is not None and sender.pause is not None:
                sender.pause.hold(pause)
            if not self.occupies:
                sender.free += 1
            # As `transport.retry` waits.
            ceiling = min(30.0, 0.25 * 4.0**attempt if asked else 2.0**attempt)
            self.at(
                self.now + min(asked or 0.0, 120.0) + self.random.uniform(ceiling / 2, ceiling),
                self._repeat,
                sender,
                min(attempt + 1, 6),
            )
        self._send(sender)

    def _stall(self, sender: Process) -> None:
        sender.busy_until = self.now + self.random.uniform(0, self.stalls)
        self.at(self.now + self.random.uniform(0.2, 0.8), self._stall, sender)
