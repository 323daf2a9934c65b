# SPDX-License-Identifier: Apache-2.0
"""
Shared parts of the benchmarks: command line, rounds, child processes, services, figures, tables and goals.

Import this module before Airflow, because it sets a temporary ``AIRFLOW_HOME``. Imports are part of some figures, so
it imports little.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

if TYPE_CHECKING:
    from dev.demo import Emulator

Key = TypeVar("Key")
Value = TypeVar("Value")


def command_line(
    description: str | None, *, packages: Iterable[str] = (), **options: Any
) -> argparse.Namespace:
    """
    Parse the command line, and print versions and load.

    :param packages: distributions whose versions are printed.
    :param options: default by name: ``False`` for a flag, the choices of the argument, or a value of the same type.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in options.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true")
        elif isinstance(default, tuple):
            parser.add_argument(name, choices=default, nargs="?", default=default[-1])
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default, help="default: %(default)s")
    parsed = parser.parse_args()
    versions = [f"{package} {installed}" for package in packages if (installed := version_of(package))]
    python = f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(", ".join([python, *versions]), end="\n\n", flush=True)
    return parsed


def version_of(package: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def alternate(rounds: int, cases: Mapping[Key, Callable[[], Value]]) -> dict[Key, list[Value]]:
    """Call each case once per round, so that changes of the machine's speed affect all; results by case."""
    results: dict[Key, list[Value]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, call in cases.items():
            results[case].append(call())
    return results


def median_range(values: Iterable[float], form: str = ".0f") -> str:
    """The median, and the range unless it is empty."""
    listed = list(values)
    median, low, high = (format(one, form) for one in (statistics.median(listed), min(listed), max(listed)))
    return median if low == high else f"{median} ({low} to {high})"


def print_row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_heads(*heads: str) -> None:
    """Print the first two lines of a Markdown table."""
    print_row(*heads)
    print_row(*["---"] * len(heads))


class Goal(NamedTuple):
    """A measured value and its limits."""

    what: str
    measured: float
    most: float = math.inf
    least: float = -math.inf


def report(goals: Iterable[Goal]) -> int:
    """Print whether each goal is reached; the exit code, 1 if one is missed."""
    missed = 0
    print()
    for goal in goals:
        good = goal.least <= goal.measured <= goal.most
        limit = f">= {goal.least:g}" if goal.most == math.inf else f"<= {goal.most:g}"
        print(f"{'reached' if good else 'MISSED'}: {goal.what} {goal.measured:.4g}, goal {limit}")
        missed += not good
    return int(missed > 0)


def start(function: Callable[..., Any], *arguments: Any) -> subprocess.Popen[str]:
    """Start a function of a benchmark in a new process, with arguments of JSON."""
    module = function.__module__
    if module == "__main__":
        module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    command = [sys.executable, "-m", "benchmarks.harness", module, function.__qualname__]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, json.dumps(arguments)], stdin=pipe, stdout=pipe, text=True)


def result_of(process: subprocess.Popen[str]) -> Any:
    """Wait for a process of :func:`start`; what its function returned."""
    with process:
        output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r}: exit code {process.returncode}\n{output[-2000:]}")
    return json.loads(output.splitlines()[-1])


def child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function of a benchmark in a new process; its result."""
    return result_of(start(function, *arguments))


def kill_at(condition: Callable[[], bool], function: Callable[..., Any], *arguments: Any) -> None:
    """Run a function of a benchmark in a new process, and kill it with SIGKILL when a condition is true."""
    with start(function, *arguments) as process:
        while not condition():
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended before it could be killed")
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)


def connect(url: str) -> None:
    """Set the default connection of this process and its children; tokens are shared in memory."""
    extra = dict.fromkeys(("auth_url", "application_url", "models_url"), url) | {"share_via": "memory"}
    connection = {
        "conn_type": "lucidworks",
        "login": "demo-client",
        "password": "demo-secret",
        "extra": extra,
    }
    os.environ["AIRFLOW_CONN_LUCIDWORKS_DEFAULT"] = json.dumps(connection)


@contextmanager
def emulated(module: str = "lucidworks_provider.emulator", /, **settings: Any) -> Iterator[Emulator]:
    """An emulator in its own process, as the default connection."""
    from dev.demo import Emulator

    with Emulator(Path(tempfile.mkdtemp(prefix="bench-")) / "emulator.log", module=module) as emulator:
        connect(emulator.url)
        emulator.set(**settings)
        yield emulator


def requests_of(emulator: Emulator, endpoint: str) -> int:
    """Requests of an endpoint that the emulator has counted."""
    return int(emulator.get("stats")["calls"].get(endpoint, 0))


@contextmanager
def served(service: str, *arguments: str) -> Iterator[str]:
    """A service of :mod:`benchmarks.servers` in its own process; its URL."""
    command = [sys.executable, "-m", "benchmarks.servers", service, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"  # type: ignore[union-attr]
        finally:
            process.kill()


def quiet() -> None:
    """Disable the logs of Airflow and of operators."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable()


def context(**changes: Any) -> Any:
    """A task's context, with the parts that operators of this package read."""
    ti = {
        "dag_id": "d",
        "run_id": str(time.time_ns()),
        "task_id": "t",
        "map_index": -1,
        "try_number": 1,
        "max_tries": 0,
        "start_date": None,
        "xcom_push": lambda **_: None,
    }
    return {"ti": SimpleNamespace(**(ti | changes))}


@contextmanager
def usage() -> Iterator[dict[str, float]]:
    """Measure a block: ``seconds``, ``cpu`` seconds, resident bytes before it (``bare``), ``peak`` bytes more."""
    reset_peak_memory()
    used = {"bare": peak_memory()}
    began, cpu = time.perf_counter(), time.process_time()
    yield used
    used["seconds"], used["cpu"] = time.perf_counter() - began, time.process_time() - cpu
    used["peak"] = peak_memory() - used["bare"]


def reset_peak_memory(process: int | str = "self") -> None:
    """Set a process's peak of resident memory to the current value; it begins with that of the parent."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_memory(process: int | str = "self") -> float:
    """A process's peak of resident memory, in bytes."""
    return 1024 * float(Path(f"/proc/{process}/status").read_text().partition("VmHWM:")[2].split()[0])


def access_token(url: str) -> str:
    """Request a token."""
    import requests

    from benchmarks.token_clients import Service, request_token

    return request_token(requests.Session(), Service(url, "ausao8uveaPmyhv0v357", "", ""))


def post_batches(
    session: Any, url: str, texts: Iterable[list[str]], **body: Any
) -> Iterator[list[dict[str, Any]]]:
    """The predictions of each batch of texts, requested one after the other with a ``requests.Session``."""
    for batch in texts:
        response = session.post(url, json={**body, "batch": [{"text": text} for text in batch]}, timeout=60)
        response.raise_for_status()
        yield response.json()["predictions"]


def batches(items: list[str], size: int = 32) -> list[list[str]]:
    """Lists of ``size`` items; the last one can be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


if __name__ == "__main__":
    _module, _function, _arguments = sys.argv[1:]
    print(json.dumps(getattr(import_module(_module), _function)(*json.loads(_arguments))))
