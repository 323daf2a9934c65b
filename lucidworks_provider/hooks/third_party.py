# SPDX-License-Identifier: Apache-2.0
"""Keys of third parties, from Airflow connections of any type."""

from __future__ import annotations

import base64
import json
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook

from lucidworks_provider.client.secrets import TokenText
from lucidworks_provider.errors import ConfigurationError
from lucidworks_provider.hooks.task_channel import reading_connection

# Names of a key in the extra of a connection, after its password.
_KEYS = ("api_key", "apiKey", "openai_api_key", "key")
_SERVICE_ACCOUNTS = ("keyfile_dict", "serviceAccountKey", "service_account_key", "service_account_json")


def api_key(conn_id: str) -> str:
    """
    The ``modelConfig.apiKey`` of a model of a third party.

    :param conn_id: a connection whose password is the key (OpenAI, Azure), or that holds a Google service
        account (``keyfile_dict``), which is sent base64-encoded.
    :raises ConfigurationError: the connection has no key.
    """
    found, extra = _read(conn_id)
    if found is None:
        # Forms store empty fields as well.
        given = (str(extra[name]).strip() for name in _KEYS if isinstance(extra.get(name), str))
        found = next(filter(None, given), None)
    if found is None and (account := _service_account(extra)) is not None:
        found = base64.b64encode(account.encode()).decode()
    return _required(found, conn_id, "password or a `keyfile_dict`")


def service_account_key(conn_id: str) -> str:
    """
    The ``serviceAccountKey`` for the training data of a model.

    :param conn_id: a connection with a Google service account (``keyfile_dict``), or whose password is the key.
    :raises ConfigurationError: the connection has no key.
    """
    found, extra = _read(conn_id)
    return _required(_service_account(extra) or found, conn_id, "`keyfile_dict` or password")


def _read(conn_id: str) -> tuple[str | None, dict[str, Any]]:
    with reading_connection(conn_id):
        conn = BaseHook.get_connection(conn_id)
        extra = conn.extra_dejson
    return (conn.password or "").strip() or None, extra if isinstance(extra, dict) else {}


def _service_account(extra: dict[str, Any]) -> str | None:
    for name in _SERVICE_ACCOUNTS:
        # Older versions of Airflow's Google provider prefix the fields of their form.
        value = extra.get(name, extra.get(f"extra__google_cloud_platform__{name}"))
        if isinstance(value, dict) and value:
            return json.dumps(value)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def _required(key: str | None, conn_id: str, where: str) -> str:
    if not key:
        raise ConfigurationError(f"Connection {conn_id!r}: it has no key; set its {where}.")
    return TokenText(key)
