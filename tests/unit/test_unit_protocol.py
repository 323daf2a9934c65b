# SPDX-License-Identifier: Apache-2.0
"""The token protocol: whole stories of a fleet in virtual time, then its decisions one by one."""

from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_world import Process, Weather, World

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth.protocol import (
    CLAIM_TIMEOUT,
    GRACE,
    HEARTBEAT,
    PATIENCE,
    READ_RETRIES,
    RELEASED,
    Acquisition,
    Claim,
    Clocks,
    Failed,
    HeartbeatMonitor,
    Outcome,
    Publish,
    Read,
    Refresh,
    ReleaseClaim,
    Reply,
    Sleep,
    Snapshot,
    WriteClaim,
)
from lucidworks_provider.client.auth.source import TokenCache
from lucidworks_provider.client.auth.token import (
    ALLOWED,
    AccessToken,
    RevocationHistory,
    TokenIdentity,
    TokenResponse,
)
from lucidworks_provider.errors import TokenContestedError, TokenError, TokenStoreError
from lucidworks_provider.hooks.stores.variables import VariableTokenStore

LIFETIME = 3600.0
STORES = pytest.mark.parametrize("atomic", [False, True], ids=["variable", "redis"])


def fleet(world: World, size: int, skew: float = 0.0) -> list[Process]:
    """Some processes more."""
    return [Process(world, skew) for _ in range(size)]


def traffic(world: World, processes: list[Process], seconds: int) -> None:
    """Every process calls once a second; then all calls end."""
    for _ in range(seconds):
        for process in processes:
            process.call()
        world.run(1.0)
    world.run(10.0)


def calls_at(world: World, processes: list[Process], starts: list[float]) -> None:
    for process, start in zip(processes, starts, strict=True):
        world.at(world.now + start, process.call)


def failed(world: World) -> list[str]:
    """What went wrong with calls and promises."""
    unanswered = [f"{c.process.name}: {c.error!r}" for c in world.calls if c.error or c.ended is None]
    return [*world.faults, *unanswered]


def assert_well(world: World, *, refreshes: int) -> None:
    assert not failed(world)
    assert world.refreshes() == refreshes


def settled(world: World, size: int) -> list[Process]:
    """A fleet that shares its first token."""
    processes = fleet(world, size)
    traffic(world, processes, 1)
    assert world.refreshes() == 1
    return processes


def reach_refresh_time(world: World) -> None:
    """Go to the moment at which the token is due."""
    assert world.token is not None
    world.run(world.token.refresh_at - world.now)


starts = st.lists(st.floats(0, 3), min_size=1, max_size=12)
seeds = st.integers(0, 2**16)


@STORES
@settings(max_examples=60)
@given(starts=starts, seed=seeds, refresh=st.floats(0.01, 20.0))
def test_a_cold_crowd_refreshes_once(atomic: bool, starts: list[float], seed: int, refresh: float) -> None:
    world = World(seed, atomic=atomic)
    world.weather = Weather(store=(0.001, 0.09), refresh=(refresh, refresh))
    calls_at(world, fleet(world, len(starts)), starts)
    world.run(refresh + 10)
    assert_well(world, refreshes=1)
    assert {call.value for call in world.calls} == {world.live()}


@STORES
@settings(max_examples=60)
@given(size=st.integers(1, 12), apart=st.floats(0, 0.5), seed=seeds)
def test_a_crowd_with_a_refused_token_refreshes_once(
    atomic: bool, size: int, apart: float, seed: int
) -> None:
    world = World(seed, atomic=atomic)
    processes = settled(world, size)
    world.refresh("foreign")
    for process in processes:
        process.call()
        world.run(apart)
    world.run(10)
    assert_well(world, refreshes=2)


@STORES
@settings(max_examples=60)
@given(size=st.integers(1, 8), commands=st.integers(0, 8), lands=st.booleans(), seed=seeds)
def test_a_dead_claimant_is_survived(atomic: bool, size: int, commands: int, lands: bool, seed: int) -> None:
    world = World(seed, atomic=atomic)
    victim = Process(world)
    victim.dies_after = commands
    victim.call()
    world.run(0.02)
    traffic(world, fleet(world, size), 1)
    assert not world.faults
    assert 1 <= world.refreshes() <= 2, "at most one more than the victim's own"
    assert {call.value for call in world.calls if call.process is not victim} == {world.live()}


@STORES
def test_killed_between_refresh_and_publication_costs_one_refresh_and_five_seconds(atomic: bool) -> None:
    for seed in range(20):
        world = World(seed, atomic=atomic)
        world.weather = Weather(store=(0.005, 0.03))
        holder, other = settled(world, 2)
        world.refresh("foreign")
        holder.call()
        assert world.run_until(lambda world=world: world.refreshes() == 2, 5)
        holder.kill(lands=False)
        call = other.call()
        begun = world.now
        assert world.run_until(lambda call=call: call.ended is not None, 30)
        assert call.error is None
        assert world.now - begun < 5
        assert world.refreshes() == 3, "exactly one more"
        assert not world.faults


def test_a_store_that_is_down_costs_nothing_while_the_token_is_good() -> None:
    world = World(lifetime=600.0)
    processes = settled(world, 4)
    for down, silent in [(1.0, 0.0), (0.0, 1.0)]:
        world.weather = Weather(store_down=down, silent=silent)
        traffic(world, processes, 30)
    reach_refresh_time(world)
    traffic(world, processes, 20)
    assert_well(world, refreshes=1)


@STORES
@pytest.mark.parametrize("size", [1, 5, 20])
def test_a_foreign_refresher_every_ten_seconds_fails_no_call(atomic: bool, size: int) -> None:
    world = World(size, atomic=atomic)
    processes = settled(world, size)
    begun = world.now
    world.spawn(world.foreign(10.0, begun + 180))
    traffic(world, processes, 180)
    assert not failed(world)
    assert world.refreshes(since=begun) <= 2 * world.refreshes(foreign=True)
    told = [at for at, text in world.warnings if "same client id" in text]
    assert 2 <= len(told) <= 4
    assert all(later - earlier > 58 for earlier, later in pairwise(told)), "once a minute for the whole fleet"


@STORES
def test_thirty_foreign_tokens_a_minute_end_in_an_error_that_names_the_cause(atomic: bool) -> None:
    world = World(atomic=atomic)
    processes = settled(world, 5)
    begun = world.now
    world.spawn(world.foreign(2.0, begun + 300))
    traffic(world, processes, 300)
    assert not world.faults
    contested = [call for call in world.calls if isinstance(call.error, TokenContestedError)]
    assert contested
    assert contested[0].started - begun < 90
    for minute in range(0, 300, 10):
        start = begun + minute
        assert world.refreshes(since=start) - world.refreshes(since=start + 60) <= ALLOWED + 2
    # A minute of work, a pause of one minute, a minute of work, a pause of two.
    assert world.refreshes(since=begun) <= 3 * (ALLOWED + 2)


@STORES
@pytest.mark.parametrize("skew", [3600.0, -3600.0, 2.5, -2.5])
def test_a_clock_that_is_off_costs_no_refresh(atomic: bool, skew: float) -> None:
    world = World(atomic=atomic)
    settled(world, 2)
    world.run(1800)
    strange = fleet(world, 4, skew)
    traffic(world, world.processes, 20)
    assert_well(world, refreshes=1)
    reach_refresh_time(world)
    traffic(world, world.processes, 20)
    assert_well(world, refreshes=2)
    assert {process.cache.fresh(world.now) for process in strange} == {world.live()}


@STORES
def test_sixty_four_processes_and_a_token_of_thirty_seconds(atomic: bool) -> None:
    world = World(atomic=atomic, lifetime=30.0)
    traffic(world, fleet(world, 64), 180)
    assert not failed(world)
    assert world.refreshes() <= 1.3 * 180 / 30 + 2


@STORES
@settings(max_examples=50)
@given(starts=starts, seed=seeds)
def test_at_refresh_at_one_process_renews_and_no_call_fails(
    atomic: bool, starts: list[float], seed: int
) -> None:
    world = World(seed, atomic=atomic)
    processes = settled(world, len(starts))
    reach_refresh_time(world)
    calls_at(world, processes, starts)
    world.run(20)
    assert_well(world, refreshes=2)


def test_a_slow_renewal_is_waited_for_no_longer_than_the_grace() -> None:
    world = World()
    slow, other = settled(world, 2)
    old = world.live()
    reach_refresh_time(world)
    world.weather.refresh = (60.0, 60.0)
    slow.call()
    world.run(1.5)
    call = other.call()
    assert world.run_until(lambda: call.ended is not None, 10)
    assert call.value == old
    assert world.now < other.cache.held.reread_at < world.now + 10
    assert GRACE <= world.now - call.started <= GRACE + 1


@pytest.mark.parametrize("with_a_good_token", [True, False])
def test_a_failed_refresh(with_a_good_token: bool) -> None:
    world = World()
    process = settled(world, 1)[0] if with_a_good_token else Process(world)
    world.run(world.token.refresh_at - world.now if world.token else 0.0)
    world.weather.service_down = True
    call = process.call()
    world.run(120)
    assert call.ended is not None
    assert world.claim == RELEASED, "the claim was withdrawn"
    # No ServiceError: the caller's own request was never sent.
    assert isinstance(call.error, TokenError) is not with_a_good_token
    assert "503" in (world.warnings[0][1] if with_a_good_token else str(call.error))


# Decisions, one by one


def token_of(world: World, **changes: Any) -> AccessToken:
    """A new live token."""
    response = TokenResponse(world.refresh("test"), LIFETIME, world.now)
    return replace(AccessToken.from_response(response, world.now), **changes)


def conversation_of(
    world: World,
    held: AccessToken | None = None,
    refused: str | None = None,
    monitor: HeartbeatMonitor | None = None,
) -> Acquisition:
    """Of a process whose clock is right."""
    return protocol.acquire(
        held=held,
        refused=() if refused is None else (refused,),
        settle=world.settle,
        clocks=Clocks(lambda: world.now, lambda: world.now, lambda: True),
        monitor=monitor,
        new_owner=lambda: "client",
    )


def talk(conversation: Acquisition, *replies: Reply) -> list[Any]:
    """The command after each reply, and the outcome or the error at its end; ``None`` begins a conversation."""
    said: list[Any] = []
    try:
        for reply in replies:
            said += [conversation.send(reply)]
    except StopIteration as stop:
        said.append(stop.value)
    except TokenError as err:
        said.append(type(err))
    return said


READ, SLEEP = Read(), Sleep(ANY)
DOWN = Failed(TokenStoreError("down"))
OTHERS, FREE = Snapshot(None, Claim("other")), Snapshot(None, RELEASED)


def claimed(world: World) -> tuple[Acquisition, Claim]:
    """A conversation that has read an empty store twice, has written its claim and reads it back."""
    conversation = conversation_of(world)
    *before, claim = talk(conversation, None, Snapshot(), None, Snapshot())
    assert (before, claim) == ([READ, SLEEP, READ], WriteClaim(ANY))
    return conversation, claim.claim


def looking(world: World) -> tuple[Acquisition, Claim]:
    """The same, at the read after its claim."""
    conversation, claim = claimed(world)
    assert talk(conversation, None, None) == [SLEEP, READ]
    return conversation, claim


@pytest.mark.parametrize(
    ("begin", "replies", "said"),
    [
        # Airflow 2 deletes and inserts a Variable: of two that do it at once, one fails, and begins from the top.
        (claimed, [DOWN, OTHERS, OTHERS], [READ, READ, SLEEP]),
        (claimed, [DOWN, Snapshot()], [READ, TokenStoreError]),
        (looking, [FREE, None], [SLEEP, READ]),
    ],
    ids=["a write that lost a race", "a write that fails without one", "a claim that was withdrawn"],
)
def test_a_missing_claim(begin: Any, replies: list[Reply], said: list[Any]) -> None:
    conversation, _ = begin(World())
    assert talk(conversation, *replies) == said


def test_a_good_token_in_the_store_is_used_without_writing_anything() -> None:
    world = World()
    token = token_of(world)
    assert talk(conversation_of(world), None, Snapshot(token)) == [READ, Outcome(token)]


def test_a_newer_token_found_under_the_own_claim_is_not_superseded() -> None:
    world = World()
    conversation, claim = looking(world)
    fresh = token_of(world)
    said = talk(conversation, Snapshot(fresh, claim), None, Snapshot(fresh, RELEASED))
    assert said == [ReleaseClaim(claim), READ, Outcome(fresh)]


@pytest.mark.parametrize(
    ("seconds", "then"),
    [(CLAIM_TIMEOUT - 0.1, [Refresh(ANY)]), (CLAIM_TIMEOUT, [READ, READ, SLEEP])],
    ids=["in time", "late"],
)
def test_a_lease_that_may_have_run_out_is_read_again(seconds: float, then: list[Any]) -> None:
    """In Redis another process may have it by now, and a write that finds that changes nothing."""
    world = World(atomic=True)
    conversation = conversation_of(world)
    *_, written = talk(conversation, None, FREE)
    assert isinstance(written, WriteClaim)
    renewed = talk(conversation, None, Snapshot(None, written.claim))
    assert renewed == [READ, WriteClaim(ANY)]
    world.now += seconds
    assert talk(conversation, None, *[OTHERS] * (len(then) - 1)) == then


def test_a_store_that_shows_nothing_of_what_was_written_counts_as_down() -> None:
    """Airflow's Variable.get says "not there" when the API server cannot be reached."""
    conversation, _ = looking(World())
    assert talk(conversation, Snapshot(), Snapshot()) == [READ, TokenStoreError], "read twice"


def test_a_token_that_was_visible_must_stay_visible() -> None:
    world = World()
    due = token_of(world, refresh_at=0.0)
    conversation, lost = conversation_of(world), Snapshot(None, Claim("client"))
    said = talk(conversation, None, Snapshot(due, RELEASED), None, None, lost, lost)
    assert said == [READ, WriteClaim(ANY), SLEEP, READ, READ, TokenStoreError], "read twice"


@pytest.mark.parametrize("before", [None, Claim("dead", 3)])
def test_a_claim_that_may_overwrite_a_living_one_settles_for_longer(before: Claim | None) -> None:
    """Time for the living to move their claim over it."""
    pauses = []
    for standing in (RELEASED, before):
        conversation = conversation_of(World(), monitor=HeartbeatMonitor(before, -100.0))
        [_, command] = talk(conversation, None, Snapshot(None, standing))
        while not isinstance(command, WriteClaim):
            [command] = talk(conversation, Snapshot(None, standing) if isinstance(command, Read) else None)
        pauses += talk(conversation, None)
    assert pauses == [SLEEP, SLEEP]
    assert pauses[1].seconds >= pauses[0].seconds + 2 * HEARTBEAT


def test_a_failed_publication_is_tried_again() -> None:
    world = World()
    conversation, claim = looking(world)
    renewal, refresh, publish = talk(conversation, Snapshot(None, claim), None, token_of(world))
    assert (renewal, refresh) == (WriteClaim(claim.next_heartbeat()), Refresh(ANY))
    assert publish == Publish(ANY)
    # The claim is moved meanwhile.
    assert talk(conversation, DOWN, None, None) == [SLEEP, WriteClaim(ANY), publish]


def test_a_store_that_is_down_leaves_the_held_token_in_use() -> None:
    world = World()
    held = token_of(world)
    [_, outcome] = talk(conversation_of(world, held=held), None, DOWN)
    assert (outcome.token, "down" in outcome.warning) == (held, True)


def test_a_store_that_is_down_never_leads_to_a_refresh() -> None:
    world = World()
    held = token_of(world)
    conversation = conversation_of(world, held=held, refused=held.value)
    tries = [SLEEP, READ] * READ_RETRIES
    said = talk(conversation, None, *[DOWN, None] * READ_RETRIES, DOWN)
    assert (said, world.refreshes()) == ([READ, *tries, TokenStoreError], 1)


def test_identities_differ_by_everything_but_the_connection() -> None:
    one = TokenIdentity("https://a", "s", "c", "x")
    assert one.digest == replace(one).digest
    names = ("auth_url", "auth_server_id", "client_id", "scope")
    assert len({one.digest, *(replace(one, **{name: "other"}).digest for name in names)}) == 5


def test_a_token_does_not_show_itself() -> None:
    token = AccessToken("very-secret", 1, 2, 3)
    assert "very-secret" not in repr(token)
    assert AccessToken.from_json(token.to_json()) == token


def test_a_claim_that_cannot_be_seen_once_is_not_withdrawn() -> None:
    monitor = HeartbeatMonitor()
    living = Claim("living", 1)
    assert monitor.alive(living, 0.0, CLAIM_TIMEOUT)
    assert monitor.alive(None, CLAIM_TIMEOUT / 2, CLAIM_TIMEOUT), "a read that failed in silence"
    assert not monitor.alive(None, CLAIM_TIMEOUT, CLAIM_TIMEOUT), "no wait for another process is endless"
    assert not monitor.alive(RELEASED, 0.0, CLAIM_TIMEOUT)
    assert not monitor.alive(None, 0.0, CLAIM_TIMEOUT)


def test_losses_are_counted_though_the_stored_value_cannot_be_read() -> None:
    """Two systems with different secrets of one client write over each other's value."""
    world = World()
    now = world.now
    times = tuple(now - 2.0 * number for number in range(ALLOWED))
    held = token_of(world, revocations=RevocationHistory(times))
    conversation = conversation_of(world, held=held, refused=held.value)
    *said, publish = talk(conversation, None, FREE, None, None, Snapshot(None, Claim("client")))
    assert (said, publish) == ([READ, WriteClaim(ANY), SLEEP, READ], Publish(ANY))
    assert publish.token.revocations.pause_left(now) > 0
    last = Snapshot(publish.token, RELEASED)
    assert talk(conversation, None, None, last) == [ReleaseClaim(ANY), READ, TokenContestedError]


@settings(max_examples=10)
@given(seed=seeds)
def test_a_slow_store_fails_no_call_of_a_cold_crowd(seed: int) -> None:
    """A claimant of a slow store pauses for longer than ``CLAIM_TIMEOUT`` between two heartbeats."""
    world = World(seed)
    world.weather = Weather(store=(0.1, 0.6))
    for process in fleet(world, 20):
        process.call()
    world.run(100)
    assert_well(world, refreshes=1)


@given(seed=seeds)
@settings(max_examples=10)
def test_many_new_processes_replace_an_expired_token_while_the_store_is_busy(seed: int) -> None:
    """Each has a clock that was never compared; the claimant alone requests the time, and keeps its claim."""
    world = World(seed, lifetime=30.0)
    Process(world).call()
    world.run(40)
    world.weather = Weather(store=(0.01, 0.5), store_busy=0.02)
    for process in fleet(world, 64):
        process.call()
    world.run(60)
    assert_well(world, refreshes=2)


def test_a_token_that_could_not_be_shared_is_published_later() -> None:
    world = World()
    earlier, held = token_of(world), token_of(world, issued_at=world.now + 1)
    for stored in (None, earlier):
        said = talk(conversation_of(world, held=held), None, Snapshot(stored, RELEASED), None)
        assert said == [READ, Publish(held), Outcome(held)]


def test_a_token_is_later_than_the_one_that_it_replaces() -> None:
    """Even if the clocks of two hosts differ: the order decides which of them a store keeps."""
    world = World()
    due = token_of(world, refresh_at=0.0, issued_at=world.now + 2)
    own, replies = Snapshot(due, Claim("client")), (Snapshot(due, RELEASED), None, None)
    publish = talk(conversation_of(world), None, *replies, own, None, token_of(world))[-1]
    assert publish == Publish(ANY)
    assert publish.token.issued_at > due.issued_at


def test_each_revocation_within_a_minute_delays_the_next_refresh() -> None:
    world = World()
    delays = []
    for count in (1, 2, 3, 10):
        history = RevocationHistory((world.now,) * count)
        held = token_of(world, revocations=history)
        conversation = conversation_of(world, held=held, refused=held.value)
        sleep = talk(conversation, None, Snapshot(held, RELEASED), None)[-1]
        assert sleep == SLEEP
        delays.append(round(sleep.seconds - VariableTokenStore.settle, 3))
    assert delays == [0.0, 0.1, 0.2, 0.5]


def test_a_process_without_a_token_does_not_wait_forever() -> None:
    world = World()
    conversation = conversation_of(world)
    assert talk(conversation, None) == [READ]
    started, heartbeat = world.now, 0
    while world.now - started < PATIENCE:
        assert talk(conversation, Snapshot(None, Claim("other", heartbeat))) == [SLEEP]
        world.run(1.0)
        heartbeat += 1
        assert talk(conversation, None) == [READ]
    with pytest.raises(TokenError, match="Other processes have been requesting a token"):
        conversation.send(Snapshot(None, Claim("other", heartbeat)))


def test_a_dead_claim_at_the_refresh_time_is_replaced_before_the_token_expires() -> None:
    """Each run of the protocol ends after ``GRACE`` with the good token: the next one knows how old the claim is."""
    world = World()
    processes = settled(world, 2)
    reach_refresh_time(world)
    world.weather = Weather(store=(0.05, 0.09))
    world.claim = Claim("dead", 3)
    traffic(world, processes, 30)
    assert_well(world, refreshes=2)


def test_a_slow_clock_does_not_prolong_the_lifetime_of_a_token() -> None:
    world = World()
    cache = TokenCache()
    cache.use(Outcome(token_of(world)), Clocks(lambda: 0.0, lambda: world.now - 3600, lambda: False))
    assert cache.held.expires_at <= LIFETIME


@pytest.mark.parametrize("shown", [Claim("other", 5), None, Claim("client", 1)])
def test_a_claim_that_took_too_long_to_renew_is_read_again(shown: Claim | None) -> None:
    """With a store that is slow for this host alone, others may have taken the claim for dead."""
    world = World()
    conversation, claim = looking(world)
    renewed = claim.next_heartbeat()
    assert talk(conversation, Snapshot(None, claim)) == [WriteClaim(renewed)]
    world.run(CLAIM_TIMEOUT)
    after = Refresh(renewed) if shown == renewed else READ
    assert talk(conversation, None, Snapshot(None, shown)) == [READ, after]
