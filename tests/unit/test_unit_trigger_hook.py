# SPDX-License-Identifier: Apache-2.0
"""A triggerer starts fifty triggers at once: they read the connection together, and each later burst anew."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from lucidworks_provider.errors import ConfigurationError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.triggers import LucidworksJobsTrigger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    Wait = Callable[[str], Coroutine[Any, Any, dict[str, Any]]]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Wait:
    """What a trigger returns that finds no record of a task, once it has its connection."""
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")

    async def event_of(lucidworks_conn_id: str) -> dict[str, Any]:
        trigger = LucidworksJobsTrigger(
            kind="chunking",
            lucidworks_conn_id=lucidworks_conn_id,
            folder=str(tmp_path),
            nonce="n",
            poll_interval=1.0,
            deadline=0.0,
        )
        return dict((await anext(trigger.run())).payload)

    return event_of


async def test_a_burst_reads_the_connection_once(wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    async def slowly(self: LucidworksHook) -> None:
        read.append(self.lucidworks_conn_id)
        await asyncio.sleep(0.02)

    monkeypatch.setattr(LucidworksHook, "aget_settings", slowly)
    events = await asyncio.gather(*(wait("one") for _ in range(50)), wait("other"))
    assert sorted(read) == ["one", "other"]
    assert all(event["unshared"] for event in events)
    await wait("one")
    assert sorted(read) == ["one", "one", "other"], "a connection may have changed meanwhile"


async def test_who_asked_first_may_be_cancelled(wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slowly(self: LucidworksHook) -> None:
        await asyncio.sleep(0.05)

    monkeypatch.setattr(LucidworksHook, "aget_settings", slowly)
    first = asyncio.create_task(wait("one"))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(wait("one"))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second)["unshared"]
    assert first.cancelled()


async def test_a_connection_that_is_wrong_is_told_to_all(wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(self: LucidworksHook) -> None:
        raise ConfigurationError("no such field")

    monkeypatch.setattr(LucidworksHook, "aget_settings", wrong)
    events = await asyncio.gather(*(wait("one") for _ in range(3)))
    assert [event["error"] for event in events] == ["ConfigurationError: no such field"] * 3
