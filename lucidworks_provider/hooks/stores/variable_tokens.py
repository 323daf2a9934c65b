# SPDX-License-Identifier: Apache-2.0
"""Airflow Variables as the place where processes share their token."""

from __future__ import annotations

import json
import logging

from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Snapshot
from lucidworks_provider.client.auth.token import AccessToken, TokenCipher, TokenIdentity
from lucidworks_provider.hooks.stores.variables import get_variable, set_variable

log = logging.getLogger(__name__)


class VariableStore:
    """
    Two Airflow Variables: every worker and every triggerer sees them, with no new infrastructure.

    Their names hold none of the words by which Airflow recognises secrets. It would make every value a log
    mask, and each mask recompiles one growing expression: a triggerer that sees a new ciphertext an hour
    would stall within a week. They need no mask, being ciphertext.
    """

    # Longer than a write takes (17 ms measured) by an order of magnitude.
    settle = 0.3

    _DESCRIPTION = "Shared by airflow-provider-lucidworks; encrypted; made anew when deleted."

    def __init__(self, identity: TokenIdentity, cipher: TokenCipher) -> None:
        self._live = f"lucidworks_live_{identity.digest}"
        self._claim = f"lucidworks_claim_{identity.digest}"
        self._cipher = cipher
        self._unreadable: str | None = None

    def read(self) -> Snapshot:
        """Read the claim first: a token published after that is then seen with certainty."""
        claim = self._parse_claim(get_variable(self._claim))
        text = get_variable(self._live)
        token = None if text is None else self._cipher.open(text)
        if text is not None and token is None and text != self._unreadable:
            self._unreadable = text
            log.warning(
                "Variable %s was not written with this client secret (rotated?) or is damaged; it will be "
                "replaced by a new one.",
                self._live,
            )
        return Snapshot(token, claim)

    def write_claim(self, claim: Claim) -> None:
        """Write a claim, or move the own one."""
        set_variable(self._claim, json.dumps([claim.owner, claim.heartbeat]), self._DESCRIPTION)

    def release_claim(self, claim: Claim) -> None:
        """
        Give an own claim up; another's is left alone.

        By writing and not by deleting: what is not there looks like what cannot be read.
        """
        standing = self._parse_claim(get_variable(self._claim))
        if standing is None or standing.owner == claim.owner:
            self.write_claim(RELEASED)

    def publish(self, token: AccessToken) -> None:
        """Store a token, unless a newer one is there."""
        stored = self.read().token
        if stored is not None and stored.issued_at > token.issued_at:
            log.info("A newer token has been shared meanwhile; keeping that one.")
            return
        set_variable(self._live, self._cipher.seal(token), self._DESCRIPTION)

    def after_fork(self) -> None:
        """Nothing to renew."""

    @staticmethod
    def _parse_claim(text: str | None) -> Claim | None:
        try:
            match json.loads(text or "null"):
                case [str(owner), int(heartbeat)]:
                    return Claim(owner, heartbeat)
        except (ValueError, RecursionError):
            pass
        return None
