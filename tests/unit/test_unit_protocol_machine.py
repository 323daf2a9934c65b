# SPDX-License-Identifier: Apache-2.0
"""What the token protocol promises, whatever happens in whatever order: Hypothesis looks for a counterexample."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from protocol_world import Process, Weather, World, recover

seconds = st.one_of(st.floats(0.001, 1.0), st.floats(1.0, 10.0), st.sampled_from([30.0, 70.0, 700.0, 3400.0]))


class Fleet(RuleBasedStateMachine):
    """Up to eight processes and everything that can go wrong."""

    atomic = False

    @initialize(
        seed=st.integers(0, 2**16), lifetime=st.sampled_from([3600.0, 30.0, 120.0]), fleet=st.integers(2, 6)
    )
    def begin(self, seed: int, lifetime: float, fleet: int) -> None:
        self.world = self.new_world(seed, lifetime)
        for _ in range(fleet):
            Process(self.world)

    def new_world(self, seed: int, lifetime: float) -> World:
        return World(seed, atomic=self.atomic, lifetime=lifetime)

    def living(self) -> list[Process]:
        return [process for process in self.world.processes if not process.killed]

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
    def kill_a_minter(self, lands: bool, wait: float) -> None:
        def minters() -> list[Process]:
            return [p for p in self.living() if p.turn is not None and p.turn.minting is not None]

        if self.world.run_until(lambda: bool(minters()), 3.0):
            self.world.run(wait)
            for process in minters():
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
        weather.mint, weather.mint_down, weather.answers_lost = (0.01, slowest), down, lost

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
        if not hasattr(self, "world"):
            return
        if not self.world.faults:
            recover(self.world)
        for what in self.world.counted:
            event(what)
        SEEN.update({k: SEEN.get(k, 0) + 1 for k in self.world.counted})
        SEEN["mints>1"] = SEEN.get("mints>1", 0) + (self.world.mints() > 1)
        SEEN["examples"] = SEEN.get("examples", 0) + 1
        assert not self.world.faults, self.world.faults[0]


SEEN = {}


class FleetOnRedis(Fleet):
    atomic = True


thorough = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("fleet", [Fleet, FleetOnRedis])
def test_whatever_happens(fleet: type[Fleet]) -> None:
    run_state_machine_as_test(fleet, settings=thorough)
