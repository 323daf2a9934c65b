# SPDX-License-Identifier: Apache-2.0
"""
Compare and refresh: the decisions of a process that needs a token, as a generator without I/O.

A new token invalidates the old one for every client, so it is requested as rarely as possible, once for the fleet.
A process uses the token that it has, and runs this protocol only when that token was refused (401), is due for a
refresh, or does not exist:

======================================  ===============================================================
what the store shows                    what the process does
======================================  ===============================================================
unreadable, or empty;                   use the cached token, read the store again later
  the cached token is still good
unreadable; no usable token             fail, retryably: a blind refresh would invalidate the fleet's token
an older token than the cached one,     publish the cached one: it was issued while the store was down
  which is good
a good token before its refresh time    use it (the 401 was caused by another process's refresh)
a good token past its refresh time,     wait up to ``GRACE`` for the new one, then use the good one
  claimed by another process
no usable token, claimed                wait; a claim without a heartbeat for ``LEASE`` is dead
no claim, or a dead one; a refresh is   use the good token, or fail with the reason
  not allowed (backoff, losses)
no claim, or a dead one                 write a claim, wait ``settle``, read it back:
  the write failed                      - start again if another claim is there, else as above
  another claim is there                - lost: start again
  ours; the token has changed           - release it, start again: another process has refreshed
  ours; only a clock that was never     - release it, ask the service for the time, start again
  compared says that it expired
  ours; too many losses                 - publish the pause, release the claim, fail with the reason
  ours; the token is the same           - renew the claim, **refresh**, publish, release
the refresh failed; a good token is     release the claim, use the good one, read the store again later
  there
the refresh failed; no usable token     release the claim, fail with the cause
======================================  ===============================================================

A token is *usable* if it was not refused and has not expired.

An Airflow Variable has no compare-and-set, so its claim is a timed mutex: of several writers the last one wins, and
the others see that after ``settle``. A process waits longer (by three times as long) if it took longer than
``settle`` from reading the store to writing the claim; so does a process that replaces a dead claim, or saw none, to
let a living claimant write its claim again. The page about token sharing says under which delays this is safe.
Beyond them two processes may refresh, and the usual handling of a 401 repairs that. Claims are compared by whether
their heartbeat advances, never by the clocks of two hosts.

**A missing value proves nothing**: reading a Variable swallows an unreachable API server and returns "missing". So a
process reads its own claim back before it refreshes; it believes that there is no token only if the store shows that
claim, and a store that has shown a token must keep showing it.

:func:`acquire` yields the commands below; :class:`~lucidworks_provider.client.auth.source.TokenSource` performs them
and sends the replies.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from lucidworks_provider.client.auth.clock import Clocks
from lucidworks_provider.client.auth.token import AccessToken, RevocationHistory
from lucidworks_provider.errors import LucidworksError, TokenContestedError, TokenError, TokenStoreError


@dataclass(frozen=True, slots=True)
class Claim:
    """
    Announces a refresh.

    :param owner: a random name of one attempt.
    :param heartbeat: incremented while the owner is alive.
    """

    owner: str
    heartbeat: int = 0

    def moved(self) -> Claim:
        """The same claim, one heartbeat later."""
        return replace(self, heartbeat=self.heartbeat + 1)


# The value of a released claim. Unlike a missing claim, it proves that the store was read.
RELEASED = Claim("")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The contents of a store; None means missing, or unreadable."""

    token: AccessToken | None = None
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Command: read the store. Reply: a :class:`Snapshot`, or a :class:`Failed`."""


@dataclass(frozen=True, slots=True)
class WriteClaim:
    """Command: write a claim. Reply: None, or a :class:`Failed`."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Command: release an own claim, leaving :data:`RELEASED`. Reply: None, or a :class:`Failed`."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Pause:
    """Command: sleep. Reply: None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AskTime:
    """Command: compare this host's clock with the identity server's. Reply: None, or a :class:`Failed`."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """
    Command: request a token from the service, renewing the claim meanwhile. Reply: a token, or a :class:`Failed`.

    :param hurry: the old token still works: make one short attempt.
    """

    claim: Claim
    hurry: bool = False


@dataclass(frozen=True, slots=True)
class Publish:
    """Command: store a token. Reply: None, or a :class:`Failed`."""

    token: AccessToken


@dataclass(frozen=True, slots=True)
class Failed:
    """Reply: a command could not be performed."""

    error: LucidworksError


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    The token to use.

    :param check_after: seconds until the store is read again; None for the token's refresh time.
    :param warning: to be logged.
    """

    token: AccessToken
    check_after: float | None = None
    warning: str | None = None


Command = Read | WriteClaim | Withdraw | Pause | AskTime | Refresh | Publish
Reply = Snapshot | AccessToken | Failed | None
Conversation = Generator[Command, Reply, Outcome]


# Seconds to wait for a claimant's new token while the old one still works.
GRACE = 2.0
# A claimant renews its claim every HEARTBEAT while it refreshes; without one for LEASE it is dead. With a slow store
# the lease is longer than the pauses of a claimant in `_take`, or many processes would depose each other.
HEARTBEAT = 0.5
LEASE = 2.0
# Seconds between two reads of the store while waiting; growing, since many readers slow the store.
LOOK = 0.25
LONGEST_LOOK = 0.5
# Failed reads in a row before a process without a token gives up.
FAILED_LOOKS = 2
# When to try again after a refresh that did not work while the old token still does.
CHECK_AFTER = 5.0
# A read that takes longer than QUICK_LOOK means contention: back off for at most LONGEST_STAND_BACK. Read again up to
# SLOW_LOOKS times if a read took longer than `settle`. A slow store delays a claim by at most LONGEST_SETTLE.
QUICK_LOOK = 0.08
LONGEST_STAND_BACK = 2.0
SLOW_LOOKS = 3
LONGEST_SETTLE = 10.0
# Seconds, longer than most refreshes with their retries; the caller may try again.
PATIENCE = 120.0
# Attempts to publish a new token.
PUBLISH_TRIES = 5


@dataclass
class HeartbeatMonitor:
    """Tells whether another process's claim is alive, over several runs of the protocol."""

    claim: Claim | None = None
    since: float = 0.0

    def alive(self, claim: Claim | None, now: float, lease: float) -> bool:
        """
        :param claim: the claim in the store.
        :param now: by the monotonic clock.
        :param lease: seconds without a heartbeat after which it is dead.
        """
        if claim is None:
            # Only RELEASED proves that there is no claimant; this may be a read that failed silently.
            claim = self.claim
        if claim is None or claim == RELEASED:
            self.claim = None
            return False
        if claim != self.claim:
            self.claim, self.since = claim, now
        return now - self.since < lease


@dataclass
class _Needs:
    held: AccessToken | None
    refused: Collection[str] = field(repr=False)
    settle: float
    clocks: Clocks
    forbidden: TokenError | None
    others: HeartbeatMonitor
    after_403: Collection[str] = field(default=(), repr=False)
    asked_time: bool = False
    # Seconds of the last read of the store, and how often it was a reason to wait.
    look_seconds: float = 0.0
    stood_back: int = 0
    saw_none: bool = False
    read_at: float = field(init=False)

    def usable(self, token: AccessToken | None) -> AccessToken | None:
        if token is None or token.value in self.refused or self.clocks.server() >= token.expires_at:
            return None
        return token

    def due(self, token: AccessToken) -> bool:
        return self.clocks.server() >= token.refresh_at

    def ours(self, stored: AccessToken | None) -> AccessToken | None:
        """The held token, if it is good and newer than the stored one."""
        held = self.usable(self.held)
        if held is None or self.due(held) or (stored is not None and stored.issued_at >= held.issued_at):
            return None
        return held

    def lost(self, token: AccessToken | None) -> bool:
        """Whether a token was refused before its time."""
        return token is not None and token.value in self.refused and self.clocks.server() < token.expires_at

    def losses_after(self, last: AccessToken | None) -> RevocationHistory:
        """What the fleet has lost when this token is replaced."""
        now = self.clocks.server()
        if last is None:
            return RevocationHistory()
        return last.losses.with_one_more(now) if self.lost(last) else last.losses.at_renewal(now)

    def doubtful(self, token: AccessToken | None) -> bool:
        """Whether only a clock that was never compared says that a token is expired."""
        unsure = not (self.asked_time or self.clocks.sure())
        return unsure and token is not None and token.value not in self.refused

    def stop(self, token: AccessToken | None) -> TokenError | None:
        """Why no new token may be requested, if so."""
        losses = token.losses if token is not None else RevocationHistory()
        pause = losses.pause(self.clocks.server())
        if pause > 0:
            return TokenContestedError(losses.refusal(pause))
        return self.forbidden

    def read(self) -> Generator[Command, Reply, Reply]:
        self.read_at = self.clocks.monotonic()
        seen = yield Read()
        self.look_seconds = self.clocks.monotonic() - self.read_at
        return seen

    def look(self) -> Generator[Command, Reply, Reply]:
        """Read the store, again after a failure if there is no usable token."""
        for _ in range(FAILED_LOOKS):
            seen = yield from self.read()
            if not isinstance(seen, Failed) or not seen.error.retryable or self.usable(self.held):
                return seen
            yield Pause(LONGEST_LOOK)
        return (yield from self.read())

    def stand_back(self, claim: Claim | None) -> float:
        """
        Seconds to wait before reading the store again instead of writing a claim; 0 to write it.

        A slow store has many clients, and becomes slower if all of them write claims: a random delay lets the first
        claim become visible. A read that took too long is outdated; the first one of a process may take seconds.
        """
        crowded = self.look_seconds > QUICK_LOOK and not self.stood_back
        late = self.settle <= self.look_seconds and self.stood_back < SLOW_LOOKS
        if self.settle and claim is None and not self.saw_none:
            # This may be a read that failed silently, and a claim would disturb a living claimant.
            self.saw_none = True
            return LOOK
        if not self.settle or not (crowded or late):
            return 0.0
        self.stood_back += 1
        return random.uniform(0.01, min(LONGEST_STAND_BACK, 4 * self.look_seconds))


def acquire(
    *,
    held: AccessToken | None,
    refused: Collection[str],
    settle: float,
    clocks: Clocks,
    forbidden: TokenError | None = None,
    others: HeartbeatMonitor | None = None,
    after_403: Collection[str] = (),
    new_owner: Callable[[], str] = lambda: uuid.uuid4().hex,
) -> Conversation:
    """
    Get a token that is neither refused nor expired, refreshing only as the table above allows.

    :param held: the token that this process used last.
    :param refused: the tokens that the service has refused with 401, or with 403 where that counts as one.
    :param settle: seconds between writing a claim and trusting it; 0 where taking a claim is atomic.
    :param forbidden: why this process must not refresh at the moment, if so; raised instead of a refresh.
    :param others: the claims of other processes, as earlier runs saw them.
    :param after_403: those of ``refused`` that were refused with 403; the token that replaces one is marked.
    :raises TokenError: no usable token now.
    """
    needs = _Needs(held, refused, settle, clocks, forbidden, others or HeartbeatMonitor(), after_403)
    started, look = clocks.monotonic(), LOOK
    while True:
        seen = yield from needs.look()
        if seen == Snapshot() and needs.ours(None) is None and needs.usable(held):
            seen = Failed(TokenStoreError("it shows nothing at all"))
        if not isinstance(seen, Snapshot):
            return _without_store(needs, seen)
        if (ours := needs.ours(seen.token)) is not None:
            published = yield Publish(ours)
            return Outcome(ours, **_unshared(published))
        good = needs.usable(seen.token)
        if good is not None and not needs.due(good):
            return Outcome(good)
        waited = clocks.monotonic() - started
        if waited >= PATIENCE and good is None:
            raise TokenError(
                f"Other processes have been getting a token for {waited:.0f} s; try again later."
            )
        if needs.others.alive(seen.claim, clocks.monotonic(), LEASE + 6 * needs.look_seconds):
            if good is not None and waited >= GRACE:
                return Outcome(good, CHECK_AFTER)
            yield Pause(max(look, 2 * needs.look_seconds))
            look = min(LONGEST_LOOK, look * 1.5)
            continue
        if (reason := needs.stop(seen.token or held)) is not None:
            if good is None:
                raise reason
            return Outcome(good, CHECK_AFTER)
        if wait := needs.stand_back(seen.claim):
            yield Pause(wait)
            continue
        done = yield from _claim_and_refresh(needs, seen, Claim(new_owner()))
        if done is not None:
            return done


def _claim_and_refresh(
    needs: _Needs, before: Snapshot, claim: Claim
) -> Generator[Command, Reply, Outcome | None]:
    """The lower half of the table; None to start again."""
    # If the store has lost its token, the losses of this process's token count.
    last = before.token or needs.held
    hold_off = last.losses.wait(needs.clocks.server()) if last is not None and needs.lost(last) else 0.0
    seen = yield from _take(needs, before, claim, hold_off)
    if not isinstance(seen, Snapshot):
        return seen
    if seen.token is not None and seen.token != before.token and needs.usable(seen.token):
        yield Withdraw(claim)
        return None
    if needs.doubtful(seen.token):
        needs.asked_time = True
        # Without the claim, which would not be renewed meanwhile.
        yield Withdraw(claim)
        yield AskTime()
        return None
    losses = needs.losses_after(last)
    if last is not None and losses.pause(needs.clocks.server()):
        told = yield Publish(replace(last, losses=losses))
        yield Withdraw(claim)
        return _without_store(needs, told) if isinstance(told, Failed) else None
    return (yield from _refresh(needs, seen, claim, last))


def _take(
    needs: _Needs, before: Snapshot, claim: Claim, hold_off: float
) -> Generator[Command, Reply, Snapshot | Outcome | None]:
    """Take the claim: the snapshot in which it is ours, or the outcome if it is not."""
    reply = yield WriteClaim(claim)
    if isinstance(reply, Failed):
        # On Airflow 2 a Variable is deleted and inserted, and of two that do it at once one fails.
        seen = yield from needs.read()
        lost = isinstance(seen, Snapshot) and seen.claim not in {None, before.claim}
        return None if lost else _without_store(needs, reply)
    if needs.settle:
        hold_off += needs.settle + min(LONGEST_SETTLE, 3 * (needs.clocks.monotonic() - needs.read_at))
        if before.claim != RELEASED:
            # The last claim was dead or missing, or a read failed silently: a living claimant gets time to renew it.
            hold_off += 2 * HEARTBEAT
    if hold_off:
        yield Pause(hold_off)
    seen = yield from needs.read()
    if _hides(seen, before):
        seen = yield from needs.read()
        if _hides(seen, before):
            seen = Failed(TokenStoreError("the store does not show what was written to it"))
    if not isinstance(seen, Snapshot):
        return _without_store(needs, seen)
    if seen.claim != claim:
        yield Pause(LOOK)
        return None
    return seen


def _hides(seen: Reply, before: Snapshot) -> bool:
    """Whether a value is missing that must be there: an unreachable API server looks like that."""
    if not isinstance(seen, Snapshot):
        return False
    return seen.claim is None or (seen.token is None and before.token is not None)


def _refresh(
    needs: _Needs, seen: Snapshot, claim: Claim, last: AccessToken | None
) -> Generator[Command, Reply, Outcome]:
    # It was not renewed during the settle delay and may look dead soon. And if the store cannot be written now, the
    # new token could not be published either.
    claim = claim.moved()
    reply = yield WriteClaim(claim)
    if isinstance(reply, Failed):
        return _without_store(needs, reply)
    good = needs.usable(seen.token)
    refreshed = yield Refresh(claim, hurry=good is not None)
    if isinstance(refreshed, AccessToken):
        # By a clock that the response has corrected.
        losses, now, warning = needs.losses_after(last), needs.clocks.server(), None
        if losses.worth_telling(now):
            losses, warning = losses.told(now), losses.warning()
        # Later than the token that it replaces, even if the clocks of two hosts differ.
        after = seen.token.issued_at + 0.001 if seen.token is not None else refreshed.issued_at
        token = replace(
            refreshed,
            losses=losses,
            issued_at=max(refreshed.issued_at, after),
            after_403=last is not None and last.value in needs.after_403,
        )
        # Published before anything else.
        published = yield Publish(token)
        for _ in range(PUBLISH_TRIES - 1):
            if not isinstance(published, Failed):
                break
            yield Pause(HEARTBEAT)
            claim = claim.moved()
            yield WriteClaim(claim)
            published = yield Publish(token)
        yield Withdraw(claim)
        return Outcome(token, **({"warning": warning} | _unshared(published)))
    yield Withdraw(claim)
    error = refreshed.error if isinstance(refreshed, Failed) else TokenError("no token was issued")
    if good := needs.usable(seen.token):
        return Outcome(good, CHECK_AFTER, f"renewal failed, the old token still works: {error}")
    if not error.retryable or isinstance(error, TokenError):
        raise error
    # The caller's own request has not been sent.
    raise TokenError(f"No access token: {error}")


def _without_store(needs: _Needs, reply: Reply) -> Outcome:
    """The first two rows of the table."""
    error = reply.error if isinstance(reply, Failed) else TokenStoreError("the token store gave no answer")
    held = needs.usable(needs.held)
    if held is None:
        raise error
    return Outcome(held, CHECK_AFTER, f"the token store is down, the held token still works: {error}")


def _unshared(published: Reply) -> dict[str, Any]:
    """The fields of an outcome whose token could not be published."""
    if not isinstance(published, Failed):
        return {}
    warning = f"the new token could not be shared, trying again: {published.error}"
    return {"check_after": CHECK_AFTER, "warning": warning}
