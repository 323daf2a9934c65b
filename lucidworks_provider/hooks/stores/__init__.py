# SPDX-License-Identifier: Apache-2.0
"""
What the processes of a deployment share, in Airflow Variables or in Redis, by the connection's ``share_via``.

Importing this package makes the stores available to the client.
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
    Return the place where the processes share their token.

    :raises ConfigurationError: ``redis`` without a ``redis_conn_id``.
    """
    from lucidworks_provider.client.auth.token import TokenCipher

    cipher = TokenCipher(identity, settings.client_secret)
    if settings.share_via == "redis":
        from lucidworks_provider.hooks.stores.redis_tokens import RedisStore

        return RedisStore(settings.conn_id, settings.redis_conn_id, identity, cipher)
    from lucidworks_provider.hooks.stores.variable_tokens import VariableStore

    return VariableStore(identity, cipher)


def pause_store(settings: LucidworksSettings, name: str) -> PauseStore | None:
    """
    Return the place where the processes share a pause.

    :param name: of the application.
    :return: None for ``redis`` without a ``redis_conn_id``: the token store raises the error.
    """
    from lucidworks_provider.hooks.stores.pauses import RedisPause, VariablePause

    if settings.share_via == "redis":
        if not settings.redis_conn_id:
            return None
        from lucidworks_provider.hooks.stores.redis_client import RedisClient

        return RedisPause(RedisClient(settings.conn_id, settings.redis_conn_id, {}), name)
    return VariablePause(name)


register_shared_stores(sys.modules[__name__])
