# SPDX-License-Identifier: Apache-2.0
"""What one process knows of one identity's token: which one it uses, until when, and which ones are dead."""

from __future__ import annotations

from dataclasses import dataclass, field

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth.clock import Clocks
from lucidworks_provider.client.auth.protocol import Conversation, HeartbeatMonitor, Outcome
from lucidworks_provider.client.auth.token import AccessToken
from lucidworks_provider.errors import TokenError

REFUSED_IN_A_ROW = 5
FIRST_PAUSE = 30.0
LONGEST_PAUSE = 600.0
# A token that has been in use for so long was good, whether or not anybody said so.
ESTABLISHED = 60.0


@dataclass
class RefreshBackoff:
    """
    Stops requests for new tokens when a 401 is not about the token.

    A 401 usually means that another system has asked for a token, and the next one works. An application that is not
    entitled to a model, or an Application ID of other credentials, answers 401 to every token, and each new token
    deletes the one that other processes use. So tokens that are refused one after the other, without an accepted call
    in between, are counted. From ``REFUSED_IN_A_ROW`` on this process asks for a new one only after a pause that
    doubles each time. Tokens that other processes have shared are used meanwhile.

    Times are of the monotonic clock.
    """

    refusals: int = 0
    until: float = 0.0

    def accepted(self) -> None:
        """A call was not refused: what comes next is a new story."""
        self.refusals, self.until = 0, 0.0

    def refused(self, now: float, in_use_for: float) -> None:
        """The token that is in use was refused."""
        if in_use_for >= ESTABLISHED:
            self.refusals = 0
        if now < self.until:
            # Others may share a token during the pause; that it is refused too is no news.
            return
        self.refusals += 1
        if self.refusals >= REFUSED_IN_A_ROW:
            beyond = self.refusals - REFUSED_IN_A_ROW
            self.until = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**beyond)

    def pause(self, now: float) -> float:
        """Seconds until a new token may be asked for; 0 for now. One is free after each pause."""
        return max(0.0, self.until - now)


# Refused tokens that are remembered: more than a store can fall behind.
_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class CachedToken:
    """
    A token in use. Times by the monotonic clock, so that setting the wall clock disturbs no running process.

    :param since: when this process took it into use.
    :param look_at: until then it is used without a look at the store.
    :param ends_at: when it expires.
    """

    token: AccessToken
    since: float
    look_at: float
    ends_at: float


@dataclass
class TokenCache:
    """The pure half of :class:`~.source.TokenSource`; not for several threads at once."""

    held: CachedToken | None = None
    refused: tuple[str, ...] = field(default=(), repr=False)
    # Those of `refused` that were answered with 403.
    after_403: tuple[str, ...] = field(default=(), repr=False)
    # Endpoints that accepted the token in use.
    endpoints: set[str] = field(default_factory=set)
    hold_off: RefreshBackoff = field(default_factory=RefreshBackoff)
    others: HeartbeatMonitor = field(default_factory=HeartbeatMonitor)

    def fresh(self, now: float) -> str | None:
        """The token to use without another thought."""
        held = self.held
        if held is None or now >= held.look_at or held.token.value in self.refused:
            return None
        return held.token.value

    def usable(self, now: float) -> str | None:
        """The token that would still work, though it is time for the next one."""
        held = self.held
        if held is None or now >= held.ends_at or held.token.value in self.refused:
            return None
        return held.token.value

    def refuse(self, value: str, now: float) -> None:
        """Hear that a token was answered with 401. Counts only for the one in use, and once."""
        held = self.held
        if held is not None and held.token.value == value and value not in self.refused:
            self.hold_off.refused(now, now - held.since)
            self.refused = (*self.refused, value)[-_REMEMBERED:]

    def forbid(self, value: str, endpoint: str, now: float) -> bool:
        """
        Hear that a token was answered with 403, which means either that it was deleted or that this application is
        not entitled to the endpoint.

        :return: whether it is refused, as after a 401: this endpoint accepted it before, and it did not itself
            replace a token that was answered with 403. So the fleet gets at most one for 403s in a token's lifetime.
        """
        held = self.held
        if (
            held is None
            or held.token.value != value
            or held.token.after_403
            or endpoint not in self.endpoints
        ):
            return False
        self.refuse(value, now)
        if value not in self.after_403:
            self.after_403 = (*self.after_403, value)[-_REMEMBERED:]
        return True

    def accepted(self, value: str, endpoint: str) -> None:
        """Hear that an endpoint has answered a call with this token with neither 401 nor 403."""
        if self.held is not None and self.held.token.value == value:
            self.endpoints.add(endpoint)
            if self.hold_off.refusals:
                self.hold_off.accepted()

    def look(self, value: str, settle: float, clocks: Clocks) -> Conversation:
        """Start the conversation that gets another token than this one, if the fleet has one."""
        return protocol.acquire(
            held=None,
            refused=(*self.refused, value),
            settle=settle,
            clocks=clocks,
            forbidden=TokenError("The fleet has no other token."),
            others=self.others,
        )

    def acquire(self, settle: float, clocks: Clocks) -> Conversation:
        """Start the conversation that gets the next token."""
        held = self.held
        return protocol.acquire(
            # By the monotonic clock: one that has expired is none, whatever the wall clock says.
            held=held.token if held is not None and clocks.monotonic() < held.ends_at else None,
            refused=self.refused,
            settle=settle,
            clocks=clocks,
            forbidden=self._forbidden(clocks.monotonic()),
            others=self.others,
            after_403=self.after_403,
        )

    def take(self, outcome: Outcome, clocks: Clocks) -> None:
        """Put what a conversation ended with into use."""
        token, now, there = outcome.token, clocks.monotonic(), clocks.server()
        # A token cannot have longer to live than it was made for, whatever a clock says.
        if there < token.issued_at < token.refresh_at:
            there = token.issued_at
        ends_at, look_at = now + (token.expires_at - there), now + (token.refresh_at - there)
        if outcome.check_after is not None:
            look_at = min(now + outcome.check_after, ends_at)
        same = self.held is not None and self.held.token.value == token.value
        if not same:
            self.endpoints = set()
        self.held = CachedToken(token, self.held.since if same and self.held else now, look_at, ends_at)

    def _forbidden(self, now: float) -> TokenError | None:
        """Why this process must ask for no new token at the moment, if so."""
        if self.held is None or self.held.token.value not in self.refused:
            return None
        pause = self.hold_off.pause(now)
        if not pause:
            return None
        return TokenError(
            f"{self.hold_off.refusals} access tokens in a row were refused with 401 before any call accepted one. "
            "Another system that asks for tokens with the same client id does that (give it an integration of its "
            "own), and so does an application that is not entitled to what is asked, or an Application ID that "
            f"belongs to other credentials. No new token is asked for during {pause:.0f} s."
        )
