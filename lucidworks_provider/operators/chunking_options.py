# SPDX-License-Identifier: Apache-2.0
"""The arguments that say how documents are chunked and vectorised, whichever operator has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lucidworks_provider.operators.values import dictionary

if TYPE_CHECKING:
    from lucidworks_provider.client.api.chunking import ChunkingOptions


class ChunkingOptionsMixin:
    """Of an operator with these arguments."""

    if TYPE_CHECKING:
        chunker: str
        model_id: str
        data_type: str | None
        chunker_config: Any
        model_config: Any

    def _options(self) -> ChunkingOptions:
        """Validate the rendered values; raises InputError."""
        from lucidworks_provider.client.api.chunking import ChunkingOptions

        return ChunkingOptions(
            self.chunker,
            self.model_id,
            self.data_type,
            dictionary(self.chunker_config, "chunker_config"),
            dictionary(self.model_config, "model_config"),
        )
