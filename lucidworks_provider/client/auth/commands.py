# SPDX-License-Identifier: Apache-2.0
"""What the token protocol says to whoever performs it, and what it hears: values only."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from lucidworks_provider.client.auth.token import AccessToken
from lucidworks_provider.errors import LucidworksError


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
