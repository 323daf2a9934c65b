# SPDX-License-Identifier: Apache-2.0
"""
When requests may be sent: the decision by values, then its figures in a simulated service.

The figures of more seeds and longer times are printed by ``benchmarks/rate.py``.
"""

import itertools
import math
import random
from collections.abc import Callable
from functools import partial

import pytest
from rate_limit_world import Bucket, Fixed, Fleet, Limit, Shedding, Sliding, Storm, Unlimited, World

from lucidworks_provider import retrying
from lucidworks_provider.client.http.rate_limiter import (
    FIRST_RATE,
    PATIENCE,
    PROBE_DELAY,
    REFUSED_PROBES,
    AdaptiveRateLimiter,
    State,
)


def accept(limiter: AdaptiveRateLimiter, now: float) -> bool:
    """A request that is accepted at once."""
    return limiter.accepted(limiter.sent(now), now)


def refuse(limiter: AdaptiveRateLimiter, now: float, retry_after: float | None = 1.0) -> float | None:
    """A request that is refused at once."""
    return limiter.refused(limiter.sent(now), now, retry_after, 0.0)


def paused(now: float = 10.0, retry_after: float | None = 1.0, shared: bool = False) -> AdaptiveRateLimiter:
    """A limiter whose probe was refused at a time."""
    limiter = AdaptiveRateLimiter(shared=shared)
    for _ in range(2):
        refuse(limiter, now - PROBE_DELAY, retry_after)
    if shared:
        limiter.agreed(0.0, now)
    refuse(limiter, now, retry_after)
    return limiter


def limited(rate: float) -> AdaptiveRateLimiter:
    """A limiter that has learned a rate and sends again from 2.0 on."""
    limiter = AdaptiveRateLimiter()
    for permit in [limiter.sent(0.99) for _ in range(round(rate))]:
        limiter.accepted(permit, 0.99)
    for permit in [limiter.sent(0.99) for _ in range(30)]:
        limiter.refused(permit, 1.0, 1.0, 0.0)
    accept(limiter, 2.0)
    return limiter


# The decision


def test_nothing_is_limited_before_the_first_429() -> None:
    limiter = AdaptiveRateLimiter()
    for number in range(10_000):
        assert limiter.wait(number / 1e6) == 0
        limiter.accepted(limiter.sent(number / 1e6), 1.0)
    assert (limiter.state, limiter.stats.rate) == (State.FREE, None)


def test_one_429_delays_no_other_request() -> None:
    limiter = AdaptiveRateLimiter()
    assert refuse(limiter, 10.0, 60.0) is None
    assert (limiter.state, limiter.wait(10.0), limiter.refusals) == (State.FREE, 0.0, 1)


def test_two_in_a_row_stop_all_until_one_in_flight_is_accepted() -> None:
    limiter = AdaptiveRateLimiter()
    permits = [limiter.sent(0.0) for _ in range(5)]
    limiter.refused(permits[2], 0.1, 1.0, 0.0)
    assert limiter.refused(permits[3], 0.1, 1.0, 0.0) is None
    assert (limiter.state, limiter.wait(0.1)) == (State.SUSPECTING, PATIENCE)
    # An older request was accepted before they were refused.
    assert not limiter.accepted(permits[0], 0.2)
    assert limiter.state is State.SUSPECTING
    assert not limiter.accepted(permits[4], 0.2)
    assert (limiter.state, limiter.wait(0.2)) == (State.FREE, 0.0)


def test_a_429_between_two_accepted_requests_is_not_in_a_row() -> None:
    limiter = AdaptiveRateLimiter()
    for number in range(100):
        refuse(limiter, number / 10)
        accept(limiter, number / 10)
        if limiter.state is not State.FREE:
            break
    # Half of the answers are 429s, which is a limit; but no pause.
    assert limiter.state is State.LIMITED
    assert limiter.stats.paused == 0


def test_a_request_without_a_response_does_not_stop_the_others_for_ever() -> None:
    limiter = AdaptiveRateLimiter()
    slow = [limiter.sent(0.0) for _ in range(3)]
    limiter.refused(slow[0], 0.1, 1.0, 0.0)
    limiter.refused(slow[1], 0.1, 1.0, 0.0)
    assert limiter.wait(0.1 + PATIENCE) == 0
    limiter.lost(slow[2], 1.0)
    assert limiter.state is State.PAUSED
    assert limiter.wait(1.0) == pytest.approx(PROBE_DELAY)


def test_a_refused_probe_pauses_for_its_retry_after() -> None:
    limiter = paused(10.0, 3.0)
    assert (limiter.state, limiter.wait(10.0), limiter.wait(13.0)) == (State.PAUSED, 3.0, 0.0)
    probe = limiter.sent(13.0)
    assert (limiter.state, limiter.wait(13.0)) == (State.PROBING, PATIENCE)
    assert limiter.refused(probe, 13.1, 2.0, 0.0) == 2.0
    assert accept(limiter, 15.1)
    assert limiter.state is State.LIMITED


@pytest.mark.parametrize("retry_after", [None, 0.0])
def test_pauses_double_without_a_retry_after(retry_after: float | None) -> None:
    limiter = paused(0.0, retry_after)
    pauses, now = [limiter.wait(0.0)], 0.0
    for _ in range(6):
        now += pauses[-1]
        refuse(limiter, now, retry_after)
        pauses.append(limiter.wait(now))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_pause_is_bounded_and_does_not_end_everywhere_in_the_same_instant() -> None:
    assert paused(0.0, 86_400.0).wait(0.0) == retrying.LONGEST_RETRY_AFTER
    limiter = paused(0.0)
    limiter.refused(limiter.sent(1.0), 1.0, 10.0, 1.0)
    assert limiter.wait(1.0) == pytest.approx(11.0)


def test_a_probe_without_a_response_is_replaced() -> None:
    limiter = paused(0.0)
    limiter.lost(limiter.sent(1.0), 1.1)
    assert limiter.wait(1.1) == 0
    limiter.sent(1.2)
    assert limiter.wait(1.2 + PATIENCE) == 0
    limiter.sent(1.2 + PATIENCE)
    assert limiter.state is State.PROBING


def test_the_late_response_of_a_replaced_probe_decides() -> None:
    limiter = paused(0.0)
    slow = [limiter.sent(1.0 + PATIENCE * number) for number in range(3)]
    assert limiter.refused(slow[0], 6.0, 9.0, 0.0) == 9.0
    # Those that were sent before that pause say nothing about the next probe.
    assert limiter.refused(slow[1], 8.0, 9.0, 0.0) is None
    assert not limiter.accepted(slow[2], 10.0)
    assert (limiter.state, limiter.wait(10.0)) == (State.PAUSED, 5.0)
    slow = [limiter.sent(15.0 + PATIENCE * number) for number in range(3)]
    assert limiter.accepted(slow[1], 20.0)
    assert limiter.state is State.LIMITED


def test_a_late_429_starts_a_pause_also_while_another_process_probes() -> None:
    limiter = paused(0.0, shared=True)
    limiter.agreed(0.0, 1.0)
    probe = limiter.sent(1.0)
    limiter.agreed(1.5, 1.0 + PATIENCE)
    assert limiter.refused(probe, 4.0, 30.0, 0.0) == 30.0
    assert limiter.wait(4.0) == 30.0


def test_responses_from_before_a_pause_end_nothing() -> None:
    limiter = AdaptiveRateLimiter()
    early = [limiter.sent(0.0) for _ in range(4)]
    for permit in early[:2]:
        limiter.refused(permit, 0.1, 1.0, 0.0)
    refuse(limiter, 0.1 + PATIENCE, 5.0)
    assert limiter.state is State.PAUSED
    assert not limiter.accepted(early[3], 2.5)
    assert limiter.state is State.PAUSED


@pytest.mark.parametrize("shared", [False, True])
def test_the_fleet_is_asked_after_the_second_429_in_a_row_and_not_before(shared: bool) -> None:
    limiter = AdaptiveRateLimiter(shared=shared)
    asks = [limiter.must_ask()]
    for _ in range(2):
        refuse(limiter, 10.0)
        asks.append(limiter.must_ask())
    assert asks == [False, False, shared]


def test_permission_to_probe_is_for_one_request() -> None:
    limiter = paused(10.0, shared=True)
    assert limiter.must_ask()
    limiter.agreed(1.0, 11.0)
    assert (limiter.wait(11.0), limiter.must_ask()) == (1.0, True)
    limiter.agreed(0.0, 12.0)
    assert not limiter.must_ask()
    limiter.sent(12.0)
    assert limiter.must_ask()


def test_each_pause_of_another_process_is_a_refused_probe() -> None:
    limiter = paused(0.0, shared=True)
    for number in range(1, REFUSED_PROBES):
        assert limiter.refused_for(30.0 * number) == 0
        for now in (30.0 * number, 30.0 * number + 15):
            limiter.agreed(15.0, now, f"other {number}")
    assert limiter.refused_for(200.0) == pytest.approx(200.0, abs=1)
    limiter.agreed(None, 200.0, "other 9")
    assert limiter.refused_for(200.0) == 0


def test_when_the_probe_of_another_is_accepted_all_resume() -> None:
    limiter = paused(10.0, shared=True)
    limiter.agreed(None, 11.0)
    before = (limiter.state, limiter.rate)
    assert (limiter.state, limiter.rate is None) == (State.LIMITED, False)
    for late in (None, 0.0, 7.0):
        limiter.agreed(late, 11.0)
    assert (limiter.state, limiter.rate) == before


def test_the_first_estimate_is_what_a_bucket_gave() -> None:
    assert 40 <= limited(50).rate <= 50
    assert 0.8 * FIRST_RATE <= limited(2).rate <= FIRST_RATE


@pytest.mark.parametrize("seconds", [65.0, 330.0, 7200.0])
def test_an_outage_is_no_calm_time(seconds: float) -> None:
    limiter, now = limited(50), 3.0
    before = limiter.rate
    for _ in range(2):
        refuse(limiter, now)
    while limiter.stopped and now < 3.0 + seconds:
        now += limiter.wait(now)
        refuse(limiter, now, 30.0)
    now += limiter.wait(now)
    for _ in range(3):
        accept(limiter, now)
        now += limiter.wait(now)
    assert limiter.rate <= 1.5 * before


def test_turns_are_even_and_a_late_one_is_made_up_for_within_bounds() -> None:
    limiter, now = limited(100), 2.0
    times: list[float] = []
    while len(times) < 20:
        now += limiter.wait(now)
        accept(limiter, now)
        times.append(now)
    gaps = [after - before for before, after in itertools.pairwise(times[10:])]
    assert max(gaps) == pytest.approx(min(gaps), rel=0.05)
    late, count = now + 10, 0
    while limiter.wait(late) == 0:
        limiter.sent(late)
        count += 1
    assert 5 <= count <= 15


# The figures


def check(world: World, since: float, until: float, *, share: float, most: float) -> None:
    assert world.used(since, until) >= share
    assert world.refused(since, until) <= most


def shed(share: float, behind: Limit | None = None, seed: int = 1) -> Shedding:
    return Shedding(share, random.Random(seed), behind)


@pytest.mark.parametrize("share", [0.005, 0.02, 0.05])
def test_random_429s_cost_next_to_nothing(share: float) -> None:
    world = partial(World, latency=(0.02, 0.03), connections=64, work=12_000, seed=1)
    own = world(shed(0.0)).run(1e4).done_at
    loop = world(shed(share), limiter=Unlimited, occupies=True).run(1e4).done_at
    ours = world(shed(share)).run(1e4)
    assert ours.done_at <= 1.3 * loop
    # The rest was refused several times and waits longer by itself.
    nearly_all = [one.time for one in ours.arrivals if one.accepted][: round(0.99 * 12_000)]
    assert nearly_all[-1] <= 1.5 * own
    single = partial(World, latency=(0.02, 0.03), connections=1, work=800, seed=1)
    assert single(shed(share)).run(1e4).done_at <= 1.5 * single(shed(0.0)).run(1e4).done_at


@pytest.mark.parametrize("retry_after", [True, False], ids=["retry-after", "none"])
@pytest.mark.parametrize("latency", [(0.001, 0.005), (0.02, 0.03), (0.1, 0.4)], ids=["5ms", "30ms", "400ms"])
@pytest.mark.parametrize("rate", [5, 20, 200])
def test_a_bucket_is_used_up(rate: float, latency: tuple[float, float], retry_after: bool) -> None:
    if rate == 200 and not retry_after and latency[0] < 0.1:
        pytest.skip("as with Retry-After")
    for seed in range(2 if rate < 100 else 1):
        world = World(Bucket(rate), latency=latency, connections=128, retry_after=retry_after, seed=seed)
        check(world.run(120), 60, 120, share=0.95, most=0.04 if rate == 5 else 0.02)


@pytest.mark.parametrize("retry_after", [True, False], ids=["retry-after", "none"])
@pytest.mark.parametrize("rate", [5, 20, 200])
def test_a_bucket_is_used_up_though_responses_take_longer_than_a_probe_is_waited_for(
    rate: float, retry_after: bool
) -> None:
    world = World(Bucket(rate), latency=(3.0, 5.0), connections=1500, retry_after=retry_after)
    check(world.run(300), 100, 300, share=0.9, most=0.15)


@pytest.mark.parametrize("kind", [Sliding, Fixed])
@pytest.mark.parametrize("rate", [5, 20, 200])
def test_a_window_is_used_up(kind: Callable[[float], Limit], rate: float) -> None:
    # Of a window, whatever is not used is lost; with 5 a second, one request is a fifth of it.
    for seed in range(2 if rate < 100 else 1):
        # A pause at the end of a window of many quick requests loses the begin of the next one.
        least = 0.85 if (kind, rate) == (Fixed, 200) else 0.9
        check(World(kind(rate), seed=seed).run(150), 60, 150, share=least, most=0.04)
        if rate > 100:
            continue
        rough = World(kind(rate), latency=(0.02, 0.22), connections=64, seed=seed)
        check(rough.run(150), 60, 150, share=0.86, most=0.04)


@pytest.mark.parametrize("kind", [Sliding, Fixed])
def test_a_long_window_is_used_up(kind: Callable[[float, float], Limit]) -> None:
    world = World(kind(5, 60.0), latency=(0.005, 0.05)).run(1860)
    assert world.used(660, 1860) >= 0.9


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_and_random_429s(seed: int) -> None:
    alone = partial(AdaptiveRateLimiter, alone=True)
    world = World(shed(0.02, Bucket(50), seed), latency=(0.02, 0.03), limiter=alone, seed=seed)
    check(world.run(180), 60, 180, share=0.85, most=0.05)


@pytest.mark.parametrize(
    ("rate", "factor", "seconds"),
    [(5, 0.5, 60), (20, 0.5, 20), (200, 0.5, 20), (5, 2, 60), (20, 2, 20), (200, 2, 20)],
)
def test_a_limit_that_changes(rate: float, factor: float, seconds: float) -> None:
    world = World(Bucket(rate), latency=(0.005, 0.05), connections=64).run(95)
    world.limit.rate *= factor
    world.run(115 + seconds)
    assert world.used(95 + seconds, 115 + seconds) >= 0.85


@pytest.mark.parametrize("processes", [2, 8])
@pytest.mark.parametrize("rate", [50, 200])
def test_processes_share_a_limit(rate: float, processes: int) -> None:
    world = World(Bucket(rate), processes=processes, latency=(0.005, 0.05), connections=16).run(150)
    check(world, 60, 150, share=0.95, most=0.05)
    # By the seed it is 0.42 to 0.98.
    assert world.least(60, 150) >= 0.4


@pytest.mark.parametrize("limit", [None, Bucket(200)], ids=["free", "limited"])
def test_a_storm_draws_one_request_a_pause_from_the_whole_fleet(limit: Limit | None) -> None:
    begin, end = 40.0, 60.0
    shared, storm = partial(AdaptiveRateLimiter, shared=True), Storm(begin, end, 2.0, limit)
    world = World(storm, 16, connections=8, latency=(0.005, 0.05), limiter=shared, fleet=Fleet())
    if limit is None:
        world.demand(20.0, 0, 80)
    world.run(80)
    second = {one.number: sorted(at for at in one.heard if at >= begin)[1:2] for one in world.senders}
    found_out = [one for one in world.arrivals if second[one.process] and one.sent > second[one.process][0]]
    # The first one finds out; then one each pause.
    assert sum(begin <= one.time < end for one in found_out) <= 1 + (end - begin) / 2
    resumed = {one.process for one in world.arrivals if one.accepted and end <= one.time <= end + 2}
    assert resumed == {sender.number for sender in world.senders}


def test_every_process_of_a_fleet_notices_that_everything_is_refused() -> None:
    shared = partial(AdaptiveRateLimiter, shared=True)
    world = World(Storm(40, 1000, 30.0), 50, connections=4, limiter=shared, fleet=Fleet(1.0))
    world.demand(1.0, 0, 300)
    world.run(300)
    refused_for = [one.limiter.refused_for(300) for one in world.senders]
    assert min(refused_for) > retrying.LONGEST_REFUSAL
    assert max(refused_for) < 300 - 40


@pytest.mark.parametrize("latency", [(0.02, 0.05), (3.0, 5.0)], ids=["quick", "slow"])
@pytest.mark.parametrize("rate", [1 / 6, 5])
def test_a_low_limit_of_a_fleet_refuses_not_everything(rate: float, latency: tuple[float, float]) -> None:
    shared = partial(AdaptiveRateLimiter, shared=True)
    world = World(Bucket(rate), 50, connections=4, latency=latency, limiter=shared, fleet=Fleet(1.0))
    for now in range(1, 601):
        world.run(now)
        for one in world.senders:
            assert one.limiter.refused_for(now) <= retrying.LONGEST_REFUSAL


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("rate", [5, 20])
def test_little_demand_is_not_taken_for_the_limit(rate: float, share: float) -> None:
    world = World(Bucket(rate), latency=(0.005, 0.05)).run(120)
    world.demand(rate * share, 120, 720)
    world.run(720)
    assert rate * 0.7 <= (world.senders[0].limiter.rate or math.inf) <= rate * 1.6
    assert world.refused(130, 720) <= 0.02
    world.saturate()
    check(world.run(840), 720, 840, share=0.95, most=0.05)


def test_a_stray_storm_is_got_over() -> None:
    world = World(Storm(50, 55, 1.0, Bucket(200)), latency=(0.005, 0.05))
    world.demand(1.0, 0, 300)
    world.run(300)
    world.saturate()
    check(world.run(400), 335, 400, share=0.95, most=0.02)


def test_a_process_that_stalls() -> None:
    # Its largest results hold it up, for a fifth of a second at most, about twice a second.
    check(World(Bucket(20), latency=(0.02, 0.05), stalls=0.2).run(300), 60, 300, share=0.9, most=0.02)


def test_it_takes_no_memory() -> None:
    limiter = AdaptiveRateLimiter()
    for second in range(100_000):
        accept(limiter, float(second))
    assert sum(len(value) for value in vars(limiter).values() if hasattr(value, "__len__")) <= 20
