# SPDX-License-Identifier: Apache-2.0
"""An access token and the identity it belongs to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from lucidworks_provider.client.api.tokens import TokenResponse
from lucidworks_provider.client.auth.redaction import TokenText
from lucidworks_provider.client.auth.revocations import RevocationHistory

# The vendor's advice is five minutes before expiry; a tenth of the lifetime where that is shorter.
REFRESH_MARGIN = 300.0


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """
    Whose token it is.

    The service keeps one live token for each of these, so this, and never a connection id, is what
    processes share by: several connections with one client id have one token.
    """

    auth_url: str
    auth_server_id: str
    client_id: str
    scope: str

    @property
    def digest(self) -> str:
        """A name for stores: 24 hexadecimal digits, safe in any key."""
        parts = (self.auth_url, self.auth_server_id, self.client_id, self.scope)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """
    A token with the times that everybody shares, all in seconds since the epoch by the identity server's clock.

    :param value: the token itself; never shown by ``repr``.
    :param issued_at: when it was minted.
    :param refresh_at: the one appointment at which the fleet gets the next one.
    :param expires_at: when it stops being accepted.
    :param losses: what happened to the tokens before it.
    :param after_403: it replaced a token that was answered with 403 before its time.
    """

    value: str = field(repr=False)
    issued_at: float
    refresh_at: float
    expires_at: float
    losses: RevocationHistory = field(default_factory=RevocationHistory)
    after_403: bool = False

    @classmethod
    def from_grant(cls, grant: TokenResponse, asked_at: float) -> AccessToken:
        """
        :param asked_at: the moment before the request was sent, by the identity server's clock: the token
            cannot be older than that.
        """
        margin = min(REFRESH_MARGIN, grant.lifetime / 10)
        expires_at = asked_at + grant.lifetime
        return cls(TokenText(grant.access_token), asked_at, expires_at - margin, expires_at)

    def to_json(self) -> str:
        """Plain text, for encryption."""
        lost = self.losses
        times = [self.issued_at, self.refresh_at, self.expires_at]
        stored = [2, self.value, times, [lost.times, lost.told_at, lost.pauses, lost.until]]
        # Absent where it is False, for earlier versions of this package.
        return json.dumps([*stored, True] if self.after_403 else stored)

    @classmethod
    def from_json(cls, text: str) -> AccessToken:
        """:raises ValueError: not what :meth:`to_json` wrote."""
        match json.loads(text):
            case [2, str(value), list(times), [list(lost), told_at, int(pauses), until], *after_403]:
                try:
                    issued, refresh, end = map(float, times)
                    losses = RevocationHistory(tuple(map(float, lost)), float(told_at), pauses, float(until))
                except (TypeError, OverflowError) as err:
                    raise ValueError("a stored time is no number") from err
                return cls(TokenText(value), issued, refresh, end, losses, after_403 == [True])
        raise ValueError("not a stored token of this version")
