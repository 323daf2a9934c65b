# SPDX-License-Identifier: Apache-2.0
"""
The token protocol in a simulated world: many clients, one store with latencies, one service with one live
token, virtual time. Hypothesis chooses when everybody starts, how slow the store is, and who dies.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidworks_provider.auth import protocol
from lucidworks_provider.auth.protocol import (
    GRACE,
    LEASE,
    NOBODY,
    Claim,
    Clocks,
    Failed,
    Outcome,
    Reply,
    Snapshot,
    acquire,
)
from lucidworks_provider.auth.token import AccessToken, TokenIdentity
from lucidworks_provider.errors import LucidworksError, ServiceError, TokenError, TokenStoreError

SETTLE = 0.3
LIFETIME = 3600.0


@dataclass
class World:
    """The store, the service and the time."""

    now: float = 1000.0
    store: Snapshot = field(default_factory=Snapshot)
    mints: int = 0
    live: str | None = None
    names: count[int] = field(default_factory=count)

    def token(self, age: float = 0.0) -> AccessToken:
        """A new live token."""
        self.mints += 1
        self.live = f"token-{self.mints}"
        issued = self.now - age
        return AccessToken(self.live, issued, issued + LIFETIME - 300, issued + LIFETIME)

    def acquire(self, held: AccessToken | None = None, refused: str | None = None) -> protocol.Conversation:
        """Start a conversation of one more client."""
        owner = f"client-{next(self.names)}"
        return acquire(
            held=held,
            refused=() if refused is None else (refused,),
            settle=SETTLE,
            clocks=Clocks(lambda: self.now, lambda: self.now, lambda: True),
            new_owner=lambda: owner,
        )


@dataclass
class Client:
    """One process: performs commands with its own latencies, and may die before its n-th command."""

    world: World
    start: float
    store_seconds: float = 0.02
    mint_seconds: float = 0.4
    dies_after: int | None = None
    mint_fails: bool = False
    outcome: Outcome | None = None
    error: LucidworksError | None = None
    held: AccessToken | None = None
    refused: str | None = None

    def steps(self) -> Callable[[], float | None]:
        """A function that performs the next step and says after how many seconds to call it again."""
        conversation = self.world.acquire(self.held, self.refused)
        reply: Reply = None
        effect: Callable[[], Reply] | None = None
        performed = count()

        def step() -> float | None:
            nonlocal reply, effect
            if effect is not None:
                reply = effect()
            if self.dies_after is not None and next(performed) >= self.dies_after:
                return None
            try:
                command = conversation.send(reply)
            except StopIteration as stop:
                self.outcome = stop.value
                return None
            except LucidworksError as err:
                self.error = err
                return None
            effect = lambda: self._perform(command)  # noqa: E731
            match command:
                case protocol.Pause(seconds):
                    return seconds
                case protocol.Mint():
                    return self.mint_seconds
                case _:
                    return self.store_seconds

        return step

    def _perform(self, command: protocol.Command) -> Reply:
        world = self.world
        match command:
            case protocol.Read():
                return world.store
            case protocol.WriteClaim(claim):
                world.store = Snapshot(world.store.token, claim)
            case protocol.Withdraw():
                world.store = Snapshot(world.store.token, NOBODY)
            case protocol.Mint():
                return Failed(ServiceError("503", status=503)) if self.mint_fails else world.token()
            case protocol.Publish(token):
                world.store = Snapshot(token, world.store.claim)
        return None


def play(*clients: Client) -> None:
    """Run everybody to their end."""
    world = clients[0].world
    begin = world.now
    queue = [(begin + client.start, number, client.steps()) for number, client in enumerate(clients)]
    heapq.heapify(queue)
    while queue:
        moment, number, step = heapq.heappop(queue)
        world.now = max(world.now, moment)
        assert world.now - begin < 600, "no livelock"
        wait = step()
        if wait is not None:
            heapq.heappush(queue, (world.now + wait, number, step))


latencies = st.floats(0.001, SETTLE / 3)
starts = st.floats(0, 3)


@settings(max_examples=150, deadline=None)
@given(crowd=st.lists(st.tuples(starts, latencies, st.floats(0.01, 3.0)), min_size=1, max_size=12))
def test_a_cold_crowd_mints_once(crowd: list[tuple[float, float, float]]) -> None:
    world = World()
    clients = [Client(world, start, store, mint) for start, store, mint in crowd]
    play(*clients)
    assert world.mints == 1
    assert {c.outcome.token.value for c in clients if c.outcome} == {world.live}
    assert all(c.outcome for c in clients)


@settings(max_examples=150, deadline=None)
@given(crowd=st.lists(st.tuples(starts, latencies), min_size=1, max_size=12))
def test_a_crowd_whose_token_was_refused_mints_once(crowd: list[tuple[float, float]]) -> None:
    world = World()
    old = world.token()
    world.store = Snapshot(old, NOBODY)
    world.live = None  # somebody foreign asked for a token
    clients = [Client(world, start, store, held=old, refused=old.value) for start, store in crowd]
    play(*clients)
    assert world.mints == 2
    assert {c.outcome.token.value for c in clients if c.outcome} == {world.live}


@settings(max_examples=150, deadline=None)
@given(crowd=st.lists(st.tuples(starts, latencies), min_size=2, max_size=8), dies_after=st.integers(0, 7))
def test_a_dead_claimant_is_survived(crowd: list[tuple[float, float]], dies_after: int) -> None:
    world = World()
    victim = Client(world, 0.0, dies_after=dies_after)
    clients = [Client(world, start, store) for start, store in crowd]
    play(victim, *clients)
    assert world.mints <= 2, "at most one more than the victim's own"
    assert {c.outcome.token.value for c in clients if c.outcome} == {world.live}
    assert all(c.outcome for c in clients)


def test_recovery_from_a_dead_claimant_takes_a_lease() -> None:
    world = World(store=Snapshot(None, Claim("dead", 3)))
    begin = world.now
    play(Client(world, 0.0))
    assert world.mints == 1
    assert LEASE <= world.now - begin <= LEASE + 1.5


@settings(max_examples=100, deadline=None)
@given(crowd=st.lists(st.tuples(starts, latencies), min_size=1, max_size=10))
def test_at_the_appointment_one_renews_and_nobody_fails(crowd: list[tuple[float, float]]) -> None:
    world = World()
    old = world.token(age=LIFETIME - 200)
    world.store = Snapshot(old, NOBODY)
    clients = [Client(world, start, store, held=old) for start, store in crowd]
    play(*clients)
    assert world.mints == 2
    assert all(c.outcome for c in clients)
    assert clients[0].error is None


def test_a_slow_renewal_is_waited_for_no_longer_than_the_grace() -> None:
    world = World()
    old = world.token(age=LIFETIME - 200)
    world.store = Snapshot(old, NOBODY)
    slow, other = Client(world, 0.0, mint_seconds=3.5), Client(world, 0.5, held=old)
    ended: list[float] = []
    step = other.steps

    def timed() -> Callable[[], float | None]:
        inner = step()

        def run() -> float | None:
            wait = inner()
            if wait is None:
                ended.append(world.now)
            return wait

        return run

    other.steps = timed  # type: ignore[method-assign]
    begin = world.now
    play(slow, other)
    assert other.outcome is not None
    assert other.outcome.token == old
    assert other.outcome.look_again is not None
    assert GRACE <= ended[0] - begin - 0.5 <= GRACE + 0.5


def test_a_failed_renewal_keeps_the_good_token_and_says_so() -> None:
    world = World()
    old = world.token(age=LIFETIME - 200)
    world.store = Snapshot(old, NOBODY)
    client = Client(world, 0.0, mint_fails=True)
    play(client)
    assert client.outcome is not None
    assert client.outcome.token == old
    assert "503" in (client.outcome.warning or "")
    assert world.store.claim == NOBODY, "the claim was withdrawn"


def test_a_failed_mint_without_a_good_token_raises_its_cause() -> None:
    world = World()
    client = Client(world, 0.0, mint_fails=True)
    play(client)
    assert isinstance(client.error, TokenError), "not a ServiceError: the caller's own request was never sent"
    assert "503" in str(client.error)
    assert world.store.claim == NOBODY


def test_a_write_that_lost_a_race_is_no_broken_store() -> None:
    """Airflow 2 deletes and inserts a Variable: of two that do it at once, one fails."""
    conversation = World().acquire()
    next(conversation)
    conversation.send(Snapshot())
    assert conversation.send(Failed(TokenStoreError("unique"))) == protocol.Read()
    assert conversation.send(Snapshot(None, Claim("other"))) == protocol.Read(), "from the top"
    assert isinstance(conversation.send(Snapshot(None, Claim("other"))), protocol.Pause)


def test_a_write_that_fails_without_a_race_is() -> None:
    conversation = World().acquire()
    next(conversation)
    conversation.send(Snapshot())
    conversation.send(Failed(TokenStoreError("down")))
    with pytest.raises(TokenStoreError):
        conversation.send(Snapshot())


def test_a_good_token_in_the_store_is_used_without_writing_anything() -> None:
    world = World()
    token = world.token()
    world.store = Snapshot(token)
    conversation = world.acquire()
    assert next(conversation) == protocol.Read()
    with pytest.raises(StopIteration) as stop:
        conversation.send(world.store)
    assert stop.value.value == Outcome(token)


def test_a_newer_token_found_under_the_own_claim_is_not_superseded() -> None:
    world = World()
    conversation = world.acquire()
    next(conversation)
    claim = conversation.send(Snapshot())
    assert isinstance(claim, protocol.WriteClaim)
    conversation.send(None)
    conversation.send(None)
    fresh = world.token()
    assert conversation.send(Snapshot(fresh, claim.claim)) == protocol.Withdraw(claim.claim)
    assert conversation.send(None) == protocol.Read()
    with pytest.raises(StopIteration) as stop:
        conversation.send(Snapshot(fresh, NOBODY))
    assert stop.value.value.token == fresh
    assert world.mints == 1


def test_a_store_that_shows_nothing_of_what_was_written_counts_as_down() -> None:
    """Airflow's Variable.get says "not there" when the API server cannot be reached."""
    conversation = World().acquire()
    next(conversation)
    conversation.send(Snapshot())
    conversation.send(None)
    conversation.send(None)
    assert conversation.send(Snapshot()) == protocol.Read(), "asked twice"
    with pytest.raises(TokenStoreError):
        conversation.send(Snapshot())


def test_a_claim_withdrawn_by_a_late_claimant_is_no_broken_store() -> None:
    conversation = World().acquire()
    next(conversation)
    conversation.send(Snapshot())
    conversation.send(None)
    conversation.send(None)
    assert conversation.send(Snapshot(None, NOBODY)) == protocol.Read(), "from the top"


def test_a_store_that_is_down_leaves_the_held_token_in_use() -> None:
    world = World()
    held = world.token()
    conversation = world.acquire(held=held)
    next(conversation)
    with pytest.raises(StopIteration) as stop:
        conversation.send(Failed(TokenStoreError("down")))
    assert stop.value.value.token == held
    assert "down" in stop.value.value.warning


def test_a_store_that_is_down_never_leads_to_a_mint() -> None:
    world = World()
    held = world.token()
    conversation = world.acquire(held=held, refused=held.value)
    next(conversation)
    with pytest.raises(TokenStoreError):
        conversation.send(Failed(TokenStoreError("down")))
    assert world.mints == 1


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
