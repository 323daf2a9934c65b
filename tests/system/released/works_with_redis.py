# SPDX-License-Identifier: Apache-2.0
"""Extra ``redis``: the store is made, and asks the server of its connection, which is not there."""

from __future__ import annotations

import json
import os
import socket

from lucidworks_provider.client.auth.token import TokenIdentity
from lucidworks_provider.client.settings import parse_settings
from lucidworks_provider.errors import TokenStoreError
from lucidworks_provider.hooks.stores import AirflowStores

if __name__ == "__main__":
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        os.environ["AIRFLOW_CONN_R"] = json.dumps({"conn_type": "redis", "host": "127.0.0.1", "port": port})
        extra = {"share_via": "redis", "redis_conn_id": "r"}
        settings = parse_settings("l", login="c", password="s", host="a", extra=extra)
        try:
            AirflowStores().token_store(settings, TokenIdentity("https://a", "s", "c", "scope")).read()
        except TokenStoreError as err:
            assert f"127.0.0.1:{port}" in str(err), err
        else:
            raise AssertionError("there is no server")
