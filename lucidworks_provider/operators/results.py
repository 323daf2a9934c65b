# SPDX-License-Identifier: Apache-2.0
"""What every operator tells others about its result: those that wait for it, people in the UI, OpenLineage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from lucidworks_provider.links.result import LucidworksResultLink, push_result
from lucidworks_provider.operators.asset_extra import add_asset_extra
from lucidworks_provider.operators.lineage import Lineage, LineageMixin

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context


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
