# SPDX-License-Identifier: Apache-2.0
"""Chunks the documents of a source into Delta tables, and reads these tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lucidworks_provider.corpus.dataset import changes, open_dataset, open_documents, version_of

__all__ = ["changes", "open_dataset", "open_documents", "version_of"]


def __getattr__(name: str) -> Any:
    # Modules of this package are imported without the others.
    if name in __all__:
        from lucidworks_provider.corpus import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
