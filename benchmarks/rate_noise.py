# SPDX-License-Identifier: Apache-2.0
"""
What 429s at random cost a run over a corpus.

::

    python -m benchmarks.rate_noise           # 800 and 5,000 documents of 3 KB; none, 0.5, 2 and 5 % of 429s
    python -m benchmarks.rate_noise --short   # 800 documents

The emulator refuses that share of the calls with 429 and ``Retry-After: 1``, at any rate; a response takes 5 ms,
a job 0.4 s. Beside the operator a loop of 64 threads with a ``requests.Session`` each, in which each request waits
for its own ``Retry-After``. Both run in processes of their own, one after the other, with a new emulator each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import corpus
from benchmarks.corpus_baseline import run_loop
from benchmarks.corpus_documents import write_documents
from benchmarks.harness import emulated

THREADS, JOB_SECONDS, LATENCY, DOCUMENT_BYTES = 64, 0.4, 0.005, 3_072
SHARES = (0.0, 0.005, 0.02, 0.05)
# To reach, of the loop's time and of our own without 429s.
OF_LOOP, OF_OWN = 1.3, 1.5


def measure(who: str, source: Path, documents: int, share: float) -> tuple[float, int]:
    """Seconds, and 429s, in a process and with an emulator of its own."""
    settings: dict[str, Any] = {
        "shed_share": share,
        "latency": LATENCY,
        "pending_seconds": JOB_SECONDS,
        "pending_polls": 0,
    }
    with emulated(**settings) as emulator:
        if who == "loop":
            seconds = documents / run_loop(emulator, source, documents, THREADS).rate
        else:
            found = corpus.run(source, Path(tempfile.mkdtemp(prefix="rate-")))
            seconds = found["seconds"]
            if found["returned"]["documents"] != documents:
                raise SystemExit(f"documents are missing: {found}")
        return seconds, emulator.get("stats")["rate_limited"]


def main() -> int:
    """Measure all; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--short", action="store_true", help="800 documents only")
    given = parser.parse_args()
    good = True
    print(f"| documents | 429s at random | operator | 429s | {THREADS} threads | of theirs | of its own |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for documents in (800,) if given.short else (800, 5_000):
        with tempfile.TemporaryDirectory(prefix="documents-") as name:
            source = Path(name)
            write_documents(source, documents, DOCUMENT_BYTES)
            own = 0.0
            for share in SHARES:
                theirs, _ = measure("loop", source, documents, share)
                ours, refused = measure("operator", source, documents, share)
                own = own or ours
                print(
                    f"| {documents:,} | {share:.1%} | {ours:.1f} s | {refused} | {theirs:.1f} s "
                    f"| {ours / theirs:.2f} | {ours / own:.2f} |",
                    flush=True,
                )
                good = good and ours <= OF_LOOP * theirs and ours <= OF_OWN * own
    print(f"\nTo reach: {OF_LOOP:g} times theirs, {OF_OWN:g} times its own without 429s.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
