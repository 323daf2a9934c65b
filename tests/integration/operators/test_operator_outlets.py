# SPDX-License-Identifier: Apache-2.0
"""The extra of the asset event of a task that has written."""

from typing import Any

from airflow.providers.common.compat.sdk import Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from lucidworks_provider.operators.base import add_asset_extra

MANIFEST = {
    "documents": 3,
    "path": "file:///x",
    "complete": True,
    "shards": {"000-of-001": "uri"},
    "rows": [1],
    "none": None,
}


def added(outlets: list[Any]) -> OutletEventAccessors:
    events = OutletEventAccessors()
    add_asset_extra({"outlet_events": events}, outlets, MANIFEST)  # type: ignore[arg-type, typeddict-item]
    return events


def test_numbers_and_words_go_with_each_asset() -> None:
    one, other = Asset("one"), Asset("s3://bucket/other")
    events = added([one, other])
    for asset in (one, other):
        assert events[asset].extra == {"documents": 3, "path": "file:///x", "complete": True}


def test_what_the_task_has_said_itself_stays() -> None:
    events, asset = OutletEventAccessors(), Asset("one")
    events[asset].extra["documents"] = "three"
    add_asset_extra({"outlet_events": events}, [asset], MANIFEST)  # type: ignore[arg-type, typeddict-item]
    assert events[asset].extra["documents"] == "three"


def test_without_events_or_assets_nothing_happens() -> None:
    assert [len(added(outlets)) for outlets in ([AssetAlias("a"), "no asset"], [])] == [0, 0]
    context: Any = {}
    add_asset_extra(context, [Asset("one")], MANIFEST)
