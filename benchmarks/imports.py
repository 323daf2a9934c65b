# SPDX-License-Identifier: Apache-2.0
"""
What importing our modules adds to a DAG file that imports Airflow's SDK anyway.

Fresh interpreters, in turn with and without, so that a machine whose speed drifts disturbs all alike: each module
that a DAG file imports; their imports from Airflow alone, which every operator of a provider pays; and nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 9
BASE = "import airflow.sdk"
SHARED = "from airflow.providers.common.compat.sdk import BaseOperator, conf"
MODULES = (
    *("operators.chunking", "operators.prediction", "operators.models"),
    *("sensors.jobs", "sensors.models", "decorators.predict", "decorators.chunk"),
)
GOAL = 30.0

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


def main() -> int:
    """Print the table; 1 when the goal is missed."""
    kinds = {"nothing": "pass", "common.compat alone": SHARED}
    kinds |= {name: f"import lucidworks_provider.{name}" for name in MODULES}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, statement in kinds.items():
            times[name].append(milliseconds(statement))
    print(f"import on top of airflow.sdk, {ROUNDS} fresh interpreters each, Python {sys.version.split()[0]}")
    for name, values in times.items():
        low, high = min(values), max(values)
        print(f"  {name:<26} median {statistics.median(values):6.1f} ms   ({low:.1f} to {high:.1f})")
    worst = max(statistics.median(times[name]) for name in MODULES)
    print(f"goal: {GOAL:g} ms; the worst median is {worst:.1f}")
    return int(worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())
