# SPDX-License-Identifier: Apache-2.0
"""
The emulator, which chunks each text once and remembers the result, whichever chunker is asked later.

Where client and service share two cores, a client would wait for the emulator to compute vectors; the real service
computes elsewhere. ``python -m benchmarks.remembering_emulator`` takes the emulator's options.
"""

from __future__ import annotations

import sys
from typing import Any

from lucidworks_provider.emulator import chunking
from lucidworks_provider.emulator.__main__ import main
from lucidworks_provider.emulator.chunking import compute
from lucidworks_provider.emulator.jobs import JobResult

# Of documents of 4 KB about 12 KB each.
_KEPT: dict[tuple[Any, ...], JobResult] = {}


def remember(texts: list[str], chunk: Any, vectors: Any, **options: Any) -> JobResult:
    """Compute a result, or return that of the same texts."""
    key = (*texts, vectors)
    if key not in _KEPT:
        _KEPT[key] = compute(texts, chunk, vectors, **options)
    return _KEPT[key]


if __name__ == "__main__":
    vars(chunking)["compute"] = remember
    sys.exit(main())
