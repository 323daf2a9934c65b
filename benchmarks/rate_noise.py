# SPDX-License-Identifier: Apache-2.0
"""
The cost of random 429s for a run over a corpus.

::

    python -m benchmarks.rate_noise           # 800 and 5,000 documents of 3 KB; no 429s, 0.5, 2 and 5 %
    python -m benchmarks.rate_noise --short   # 800 documents

The emulator refuses a share of all calls with 429 and ``Retry-After: 1``, at any rate; a response takes 5 ms, a job
0.4 s. Compares the operator with the loop of :mod:`benchmarks.corpus` in 64 threads. Each runs in its own process,
with a new emulator.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import corpus
from benchmarks.corpus_documents import write_documents
from benchmarks.harness import Goal, child, command_line, emulated, print_heads, print_row, report

THREADS, DOCUMENT_BYTES = 64, 3_072
SETTINGS = {"latency": 0.005, "pending_seconds": 0.4, "pending_polls": 0}
SHARES = (0.0, 0.005, 0.02, 0.05)


def operator(source: str, documents: int, share: float) -> tuple[float, int]:
    """Seconds and 429s of the operator."""
    with emulated(**SETTINGS, shed_share=share) as emulator:
        used: dict[str, Any] = child(corpus.run, source, tempfile.mkdtemp(prefix="rate-"))
        if used["returned"]["documents"] != documents:
            raise RuntimeError(f"documents are missing: {used}")
        return used["seconds"], emulator.get("stats")["rate_limited"]


def loop(source: str, share: float) -> float:
    """Seconds of the loop."""
    with emulated(**SETTINGS, shed_share=share) as emulator:
        return float(child(corpus.run_loop, emulator.url, source, THREADS)["seconds"])


def main() -> int:
    """Print the table; 1 if a goal is missed."""
    short = command_line(__doc__, short=False).short
    goals = []
    print_heads(
        *("documents", "429s at random", "operator, s", "429s", f"{THREADS} threads, s"),
        *("operator : threads", "operator : operator without 429s"),
    )
    for documents in (800,) if short else (800, 5_000):
        with tempfile.TemporaryDirectory(prefix="documents-") as source:
            write_documents(Path(source), documents, DOCUMENT_BYTES)
            undisturbed = 0.0
            for share in SHARES:
                theirs = loop(source, share)
                ours, refused = operator(source, documents, share)
                undisturbed = undisturbed or ours
                ratios = ours / theirs, ours / undisturbed
                cells = f"{ours:.1f}", refused, f"{theirs:.1f}", *(f"{ratio:.2f}" for ratio in ratios)
                print_row(f"{documents:,}", f"{share:.1%}", *cells)
                what = f"{documents:,} documents, {share:.1%}: operator"
                goals.append(Goal(f"{what} : threads", ratios[0], 1.3))
                goals.append(Goal(f"{what} : operator without 429s", ratios[1], 1.5))
    return report(goals)


if __name__ == "__main__":
    sys.exit(main())
