# SPDX-License-Identifier: Apache-2.0
"""A triggerer starts fifty triggers at once: they read the connection together, and each later burst anew."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lucidworks_provider.errors import ConfigurationError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.triggers import _shared_hook

if TYPE_CHECKING:
    import pytest


async def test_a_burst_reads_the_connection_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    async def slowly(self: LucidworksHook) -> None:
        read.append(self.lucidworks_conn_id)
        await asyncio.sleep(0.02)

    monkeypatch.setattr(LucidworksHook, "aget_settings", slowly)
    hooks = await asyncio.gather(*(_shared_hook("one") for _ in range(50)), _shared_hook("other"))
    assert sorted(read) == ["one", "other"]
    assert len({id(hook) for hook in hooks}) == 2
    await _shared_hook("one")
    assert sorted(read) == ["one", "one", "other"], "a connection may have changed meanwhile"


async def test_who_asked_first_may_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slowly(self: LucidworksHook) -> None:
        await asyncio.sleep(0.05)

    monkeypatch.setattr(LucidworksHook, "aget_settings", slowly)
    first = asyncio.create_task(_shared_hook("one"))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(_shared_hook("one"))
    first.cancel()
    assert (await second).lucidworks_conn_id == "one"


async def test_a_connection_that_is_wrong_is_told_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(self: LucidworksHook) -> None:
        raise ConfigurationError("no such field")

    monkeypatch.setattr(LucidworksHook, "aget_settings", wrong)
    told = await asyncio.gather(*(_shared_hook("one") for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in told] == [ConfigurationError] * 3
