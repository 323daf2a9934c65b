# SPDX-License-Identifier: Apache-2.0
"""
A fleet in virtual time: processes with the real protocol, one store, one service with one live token.

Nothing sleeps and nothing runs at the same time: everything that takes time is a generator that yields seconds,
and a queue of moments decides which one continues. The fleet's promises are checked while it runs; each broken one
is collected in ``World.faults`` with the events that led there.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth import protocol as commands
from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Clocks, Failed, Snapshot
from lucidworks_provider.client.auth.source import TOLERANCE, ServerClock, TokenCache
from lucidworks_provider.client.auth.token import AccessToken, TokenResponse
from lucidworks_provider.errors import LucidworksError, ServiceError, TokenRefusedError, TokenStoreError
from lucidworks_provider.hooks.stores.variables import VariableTokenStore
from lucidworks_provider.retrying import ATTEMPTS, LONGEST_WAIT, TOKEN_ROUNDS

Steps = Generator[float, None, Any]

# There are three operations between a read of the store and the end of the write: these stay below `settle`.
PROMPT = VariableTokenStore.settle / 3
# Hosts whose clocks differ by less are taken to agree; the Date of an answer has no fractions.
UNCERTAIN = TOLERANCE + 1
# How often a caller looks whether another one of its process has finished its turn.
_POLL = 0.05


@dataclass
class Weather:
    """
    How store, network and service fare. Times in seconds, drawn between the bounds.

    :param store: one operation on the store.
    :param store_busy: how long an operation occupies the store, which performs one after the other.
    :param store_down: how likely one fails.
    :param silent: how likely a read shows nothing though something is there.
    :param refresh: one request for a token.
    :param service_down: whether such requests are answered with 503.
    :param answers_lost: so many tokens are refreshed and never arrive.
    :param api: one call of the API.
    """

    store: tuple[float, float] = (0.002, 0.03)
    store_busy: float = 0.0
    store_down: float = 0.0
    silent: float = 0.0
    refresh: tuple[float, float] = (0.05, 0.4)
    service_down: bool = False
    answers_lost: int = 0
    api: tuple[float, float] = (0.01, 0.1)


@dataclass
class Turn:
    """
    One conversation, as an observer records it.

    :param refreshing: since when, until its token is stored, it failed, or its process is dead.
    :param seen: the token of its last read of the store; ``before``: the same when the claim was written.
    :param looked_at: when its last read of the store began.
    :param slowest: the longest store operation.
    :param troubled: what the store or the operating system did to it.
    """

    process: Process
    refreshing: float | None = None
    looked_at: float = -math.inf
    claimed_at: float = -math.inf
    seen: AccessToken | None = None
    before: AccessToken | None = None
    slowest: float = 0.0
    troubled: set[str] = field(default_factory=set)


class Clock(ServerClock):
    """The real one on a host whose own clock is off."""

    def __init__(self, world: World, skew: float) -> None:
        super().__init__()
        self._world, self._skew = world, skew

    def wall(self) -> float:
        return self._world.now + self._skew

    def now(self) -> float:
        return self.wall() + self._offset


class World:
    """
    Time, store and service.

    :param seed: for latencies.
    :param atomic: a store with Redis' semantics, else with a Variable's.
    :param lifetime: of a token, in seconds.
    """

    # What mutants leave out.
    heartbeats = True

    def __init__(self, seed: int = 0, *, atomic: bool = False, lifetime: float = 3600.0) -> None:
        self.now = 1_000_000.0
        self.random = random.Random(seed)
        self.weather = Weather()
        self.atomic, self.lifetime = atomic, lifetime
        self.settle = 0.0 if atomic else VariableTokenStore.settle
        self.token: AccessToken | None = None
        self.claim: Claim | None = None
        self.claimed_until = math.inf
        self.processes: list[Process] = []
        self.asked: dict[str, float] = {}
        self.refreshed: list[tuple[str, float, str]] = []
        self.deaths: list[float] = []
        self.dead_arrivals: list[float] = []
        self.calls: list[Call] = []
        self.warnings: list[tuple[float, str]] = []
        self.faults: list[str] = []
        self.counted: dict[str, int] = {}
        self.trace: deque[str] = deque(maxlen=60)
        self.well = False
        self.stored_at = -math.inf
        self.store_free_at = -math.inf
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def living(self) -> list[Process]:
        return [process for process in self.processes if not process.killed]

    # Time

    def at(self, moment: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (moment, next(self._numbers), work))

    def spawn(self, steps: Steps, process: Process | None = None) -> None:
        """Let something take its course, as long as its process lives and is not stopped."""

        def go_on() -> None:
            if process is not None:
                if process.killed:
                    return
                if self.now < process.stopped_until:
                    self.at(process.stopped_until, go_on)
                    return
            try:
                seconds = next(steps)
            except StopIteration:
                return
            self.at(self.now + seconds, go_on)

        self.at(self.now, go_on)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            moment, _, work = heapq.heappop(self._queue)
            self.now = max(self.now, moment)
            work()
        self.now = end

    def run_until(self, done: Callable[[], bool], limit: float) -> bool:
        end = self.now + limit
        while not done():
            if not self._queue or self._queue[0][0] > end:
                self.now = end
                return done()
            self.run(max(0.0, self._queue[0][0] - self.now))
        return True

    def note(self, what: str, *, counts: bool = True) -> None:
        """Keep for the message of a failure, and count."""
        self.trace.append(f"{self.now - 1_000_000:12.3f} {what}")
        if counts:
            kind = what.rsplit(":", maxsplit=1)[-1].strip()
            self.counted[kind] = self.counted.get(kind, 0) + 1

    def fault(self, what: str) -> None:
        self.note(f"FAULT {what}", counts=False)
        self.faults.append("\n  ".join([f"{what}. What happened:", *self.trace]))

    # Service

    def live(self) -> str | None:
        """The one token that is accepted."""
        if not self.refreshed:
            return None
        value, since, _ = self.refreshed[-1]
        return value if self.now < since + self.lifetime else None

    def refresh(self, by: str) -> str:
        """A new token, which deletes the one that lives."""
        if self.live() is not None:
            self.deaths.append(self.now)
        value = f"token-{len(self.refreshed) + 1}"
        self.refreshed.append((value, self.now, by))
        self.note(f"{value} for {by}", counts=False)
        self.at(self.now + self.lifetime, lambda: self._expired(value))
        return value

    def _expired(self, value: str) -> None:
        if self.refreshed[-1][0] == value:
            self.deaths.append(self.now)

    def refreshes(self, *, foreign: bool = False, since: float = -math.inf) -> int:
        return sum(at >= since and (by == "foreign") == foreign for _, at, by in self.refreshed)

    def foreign(self, period: float, until: float) -> Steps:
        while self.now < until and not self.well:
            self.note("foreign refresh")
            self.refresh("foreign")
            yield period

    # Store

    def current_claim(self) -> Claim | None:
        """As a read returns it; Redis always knows whether a process has it."""
        if self.atomic and (self.claim is None or self.now >= self.claimed_until):
            return RELEASED
        return self.claim

    def set_claim(self, claim: Claim) -> None:
        """The last writer wins; with Redis, the holder of the lease."""
        if self.atomic:
            seen = self.current_claim()
            if claim.owner and seen is not None and seen.owner not in {RELEASED.owner, claim.owner}:
                return
            self.claimed_until = self.now + protocol.CLAIM_TIMEOUT
        self.claim = claim

    def release_claim(self, claim: Claim) -> None:
        """A Variable is overwritten unconditionally; a lease is released by its owner only."""
        if not self.atomic or (self.claim is not None and self.claim.owner == claim.owner):
            self.claim = RELEASED

    def set_token(self, token: AccessToken, turn: Turn, seen: AccessToken | None) -> None:
        """
        Promise: no older token over a newer one.

        :param seen: what the publisher saw before; what was stored after that, it cannot know.
        """
        self.token, self.stored_at = token, self.now
        if token.value != self.live():
            self.dead_arrivals.append(self.now)
        self.note(f"{turn.process.name}: published {token.value!s}", counts=False)
        if seen is not None and self.asked[seen.value] > self.asked[token.value] + UNCERTAIN:
            self.fault(f"{token.value!s} was written over the newer {seen.value!s}")

    def begins_to_refresh(self, turn: Turn) -> None:
        """Promise: never two at once, but for an excuse."""
        others = [p.turn for p in self.living() if p.turn is not None and p.turn is not turn]
        turn.refreshing = self.now
        stored = self.token
        if (
            stored is not None
            and stored.value == self.live()
            and stored.value not in turn.process.cache.refused
            and self.now < stored.refresh_at - UNCERTAIN
            and self.stored_at < turn.looked_at
            and "reading the time failed" not in turn.troubled
            and (turn.before is not None or "a read was silent" not in turn.troubled)
        ):
            self.fault(f"{turn.process.name} requests a token though {stored.value!s} is good")
        for other in others:
            if other.refreshing is None:
                continue
            self.note("two refreshers at once")
            excuses = self.excuses(other, turn)
            if excuses:
                # Two that are at it also withdraw each other's claim, so a third may come.
                turn.troubled.add("not alone")
                other.troubled.add("not alone")
            else:
                self.fault(
                    f"{turn.process.name} and {other.process.name} (since {self.now - other.refreshing:.2f} s) "
                    "request a token at once"
                )

    def excuses(self, first: Turn, second: Turn) -> set[str]:
        why = first.troubled | second.troubled
        if first.slowest > PROMPT:
            why.add("the first one's store was slow")
        if self.atomic and self.now - second.claimed_at >= protocol.CLAIM_TIMEOUT:
            why.add("the second one's lease ran out on the way to its refresh")
        return why


@dataclass
class Call:
    """
    One call of the API: how it went, and how often it may be refused.

    :param refusals_allowed: at its start; each death of a live token during the call allows one more.
    """

    process: Process
    started: float
    refusals_allowed: int
    ended: float | None = None
    refused: int = 0
    error: LucidworksError | None = None
    value: str | None = None


class Process:
    """A worker or triggerer: performs the protocol's commands as ``TokenSource`` does, in virtual time."""

    def __init__(self, world: World, skew: float = 0.0) -> None:
        self.world = world
        self.name = f"p{len(world.processes)}"
        self.clock = Clock(world, skew)
        self.clocks = Clocks(lambda: world.now, self.clock.now, lambda: self.clock.synchronized)
        self.cache = TokenCache()
        self.turn: Turn | None = None
        self.failure: tuple[float, LucidworksError] | None = None
        self.killed = self.cut_off = False
        self.stopped_until = -math.inf
        self.dies_after: int | None = None
        # The store as this host sees it, if other than the rest does.
        self.far: tuple[float, float] | None = None
        self.refreshed_last = ""
        self.refused_values: set[str] = set()
        world.processes.append(self)

    # What is done to it

    def kill(self, *, lands: bool) -> None:
        """:param lands: whether messages in flight to store or service still arrive."""
        self.world.note(f"{self.name}: killed")
        if self.turn is not None and self.turn.refreshing is not None:
            self.world.note("killed while refreshing")
        self.killed, self.cut_off = True, not lands

    def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.world.note(f"{self.name}: stopped")
        self.stopped_until = max(self.stopped_until, self.world.now + seconds)
        if self.turn is not None:
            self.turn.troubled.add("stopped")

    # What it does

    def call(self) -> Call:
        world, held = self.world, self.cache.held
        used = held.token.value if held else None
        stored = world.token.value if world.token else None
        dead = {used, stored} - {None, world.live()}
        # An active conversation may end with a token that no process can see any more.
        call = Call(self, world.now, len(dead) + (self.turn is not None))
        world.calls.append(call)
        world.spawn(self._call(call), self)
        return call

    def _call(self, call: Call) -> Steps:
        rounds = 0
        while True:
            try:
                value = yield from self._get()
                call.value = value
                if value in self.refused_values:
                    self.world.fault(f"{self.name} tries {value} again, which was refused to it")
                if (yield from self._request(value)):
                    self.cache.accepted(value, "predict")
                    break
                self._refused(call, value)
                raise TokenRefusedError("401", status=401)
            except LucidworksError as err:
                rounds += isinstance(err, TokenRefusedError | TokenStoreError)
                if not isinstance(err, TokenRefusedError | TokenStoreError) or rounds > TOKEN_ROUNDS:
                    call.error = err
                    self.world.note(f"{self.name}: failed call, {type(err).__name__}")
                    break
                if isinstance(err, TokenStoreError):
                    yield 2.0 ** (rounds - 1) * self.world.random.uniform(0.5, 1.0)
        call.ended = self.world.now

    def _request(self, value: str) -> Steps:
        world = self.world
        seconds, there = world.random.uniform(*world.weather.api), world.random.random()
        yield seconds * there
        accepted = value == world.live()
        yield seconds * (1 - there)
        return accepted

    def _refused(self, call: Call, value: str) -> None:
        """Promise: one 401 for each token that died."""
        world = self.world
        world.note(f"{self.name}: 401")
        call.refused += 1
        self.refused_values.add(value)
        self.cache.refuse(value, world.now)
        since = sum(at >= call.started for at in (*world.deaths, *world.dead_arrivals))
        if call.refused > call.refusals_allowed + since:
            world.fault(f"{call.refused} refusals in one call of {self.name}, and only {since} tokens died")

    def _get(self) -> Steps:
        """``TokenSource.get``."""
        world, cache = self.world, self.cache
        arrived = world.now
        if (value := cache.fresh(arrived)) is not None:
            return value
        while self.turn is not None:
            if world.now - arrived >= protocol.GRACE and (value := cache.usable(world.now)) is not None:
                return value
            yield _POLL
        if (value := cache.fresh(world.now)) is not None:
            return value
        if self.failure is not None and self.failure[0] >= arrived:
            raise self.failure[1]
        while True:
            self.turn = Turn(self)
            try:
                outcome = yield from self._converse(self.turn)
            except LucidworksError as err:
                self.failure = (world.now, err)
                raise
            finally:
                self.turn = None
            if outcome.warning:
                world.warnings.append((world.now, outcome.warning))
            cache.use(outcome, self.clocks)
            if self.refreshed_last == outcome.token.value != world.live():
                world.dead_arrivals.append(world.now)
            if outcome.token.value not in cache.refused:
                return outcome.token.value

    def _converse(self, turn: Turn) -> Steps:
        conversation = self.cache.acquire(self.world.settle, self.clocks)
        reply: commands.Reply = None
        while True:
            try:
                command = conversation.send(reply)
            except StopIteration as stop:
                return stop.value
            if self.dies_after is not None:
                self.dies_after -= 1
                if self.dies_after < 0:
                    self.kill(lands=True)
                    yield 0.0
            try:
                reply = yield from self._perform(command, turn)
            except LucidworksError as err:
                reply = Failed(err)

    def _perform(self, command: commands.Command, turn: Turn) -> Steps:
        world = self.world
        match command:
            case commands.Read():
                turn.looked_at = world.now
                seen = yield from self._read(turn)
                turn.seen = seen.token
                return seen
            case commands.WriteClaim(claim):
                if claim.heartbeat == 0:
                    turn.before = turn.seen
                turn.claimed_at = world.now
                yield from self._operation(turn, lambda: world.set_claim(claim))
            case commands.ReleaseClaim(claim):
                turn.refreshing = None
                yield from self._operation(turn, lambda: world.release_claim(claim))
            case commands.Sleep(seconds):
                yield seconds
            case commands.FetchTime():
                before = self.clock.wall()
                yield world.random.uniform(*world.weather.api)
                if world.weather.service_down:
                    turn.troubled.add("reading the time failed")
                    raise ServiceError("503", status=503)
                world.note("read the time")
                self.clock.observe(math.floor(world.now), before, self.clock.wall())
            case commands.Refresh(claim):
                return (yield from self._refresh(claim, turn))
            case commands.Publish(token):
                yield from self._publish(token, turn)
                turn.refreshing = None
        return None

    def _operation(self, turn: Turn, effect: Callable[[], Any]) -> Steps:
        """One round trip to the store, which takes effect at some moment within it, if it does."""
        world = self.world
        world.store_free_at = max(world.now, world.store_free_at) + world.weather.store_busy
        seconds = world.store_free_at - world.now + world.random.uniform(*(self.far or world.weather.store))
        turn.slowest = max(turn.slowest, seconds)
        fails = world.random.random() < world.weather.store_down
        result: list[Any] = []
        # Of the operations that fail, some arrive and only the answer is lost.
        if not fails or world.random.random() < 0.5:
            arrives = world.now + seconds * world.random.random()
            world.at(arrives, lambda: None if self.cut_off else result.append(effect()))
        yield seconds
        if fails:
            turn.troubled.add("the store failed")
            raise TokenStoreError("down")
        return result[0]

    def _read(self, turn: Turn) -> Steps:
        """The claim first, then the token; a Redis shows both at once."""
        world = self.world
        if world.atomic:
            return (yield from self._operation(turn, lambda: Snapshot(world.token, world.current_claim())))
        outage = world.random.random() < world.weather.silent

        def shown(cell: Callable[[], Any]) -> Callable[[], Any]:
            if not outage and world.random.random() >= world.weather.silent / 4:
                return cell
            turn.troubled.add("a read was silent")
            return lambda: None

        claim = yield from self._operation(turn, shown(world.current_claim))
        token = yield from self._operation(turn, shown(lambda: world.token))
        return Snapshot(token, claim)

    def _publish(self, token: AccessToken, turn: Turn) -> Steps:
        """Read, compare, write: in one step only with Redis."""
        world = self.world
        while True:
            stored = (yield from self._read(turn)).token
            if stored is not None and stored.issued_at > token.issued_at:
                world.note("publication of an older token refused")
                if turn.refreshing is not None and world.stored_at < turn.refreshing:
                    world.fault(f"{token.value} was taken for older than {stored.value}, by their times")
                return

            def write(stored: AccessToken | None = stored) -> bool:
                swapped = not world.atomic or world.token == stored
                if swapped:
                    world.set_token(token, turn, stored)
                return swapped

            if (yield from self._operation(turn, write)):
                return

    def _refresh(self, claim: Claim, turn: Turn) -> Steps:
        """``TokenSource._refresh``: the service is asked while the claim is moved."""
        world, answer = self.world, []
        world.begins_to_refresh(turn)
        world.spawn(self._ask(answer), self)
        while not answer:
            due = world.now + protocol.HEARTBEAT
            while not answer and world.now < due:
                yield min(_POLL, due - world.now)
            if not answer and world.heartbeats:
                claim = claim.next_heartbeat()
                try:
                    yield from self._operation(turn, lambda claim=claim: world.set_claim(claim))
                except TokenStoreError:
                    world.note("a heartbeat failed")
        if isinstance(answer[0], LucidworksError):
            raise answer[0]
        self.refreshed_last = answer[0].value
        return answer[0]

    def _ask(self, answer: list[AccessToken | LucidworksError]) -> Steps:
        """``request_token``: again and again, when no answer comes."""
        world = self.world
        for attempt in range(ATTEMPTS):
            seconds, there = world.random.uniform(*world.weather.refresh), world.random.random()
            down, granted, asked, before = world.weather.service_down, [], world.now, self.clock.wall()
            if not down:
                arrives = world.now + seconds * there
                arrive = partial(self._granted, granted, asked)
                world.at(arrives, arrive)
            yield seconds
            if granted and world.weather.answers_lost:
                world.weather.answers_lost -= 1
                world.note("answer of a refresh lost")
            elif granted:
                after = self.clock.wall()
                self.clock.observe(granted[0].server_time, before, after)
                answer.append(AccessToken.from_response(granted[0], self.clock.now() - (after - before)))
                return
            if attempt < ATTEMPTS - 1:
                yield min(LONGEST_WAIT, 2.0**attempt) * world.random.uniform(0.5, 1.0)
        world.note("refresh failed")
        answer.append(ServiceError("503", status=503))

    def _granted(self, granted: list[TokenResponse], asked: float) -> None:
        world = self.world
        if not self.cut_off:
            value = world.refresh(self.name)
            world.asked[value] = asked
            granted.append(TokenResponse(value, world.lifetime, math.floor(world.now)))
