# SPDX-License-Identifier: Apache-2.0
"""What a child process of a task calls: importable, so that spawned processes find it."""

from __future__ import annotations

import json
import os

from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook


def token(conn_id: str) -> dict:
    """The error of ``get_token``, or the token's length."""
    try:
        return {"token": len(LucidworksAuthHook(conn_id).get_token())}
    except Exception as err:  # noqa: BLE001 - the finding
        return {
            "error": type(err).__name__,
            "retryable": getattr(err, "retryable", None),
            "message": str(err),
        }


def token_of_fork(conn_id: str) -> int:
    """Fork, call in the child; the file descriptor that the result comes from."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            for _ in range(20):
                found = token(conn_id)
            os.write(writer, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writer)
    return reader
