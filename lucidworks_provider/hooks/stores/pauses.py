# SPDX-License-Identifier: Apache-2.0
"""Pauses after a 429 that processes share, in an Airflow Variable or in Redis."""

from __future__ import annotations

import json
import time
from typing import Any

from lucidworks_provider.client.http.shared_pause import LONGEST, REMEMBERED, PauseRecord
from lucidworks_provider.hooks.stores.redis_client import RedisClient, Server, text_of
from lucidworks_provider.hooks.stores.variables import get_variable, set_variable

# Seconds by which the clocks of two hosts may differ.
SKEW = 2.0


class VariablePause:
    """A Variable with the wall clocks of the hosts: a difference prolongs a pause to at most twice its length."""

    look_every = 1.0
    # Seconds until a claim is read back; a write takes 17 ms.
    SETTLE = 0.3
    DESCRIPTION = "Until when airflow-provider-lucidworks sends nothing after a 429; may be deleted."

    def __init__(self, name: str) -> None:
        self._key = f"lucidworks_pause_{name}"

    def read(self) -> PauseRecord:
        now = time.time()
        try:
            owner, until, seconds, ended = json.loads(get_variable(self._key) or "null")
            left = min(until - now, seconds, LONGEST)
            since = max(0.0, now - ended) if -SKEW < now - ended < REMEMBERED else None
        except (TypeError, ValueError, OverflowError, RecursionError):
            return PauseRecord()  # edited by hand
        return PauseRecord(str(owner), left, since) if left > 0 else PauseRecord(ended=since)

    def claim(self, owner: str, seconds: float) -> bool:
        # A Variable has no compare-and-set: the last of several writers has the claim.
        self.write(owner, seconds)
        time.sleep(self.SETTLE)
        return self.read().owner in {"", owner}

    def write(self, owner: str, seconds: float) -> None:
        self._set(owner, round(time.time() + seconds, 3), round(seconds, 3), 0)

    def end(self) -> None:
        self._set("", 0, 0, round(time.time(), 3))

    def _set(self, *record: str | float) -> None:
        set_variable(self._key, json.dumps(record), self.DESCRIPTION)


class RedisPause:
    """Two keys that expire by the clock of Redis: the record, and the end of a pause."""

    look_every = 0.25

    def __init__(self, redis: RedisClient, name: str) -> None:
        self._redis = redis
        self._key = f"lucidworks:pause:{name}"
        self._ended = f"lucidworks:pause-ended:{name}"

    def read(self) -> PauseRecord:
        def read(server: Server) -> tuple[bytes | None, Any, Any]:
            pipe = server.client.pipeline(transaction=False)
            owner, left, ended = (
                pipe.get(self._key).pttl(self._key).pttl(self._ended).execute(raise_on_error=False)
            )
            return text_of(owner), left, ended

        owner, left, ended = self._redis.use(read)
        since = REMEMBERED - ended / 1000 if isinstance(ended, int) and ended >= 0 else None
        if not owner or not isinstance(left, int) or left < 0:  # none, or edited by hand
            return PauseRecord(ended=since)
        # A key in its last millisecond, 0, still prevents a claim.
        return PauseRecord(owner.decode(errors="replace"), min(max(left, 1) / 1000, LONGEST), since)

    def claim(self, owner: str, seconds: float) -> bool:
        return bool(self._set(self._key, owner, seconds, nx=True)) or not self.read().owner

    def write(self, owner: str, seconds: float) -> None:
        self._set(self._key, owner, seconds)

    def end(self) -> None:
        self._set(self._ended, "", REMEMBERED)
        self._redis.use(lambda server: server.client.delete(self._key))

    def _set(self, key: str, value: str, seconds: float, *, nx: bool = False) -> object:
        px = max(1, round(seconds * 1000))
        return self._redis.use(lambda server: server.client.set(key, value, px=px, nx=nx))
