# SPDX-License-Identifier: Apache-2.0
"""
The registry of stores in which the processes of a deployment share tokens and pauses.

The hooks register theirs (Airflow Variables and Redis) when they are imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lucidworks_provider.errors import ConfigurationError

if TYPE_CHECKING:
    from lucidworks_provider.client.auth.protocol import TokenStore
    from lucidworks_provider.client.auth.token import TokenIdentity
    from lucidworks_provider.client.http.shared_pause import PauseStore
    from lucidworks_provider.client.settings import LucidworksSettings


class SharedStores(Protocol):
    """Creates the stores that ``share_via`` of the settings names."""

    def token_store(self, settings: LucidworksSettings, identity: TokenIdentity) -> TokenStore:
        """Return the store of a token. :raises ConfigurationError: a field of the settings is missing."""

    def pause_store(self, settings: LucidworksSettings, name: str) -> PauseStore | None:
        """Return the store of a pause; None if a field of the settings is missing."""


_registered: SharedStores | None = None


def register_shared_stores(stores: SharedStores) -> None:
    """Use these stores for every client of this process."""
    global _registered  # noqa: PLW0603
    _registered = stores


def shared_stores(share_via: str) -> SharedStores:
    """
    Return the registered stores.

    :raises ConfigurationError: there are none in this process.
    """
    if _registered is None:
        raise ConfigurationError(
            f"share_via is {share_via!r}, which needs Airflow, and no hook of lucidworks_provider is imported here. "
            "Outside of Airflow set share_via to 'memory'."
        )
    return _registered
