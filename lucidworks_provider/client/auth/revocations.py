# SPDX-License-Identifier: Apache-2.0
"""
Tokens that died before their time, as the whole fleet remembers them.

A token that is refused although it has not expired was deleted: somebody outside the fleet has asked for one
with the same client id. The fleet gets itself a new one, and so cuts that other system off in turn. If both
do that without a thought, nobody works. So the fleet counts what it lost, beside the token in the shared
store, waits a little longer before each further mint, and stops above ``ALLOWED`` a minute: for a minute, then
for two, up to ten.

Times are seconds since the epoch by the identity server's clock, which is the only clock that all share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MINUTE = 60.0
ALLOWED = 20
LONGEST_WAIT = 0.5
FIRST_PAUSE = 60.0
LONGEST_PAUSE = 600.0

_CURE = (
    "Another system asks for access tokens with the same client id, which deletes the ones of this Airflow: give "
    "each system an integration, and so a client id, of its own. Or an application is not entitled to what it asks."
)


@dataclass(frozen=True, slots=True)
class RevocationHistory:
    """
    :param times: of the losses within the last minute.
    :param told_at: when the log last named the cause.
    :param pauses: how often minting was stopped since a token last lived to its end.
    :param until: when it may go on.
    """

    times: tuple[float, ...] = ()
    told_at: float = 0.0
    pauses: int = 0
    until: float = 0.0

    def with_one_more(self, now: float) -> RevocationHistory:
        """After a token was found dead before its time."""
        recent = tuple(moment for moment in self.times if now - MINUTE < moment <= now)
        more = replace(self, times=(*recent, now))
        if len(more.times) > ALLOWED:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**self.pauses)
            return replace(more, pauses=self.pauses + 1, until=now + pause)
        return more

    def at_renewal(self, now: float) -> RevocationHistory:
        """After a token lived to its end: a quiet minute ends the story."""
        return self if any(now - MINUTE < moment <= now for moment in self.times) else RevocationHistory()

    def told(self, now: float) -> RevocationHistory:
        """After the log named the cause."""
        return replace(self, told_at=now)

    def worth_telling(self, now: float) -> bool:
        """Once a minute is enough."""
        return bool(self.times) and not 0 <= now - self.told_at < MINUTE

    def pause(self, now: float) -> float:
        """Seconds for which no new token may be asked for. Never longer than it was meant, whatever the clock."""
        return min(max(0.0, self.until - now), LONGEST_PAUSE)

    def wait(self, now: float) -> float:
        """
        Seconds to hold off before the next mint: longer each time within a minute.

        Short enough to notice the twenty-first loss of a minute: a fleet that waits longer than the other
        system's interval counts only some of its tokens.
        """
        recent = sum(now - MINUTE < moment <= now for moment in self.times)
        return 0.0 if recent < 2 else min(LONGEST_WAIT, 0.1 * 2.0 ** (recent - 2))

    def warning(self) -> str:
        """What the log says once a minute."""
        return (
            f"{len(self.times)} refused before expiry within the last minute. {_CURE} Above {ALLOWED} a minute no "
            "more are asked for."
        )

    def refusal(self, pause: float) -> str:
        """What whoever needs a token is told during a pause."""
        return (
            f"{len(self.times)} access tokens were refused before expiry within a minute. {_CURE} No new token is "
            f"asked for during {pause:.0f} s."
        )
