# SPDX-License-Identifier: Apache-2.0
"""
How fast an application is called: the decision by values, then its figures in a simulated service.

The figures to reach: 95 % of the limit used, and 429s for 2 % of the requests at most, after the first minute.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from pace_world import Bucket, Fixed, Limit, Sliding, World

from lucidworks_provider.transport import retry
from lucidworks_provider.transport.pace import FIRST_RATE, LOOK_AGAIN, PROBE_PATIENCE, Pace

MINUTE = 60.0


def refused(pace: Pace, now: float, asked: float | None = 1.0) -> None:
    """A request that is refused at once."""
    pace.refused(pace.sent(now), now, asked, 0.0)


def paced(rate: float) -> Pace:
    """A pace that has learned a rate; it goes on at 2.0."""
    pace = Pace()
    for _ in range(round(rate)):
        pace.sent(0.99)
    tickets = [pace.sent(0.99) for _ in range(5)]
    for ticket in tickets:
        pace.refused(ticket, 1.0, 1.0, 0.0)
    pace.accepted(pace.sent(2.0), 2.0)
    return pace


# --- the decision


def test_nothing_is_limited_before_the_first_refusal() -> None:
    pace = Pace()
    for number in range(10_000):
        assert pace.wait(number / 1e6) == 0
        pace.accepted(pace.sent(number / 1e6), 1.0)
    assert pace.free
    assert pace.learned.rate is None


def test_a_refusal_holds_everybody_for_as_long_as_it_asks() -> None:
    pace = Pace()
    refused(pace, 10.0, asked=3.0)
    assert not pace.free
    assert [pace.wait(10.0), pace.wait(12.5), pace.wait(13.0)] == [3.0, 0.5, 0.0]


def test_the_longest_of_several_pauses_counts() -> None:
    pace = Pace()
    tickets = [pace.sent(0.0) for _ in range(3)]
    for ticket, asked in zip(tickets, (1.0, 5.0, 2.0), strict=True):
        pace.refused(ticket, 0.0, asked, 0.0)
    assert pace.wait(0.0) == 5.0


def test_the_first_request_of_a_fleets_process_asks_whether_there_is_a_pause() -> None:
    assert not Pace().asks(0.0)
    pace = Pace(shared=True)
    assert (pace.free, pace.knows(0.0), pace.asks(0.0)) == (True, False, True)
    pace.agreed(0.0, 10.0)
    assert (pace.free, pace.knows(10.0), pace.asks(10.0)) == (True, True, False)


def test_a_process_that_has_sent_nothing_for_a_while_asks_again() -> None:
    pace = Pace(shared=True)
    pace.agreed(0.0, 10.0)
    pace.accepted(pace.sent(14.0), 14.1)
    assert (pace.asks(14.0 + LOOK_AGAIN - 0.1), pace.asks(14.0 + LOOK_AGAIN)) == (False, True)
    pace.agreed(2.0, 20.0)
    assert (pace.holding, pace.wait(20.0)) == (True, 2.0)
    alone = Pace()
    alone.sent(0.0)
    assert alone.knows(3600.0)


def test_a_process_with_a_rate_of_its_own_does_not_look() -> None:
    pace = Pace(shared=True)
    pace.agreed(0.0, 0.0)
    pace.refused(pace.sent(0.0), 0.0, 1.0, 0.0)
    pace.agreed(0.0, 1.0)
    pace.accepted(pace.sent(1.0), 1.0)
    assert not pace.asks(3600.0)


def test_a_process_that_begins_in_a_pause_waits_for_its_end() -> None:
    pace = Pace(shared=True)
    pace.agreed(5.0, 10.0)
    assert (pace.free, pace.holding, pace.wait(11.0), pace.wait(15.0)) == (False, True, 4.0, 0.0)
    assert pace.asks(15.0), "another may probe already"
    pace.agreed(1.0, 15.0)
    assert (pace.wait(15.0), pace.wait(16.0), pace.asks(16.0)) == (1.0, 0.0, True)
    pace.agreed(0.0, 16.0)
    assert (pace.wait(16.0), pace.asks(16.0)) == (0.0, False)
    assert pace.accepted(pace.sent(16.0), 16.1), "tells the others"
    assert (pace.holding, pace.asks(17.0)) == (False, False)


def test_leave_to_probe_is_for_one_request() -> None:
    pace = Pace(shared=True)
    pace.agreed(0.0, 0.0)
    assert pace.refused(pace.sent(0.0), 0.0, 1.0, 0.0) == 1.0
    pace.agreed(0.0, 1.0)
    ticket = pace.sent(1.0)
    assert pace.wait(1.0) == PROBE_PATIENCE
    assert pace.refused(ticket, 1.1, 3.0, 0.0) == 3.0
    assert pace.asks(4.1)
    pace.agreed(0.0, 4.1)
    pace.lost(pace.sent(4.1))
    assert (pace.wait(4.2), pace.asks(4.2)) == (0.0, True)


def test_when_anothers_probe_was_accepted_all_go_on_at_what_they_know() -> None:
    alone, one = Pace(), Pace(shared=True)
    one.agreed(0.0, 0.0)
    for pace in (alone, one):
        for _ in range(10):
            pace.sent(0.99)
        for ticket in [pace.sent(0.99) for _ in range(5)]:
            pace.refused(ticket, 1.0, 1.0, 0.0)
    alone.accepted(alone.sent(2.0), 2.0)
    one.agreed(None, 2.0)
    assert (one.holding, one.asks(2.0), one.rate) == (False, False, alone.rate)
    assert one.wait(2.0) == alone.wait(2.0)


def test_an_agreement_that_comes_too_late_changes_nothing() -> None:
    pace = paced(20.0)
    before = (pace.holding, pace.rate, pace.wait(2.0))
    for late in (None, 0.0, 7.0):
        pace.agreed(late, 2.0)
    assert (pace.holding, pace.rate, pace.wait(2.0)) == before


def test_no_pause_is_longer_than_patience() -> None:
    pace = Pace()
    refused(pace, 0.0, asked=86_400.0)
    assert pace.wait(0.0) == retry.LONGEST_RETRY_AFTER


def test_processes_do_not_come_back_in_the_same_instant() -> None:
    pauses = []
    for spread in (0.0, 0.5, 1.0):
        pace = Pace()
        pace.refused(pace.sent(0.0), 0.0, 10.0, spread)
        pauses.append(pace.wait(0.0))
    assert pauses == [10.0, 10.5, 11.0]


@pytest.mark.parametrize("asked", [None, 0.0])
def test_pauses_double_where_the_service_asks_for_none(asked: float | None) -> None:
    pace, now, pauses = Pace(), 0.0, []
    for _ in range(7):
        refused(pace, now, asked)
        pauses.append(pace.wait(now))
        now += pauses[-1]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    pace.accepted(pace.sent(now), now)
    refused(pace, now + 1.0, asked)
    assert pace.wait(now + 1.0) == 1.0


def test_one_request_probes_and_the_others_wait_for_its_answer() -> None:
    pace = Pace()
    refused(pace, 0.0)
    probe = pace.sent(1.0)
    assert pace.wait(1.0) == PROBE_PATIENCE
    pace.accepted(probe, 1.2)
    assert pace.wait(1.2) <= 1 / FIRST_RATE
    assert pace.rate == FIRST_RATE


def test_a_probe_without_an_answer_is_replaced() -> None:
    pace = Pace()
    refused(pace, 0.0)
    pace.lost(pace.sent(1.0))
    assert pace.wait(1.1) == 0


def test_a_probe_that_takes_its_time_does_not_hold_everybody() -> None:
    pace = Pace()
    refused(pace, 0.0)
    slow = pace.sent(1.0)
    assert pace.wait(1.0 + PROBE_PATIENCE) == 0
    pace.sent(1.0 + PROBE_PATIENCE)
    assert pace.wait(1.1 + PROBE_PATIENCE) > 1
    pace.accepted(slow, 4.0)
    assert pace.wait(4.1) < 0.1


def test_a_storm_draws_one_request_for_each_pause() -> None:
    class Overrun(Bucket):
        def take(self, now: float) -> float | None:
            return 2.0 if now > 20 else super().take(now)

    world = World(Overrun(50), latency=(0.01, 0.1)).run(140)
    # Those of the last second before it are on their way.
    assert sum(one.time >= 21 for one in world.arrivals) <= 120 / 2
    assert sum(20 <= one.time < 21 for one in world.arrivals) < 10


def test_answers_from_before_a_pause_say_nothing() -> None:
    pace = Pace()
    early = [pace.sent(0.0) for _ in range(4)]
    pace.refused(early[0], 0.1, 1.0, 0.0)
    pace.accepted(early[1], 0.2)
    assert pace.wait(0.2) == pytest.approx(0.9)
    probe = pace.sent(1.1)
    pace.accepted(early[2], 1.15)
    assert pace.wait(1.15) > 0
    pace.accepted(probe, 1.2)
    rate = pace.rate
    pace.refused(early[3], 1.3, 60.0, 0.0)
    assert pace.wait(2.0) == 0
    assert (pace.rate, pace.refusals) == (rate, 2)


def test_the_first_estimate_is_what_a_bucket_gave() -> None:
    assert paced(50).rate == pytest.approx(50, rel=0.05)


def test_somebody_elses_refusal_is_no_estimate() -> None:
    # One request a second, and one of them is refused: that says nothing of the limit.
    pace = Pace()
    for second in range(60):
        pace.accepted(pace.sent(float(second)), second + 0.1)
    refused(pace, 60.0)
    pace.accepted(pace.sent(61.0), 61.0)
    assert pace.rate == FIRST_RATE


def test_turns_are_even() -> None:
    pace, now, times = paced(10), 2.0, []
    while len(times) < 20:
        now += pace.wait(now)
        pace.sent(now)
        times.append(now)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert max(gaps) == pytest.approx(min(gaps), rel=0.05)


def test_a_late_turn_is_made_up_for_within_bounds() -> None:
    pace = paced(100)
    pace.sent(10.0)
    sent = 0
    while pace.wait(20.0) == 0:
        pace.sent(20.0)
        sent += 1
    # A tenth of a second's worth, not that of ten seconds.
    assert 8 <= sent <= 13


def test_what_was_learned_can_be_shown() -> None:
    pace = paced(50)
    learned = pace.learned
    assert (learned.rate, learned.refusals) == (pace.rate, 5)
    assert learned.held == pytest.approx(1.0)


# --- the figures


def check(world: World, since: float, until: float, *, share: float = 0.95, most: float = 0.02) -> None:
    assert world.sustained(since, until) >= share
    assert world.refused(since, until) <= most


@pytest.mark.parametrize("retry_after", [True, False], ids=["asked", "unasked"])
@pytest.mark.parametrize(
    "latency", [(0.001, 0.005), (0.02, 0.05), (0.001, 0.2)], ids=["1ms", "50ms", "200ms"]
)
@pytest.mark.parametrize("rate", [5, 20, 200])
def test_a_bucket_is_used_up(rate: float, latency: tuple[float, float], retry_after: bool) -> None:
    for seed in range(2 if rate < 100 else 1):
        world = World(Bucket(rate), latency=latency, connections=64, retry_after=retry_after, seed=seed)
        check(world.run(180), MINUTE, 180, share=0.97, most=0.01)


@pytest.mark.parametrize("rate", [5, 20, 200])
def test_the_first_minute(rate: float) -> None:
    world = World(Bucket(rate), latency=(0.02, 0.05)).run(MINUTE)
    assert world.sustained(5, MINUTE) >= 0.95
    # The connections that were open when it was found out, and a few.
    assert sum(not one.accepted for one in world.arrivals) <= 32 + 8


def test_a_busy_process_is_no_trouble() -> None:
    # A parser of large results holds it up, for a fifth of a second at most, about twice a second.
    world = World(Bucket(20), latency=(0.02, 0.05), stalls=0.2).run(300)
    check(world, MINUTE, 300)


@pytest.mark.parametrize("kind", [Sliding, Fixed])
@pytest.mark.parametrize("rate", [5, 20, 200])
def test_a_window_is_used_up(kind: Callable[[float], Limit], rate: float) -> None:
    # Each pause costs a window what it costs a bucket nothing; latency that varies brings requests together that
    # were sent apart.
    share = refused = 0.0
    for seed in range(3 if rate < 100 else 1):
        world = World(kind(rate), latency=(0.001, 0.005), seed=seed).run(300)
        share, refused = share + world.sustained(MINUTE, 300), refused + world.refused(MINUTE, 300)
        rough = World(kind(rate), latency=(0.02, 0.2), connections=64, seed=seed).run(180)
        check(rough, MINUTE, 180, share=0.80)
    count = 3 if rate < 100 else 1
    assert share / count >= 0.945
    assert refused / count <= 0.01


@pytest.mark.parametrize(("seconds", "rate"), [(10, 20), (60, 5)])
@pytest.mark.parametrize("kind", [Sliding, Fixed])
def test_a_long_window_is_used_up(kind: Callable[[float, float], Limit], seconds: float, rate: float) -> None:
    check(World(kind(rate, seconds), latency=(0.005, 0.05)).run(1800), 600, 1800, share=0.94)


@pytest.mark.parametrize("burst", [0.5, 2.0, 10.0])
def test_a_bucket_of_another_size(burst: float) -> None:
    check(World(Bucket(20, burst), latency=(0.005, 0.05)).run(400), 150, 400)


@pytest.mark.parametrize(
    ("before", "factor"),
    [(5, 0.5), (20, 0.5), (200, 0.5), (20, 0.1), (200, 0.1), (5, 2), (20, 2), (200, 2), (5, 10), (20, 10)],
)
def test_a_limit_that_changes(before: float, factor: float) -> None:
    world = World(Bucket(before), latency=(0.005, 0.05), connections=64).run(100)
    world.limit.rate *= factor
    world.run(300)
    # Lowered: known within seconds. Raised: it has to be tried.
    since = 120 if factor < 1 else 175
    check(world, since, 300)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("rate", [5, 20, 200])
def test_processes_share_a_limit(rate: float, processes: int) -> None:
    until = 500 if rate < 100 else 250
    world = World(Bucket(rate), processes=processes, latency=(0.005, 0.05)).run(until)
    check(world, MINUTE, until, most=0.025)
    shares = [0] * processes
    for one in world.arrivals:
        shares[one.process] += one.accepted and one.time > until / 2
    # Nobody starves.
    assert min(shares) > 0.4 * sum(shares) / processes


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("rate", [5, 20])
def test_little_to_do_is_not_taken_for_the_limit(rate: float, share: float) -> None:
    world = World(Bucket(rate), latency=(0.005, 0.05)).run(120)
    (sender,) = world.senders
    known = sender.pace.rate
    assert known == pytest.approx(rate, rel=0.1)
    world.demand(rate * share, 120, 720)
    world.run(720)
    assert sender.pace.rate == pytest.approx(known, rel=0.25)
    assert world.refused(130, 720) <= 0.02
    sender.backlog = None
    world.at(720, world._send, sender)
    check(world.run(840), 720, 840)


def test_a_stray_refusal_is_got_over() -> None:
    class Stray(Bucket):
        def take(self, now: float) -> float | None:
            return 1.0 if 50 < now < 55 else super().take(now)

    world = World(Stray(200), latency=(0.005, 0.05))
    world.demand(1.0, 0, 300)
    world.run(300)
    (sender,) = world.senders
    assert sender.pace.rate == FIRST_RATE
    sender.backlog = None
    world.at(300, world._send, sender)
    check(world.run(400), 335, 400)


def test_it_takes_no_memory() -> None:
    world = World(Bucket(50), latency=(0.001, 0.005)).run(600)
    pace = world.senders[0].pace
    assert len(pace._notes) <= 64
