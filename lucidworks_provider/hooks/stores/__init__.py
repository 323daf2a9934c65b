# SPDX-License-Identifier: Apache-2.0
"""
The stores that the processes of a deployment share: Airflow Variables or Redis, by the connection's ``share_via``.

Importing this package registers them with the client.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lucidworks_provider.client.sharing import register_shared_stores

if TYPE_CHECKING:
    from lucidworks_provider.client.auth.protocol import TokenStore
    from lucidworks_provider.client.auth.token import TokenIdentity
    from lucidworks_provider.client.http.shared_pause import PauseStore
    from lucidworks_provider.client.settings import LucidworksSettings


def token_store(settings: LucidworksSettings, identity: TokenIdentity) -> TokenStore:
    """
    Return the store of the shared token.

    :raises ConfigurationError: ``redis`` without a ``redis_conn_id``.
    """
    from lucidworks_provider.client.auth.token import TokenCipher

    cipher = TokenCipher(identity, settings.client_secret)
    if settings.share_via == "redis":
        from lucidworks_provider.hooks.stores.redis import RedisTokenStore

        return RedisTokenStore(settings.conn_id, settings.redis_conn_id, identity, cipher)
    from lucidworks_provider.hooks.stores.variables import VariableTokenStore

    return VariableTokenStore(identity, cipher)


def pause_store(settings: LucidworksSettings, name: str) -> PauseStore | None:
    """
    Return the store of the shared pause.

    :param name: of the application.
    :return: None for ``redis`` without a ``redis_conn_id``: the token store raises the error.
    """
    if settings.share_via == "redis":
        if not settings.redis_conn_id:
            return None
        from lucidworks_provider.hooks.stores.redis import RedisClient, RedisPauseStore

        return RedisPauseStore(RedisClient(settings.conn_id, settings.redis_conn_id, {}), name)
    from lucidworks_provider.hooks.stores.variables import VariablePauseStore

    return VariablePauseStore(name)


register_shared_stores(sys.modules[__name__])
