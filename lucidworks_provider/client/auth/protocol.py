# SPDX-License-Identifier: Apache-2.0
"""
Compare and mint: what a process does that needs a token, as a conversation without I/O.

A new token deletes the old one under everybody's hands, so minting is the last resort and happens once for
the fleet. The process holds the token that it last used and comes here only when that one is refused
(401), is due for renewal, or does not exist:

=====================================  ================================================================
what the store shows                   what the process does
=====================================  ================================================================
cannot be read, or shows nothing;      use the held token, look again later
  held token still good
cannot be read; nothing usable         fail, retryably: minting blindly would cut the fleet off
less than the held token, which is     publish the held one: it was minted when the store was down
newer and good
a good token before its appointment    use it (a 401 was somebody else's mint)
a good token past its appointment,     wait up to ``GRACE`` for the new one, then use the good one
  claimed by another
nothing usable, claimed by another     wait; a claim that has not moved for ``LEASE`` is dead
no claim, or a dead one, but minting   use the good token, or fail with the reason
  is forbidden (``holdoff``, ``losses``)
no claim, or a dead one                write the own claim, wait ``settle``, read it back:
  the write failed                     - from the top if another's claim stands there, else as above
  another's claim stands there         - lost: from the top
  it stands, but the token changed     - withdraw, from the top: somebody minted meanwhile
  it stands; only a clock that was     - withdraw, ask the service for the time, from the top
  never compared says "over"
  it stands; too many losses           - publish the pause that is due, withdraw, fail with the reason
  it stands, token as before           - move it, **mint**, publish, withdraw
mint failed; a good token is there     withdraw, use the good one, look again later
mint failed; nothing usable            withdraw, fail with the cause
=====================================  ================================================================

*Usable* is a token that was not refused and has not expired.

A Variable has no compare-and-set, so there the claim is a timed mutex: of several writers the last one
stands, and everybody else finds that out after ``settle``. Whoever needs longer than ``settle`` from its look
at the store to the end of its write also waits longer (three times as long on top), and so does who saw a
claim that it takes for dead, or none at all, until a living claimant has moved its claim back over it.
The page about token sharing says which delays that is safe under. Where it is not, two mint, and the ordinary answer
to a 401 heals it. Claims are compared by whether they move, never by clocks of two hosts.

**Absence is no proof**: reading a Variable swallows an unreachable API server and says "not there". So the
own claim is read back before a mint; only a store that shows our own writing is believed when it shows no
token, and one that showed a token before must go on showing it.

:func:`acquire` is a generator: it yields :mod:`~lucidworks_provider.client.auth.protocol`, a shell performs them and
sends the replies.
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
    "I am about to mint."

    :param owner: a random name of one attempt.
    :param beat: grows while the owner lives.
    """

    owner: str
    beat: int = 0

    def moved(self) -> Claim:
        """The same claim, one beat later."""
        return replace(self, beat=self.beat + 1)


# What a withdrawn claim leaves behind. Not the same as no claim at all, which is what a store that cannot be
# read looks like.
RELEASED = Claim("")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a store shows at one moment; None is "nothing there", or nothing that could be read."""

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
    """Command: give an own claim up, leaving :data:`NOBODY`. Reply: None, or a :class:`Failed`."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Pause:
    """Command: let time pass. Reply: None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AskTime:
    """Command: compare this host's clock with the identity server's. Reply: None, or a :class:`Failed`."""


@dataclass(frozen=True, slots=True)
class Mint:
    """
    Command: ask the service for a token, moving the claim meanwhile. Reply: a token, or a :class:`Failed`.

    :param hurry: the old token still works, so do not keep its user waiting: one short attempt.
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

    :param look_again: seconds until the store is worth another look; None for "at the appointment".
    :param warning: what the platform's operator should know.
    """

    token: AccessToken
    look_again: float | None = None
    warning: str | None = None


Command = Read | WriteClaim | Withdraw | Pause | AskTime | Mint | Publish
Reply = Snapshot | AccessToken | Failed | None
Conversation = Generator[Command, Reply, Outcome]


# How long a token past its appointment is held back for the claimant's new one.
GRACE = 2.0
# A claimant moves its claim every BEAT while it mints, so one that stands still for LEASE is dead. With a slow store
# others are more patient: for longer than a claimant pauses in `_take`, or a crowd deposes each of its own.
BEAT = 0.5
LEASE = 2.0
# Between two looks at the store while waiting for somebody; growing, since a crowd that looks slows the store.
LOOK = 0.25
LONGEST_LOOK = 0.5
# How often looking may fail, one time after the other, before somebody without a token is told.
FAILED_LOOKS = 2
# When to try again after a refresh that did not work while the old token still does.
LOOK_AGAIN = 5.0
# A look that takes longer than QUICK_LOOK meets a crowd; how long to stand back then; how often to look again where
# looking took longer than `settle`; how long a slow store holds a claim up.
QUICK_LOOK = 0.08
LONGEST_STAND_BACK = 2.0
SLOW_LOOKS = 3
LONGEST_SETTLE = 10.0
# Longer than most mints with their retries; the caller may try again.
PATIENCE = 120.0
# How often to try to share a new token: one that only we know is one that nobody has.
PUBLISH_TRIES = 5


@dataclass
class HeartbeatMonitor:
    """Watches another's claim, over several conversations: is it alive?"""

    claim: Claim | None = None
    since: float = 0.0

    def alive(self, claim: Claim | None, now: float, lease: float) -> bool:
        """
        :param claim: what the store shows.
        :param now: by the monotonic clock.
        :param lease: seconds without a movement after which it is dead.
        """
        if claim is None:
            # Only a withdrawal says that nobody is there; this may be a read that failed in silence.
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
    # How long the last look at the store took, and how often that was a reason to wait.
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
        """Whether nothing but a clock that was never compared speaks against a token."""
        unsure = not (self.asked_time or self.clocks.sure())
        return unsure and token is not None and token.value not in self.refused

    def stop(self, token: AccessToken | None) -> TokenError | None:
        """Why no new token may be asked for, if so."""
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
        """Read; who has no token does not give up at the first failure."""
        for _ in range(FAILED_LOOKS):
            seen = yield from self.read()
            if not isinstance(seen, Failed) or not seen.error.retryable or self.usable(self.held):
                return seen
            yield Pause(LONGEST_LOOK)
        return (yield from self.read())

    def stand_back(self, claim: Claim | None) -> float:
        """
        Seconds to wait, and look again, before writing a claim; 0 for none.

        A store that is slow is crowded, and if all of the crowd write their claims at once it gets slower: so each
        waits for a random while, in which the first of them has made its own visible. And what was seen too long ago
        is no ground for a claim; the first look of a process may take seconds.
        """
        crowded = self.look_seconds > QUICK_LOOK and not self.stood_back
        late = self.settle <= self.look_seconds and self.stood_back < SLOW_LOOKS
        if self.settle and claim is None and not self.saw_none:
            # Once may be a read that failed in silence, and a claim of ours would disturb a living claimant.
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
    Get a token that is neither refused nor expired, minting only as the table above allows.

    :param held: what this process used last.
    :param refused: the tokens that the service has answered with 401, or with 403 where that counts as one.
    :param settle: seconds between writing a claim and believing it; 0 where taking a claim is atomic.
    :param forbidden: why this process must not mint at the moment, if so; raised where it would have to.
    :param others: what earlier conversations saw of others' claims.
    :param after_403: those of ``refused`` that were answered with 403; the token that replaces one is marked.
    :raises TokenError: no token can be had now.
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
                return Outcome(good, LOOK_AGAIN)
            yield Pause(max(look, 2 * needs.look_seconds))
            look = min(LONGEST_LOOK, look * 1.5)
            continue
        if (reason := needs.stop(seen.token or held)) is not None:
            if good is None:
                raise reason
            return Outcome(good, LOOK_AGAIN)
        if wait := needs.stand_back(seen.claim):
            yield Pause(wait)
            continue
        done = yield from _claim_and_mint(needs, seen, Claim(new_owner()))
        if done is not None:
            return done


def _claim_and_mint(
    needs: _Needs, before: Snapshot, claim: Claim
) -> Generator[Command, Reply, Outcome | None]:
    """The lower half of the table; None means: from the top."""
    # What cannot be read any more may be another system's too: then what this process lost counts.
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
        # Without the claim, which nobody would move meanwhile.
        yield Withdraw(claim)
        yield AskTime()
        return None
    losses = needs.losses_after(last)
    if last is not None and losses.pause(needs.clocks.server()):
        told = yield Publish(replace(last, losses=losses))
        yield Withdraw(claim)
        return _without_store(needs, told) if isinstance(told, Failed) else None
    return (yield from _mint(needs, seen, claim, last))


def _take(
    needs: _Needs, before: Snapshot, claim: Claim, hold_off: float
) -> Generator[Command, Reply, Snapshot | Outcome | None]:
    """Take the claim: what the store shows when it is ours, or what to do instead."""
    reply = yield WriteClaim(claim)
    if isinstance(reply, Failed):
        # On Airflow 2 a Variable is deleted and inserted, and of two that do it at once one fails.
        seen = yield from needs.read()
        lost = isinstance(seen, Snapshot) and seen.claim not in {None, before.claim}
        return None if lost else _without_store(needs, reply)
    if needs.settle:
        hold_off += needs.settle + min(LONGEST_SETTLE, 3 * (needs.clocks.monotonic() - needs.read_at))
        if before.claim != RELEASED:
            # A claim that was taken for dead, the first claim ever, or a read that failed silently: time for whoever
            # lives to move a claim over ours.
            hold_off += 2 * BEAT
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
    """Whether something is missing that must be there: "nothing" is how an unreachable API server looks."""
    if not isinstance(seen, Snapshot):
        return False
    return seen.claim is None or (seen.token is None and before.token is not None)


def _mint(
    needs: _Needs, seen: Snapshot, claim: Claim, last: AccessToken | None
) -> Generator[Command, Reply, Outcome]:
    # It has stood still while it settled, and others may be about to take it for dead. And what cannot be written
    # now could not be shared either.
    claim = claim.moved()
    reply = yield WriteClaim(claim)
    if isinstance(reply, Failed):
        return _without_store(needs, reply)
    good = needs.usable(seen.token)
    minted = yield Mint(claim, hurry=good is not None)
    if isinstance(minted, AccessToken):
        # By a clock that the answer has set right, if it was wrong.
        losses, now, warning = needs.losses_after(last), needs.clocks.server(), None
        if losses.worth_telling(now):
            losses, warning = losses.told(now), losses.warning()
        # Newer than what it replaces, whatever the clocks of two hosts say.
        after = seen.token.issued_at + 0.001 if seen.token is not None else minted.issued_at
        token = replace(
            minted,
            losses=losses,
            issued_at=max(minted.issued_at, after),
            after_403=last is not None and last.value in needs.after_403,
        )
        # Sharing it comes before anything else.
        published = yield Publish(token)
        for _ in range(PUBLISH_TRIES - 1):
            if not isinstance(published, Failed):
                break
            yield Pause(BEAT)
            claim = claim.moved()
            yield WriteClaim(claim)
            published = yield Publish(token)
        yield Withdraw(claim)
        return Outcome(token, **({"warning": warning} | _unshared(published)))
    yield Withdraw(claim)
    error = minted.error if isinstance(minted, Failed) else TokenError("no token was minted")
    if good := needs.usable(seen.token):
        return Outcome(good, LOOK_AGAIN, f"renewal failed, the old token still works: {error}")
    if not error.retryable or isinstance(error, TokenError):
        raise error
    # Whatever the token endpoint answered, the caller's own request has not been sent.
    raise TokenError(f"No access token: {error}")


def _without_store(needs: _Needs, reply: Reply) -> Outcome:
    """The first two rows of the table."""
    error = reply.error if isinstance(reply, Failed) else TokenStoreError("the token store gave no answer")
    held = needs.usable(needs.held)
    if held is None:
        raise error
    return Outcome(held, LOOK_AGAIN, f"the token store is down, the held token still works: {error}")


def _unshared(published: Reply) -> dict[str, Any]:
    """What an outcome says when its token could not be shared."""
    if not isinstance(published, Failed):
        return {}
    warning = f"the new token could not be shared, trying again: {published.error}"
    return {"look_again": LOOK_AGAIN, "warning": warning}
