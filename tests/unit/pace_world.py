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

from lucidworks_provider.transport.pace import Pace


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


class Arrival(NamedTuple):
    """A request at the service."""

    time: float
    accepted: bool
    process: int


@dataclass
class Process:
    """
    Sends whatever it has to send, as soon as it may.

    :param free: connections that nothing is sent on.
    :param backlog: requests that wait to be sent; None for more than can be sent.
    """

    number: int
    free: int
    backlog: int | None = None
    pace: Pace = field(default_factory=Pace)
    alarm: float = math.inf
    busy_until: float = 0.0


@dataclass
class World:
    """
    :param latency: seconds from sending to the answer, least and most.
    :param retry_after: whether the service says how long to wait.
    :param late: seconds that a timer goes off late, on average.
    :param stalls: seconds for which a process does nothing at all, at most; about every half second.
    """

    limit: Limit
    processes: int = 1
    connections: int = 32
    latency: tuple[float, float] = (0.001, 0.005)
    retry_after: bool = True
    late: float = 0.001
    stalls: float = 0.0
    seed: int = 0
    now: float = 0.0
    arrivals: list[Arrival] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._counter = itertools.count()
        self.senders = [Process(number, self.connections) for number in range(self.processes)]
        for sender in self.senders:
            self.at(self.random.uniform(0, 0.1), self._send, sender)
            if self.stalls:
                self.at(0.5, self._stall, sender)

    def at(self, time: float, call: Callable[..., None], *arguments: Any) -> None:
        """Let something happen."""
        heapq.heappush(self._events, (time, next(self._counter), call, arguments))

    def run(self, until: float) -> World:
        """Let it go on until then."""
        while self._events and self._events[0][0] <= until:
            self.now, _, call, arguments = heapq.heappop(self._events)
            call(*arguments)
        self.now = until
        return self

    def demand(self, a_second: float, since: float, until: float) -> None:
        """From now on there is only so much to do, at random times."""
        for sender in self.senders:
            sender.backlog = 0
            time = since
            while (time := time + self.random.expovariate(a_second)) < until:
                self.at(time, self._ask, sender)

    def sustained(self, since: float, until: float) -> float:
        """Accepted requests a second as a share of the limit."""
        accepted = sum(one.accepted for one in self.arrivals if since <= one.time < until)
        return accepted / (until - since) / self.limit.rate

    def refused(self, since: float, until: float) -> float:
        """The share of requests that were answered with 429."""
        between = [one for one in self.arrivals if since <= one.time < until]
        return sum(not one.accepted for one in between) / max(1, len(between))

    def _ask(self, sender: Process) -> None:
        sender.backlog = (sender.backlog or 0) + 1
        self._send(sender)

    def _send(self, sender: Process) -> None:
        while sender.free and sender.backlog != 0:
            if self.now < sender.busy_until:
                self.at(sender.busy_until, self._send, sender)
                return
            wait = sender.pace.wait(self.now)
            if wait > 0:
                then = self.now + wait + self.random.expovariate(1 / self.late)
                if not self.now < sender.alarm <= then:
                    sender.alarm = then
                    self.at(then, self._send, sender)
                return
            ticket = sender.pace.sent(self.now)
            sender.free -= 1
            if sender.backlog is not None:
                sender.backlog -= 1
            there = self.now + (lasts := self.random.uniform(*self.latency)) * self.random.uniform(0.3, 0.7)
            self.at(there, self._arrive, sender, ticket, self.now + lasts)

    def _arrive(self, sender: Process, ticket: int, back: float) -> None:
        wait = self.limit.take(self.now)
        self.arrivals.append(Arrival(self.now, wait is None, sender.number))
        self.at(back, self._answer, sender, ticket, wait)

    def _answer(self, sender: Process, ticket: int, wait: float | None) -> None:
        sender.free += 1
        if wait is None:
            sender.pace.accepted(ticket, self.now)
        else:
            sender.pace.refused(ticket, self.now, wait if self.retry_after else None, self.random.random())
        self._send(sender)

    def _stall(self, sender: Process) -> None:
        sender.busy_until = self.now + self.random.uniform(0, self.stalls)
        self.at(self.now + self.random.uniform(0.2, 0.8), self._stall, sender)
