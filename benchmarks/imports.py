# SPDX-License-Identifier: Apache-2.0
"""
What importing the operator adds to a DAG file that imports Airflow's SDK anyway.

Fresh interpreters, in turn with and without, so that a machine whose speed drifts disturbs both alike.
Three times: ours; its imports from Airflow alone, which every operator of a provider pays; and nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 15
BASE = "import airflow.sdk"
SHARED = "from airflow.providers.common.compat.sdk import BaseOperator, conf"
OURS = "from lucidworks_provider.operators.chunking import LucidworksChunkOperator"

_TIMED = """
import time, sys
{base}
from airflow.sdk import BaseOperator
begin = time.perf_counter()
{measured}
print((time.perf_counter() - begin) * 1000)
"""


def milliseconds(measured: str) -> float:
    """One fresh interpreter."""
    script = _TIMED.format(base=BASE, measured=measured)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the table."""
    kinds = {"nothing": "pass", "common.compat alone": SHARED, "LucidworksChunkOperator": OURS}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, statement in kinds.items():
            times[name].append(milliseconds(statement))
    print(f"import on top of airflow.sdk, {ROUNDS} fresh interpreters each, Python {sys.version.split()[0]}")
    for name, values in times.items():
        low, high = min(values), max(values)
        print(f"  {name:<26} median {statistics.median(values):6.1f} ms   ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
