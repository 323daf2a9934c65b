# SPDX-License-Identifier: Apache-2.0
"""
Compare and refresh: the decisions of a process that needs a token, as a generator without I/O.

A new token invalidates the old one for every client (documented on one of the vendor's pages; assumed here), so all
processes share one and request it as rarely as possible.
A process uses the token that it has, and runs this protocol only when that token was refused (401), is due for a
refresh, or does not exist:

======================================  ===============================================================
what the store shows                    what the process does
======================================  ===============================================================
unreadable, or empty;                   use the cached token, read the store again later
  the cached token is still good
unreadable; no usable token             fail, retryably: a blind refresh would invalidate the shared token
an older token than the cached one,     publish the cached one: it was issued while the store was down
  which is good
a good token before its refresh time    use it (the 401 was caused by another process's refresh)
a good token past its refresh time,     wait up to ``GRACE`` for the new one, then use the good one
  claimed by another process
no usable token, claimed                wait; a claim without a heartbeat for ``CLAIM_TIMEOUT`` is dead
no claim, or a dead one; a refresh is   use the good token, or fail with the reason
  not allowed (backoff, revocations)
no claim, or a dead one                 write a claim, wait ``settle``, read it back:
  the write failed                      - start again if another claim is there, else as above
  another claim is there                - lost: start again
  ours; the token has changed           - release it, start again: another process has refreshed
  ours; only a clock that was never     - request the time; release it and start again if the token is
  compared says that it expired           usable, else as below
  ours; too many revocations                 - publish the pause, release the claim, fail with the reason
  ours; the token is the same           - renew the claim (read it again if that took ``CLAIM_TIMEOUT``), **refresh**,
                                          publish, release
the refresh failed; a good token is     release the claim, use the good one, read the store again later
  there
the refresh failed; no usable token     release the claim, fail with the cause
======================================  ===============================================================

A token is *usable* if it was not refused and has not expired.

An Airflow Variable has no compare-and-set, so its claim is a timed mutex: of several writers the last one wins, and
the others see that after ``settle``. A process waits longer (by three times as long) if it took longer than
``settle`` from reading the store to writing the claim; so does a process that replaces a dead claim, or saw none, to
let a living claimant renew its claim. The page about token sharing says under which delays this is safe.
Beyond them two processes may refresh, and the usual handling of a 401 repairs that. Claims are compared by whether
their heartbeat advances, never by the clocks of two hosts.

**A missing value proves nothing**: reading a Variable swallows an unreachable API server and returns "missing". So a
process reads its own claim back before it refreshes; it concludes that there is no token only if the store shows that
claim, and a store that has shown a token must keep showing it.

:func:`acquire` yields the commands below; :class:`~lucidworks_provider.client.auth.source.TokenSource` performs them
and sends the replies.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

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

    def next_heartbeat(self) -> Claim:
        """The same claim, one heartbeat later."""
        return replace(self, heartbeat=self.heartbeat + 1)


# The value of a released claim. Unlike a missing claim, it proves that the store was read.
RELEASED = Claim("")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The contents of a store; None means missing, or unreadable."""

    token: AccessToken | None = None
    claim: Claim | None = None


class TokenStore(Protocol):
    """
    What the protocol requires of a store.

    Every method raises :class:`~lucidworks_provider.errors.TokenStoreError` when the store is down.

    :param settle: seconds between writing a claim and trusting it; 0 where taking a claim is atomic.
    """

    settle: float

    def read(self) -> Snapshot:
        """Read token and claim."""

    def write_claim(self, claim: Claim) -> None:
        """Write a claim, or renew the own one."""

    def release_claim(self, claim: Claim) -> None:
        """Release a claim, if it is the own one."""

    def publish(self, token: AccessToken) -> None:
        """Store a token, unless the store has a newer one."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """
    :param monotonic: for waiting.
    :param server: seconds since the epoch as the identity server sees it, for the times in a token.
    :param synchronized: whether ``server`` was compared with a response of the server.
    """

    monotonic: Callable[[], float]
    server: Callable[[], float]
    synchronized: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Read:
    """Command: read the store. Reply: a :class:`Snapshot`, or a :class:`Failed`."""


@dataclass(frozen=True, slots=True)
class WriteClaim:
    """Command: write a claim. Reply: None, or a :class:`Failed`."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class ReleaseClaim:
    """Command: release an own claim, leaving :data:`RELEASED`. Reply: None, or a :class:`Failed`."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Sleep:
    """Command: sleep. Reply: None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class FetchTime:
    """Command: compare this host's clock with the identity server's. Reply: None, or a :class:`Failed`."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """
    Command: request a token from the service, renewing the claim meanwhile. Reply: a token, or a :class:`Failed`.

    :param single_attempt: the old token still works: make one short attempt.
    """

    claim: Claim
    single_attempt: bool = False


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
    :param refreshed: whether the identity server has returned it just now, which may be the token that was refused.
    :param renewal_failed: whether the identity server has just refused to replace it.
    """

    token: AccessToken
    check_after: float | None = None
    warning: str | None = None
    refreshed: bool = False
    renewal_failed: bool = False


Command = Read | WriteClaim | ReleaseClaim | Sleep | FetchTime | Refresh | Publish
Reply = Snapshot | AccessToken | Failed | None
Acquisition = Generator[Command, Reply, Outcome]


# Seconds to wait for a claimant's new token while the old one still works.
GRACE = 2.0
# A claimant renews its claim every HEARTBEAT while it refreshes; one that was not renewed for CLAIM_TIMEOUT is dead.
# With a slow store that is longer than the delays in `_claim`, or processes would replace the claims of living ones.
HEARTBEAT = 0.5
CLAIM_TIMEOUT = 2.0
# Seconds between two reads of the store while waiting.
POLL_INTERVAL = 0.5
# With a slow store: the pause between two reads, in durations of a read, and its longest in seconds.
READ_PAUSE = 4.0
MAX_POLL_INTERVAL = 10.0
# Failed reads in a row before a process without a token gives up.
READ_RETRIES = 2
# Seconds until the next try after a failed refresh while the old token still works.
CHECK_AFTER = 5.0
# The longest time until a failed renewal is tried again, in seconds.
LONGEST_CHECK_AFTER = 60.0
# Read again up to SLOW_READS times if a read took longer than `settle`. A slow store delays a claim by at most
# MAX_SETTLE.
SLOW_READS = 3
MAX_SETTLE = 10.0
# Seconds to wait for other processes without a usable token; longer than most refreshes with their retries.
PATIENCE = 120.0
# Attempts to publish a new token.
PUBLISH_TRIES = 5


@dataclass
class HeartbeatMonitor:
    """Whether the claim in the store is alive, over several runs of the protocol."""

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
class _Context:
    held: AccessToken | None
    refused: Collection[str] = field(repr=False)
    settle: float
    clocks: Clocks
    forbidden: TokenError | None
    monitor: HeartbeatMonitor
    after_403: Collection[str] = field(default=(), repr=False)
    time_fetched: bool = False
    # The duration of the last read of the store, and how many were slow.
    read_seconds: float = 0.0
    slow_reads: int = 0
    read_nothing: bool = False
    read_at: float = field(init=False)
    claimed_at: float = math.inf

    def usable(self, token: AccessToken | None) -> AccessToken | None:
        if token is None or token.value in self.refused or self.clocks.server() >= token.expires_at:
            return None
        return token

    def due(self, token: AccessToken) -> bool:
        return self.clocks.server() >= token.refresh_at

    def unpublished(self, stored: AccessToken | None) -> AccessToken | None:
        """The cached token, if it is good and newer than the stored one."""
        held = self.usable(self.held)
        if held is None or self.due(held) or (stored is not None and stored.issued_at >= held.issued_at):
            return None
        return held

    def revoked(self, token: AccessToken | None) -> bool:
        """Whether a token was refused before it expired."""
        return token is not None and token.value in self.refused and self.clocks.server() < token.expires_at

    def revocations_after(self, last: AccessToken | None) -> RevocationHistory:
        """The history to store with the token that replaces this one."""
        now = self.clocks.server()
        if last is None:
            return RevocationHistory()
        history = last.revocations
        return history.with_revocation(now) if self.revoked(last) else history.after_expiry(now)

    def expiry_uncertain(self, token: AccessToken | None) -> bool:
        """Whether a token is expired only by a clock that was never compared with the server's."""
        uncompared = not (self.time_fetched or self.clocks.synchronized())
        return uncompared and token is not None and token.value not in self.refused

    def refresh_error(self, token: AccessToken | None) -> TokenError | None:
        """The reason why no new token may be requested, if there is one."""
        revocations = token.revocations if token is not None else RevocationHistory()
        pause = revocations.pause_left(self.clocks.server())
        if pause > 0:
            return TokenContestedError(revocations.error_text(pause))
        return self.forbidden

    def read(self) -> Generator[Command, Reply, Reply]:
        self.read_at = self.clocks.monotonic()
        seen = yield Read()
        self.read_seconds = self.clocks.monotonic() - self.read_at
        return seen

    def wait(self) -> Sleep:
        """Wait for another process. Many that wait must not be what makes the store slow."""
        return Sleep(max(POLL_INTERVAL, min(MAX_POLL_INTERVAL, READ_PAUSE * self.read_seconds)))

    def read_with_retries(self) -> Generator[Command, Reply, Reply]:
        """Read the store, again after a failure if there is no usable token."""
        for _ in range(READ_RETRIES):
            seen = yield from self.read()
            if not isinstance(seen, Failed) or not seen.error.retryable or self.usable(self.held):
                return seen
            yield Sleep(HEARTBEAT)
        return (yield from self.read())

    def must_reread(self, claim: Claim | None) -> bool:
        """Whether the last read is too doubtful, or too old, to write a claim after it."""
        if not self.settle:
            return False
        if claim is None and not self.read_nothing:
            # This may be a read that failed silently, and a claim would disturb a living claimant.
            self.read_nothing = True
            return True
        # The first read of a process may take seconds.
        self.slow_reads += self.read_seconds >= self.settle
        return self.read_seconds >= self.settle and self.slow_reads <= SLOW_READS


def acquire(
    *,
    held: AccessToken | None,
    refused: Collection[str],
    settle: float,
    clocks: Clocks,
    forbidden: TokenError | None = None,
    monitor: HeartbeatMonitor | None = None,
    after_403: Collection[str] = (),
    new_owner: Callable[[], str] = lambda: uuid.uuid4().hex,
) -> Acquisition:
    """
    Get a token that is neither refused nor expired, refreshing only as the table above allows.

    :param held: the token that this process used last.
    :param refused: the tokens that the service has refused with 401, or with 403 where that counts as one.
    :param settle: seconds between writing a claim and trusting it; 0 where taking a claim is atomic.
    :param forbidden: why this process must not refresh at the moment, if so; raised instead of a refresh.
    :param monitor: the claims of other processes, as earlier runs saw them.
    :param after_403: those of ``refused`` that were refused with 403; the token that replaces one is marked.
    :raises TokenError: no usable token now.
    """
    context = _Context(held, refused, settle, clocks, forbidden, monitor or HeartbeatMonitor(), after_403)
    started = clocks.monotonic()
    while True:
        seen = yield from context.read_with_retries()
        if seen == Snapshot() and context.unpublished(None) is None and context.usable(held):
            seen = Failed(TokenStoreError("the token store returned no value"))
        if not isinstance(seen, Snapshot):
            return _without_store(context, seen)
        if (ours := context.unpublished(seen.token)) is not None:
            published = yield Publish(ours)
            return Outcome(ours, **_publish_failure(published))
        good = context.usable(seen.token)
        if good is not None and not context.due(good):
            return Outcome(good)
        waited = clocks.monotonic() - started
        if waited >= PATIENCE and good is None:
            raise TokenError(
                f"Other processes have been requesting a token for {waited:.0f} s; try again later."
            )
        if context.monitor.alive(seen.claim, clocks.monotonic(), CLAIM_TIMEOUT + 6 * context.read_seconds):
            if good is not None and waited >= GRACE:
                return Outcome(good, CHECK_AFTER)
            yield context.wait()
            continue
        if (reason := context.refresh_error(seen.token or held)) is not None:
            if good is None:
                raise reason
            return Outcome(good, CHECK_AFTER)
        if context.must_reread(seen.claim):
            yield Sleep(POLL_INTERVAL)
            continue
        done = yield from _claim_and_refresh(context, seen, Claim(new_owner()))
        if done is not None:
            return done


def _claim_and_refresh(
    context: _Context, before: Snapshot, claim: Claim
) -> Generator[Command, Reply, Outcome | None]:
    """The lower half of the table; None to start again."""
    # If the store has lost its token, the history of the cached token counts.
    last = before.token or context.held
    revoked = last is not None and context.revoked(last)
    delay = last.revocations.delay(context.clocks.server()) if last is not None and revoked else 0.0
    seen = yield from _claim(context, before, claim, delay)
    if not isinstance(seen, Snapshot):
        return seen
    if seen.token is not None and seen.token != before.token and context.usable(seen.token):
        yield ReleaseClaim(claim)
        return None
    if context.expiry_uncertain(seen.token):
        context.time_fetched = True
        # With the claim: if each new process released it for this, many of them would refresh nothing for minutes.
        # If it takes long, `_refresh` reads again whose claim it is.
        yield FetchTime()
        if context.usable(seen.token):
            yield ReleaseClaim(claim)
            return None
    revocations = context.revocations_after(last)
    if last is not None and revocations.pause_left(context.clocks.server()):
        published = yield Publish(replace(last, revocations=revocations))
        yield ReleaseClaim(claim)
        return _without_store(context, published) if isinstance(published, Failed) else None
    return (yield from _refresh(context, seen, claim, last))


def _claim(
    context: _Context, before: Snapshot, claim: Claim, delay: float
) -> Generator[Command, Reply, Snapshot | Outcome | None]:
    """Take the claim: the snapshot that shows it, an outcome without it, or None to start again."""
    context.claimed_at = context.clocks.monotonic()
    reply = yield WriteClaim(claim)
    if isinstance(reply, Failed):
        # On Airflow 2 a Variable is deleted and inserted, and of two that do it at once one fails.
        seen = yield from context.read()
        lost = isinstance(seen, Snapshot) and seen.claim not in {None, before.claim}
        return None if lost else _without_store(context, reply)
    if context.settle:
        delay += context.settle + min(MAX_SETTLE, 3 * (context.clocks.monotonic() - context.read_at))
        if before.claim != RELEASED:
            # The last claim was dead or missing, or a read failed silently: a living claimant gets time to renew it.
            delay += 2 * HEARTBEAT
    if delay:
        yield Sleep(delay)
    seen = yield from context.read()
    if _hides_values(seen, before):
        seen = yield from context.read()
        if _hides_values(seen, before):
            seen = Failed(TokenStoreError("the store did not return the value that was just written"))
    if not isinstance(seen, Snapshot):
        return _without_store(context, seen)
    if seen.claim != claim:
        yield context.wait()
        return None
    return seen


def _hides_values(seen: Reply, before: Snapshot) -> bool:
    """Whether a value is missing that was written: an unreachable API server looks like that."""
    if not isinstance(seen, Snapshot):
        return False
    return seen.claim is None or (seen.token is None and before.token is not None)


def _refresh(
    context: _Context, seen: Snapshot, claim: Claim, last: AccessToken | None
) -> Generator[Command, Reply, Outcome | None]:
    # The claim was not renewed during the settle delay. And if the store cannot be written, the new token could not
    # be published either.
    claim = claim.next_heartbeat()
    reply = yield WriteClaim(claim)
    if isinstance(reply, Failed):
        return _without_store(context, reply)
    # If the store is slow for this host, another process may have replaced the claim: in a Variable since it was read
    # back, in Redis, where a claim expires, since it was written.
    if (
        context.clocks.monotonic() - (context.read_at if context.settle else context.claimed_at)
        >= CLAIM_TIMEOUT
    ):
        again = yield from context.read()
        if again != Snapshot(seen.token, claim):
            if isinstance(again, Snapshot) and again.claim == claim:
                yield ReleaseClaim(claim)
            return None
    good = context.usable(seen.token)
    refreshed = yield Refresh(claim, single_attempt=good is not None)
    if isinstance(refreshed, AccessToken):
        # By the clock that the response has corrected.
        revocations, now, warning = context.revocations_after(last), context.clocks.server(), None
        if last is not None and refreshed.value == last.value:
            # The same token again: no other system has replaced it.
            revocations = last.revocations
        if revocations.warning_due(now):
            revocations, warning = revocations.with_warning(now), revocations.warning()
        # Later than the token that it replaces, even if the clocks of two hosts differ.
        after = seen.token.issued_at + 0.001 if seen.token is not None else refreshed.issued_at
        token = replace(
            refreshed,
            revocations=revocations,
            issued_at=max(refreshed.issued_at, after),
            after_403=last is not None and last.value in context.after_403,
        )
        # Published before anything else.
        published = yield Publish(token)
        for _ in range(PUBLISH_TRIES - 1):
            if not isinstance(published, Failed):
                break
            yield Sleep(HEARTBEAT)
            claim = claim.next_heartbeat()
            yield WriteClaim(claim)
            published = yield Publish(token)
        yield ReleaseClaim(claim)
        return Outcome(token, refreshed=True, **({"warning": warning} | _publish_failure(published)))
    yield ReleaseClaim(claim)
    error = refreshed.error if isinstance(refreshed, Failed) else TokenError("no token was issued")
    if good := context.usable(seen.token):
        check_after = max(CHECK_AFTER, min(error.retry_after or 0.0, LONGEST_CHECK_AFTER))
        warning = f"renewal failed, the old token still works: {error}"
        return Outcome(good, check_after, warning, renewal_failed=True)
    if not error.retryable or isinstance(error, TokenError):
        raise error
    # The caller's own request has not been sent.
    failure = TokenError(f"No access token: {error}")
    failure.retry_after = error.retry_after
    raise failure


def _without_store(context: _Context, reply: Reply) -> Outcome:
    """The outcome while the store is down: the cached token if it still works, else the error."""
    error = reply.error if isinstance(reply, Failed) else TokenStoreError("the token store did not respond")
    held = context.usable(context.held)
    if held is None:
        raise error
    return Outcome(held, CHECK_AFTER, f"the token store is down, the cached token still works: {error}")


def _publish_failure(published: Reply) -> dict[str, Any]:
    """The fields of an outcome whose token could not be published."""
    if not isinstance(published, Failed):
        return {}
    warning = f"the new token could not be shared, trying again: {published.error}"
    return {"check_after": CHECK_AFTER, "warning": warning}
