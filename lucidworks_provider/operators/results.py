# SPDX-License-Identifier: Apache-2.0
"""What every operator tells others about its result: those that wait for it, and people in the UI."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from lucidworks_provider.links.documentation import LucidworksDocumentationLink
from lucidworks_provider.links.result import LucidworksResultLink, push_result
from lucidworks_provider.operators.outlets import tell_outlets

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context


class HasResult:
    """Of operators and sensors that may write a result."""

    if TYPE_CHECKING:
        outlets: Any

    operator_extra_links: Collection[BaseOperatorLink] = (
        LucidworksResultLink(),
        LucidworksDocumentationLink(),
    )

    def _ended(self, context: Context, manifest: dict[str, Any]) -> dict[str, Any]:
        """To be called once the result stands."""
        push_result(context, manifest.get("dataset") or manifest.get("uri"), is_folder="dataset" in manifest)
        tell_outlets(context, self.outlets, manifest)
        return manifest
