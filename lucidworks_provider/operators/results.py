# SPDX-License-Identifier: Apache-2.0
"""What every operator tells others about its result: those that wait for it, people in the UI, OpenLineage."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lucidworks_provider.links.result import LucidworksResultLink, push_result
from lucidworks_provider.operators.lineage import Lineage, LineageMixin

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context


def add_asset_extra(context: Context, outlets: Sequence[Any], manifest: Mapping[str, Any]) -> None:
    """
    Put a manifest's numbers and words beside the event of each asset of ``outlets``.

    What a task has put there itself stays. Aliases get nothing: what they stand
    for, only the task's author knows.

    :param outlets: of the operator.
    :param manifest: what the task returns; lists and dictionaries are left out, as an event is small.
    """
    events = context.get("outlet_events")
    if events is None or not outlets:
        return
    from airflow.providers.common.compat.sdk import Asset

    said = {name: value for name, value in manifest.items() if isinstance(value, str | int | float)}
    for outlet in outlets:
        if isinstance(outlet, Asset):
            extra = events[outlet].extra
            for name, value in said.items():
                extra.setdefault(name, value)


class ResultMixin(LineageMixin):
    """Of operators and sensors that may write a result."""

    if TYPE_CHECKING:
        outlets: Any

    operator_extra_links: Collection[BaseOperatorLink] = (LucidworksResultLink(),)
    # What this process has returned. After a deferral it is another process, and another operator, that ends.
    _manifest: Mapping[str, Any] | None = None

    def _ended(self, context: Context, manifest: dict[str, Any]) -> dict[str, Any]:
        """To be called once the result stands."""
        self._manifest = manifest
        push_result(context, manifest.get("dataset") or manifest.get("uri"), is_folder="dataset" in manifest)
        add_asset_extra(context, self.outlets, manifest)
        return manifest

    def _lineage(self) -> Lineage:
        return Lineage(output=(self._manifest or {}).get("uri"))
