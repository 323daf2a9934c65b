# SPDX-License-Identifier: Apache-2.0
"""The token protocol: whole stories of a fleet in virtual time, then its decisions one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_world import Process, Weather, World

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth import protocol as commands
from lucidworks_provider.client.auth.protocol import (
    GRACE,
    HEARTBEAT,
    LEASE,
    PATIENCE,
    READ_RETRIES,
    RELEASED,
    Claim,
    Clocks,
    Failed,
    HeartbeatMonitor,
    Outcome,
    Snapshot,
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
from lucidworks_provider.hooks.stores import VariableTokenStore

LIFETIME = 3600.0
STORES = pytest.mark.parametrize("atomic", [False, True], ids=["variable", "redis"])


def fleet(world: World, size: int, skew: float = 0.0) -> list[Process]:
    """Some processes more."""
    return [Process(world, skew) for _ in range(size)]


def traffic(world: World, processes: list[Process], seconds: int) -> None:
    """Everybody calls once a second; then all calls come to their end."""
    for _ in range(seconds):
        for process in processes:
            process.call()
        world.run(1.0)
    world.run(10.0)


def failed(world: World) -> list[str]:
    """What went wrong with calls and promises."""
    unanswered = [f"{c.process.name}: {c.error!r}" for c in world.calls if c.error or c.ended is None]
    return [*world.faults, *unanswered]


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
@settings(max_examples=150, deadline=None)
@given(starts=starts, seed=seeds, refresh=st.floats(0.01, 20.0))
def test_a_cold_crowd_refreshes_once(atomic: bool, starts: list[float], seed: int, refresh: float) -> None:
    world = World(seed, atomic=atomic)
    world.weather = Weather(store=(0.001, 0.09), refresh=(refresh, refresh))
    for start in starts:
        process = Process(world)
        world.at(world.now + start, lambda process=process: process.call())
    world.run(refresh + 10)
    assert not failed(world)
    assert world.refreshes() == 1
    assert {call.value for call in world.calls} == {world.live()}


@STORES
@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 12), apart=st.floats(0, 0.5), seed=seeds)
def test_a_crowd_whose_token_was_refused_refreshes_once(
    atomic: bool, size: int, apart: float, seed: int
) -> None:
    world = World(seed, atomic=atomic)
    processes = settled(world, size)
    world.refresh("foreign")
    for process in processes:
        process.call()
        world.run(apart)
    world.run(10)
    assert not failed(world)
    assert world.refreshes() == 2


@STORES
@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 8), commands_of=st.integers(0, 8), lands=st.booleans(), seed=seeds)
def test_a_dead_claimant_is_survived(
    atomic: bool, size: int, commands_of: int, lands: bool, seed: int
) -> None:
    world = World(seed, atomic=atomic)
    victim = Process(world)
    victim.dies_after = commands_of
    victim.call()
    world.run(0.02)
    processes = fleet(world, size)
    traffic(world, processes, 1)
    assert not world.faults
    assert world.refreshes() <= 2, "at most one more than the victim's own"
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
    assert not failed(world)
    assert world.refreshes() == 1


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
    assert not failed(world)
    assert world.refreshes() == 1
    reach_refresh_time(world)
    traffic(world, world.processes, 20)
    assert not failed(world)
    assert world.refreshes() == 2
    assert {process.cache.fresh(world.now) for process in strange} == {world.live()}


@STORES
def test_sixty_four_processes_and_a_token_of_thirty_seconds(atomic: bool) -> None:
    world = World(atomic=atomic, lifetime=30.0)
    traffic(world, fleet(world, 64), 180)
    assert not failed(world)
    assert world.refreshes() <= 1.3 * 180 / 30 + 2


def test_recovery_from_a_dead_claimant_takes_a_lease() -> None:
    world = World()
    world.claim = Claim("dead", 3)
    call = Process(world).call()
    begun = world.now
    world.run(20)
    assert world.refreshes() == 1
    assert call.ended is not None
    assert LEASE <= call.ended - begun <= 5


@STORES
@settings(max_examples=100, deadline=None)
@given(starts=starts, seed=seeds)
def test_at_the_appointment_one_renews_and_nobody_fails(atomic: bool, starts: list[float], seed: int) -> None:
    world = World(seed, atomic=atomic)
    processes = settled(world, len(starts))
    reach_refresh_time(world)
    for process, start in zip(processes, starts, strict=True):
        world.at(world.now + start, lambda process=process: process.call())
    world.run(20)
    assert not failed(world)
    assert world.refreshes() == 2


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
    assert other.cache.held is not None
    assert world.now < other.cache.held.reread_at < world.now + 10
    assert GRACE <= world.now - call.started <= GRACE + 1


@pytest.mark.parametrize("with_a_good_token", [True, False])
def test_a_failed_refresh(with_a_good_token: bool) -> None:
    world = World()
    process = settled(world, 1)[0] if with_a_good_token else Process(world)
    if with_a_good_token:
        reach_refresh_time(world)
    world.weather.service_down = True
    call = process.call()
    world.run(120)
    assert call.ended is not None
    assert world.claim == RELEASED, "the claim was withdrawn"
    if with_a_good_token:
        assert call.error is None
        assert "503" in world.warnings[0][1]
    else:
        assert isinstance(call.error, TokenError), "no ServiceError: the caller's own request was never sent"
        assert "503" in str(call.error)


# Decisions, one by one


def token_of(world: World) -> AccessToken:
    """A new live token."""
    return AccessToken.from_response(TokenResponse(world.refresh("test"), LIFETIME, world.now), world.now)


def conversation_of(
    world: World,
    held: AccessToken | None = None,
    refused: str | None = None,
    monitor: HeartbeatMonitor | None = None,
) -> commands.Acquisition:
    """Of a process whose clock is right."""
    return protocol.acquire(
        held=held,
        refused=() if refused is None else (refused,),
        settle=VariableTokenStore.settle,
        clocks=Clocks(lambda: world.now, lambda: world.now, lambda: True),
        monitor=monitor,
        new_owner=lambda: "client",
    )


def claimed(conversation: commands.Acquisition) -> commands.WriteClaim:
    """Look at an empty store twice, as nobody believes the first time, and come to the claim."""
    assert next(conversation) == commands.Read()
    assert isinstance(conversation.send(Snapshot()), commands.Sleep)
    assert conversation.send(None) == commands.Read()
    claim = conversation.send(Snapshot())
    assert isinstance(claim, commands.WriteClaim)
    return claim


def test_a_write_that_lost_a_race_is_no_broken_store() -> None:
    """Airflow 2 deletes and inserts a Variable: of two that do it at once, one fails."""
    conversation = conversation_of(World())
    claimed(conversation)
    assert conversation.send(Failed(TokenStoreError("unique"))) == commands.Read()
    assert conversation.send(Snapshot(None, Claim("other"))) == commands.Read(), "from the top"
    assert isinstance(conversation.send(Snapshot(None, Claim("other"))), commands.Sleep)


def test_a_write_that_fails_without_a_race_is() -> None:
    conversation = conversation_of(World())
    claimed(conversation)
    conversation.send(Failed(TokenStoreError("down")))
    with pytest.raises(TokenStoreError):
        conversation.send(Snapshot())


def test_a_good_token_in_the_store_is_used_without_writing_anything() -> None:
    world = World()
    token = token_of(world)
    shown = Snapshot(token)
    conversation = conversation_of(world)
    assert next(conversation) == commands.Read()
    with pytest.raises(StopIteration) as stop:
        conversation.send(shown)
    assert stop.value.value == Outcome(token)


def test_a_newer_token_found_under_the_own_claim_is_not_superseded() -> None:
    world = World()
    conversation = conversation_of(world)
    claim = claimed(conversation)
    conversation.send(None)
    conversation.send(None)
    fresh = token_of(world)
    assert conversation.send(Snapshot(fresh, claim.claim)) == commands.ReleaseClaim(claim.claim)
    assert conversation.send(None) == commands.Read()
    with pytest.raises(StopIteration) as stop:
        conversation.send(Snapshot(fresh, RELEASED))
    assert stop.value.value.token == fresh
    assert world.refreshes() == 1


def test_a_store_that_shows_nothing_of_what_was_written_counts_as_down() -> None:
    """Airflow's Variable.get says "not there" when the API server cannot be reached."""
    conversation = conversation_of(World())
    claimed(conversation)
    conversation.send(None)
    conversation.send(None)
    assert conversation.send(Snapshot()) == commands.Read(), "asked twice"
    with pytest.raises(TokenStoreError):
        conversation.send(Snapshot())


def test_a_claim_withdrawn_by_a_late_claimant_is_no_broken_store() -> None:
    conversation = conversation_of(World())
    claimed(conversation)
    conversation.send(None)
    conversation.send(None)
    assert isinstance(conversation.send(Snapshot(None, RELEASED)), commands.Sleep)
    assert conversation.send(None) == commands.Read(), "from the top"


def test_a_token_that_was_shown_must_go_on_being_shown() -> None:
    world = World()
    due = replace(token_of(world), refresh_at=0.0)
    conversation = conversation_of(world)
    next(conversation)
    assert isinstance(conversation.send(Snapshot(due, RELEASED)), commands.WriteClaim)
    assert isinstance(conversation.send(None), commands.Sleep)
    assert conversation.send(None) == commands.Read()
    owner = Claim("client")
    assert conversation.send(Snapshot(None, owner)) == commands.Read(), "asked twice"
    with pytest.raises(TokenStoreError):
        conversation.send(Snapshot(None, owner))


@pytest.mark.parametrize("before", [None, Claim("dead", 3)])
def test_a_claim_that_may_stand_over_a_living_one_settles_for_longer(before: Claim | None) -> None:
    """Time for the living to move their claim over it."""
    pauses = []
    for standing in (RELEASED, before):
        conversation = conversation_of(World(), monitor=HeartbeatMonitor(before, -100.0))
        next(conversation)
        command = conversation.send(Snapshot(None, standing))
        while not isinstance(command, commands.WriteClaim):
            reply = Snapshot(None, standing) if isinstance(command, commands.Read) else None
            command = conversation.send(reply)
        pause = conversation.send(None)
        assert isinstance(pause, commands.Sleep)
        pauses.append(pause.seconds)
    assert pauses[1] >= pauses[0] + 2 * HEARTBEAT


def test_a_failed_publication_is_tried_again() -> None:
    world = World()
    conversation = conversation_of(world)
    claim = claimed(conversation)
    conversation.send(None)
    conversation.send(None)
    assert conversation.send(Snapshot(None, claim.claim)) == commands.WriteClaim(claim.claim.next_heartbeat())
    assert isinstance(conversation.send(None), commands.Refresh)
    publish = conversation.send(token_of(world))
    assert isinstance(publish, commands.Publish)
    assert isinstance(conversation.send(Failed(TokenStoreError("down"))), commands.Sleep)
    assert isinstance(conversation.send(None), commands.WriteClaim), "the claim is moved meanwhile"
    assert conversation.send(None) == publish


def test_a_store_that_is_down_leaves_the_held_token_in_use() -> None:
    world = World()
    held = token_of(world)
    conversation = conversation_of(world, held=held)
    next(conversation)
    with pytest.raises(StopIteration) as stop:
        conversation.send(Failed(TokenStoreError("down")))
    assert stop.value.value.token == held
    assert "down" in stop.value.value.warning


def test_a_store_that_is_down_never_leads_to_a_refresh() -> None:
    world = World()
    held = token_of(world)
    conversation = conversation_of(world, held=held, refused=held.value)
    next(conversation)
    for _ in range(READ_RETRIES):
        assert isinstance(conversation.send(Failed(TokenStoreError("down"))), commands.Sleep)
        assert conversation.send(None) == commands.Read()
    with pytest.raises(TokenStoreError):
        conversation.send(Failed(TokenStoreError("down")))
    assert world.refreshes() == 1


def test_identities_differ_by_everything_but_the_connection() -> None:
    one = TokenIdentity("https://a", "s", "c", "x")
    assert one.digest == TokenIdentity("https://a", "s", "c", "x").digest
    others = [
        TokenIdentity("https://b", "s", "c", "x"),
        TokenIdentity("https://a", "t", "c", "x"),
        TokenIdentity("https://a", "s", "d", "x"),
        TokenIdentity("https://a", "s", "c", "y"),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 5


def test_a_token_does_not_show_itself() -> None:
    token = AccessToken("very-secret", 1, 2, 3)
    assert "very-secret" not in repr(token)
    assert AccessToken.from_json(token.to_json()) == token


def test_a_claim_that_cannot_be_seen_once_is_not_withdrawn() -> None:
    monitor = HeartbeatMonitor()
    living = Claim("living", 1)
    assert monitor.alive(living, 0.0, LEASE)
    assert monitor.alive(None, LEASE / 2, LEASE), "a read that failed in silence"
    assert not monitor.alive(None, LEASE, LEASE), "but nobody is waited for without end"
    assert not monitor.alive(RELEASED, 0.0, LEASE)
    assert not monitor.alive(None, 0.0, LEASE)


def test_losses_are_counted_though_the_stored_value_cannot_be_read() -> None:
    """Two systems with different secrets of one client write over each other's value."""
    world = World()
    now = world.now
    times = tuple(now - 2.0 * number for number in range(ALLOWED))
    held = replace(token_of(world), revocations=RevocationHistory(times))
    conversation = conversation_of(world, held=held, refused=held.value)
    next(conversation)
    assert isinstance(conversation.send(Snapshot(None, RELEASED)), commands.WriteClaim)
    assert isinstance(conversation.send(None), commands.Sleep)
    assert conversation.send(None) == commands.Read()
    publish = conversation.send(Snapshot(None, Claim("client")))
    assert isinstance(publish, commands.Publish)
    assert publish.token.revocations.pause_left(now) > 0
    assert isinstance(conversation.send(None), commands.ReleaseClaim)
    assert conversation.send(None) == commands.Read()
    with pytest.raises(TokenContestedError):
        conversation.send(Snapshot(publish.token, RELEASED))


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_a_slow_store_fails_no_call_of_a_cold_crowd(seed: int) -> None:
    """A claimant of a slow store pauses for longer than ``LEASE`` between two heartbeats."""
    world = World(seed)
    world.weather = Weather(store=(0.1, 0.6))
    for process in fleet(world, 20):
        process.call()
    world.run(100)
    assert not failed(world)
    assert world.refreshes() == 1


def test_a_token_that_could_not_be_shared_is_published_later() -> None:
    world = World()
    earlier, held = token_of(world), replace(token_of(world), issued_at=world.now + 1)
    for stored in (None, earlier):
        conversation = conversation_of(world, held=held)
        next(conversation)
        assert conversation.send(Snapshot(stored, RELEASED)) == commands.Publish(held)
        with pytest.raises(StopIteration) as stop:
            conversation.send(None)
        assert stop.value.value == Outcome(held)


def test_a_token_is_later_than_the_one_that_it_replaces() -> None:
    """Even if the clocks of two hosts differ: the order decides which of them a store keeps."""
    world = World()
    due = replace(token_of(world), refresh_at=0.0, issued_at=world.now + 2)
    conversation = conversation_of(world)
    next(conversation)
    conversation.send(Snapshot(due, RELEASED))
    conversation.send(None)
    conversation.send(None)
    conversation.send(Snapshot(due, Claim("client")))
    conversation.send(None)
    publish = conversation.send(token_of(world))
    assert isinstance(publish, commands.Publish)
    assert publish.token.issued_at > due.issued_at


def test_each_revocation_within_a_minute_delays_the_next_refresh() -> None:
    world = World()
    delays = []
    for count in (1, 2, 3, 10):
        history = RevocationHistory((world.now,) * count)
        held = replace(token_of(world), revocations=history)
        conversation = conversation_of(world, held=held, refused=held.value)
        next(conversation)
        conversation.send(Snapshot(held, RELEASED))
        sleep = conversation.send(None)
        assert isinstance(sleep, commands.Sleep)
        delays.append(round(sleep.seconds - VariableTokenStore.settle, 3))
    assert delays == [0.0, 0.1, 0.2, 0.5]


def test_a_process_without_a_token_does_not_wait_forever() -> None:
    world = World()
    conversation = conversation_of(world)
    next(conversation)
    started, heartbeat = world.now, 0
    while world.now - started < PATIENCE:
        assert isinstance(conversation.send(Snapshot(None, Claim("other", heartbeat))), commands.Sleep)
        world.run(1.0)
        heartbeat += 1
        assert conversation.send(None) == commands.Read()
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
    assert not failed(world)
    assert world.refreshes() == 2


def test_a_slow_clock_does_not_prolong_the_lifetime_of_a_token() -> None:
    world = World()
    cache = TokenCache()
    cache.use(Outcome(token_of(world)), Clocks(lambda: 0.0, lambda: world.now - 3600, lambda: False))
    assert cache.held is not None
    assert cache.held.expires_at <= LIFETIME


@pytest.mark.parametrize("shown", [Claim("other", 5), None, Claim("client", 1)])
def test_a_claim_that_took_too_long_to_renew_is_read_again(shown: Claim | None) -> None:
    """With a store that is slow for this host alone, others may have taken the claim for dead."""
    world = World()
    conversation = conversation_of(world)
    claim = claimed(conversation).claim
    conversation.send(None)
    conversation.send(None)
    renewed = claim.next_heartbeat()
    assert conversation.send(Snapshot(None, claim)) == commands.WriteClaim(renewed)
    world.run(LEASE)
    assert conversation.send(None) == commands.Read()
    command = conversation.send(Snapshot(None, shown))
    assert command == (commands.Refresh(renewed) if shown == renewed else commands.Read())
