# SPDX-License-Identifier: Apache-2.0
"""Documents in, chunks and vectors out: storage, and the files that the next task reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lucidworks_provider.documents.dataset import open_dataset

__all__ = ["open_dataset"]


def __getattr__(name: str) -> Any:
    # Whoever imports one module of this room does not pay for the others.
    if name == "open_dataset":
        from lucidworks_provider.documents.dataset import open_dataset

        return open_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
