# SPDX-License-Identifier: Apache-2.0
"""
What importing a module adds to a process that has imported Airflow's SDK: ms of CPU, and MiB of resident memory.

Fresh interpreters, one module each, in turn, so that a machine whose speed drifts disturbs all alike: each public
module of ours, operators of official providers, what every operator of a provider pays, and nothing. The databricks
provider does not install beside the pinned versions, so it has an environment of its own (``make bench`` makes it).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

GOAL_MS, GOAL_MIB = 30.0, 2.0
SHARED = "from airflow.providers.common.compat.sdk import BaseOperator, conf"
MODULES = (
    *("operators.chunking", "operators.corpus", "operators.models", "operators.prediction"),
    *("sensors.jobs", "sensors.models", "triggers"),
    *("hooks.lucidworks", "decorators.chunk", "decorators.predict"),
    *("links", "assets", "retry_policy", "errors", "documents", "corpus.shards", "client.settings"),
    *("client.models", "client.use_cases", "emulator", "get_provider_info"),
)
OFFICIAL = ("http.operators.http", "openai.operators.openai", "cohere.operators.embedding")
DATABRICKS = "databricks.operators.databricks"
OTHER_PYTHON = Path(__file__).parents[1] / ".venv-databricks" / "bin" / "python"

_MEASURED = """
import gc, os, time
import airflow.sdk
from airflow.sdk import BaseOperator
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
gc.collect()
before, begin = resident(), time.process_time()
{measured}
took = time.process_time() - begin
print(took * 1000, resident() - before)
"""


def measure(python: str, measured: str) -> tuple[float, float]:
    """Milliseconds of CPU and MiB, in one fresh interpreter."""
    script = _MEASURED.format(measured=measured)
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    milliseconds, mebibytes = done.stdout.split()[-2:]
    return float(milliseconds), float(mebibytes)


def main() -> int:
    """Print the table; 1 when a module of ours misses a goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports")
    parser.add_argument(
        "--rounds", type=int, default=9, help="fresh interpreters for each module (%(default)s)"
    )
    rounds = parser.parse_args().rounds
    kinds = {"nothing": (sys.executable, "pass"), "common.compat alone": (sys.executable, SHARED)}
    kinds |= {name: (sys.executable, f"import lucidworks_provider.{name}") for name in MODULES}
    kinds |= {name: (sys.executable, f"import airflow.providers.{name}") for name in OFFICIAL}
    if OTHER_PYTHON.exists():
        kinds[DATABRICKS] = (str(OTHER_PYTHON), f"import airflow.providers.{DATABRICKS}")
    for python, statement in kinds.values():
        measure(python, statement)  # compiled, and in the cache of the file system
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (python, statement) in kinds.items():
            found[name].append(measure(python, statement))
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"on top of airflow.sdk, {rounds} interpreters each, Python {sys.version.split()[0]}, load {load}")
    missed = []
    for name, pairs in found.items():
        times, sizes = zip(*pairs, strict=True)
        ms, mib = statistics.median(times), statistics.median(sizes)
        print(
            f"  {name:<32} {ms:7.1f} ms of CPU ({min(times):.1f} to {max(times):.1f})"
            f"   {mib:6.2f} MiB ({min(sizes):.2f} to {max(sizes):.2f})"
        )
        if name in MODULES and (ms > GOAL_MS or mib > GOAL_MIB):
            missed.append(name)
    print(f"goals: {GOAL_MS:g} ms and {GOAL_MIB:g} MiB; missed by: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
