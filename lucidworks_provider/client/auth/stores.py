# SPDX-License-Identifier: Apache-2.0
"""
Where processes share their token.

A store keeps two things apart: the token, and the claim of whoever is about to refresh. Apart, so that writing
a claim can never put an old token over a new one.
"""

from __future__ import annotations

from typing import Protocol

from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Snapshot
from lucidworks_provider.client.auth.token import AccessToken, TokenIdentity
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.client.sharing import shared_stores


class TokenStore(Protocol):
    """
    What the protocol needs of a store.

    Every method raises :class:`~lucidworks_provider.errors.TokenStoreError` when the store is down.

    :param settle: seconds between writing a claim and believing it.
    """

    settle: float

    def read(self) -> Snapshot:
        """Read token and claim."""

    def write_claim(self, claim: Claim) -> None:
        """Write a claim, or move the own one."""

    def withdraw(self, claim: Claim) -> None:
        """Give an own claim up."""

    def publish(self, token: AccessToken) -> None:
        """Store a token, unless a newer one is there."""

    def after_fork(self) -> None:
        """In a forked child: locks may be held by threads that are gone."""


def store_for(settings: LucidworksSettings, identity: TokenIdentity) -> TokenStore:
    """
    Return the store that the settings' ``share_via`` names.

    :raises ConfigurationError: ``redis`` without a ``redis_conn_id``; anything but ``memory`` outside of Airflow.
    """
    if settings.share_via == "memory":
        return MemoryStore()
    return shared_stores(settings.share_via).token_store(settings, identity)


class MemoryStore:
    """For one process. A second process with the same client id would cut the first one off."""

    settle = 0.0

    def __init__(self) -> None:
        self._seen = Snapshot()

    def read(self) -> Snapshot:
        """Read token and claim."""
        return self._seen

    def write_claim(self, claim: Claim) -> None:
        """Write a claim, or move the own one."""
        self._seen = Snapshot(self._seen.token, claim)

    def withdraw(self, claim: Claim) -> None:
        """Give an own claim up."""
        self._seen = Snapshot(self._seen.token, RELEASED)

    def publish(self, token: AccessToken) -> None:
        """Store a token."""
        self._seen = Snapshot(token, self._seen.claim)

    def after_fork(self) -> None:
        """Nothing to renew."""
