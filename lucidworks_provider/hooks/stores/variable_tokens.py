# SPDX-License-Identifier: Apache-2.0
"""Airflow Variables as token store."""

from __future__ import annotations

import json
import logging

from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Snapshot
from lucidworks_provider.client.auth.token import AccessToken, TokenCipher, TokenIdentity
from lucidworks_provider.hooks.stores.variables import get_variable, set_variable

log = logging.getLogger(__name__)


class VariableStore:
    """
    Two Airflow Variables, which every worker and every triggerer sees, without new infrastructure.

    Their names have none of the words by which Airflow recognises secrets. Airflow would make every value a log mask,
    and each mask recompiles one growing expression: a triggerer that reads a new ciphertext an hour would stall
    within a week. Ciphertext needs no mask.
    """

    # An order of magnitude longer than a write (17 ms measured).
    settle = 0.3

    _DESCRIPTION = "Shared by airflow-provider-lucidworks; encrypted; made anew when deleted."

    def __init__(self, identity: TokenIdentity, cipher: TokenCipher) -> None:
        self._live = f"lucidworks_live_{identity.digest}"
        self._claim = f"lucidworks_claim_{identity.digest}"
        self._cipher = cipher
        self._unreadable: str | None = None

    def read(self) -> Snapshot:
        """Read the claim first: a token that is published after that is then certainly seen."""
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
        """Write a claim, or renew it."""
        set_variable(self._claim, json.dumps([claim.owner, claim.heartbeat]), self._DESCRIPTION)

    def withdraw(self, claim: Claim) -> None:
        """
        Release the claim, if this process holds it.

        It is overwritten, not deleted: a missing value and an unreadable one look alike.
        """
        current = self._parse_claim(get_variable(self._claim))
        if current is None or current.owner == claim.owner:
            self.write_claim(RELEASED)

    def publish(self, token: AccessToken) -> None:
        """Store a token, unless a newer one is stored."""
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
