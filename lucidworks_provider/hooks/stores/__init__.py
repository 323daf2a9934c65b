# SPDX-License-Identifier: Apache-2.0
"""The stores that the processes of a deployment share, in Airflow Variables or in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lucidworks_provider.client.auth.protocol import TokenStore
    from lucidworks_provider.client.auth.token import TokenIdentity
    from lucidworks_provider.client.http.rate_limiter import PauseStore
    from lucidworks_provider.client.settings import LucidworksSettings


class AirflowStores:
    """The stores that the processes of a deployment share, by ``share_via``: Airflow Variables or Redis."""

    def token_store(self, settings: LucidworksSettings, identity: TokenIdentity) -> TokenStore:
        """Return the store of the shared token."""
        from lucidworks_provider.client.auth.token import TokenCipher

        cipher = TokenCipher(identity, settings.client_secret)
        if settings.share_via == "redis":
            from lucidworks_provider.hooks.stores.redis import RedisTokenStore

            return RedisTokenStore(settings.conn_id, settings.redis_conn_id or "", identity, cipher)
        from lucidworks_provider.hooks.stores.variables import VariableTokenStore

        return VariableTokenStore(identity, cipher)

    def pause_store(self, settings: LucidworksSettings, name: str) -> PauseStore:
        """
        Return the store of the shared pause.

        :param name: of the application.
        """
        if settings.share_via == "redis":
            from lucidworks_provider.hooks.stores.redis import RedisClient, RedisPauseStore

            return RedisPauseStore(RedisClient(settings.conn_id, settings.redis_conn_id or "", {}), name)
        from lucidworks_provider.hooks.stores.variables import VariablePauseStore

        return VariablePauseStore(name)
