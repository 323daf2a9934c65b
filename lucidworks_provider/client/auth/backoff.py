# SPDX-License-Identifier: Apache-2.0
"""
When a 401 is not about the token.

A 401 usually means that somebody else has asked for a token, and the next one works. An application that is
not entitled to a model, or an Application ID of other credentials, answers 401 to every token; asking for
new ones then cuts the whole fleet off again and again. So tokens that are refused one after the other,
before a single call accepts one, are counted, and from ``REFUSED_IN_A_ROW`` on this process asks for a new
one only after a pause that doubles each time. Tokens that others have shared are used all the while.
"""

from __future__ import annotations

from dataclasses import dataclass

REFUSED_IN_A_ROW = 5
FIRST_PAUSE = 30.0
LONGEST_PAUSE = 600.0
# A token that has been in use for so long was good, whether or not anybody said so.
ESTABLISHED = 60.0


@dataclass
class RefreshBackoff:
    """Counts what one process sees of one identity's tokens. Times are of the monotonic clock."""

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
