# SPDX-License-Identifier: Apache-2.0
"""
This package and other clients and operators in one run, in alternating rounds.

* ``tokens``: processes that start together (:mod:`benchmarks.tokens`);
* ``embeddings``: a task that embeds a thousand texts (:mod:`benchmarks.embedding_tasks`), once undisturbed, and once
  with a response that is lost;
* ``waiting``: triggers in a real triggerer (:mod:`benchmarks.triggers`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import requests

from benchmarks import embedding_tasks, tokens, triggers
from benchmarks.harness import alternate, child, command_line, median_range, print_heads, print_row, served

PACKAGES = ("apache-airflow", "apache-airflow-providers-http", "apache-airflow-providers-openai")
PROCESSES, TRIGGERS = 16, 200


def print_figures(name: str, figures: Iterable[Iterable[float]]) -> None:
    """Print the row of a client: median and range of each of its figures, given by round."""
    print_row(name, *(median_range(values, ",.4g") for values in zip(*figures, strict=True)))


def compare_tokens(rounds: int) -> None:
    """Print the token requests and failed calls of processes without a cached token."""
    ((_, results),) = tokens.compare([PROCESSES], rounds)
    print_heads("client", "tokens", f"failed calls of {PROCESSES * tokens.CALLS}")
    for name, runs in results.items():
        print_figures(name, [(run.refreshes, run.failed) for run in runs])


def compare_embeddings(rounds: int) -> None:
    """Print what a task uses, and the texts that are requested if a response is lost."""
    with served("embeddings") as url:

        def run(name: str, lost: int) -> tuple[dict[str, float], int]:
            requests.post(f"{url}/control", json={"lost": lost}, timeout=30).raise_for_status()
            used = child(embedding_tasks.run, name, url)
            if used["rows"] != embedding_tasks.INPUTS:
                raise RuntimeError(f"{name}: {used['rows']} rows")
            return used, requests.get(f"{url}/control", timeout=30).json()["inputs"]

        def measure(name: str) -> tuple[float, ...]:
            used, _ = run(name, 0)
            _, requested = run(name, embedding_tasks.INPUTS // 2)
            return used["seconds"], used["cpu"], used["mib"], requested

        results = alternate(rounds, {name: partial(measure, name) for name in embedding_tasks.TASKS})
    print_heads("operator", "seconds", "CPU, s", "MiB", "texts requested after a lost response")
    for name, figures in results.items():
        print_figures(name, figures)


def compare_waiting(rounds: int) -> None:
    """Print what a waiting trigger uses, and the delay of its result."""
    kinds = [kind for kind in (triggers.OURS, *triggers.OTHERS) if triggers.installed(kind)]
    cases = [triggers.Case(kind.name, kind, TRIGGERS) for kind in kinds]
    results = triggers.measure_all(cases, triggers.Timing(5.0, 3.0, 10.0), rounds)
    print_heads(
        *("trigger", "KiB each", "connections", "longest stall of the triggerer, ms"),
        "s until the last result",
    )
    for case, runs in results.items():
        print_figures(
            case.name, [[run[key] for key in ("each", "sockets", "waiting", "last")] for run in runs]
        )


def main() -> None:
    parts = {"tokens": compare_tokens, "embeddings": compare_embeddings, "waiting": compare_waiting}
    options = command_line(__doc__, packages=PACKAGES, part=(*parts, "all"), rounds=3)
    for name, compare in parts.items():
        if options.part in {name, "all"}:
            print(f"\n## {name}\n")
            compare(options.rounds)


if __name__ == "__main__":
    main()
