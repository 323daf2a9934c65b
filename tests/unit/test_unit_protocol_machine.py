# SPDX-License-Identifier: Apache-2.0
"""The promises of the token protocol in any order of events: Hypothesis searches for a counterexample."""

import logging
import math
from collections import Counter
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from protocol_world import Call, Clock, Process, Weather, World

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth import protocol as commands
from lucidworks_provider.client.auth.source import TokenCache
from lucidworks_provider.hooks.stores.variables import VariableTokenStore

seconds = st.one_of(st.floats(0.001, 1.0), st.floats(1.0, 10.0), st.sampled_from([30.0, 70.0, 700.0, 3400.0]))


def recover(world: World) -> None:
    """Promise: when everything is well again, so is the fleet, and it shares one live token."""
    world.weather, world.well = Weather(), True
    for process in world.processes:
        process.stopped_until, process.dies_after, process.far = -math.inf, None, None
    living = world.living()
    if not world.run_until(lambda: all(c.ended or c.process.killed for c in world.calls), 600):
        world.fault("calls that never end, though all is well again")
    world.run(protocol.CHECK_AFTER)
    for process in living:
        _next_call(world, process)
    if world.faults:
        return
    for _ in range(2):
        # The second time if the refresh time was in between.
        last = [_answered(world, process) for process in living]
        if {call.value for call in last} <= {world.live()}:
            return
    used = ", ".join(f"{call.process.name} {call.value!s}" for call in last)
    world.fault(f"not one token for all: {used}; {world.live()!s} is live")


def _answered(world: World, process: Process) -> Call:
    call = process.call()
    world.run_until(lambda: call.ended is not None, 60)
    return call


def _next_call(world: World, process: Process) -> None:
    for _ in range(4):
        begun = world.now
        call = _answered(world, process)
        if call.ended is None or call.ended - begun > protocol.CLAIM_TIMEOUT + 4:
            return world.fault(
                f"{process.name} gets no response in {world.now - begun:.1f} s, though all is well"
            )
        if call.error is None:
            return None
        revocations = world.token.revocations.pause_left(process.clock.now()) if world.token else 0.0
        pause = max(revocations, process.cache.backoff.pause(world.now))
        if not pause:
            return world.fault(f"{process.name} fails though all is well: {call.error!r}")
        world.note("a documented pause")
        world.run(pause + 0.5)
    return world.fault(f"{process.name} fails after every pause")


class Fleet(RuleBasedStateMachine):
    """Up to eight processes and everything that can go wrong."""

    atomic = False
    # In how many worlds something happened.
    seen: ClassVar[Counter[str]] = Counter()

    @initialize(
        seed=st.integers(0, 2**16), lifetime=st.sampled_from([3600.0, 30.0, 120.0]), fleet=st.integers(2, 6)
    )
    def begin(self, seed: int, lifetime: float, fleet: int) -> None:
        self.world = World(seed, atomic=self.atomic, lifetime=lifetime)
        for _ in range(fleet):
            Process(self.world)

    def living(self) -> list[Process]:
        return self.world.living()

    def one(self, number: int) -> Process | None:
        living = self.living()
        return living[number % len(living)] if living else None

    # Ordinary days

    @rule(skew=st.sampled_from([0.0, 0.0, 1.5, -1.5, 3600.0, -3600.0, 40.0]))
    def start(self, skew: float) -> None:
        if len(self.living()) < 8:
            Process(self.world, skew)

    @rule(number=st.integers(0, 7), times=st.integers(1, 3), then=st.floats(0, 2))
    def call(self, number: int, times: int, then: float) -> None:
        if process := self.one(number):
            for _ in range(times):
                process.call()
            self.world.run(then)

    @rule(apart=st.floats(0, 0.3), then=st.floats(0, 2))
    def everybody_calls(self, apart: float, then: float) -> None:
        for process in self.living():
            process.call()
            self.world.run(apart)
        self.world.run(then)

    @rule(times=st.integers(5, 40))
    def traffic(self, times: int) -> None:
        for _ in range(times):
            for process in self.living():
                process.call()
            self.world.run(1.0)

    @rule(length=seconds)
    def time_passes(self, length: float) -> None:
        self.world.run(length)

    # Accidents

    @rule(number=st.integers(0, 7), lands=st.booleans())
    def kill(self, number: int, lands: bool) -> None:
        if process := self.one(number):
            process.kill(lands=lands)

    @rule(number=st.integers(0, 7), commands=st.integers(0, 8))
    def doom(self, number: int, commands: int) -> None:
        if process := self.one(number):
            process.dies_after = commands

    @rule(lands=st.booleans(), wait=st.floats(0, 1))
    def kill_a_refresher(self, lands: bool, wait: float) -> None:
        def refreshers() -> list[Process]:
            return [p for p in self.living() if p.turn is not None and p.turn.refreshing is not None]

        if self.world.run_until(lambda: bool(refreshers()), 3.0):
            self.world.run(wait)
            for process in refreshers():
                process.kill(lands=lands)

    @rule(number=st.integers(0, 7), length=st.floats(0.1, 20))
    def stop(self, number: int, length: float) -> None:
        if process := self.one(number):
            process.stop(length)

    @rule(slowest=st.sampled_from([0.005, 0.09, 0.3, 1.0, 4.0]))
    def store_is_slow(self, slowest: float) -> None:
        self.world.weather.store = (0.001, slowest)

    @rule(number=st.integers(0, 7), slowest=st.sampled_from([0.002, 0.3, 1.0, 4.0]))
    def one_host_is_far_away(self, number: int, slowest: float) -> None:
        if process := self.one(number):
            process.far = (slowest / 2, slowest)

    @rule(how_often=st.sampled_from([0.0, 0.0, 0.3, 1.0]))
    def store_fails(self, how_often: float) -> None:
        self.world.weather.store_down = how_often

    @precondition(lambda self: not self.atomic)
    @rule(how_often=st.sampled_from([0.0, 0.0, 0.3, 1.0]))
    def store_is_silent(self, how_often: float) -> None:
        self.world.weather.silent = how_often

    @rule(slowest=st.sampled_from([0.4, 3.0, 15.0]), down=st.booleans(), lost=st.integers(0, 2))
    def service(self, slowest: float, down: bool, lost: int) -> None:
        weather = self.world.weather
        weather.refresh, weather.service_down, weather.answers_lost = (0.01, slowest), down, lost

    @rule(slowest=st.sampled_from([0.1, 3.0]))
    def network(self, slowest: float) -> None:
        self.world.weather.api = (0.005, slowest)

    @rule()
    def all_is_well(self) -> None:
        self.world.weather = Weather()

    @rule(period=st.sampled_from([0.5, 2.0, 10.0]), length=st.sampled_from([0.1, 0.1, 5.0, 60.0]))
    def foreign(self, period: float, length: float) -> None:
        self.world.spawn(self.world.foreign(period, self.world.now + length))

    @rule()
    def damage(self) -> None:
        self.world.note("stored token damaged")
        self.world.token = None

    # Promises

    @invariant()
    def kept(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.faults, self.world.faults[0]

    def teardown(self) -> None:
        if hasattr(self, "world") and not self.world.faults:
            recover(self.world)
            for what in self.world.counted:
                event(what)
            self.seen.update(
                [*self.world.counted, *(["refreshed again"] if self.world.refreshes() > 1 else [])]
            )
            assert not self.world.faults, self.world.faults[0]


class FleetOnRedis(Fleet):
    """The same with a store that compares and sets in one step."""

    atomic = True
    seen: ClassVar[Counter[str]] = Counter()


def search(
    fleet: type[Fleet],
    examples: int,
    phases: tuple[Phase, ...] = tuple(Phase),
    *,
    derandomize: bool | None = None,
) -> None:
    """Let Hypothesis search for a broken promise; the profile of CI makes the search reproducible."""
    run_state_machine_as_test(
        fleet,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            phases=phases,
            derandomize=settings.default.derandomize if derandomize is None else derandomize,
            # Examples are long, and many rules do nothing in a fleet that was killed.
            suppress_health_check=list(HealthCheck),
        ),
    )


# Each in dozens of two hundred worlds.
REACHED = {"refreshed again", "401", "foreign refresh", "killed while refreshing", "read the time"}


@pytest.fixture(autouse=True)
def _no_words_about_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lucidworks_provider.client.auth.source"), "disabled", True)


@pytest.mark.parametrize("fleet", [Fleet, FleetOnRedis])
def test_whatever_happens(fleet: type[Fleet]) -> None:
    fleet.seen.clear()
    search(fleet, 200)
    assert not REACHED - set(fleet.seen), "a search that does not get there finds nothing"


def _take(_: object, before: commands.Snapshot, claim: commands.Claim, __: float) -> commands.Acquisition:
    yield commands.WriteClaim(claim)
    return before


def _is_claim(_: object, claim: commands.Claim | None, *__: object) -> bool:
    return claim not in {None, commands.RELEASED}


# What each would break if the product lost it: the search has to find out.
MUTANTS: dict[str, tuple[type[Fleet], Any, str, Any]] = {
    "a claim in a Variable is trusted at once": (Fleet, VariableTokenStore, "settle", 0.0),
    "a claim is never read back": (Fleet, protocol, "_claim", _take),
    "a claim in Redis is never read back": (FleetOnRedis, protocol, "_claim", _take),
    "a process that refreshes slowly counts as dead": (FleetOnRedis, protocol, "CLAIM_TIMEOUT", 0.1),
    "a claim is not moved during a refresh": (FleetOnRedis, World, "heartbeats", False),
    "what was refused is tried again": (FleetOnRedis, TokenCache, "refuse", lambda *_: None),
    "a process that was killed is waited for": (Fleet, protocol.HeartbeatMonitor, "alive", _is_claim),
    "a wrong clock is trusted": (FleetOnRedis, Clock, "synchronized", property(lambda _: True)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_protocol_with_a_fault_is_found_out(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, *patch = MUTANTS[mutant]
    monkeypatch.setattr(*patch)
    with pytest.raises(AssertionError):
        search(fleet, 1500, (Phase.generate,), derandomize=True)
