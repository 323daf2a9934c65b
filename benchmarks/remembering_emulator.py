# SPDX-License-Identifier: Apache-2.0
"""
The emulator, which chunks each text once and remembers the result.

Where client and service share two cores, a client would wait for the emulator to compute vectors; the real service
computes elsewhere. ``python -m benchmarks.remembering_emulator`` takes the emulator's options.
"""

from __future__ import annotations

import sys
from functools import lru_cache

from lucidworks_provider.emulator import chunking
from lucidworks_provider.emulator.__main__ import main
from lucidworks_provider.emulator.chunking import compute

# Of 4 KB documents about 12 KB each.
REMEMBERED = 16_384

if __name__ == "__main__":
    vars(chunking)["compute"] = lru_cache(REMEMBERED)(compute)
    sys.exit(main())
