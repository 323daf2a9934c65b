# SPDX-License-Identifier: Apache-2.0
"""
Compare and mint: what a process does that needs a token, as a conversation without I/O.

A new token deletes the old one under everybody's hands, so minting is the last resort and happens once for
the fleet. The process holds the token that it last used and comes here only when that one is refused
(401), is due for renewal, or does not exist:

=====================================  ================================================================
what the store shows                   what the process does
=====================================  ================================================================
cannot be read; held token still good  use the held token, look again later
cannot be read; nothing usable         fail, retryably: minting blindly would cut the fleet off
a good token before its appointment    use it (a 401 was somebody else's mint)
a good token past its appointment,     wait up to ``GRACE`` for the new one, then use the good one
  claimed by another
nothing usable, claimed by another     wait; a claim that has not moved for ``LEASE`` is dead
no claim, or a dead one, but minting   use the good token, or fail with the reason
  is forbidden (``holdoff``)
no claim, or a dead one                write the own claim, wait ``settle``, read it back:
  the write failed                     - from the top if another's claim stands there, else as above
  another's claim stands there         - lost: from the top
  it stands, but the token changed     - withdraw, from the top: somebody minted meanwhile
  it stands, token as before           - **mint**, publish, withdraw
mint failed; a good token is there     withdraw, use the good one, look again later
mint failed; nothing usable            withdraw, fail with the cause
=====================================  ================================================================

*Usable* is a token that was not refused and has not expired. A Variable has no compare-and-set, so the
claim is a timed mutex: of several writers the last one stands, and everybody else finds that out after
``settle``. It holds as long as no write takes longer than ``settle``; then two mint, and the ordinary
answer to a 401 heals it. Claims are compared by whether they move, never by clocks of two hosts.

**Absence is no proof**: reading a Variable swallows an unreachable API server and says "not there". So the
own claim is read back before a mint; only a store that shows our own writing is believed when it shows no
token.

:func:`acquire` is a generator: it yields commands, a shell performs them and sends the replies.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

from lucidworks_provider.auth.token import AccessToken
from lucidworks_provider.errors import LucidworksError, TokenError, TokenStoreError

# How long a token past its appointment is held back for the claimant's new one.
GRACE = 2.0
# A claimant moves its claim every BEAT while it mints, so one that stands still for LEASE is dead.
BEAT = 1.0
LEASE = 4.0
# Between two looks at the store while waiting for somebody.
LOOK = 0.25
# When to try again after a refresh that did not work while the old token still does.
LOOK_AGAIN = 5.0
# Longer than any mint with its retries.
PATIENCE = 120.0


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
NOBODY = Claim("")


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
    """Command: write a claim, or withdraw it with :data:`NOBODY`. Reply: None, or a :class:`Failed`."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Pause:
    """Command: let time pass. Reply: None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Mint:
    """Command: ask the service for a token, moving the claim meanwhile. Reply: a token, or a :class:`Failed`."""

    claim: Claim


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
    :param warning: why it is not the token that one would want.
    """

    token: AccessToken
    look_again: float | None = None
    warning: str | None = None


Command = Read | WriteClaim | Pause | Mint | Publish
Reply = Snapshot | AccessToken | Failed | None
Conversation = Generator[Command, Reply, Outcome]


@dataclass
class _Others:
    """Watches another's claim: is it alive?"""

    claim: Claim | None = None
    since: float = 0.0

    def alive(self, claim: Claim | None, now: float) -> bool:
        if claim is None or claim == NOBODY:
            return False
        if claim != self.claim:
            self.claim, self.since = claim, now
        return now - self.since < LEASE


@dataclass(frozen=True, slots=True)
class Clocks:
    """
    :param monotonic: for waiting.
    :param server: seconds since the epoch as the identity server sees it, for the times in a token.
    """

    monotonic: Callable[[], float]
    server: Callable[[], float]


@dataclass
class _Needs:
    held: AccessToken | None
    refused: str | None
    clocks: Clocks
    others: _Others = field(default_factory=_Others)

    def usable(self, token: AccessToken | None) -> AccessToken | None:
        if token is None or token.value == self.refused or self.clocks.server() >= token.expires_at:
            return None
        return token

    def due(self, token: AccessToken) -> bool:
        return self.clocks.server() >= token.refresh_at


def acquire(
    *,
    held: AccessToken | None,
    refused: str | None,
    settle: float,
    clocks: Clocks,
    forbidden: TokenError | None = None,
    new_owner: Callable[[], str] = lambda: uuid.uuid4().hex,
) -> Conversation:
    """
    Get a token that is neither refused nor expired, minting only as the table above allows.

    :param held: what this process used last.
    :param refused: the token that the service has just answered with 401, if that is why we are here.
    :param settle: seconds between writing a claim and believing it; 0 where one process has the store.
    :param forbidden: why this process must not mint at the moment, if so; raised where it would have to.
    :raises TokenError: no token can be had now.
    """
    needs = _Needs(held, refused, clocks)
    started = clocks.monotonic()
    while True:
        seen = yield Read()
        if not isinstance(seen, Snapshot):
            return _without_store(needs, seen)
        good = needs.usable(seen.token)
        if good is not None and not needs.due(good):
            return Outcome(good)
        waited = clocks.monotonic() - started
        if needs.others.alive(seen.claim, clocks.monotonic()):
            if good is not None and waited >= GRACE:
                return Outcome(good, look_again=LOOK_AGAIN)
            if waited >= PATIENCE:
                raise TokenError(
                    f"Another process has been getting a token for {waited:.0f} s; try again later."
                )
            yield Pause(LOOK)
            continue
        if forbidden is not None:
            if good is None:
                raise forbidden
            return Outcome(good, look_again=LOOK_AGAIN)
        done = yield from _claim_and_mint(needs, seen, settle, Claim(new_owner()))
        if done is not None:
            return done


def _claim_and_mint(
    needs: _Needs, before: Snapshot, settle: float, claim: Claim
) -> Generator[Command, Reply, Outcome | None]:
    """The lower half of the table; None means: from the top."""
    asked = needs.clocks.monotonic()
    reply = yield WriteClaim(claim)
    if isinstance(reply, Failed):
        # On Airflow 2 a Variable is deleted and inserted, and of two that do it at once one fails.
        seen = yield Read()
        lost = isinstance(seen, Snapshot) and seen.claim not in {None, before.claim}
        return None if lost else _without_store(needs, reply)
    if settle:
        # A store that is slow today is slow for the others too.
        yield Pause(max(settle, 3 * (needs.clocks.monotonic() - asked)))
    seen = yield Read()
    if isinstance(seen, Snapshot) and seen.claim is None:
        # Ours must be there. A read that says "nothing" is how an unreachable API server looks.
        seen = yield Read()
        if isinstance(seen, Snapshot) and seen.claim is None:
            seen = Failed(TokenStoreError("the store does not show what was just written to it"))
    if not isinstance(seen, Snapshot):
        return _without_store(needs, seen)
    if seen.claim != claim:
        return None
    if seen.token is not None and seen.token != before.token and needs.usable(seen.token):
        yield WriteClaim(NOBODY)
        return None
    minted = yield Mint(claim)
    good = needs.usable(seen.token)
    if isinstance(minted, AccessToken):
        # Publishing comes before anything else: a token that only we know is a token that nobody has.
        published = yield Publish(minted)
        yield WriteClaim(NOBODY)
        warning = (
            f"the new token could not be shared: {published.error}" if isinstance(published, Failed) else None
        )
        return Outcome(minted, warning=warning)
    yield WriteClaim(NOBODY)
    error = minted.error if isinstance(minted, Failed) else TokenError("no token was minted")
    if good is None and (not error.retryable or isinstance(error, TokenError)):
        raise error
    if good is None:
        # Whatever the token endpoint answered, the caller's own request has not been sent.
        raise TokenError(f"No access token: {error}")
    return Outcome(good, look_again=LOOK_AGAIN, warning=f"renewal failed, the old token still works: {error}")


def _without_store(needs: _Needs, reply: Reply) -> Outcome:
    """The first two rows of the table."""
    error = reply.error if isinstance(reply, Failed) else TokenStoreError("the token store gave no answer")
    held = needs.usable(needs.held)
    if held is None:
        raise error
    return Outcome(held, look_again=LOOK_AGAIN, warning=f"the token store is down: {error}")
