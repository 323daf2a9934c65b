# SPDX-License-Identifier: Apache-2.0
"""
What an import adds to a process with ``airflow.sdk``: milliseconds of CPU, and MiB of resident memory.

Each measurement is a fresh interpreter with one import: the public modules of this package, operators of official
providers, and what every provider's operator imports. The databricks provider conflicts with the pinned versions, so
it has an environment of its own, which ``make bench`` creates.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.harness import Goal, alternate, command_line, median_range, print_heads, print_row, report

GOAL_MS, GOAL_MIB = 30.0, 2.0
MODULES = (
    *("operators.chunking", "operators.corpus", "operators.models", "operators.prediction"),
    *("sensors.jobs", "sensors.models", "triggers"),
    *("hooks.lucidworks", "decorators.chunk", "decorators.predict"),
    *("links", "assets", "retry_policy", "errors", "documents", "corpus.shards", "client.settings"),
    *("client.models", "client.use_cases", "emulator", "get_provider_info"),
)
OFFICIAL = ("http.operators.http", "openai.operators.openai", "cohere.operators.embedding")
DATABRICKS = "databricks.operators.databricks"
DATABRICKS_PYTHON = Path(__file__).parents[1] / ".venv-databricks" / "bin" / "python"
_SCRIPT = """
import gc, os, time
import airflow.sdk
from airflow.sdk import BaseOperator
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
gc.collect()
before, begin = resident(), time.process_time()
{statement}
took = time.process_time() - begin
print(took * 1000, resident() - before)
"""


def measure(python: str, statement: str) -> tuple[float, float]:
    """Milliseconds of CPU and MiB, in a fresh interpreter."""
    script = _SCRIPT.format(statement=statement)
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    milliseconds, mebibytes = done.stdout.split()[-2:]
    return float(milliseconds), float(mebibytes)


def main() -> int:
    """Print the table; 1 if a module of this package misses a goal."""
    rounds = command_line(__doc__, packages=["apache-airflow"], rounds=9).rounds
    here = partial(measure, sys.executable)
    cases = {"nothing": partial(here, "pass")}
    cases["common.compat alone"] = partial(
        here, "from airflow.providers.common.compat.sdk import BaseOperator, conf"
    )
    cases |= {name: partial(here, f"import lucidworks_provider.{name}") for name in MODULES}
    cases |= {name: partial(here, f"import airflow.providers.{name}") for name in OFFICIAL}
    if DATABRICKS_PYTHON.exists():
        cases[DATABRICKS] = partial(measure, str(DATABRICKS_PYTHON), f"import airflow.providers.{DATABRICKS}")
    alternate(1, cases)  # compiles, and fills the cache of the file system
    print_heads("import", "CPU, ms", "MiB")
    goals = []
    for name, figures in alternate(rounds, cases).items():
        times, sizes = zip(*figures, strict=True)
        print_row(name, median_range(times, ".1f"), median_range(sizes, ".2f"))
        if name in MODULES:
            goals.append(Goal(f"{name}, ms", statistics.median(times), GOAL_MS))
            goals.append(Goal(f"{name}, MiB", statistics.median(sizes), GOAL_MIB))
    return report(goals)


if __name__ == "__main__":
    sys.exit(main())
