# SPDX-License-Identifier: Apache-2.0
"""
The emulator with a cache of chunking results by text, for clients that share two cores with it.

``python -m benchmarks.remembering_emulator`` has the emulator's options.
"""

from __future__ import annotations

import sys
from typing import Any

from lucidworks_provider.emulator import chunking
from lucidworks_provider.emulator.__main__ import main
from lucidworks_provider.emulator.chunking import compute
from lucidworks_provider.emulator.jobs import JobResult

# About 12 KB for a document of 4 KB.
_RESULTS: dict[tuple[Any, ...], JobResult] = {}


def remember(texts: list[str], chunk: Any, vectors: Any, **options: Any) -> JobResult:
    """The cached result of the same texts, or a new one."""
    key = (*texts, vectors)
    if key not in _RESULTS:
        _RESULTS[key] = compute(texts, chunk, vectors, **options)
    return _RESULTS[key]


if __name__ == "__main__":
    vars(chunking)["compute"] = remember
    sys.exit(main())
