# SPDX-License-Identifier: Apache-2.0
"""
What the benchmarks have in common: processes, connections, a task's context, and how figures are shown.

Import it before Airflow, which makes its home where it is imported; this one is thrown away. It imports little, since
imports are part of some figures.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

if TYPE_CHECKING:
    from dev.demo import Emulator


def connect(url: str) -> None:
    """Make a service the default connection of this process and its children; tokens are shared in memory."""
    extra = dict.fromkeys(("auth_url", "application_url", "models_url"), url) | {"share_via": "memory"}
    connection = {
        "conn_type": "lucidworks",
        "login": "demo-client",
        "password": "demo-secret",
        "extra": extra,
    }
    os.environ["AIRFLOW_CONN_LUCIDWORKS_DEFAULT"] = json.dumps(connection)


@contextmanager
def emulated(module: str = "lucidworks_provider.emulator", **settings: Any) -> Iterator[Emulator]:
    """An emulator in a process of its own, as the default connection."""
    from dev.demo import Emulator

    with Emulator(Path(tempfile.mkdtemp(prefix="bench-")) / "emulator.log", module=module) as emulator:
        connect(emulator.url)
        emulator.set(**settings)
        yield emulator


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    """A module of this package in a process of its own."""
    command, pipe = [sys.executable, "-m", f"benchmarks.{module}", *arguments], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def result_of(process: subprocess.Popen[str]) -> Any:
    """What its last line says, as JSON."""
    with process:
        output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r}: exit code {process.returncode}\n{output[-2000:]}")
    return json.loads(output.splitlines()[-1])


def child(module: str, *arguments: str) -> Any:
    """Run a module of this package in a process of its own; what its last line says, as JSON."""
    return result_of(start(module, *arguments))


@contextmanager
def served(module: str, *arguments: str) -> Iterator[str]:
    """A server of this package in a process of its own, whose first line is its port; its URL."""
    with start(module, *arguments) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"  # type: ignore[union-attr]
        finally:
            process.kill()


def quiet() -> None:
    """Silence what Airflow says of an operator that runs outside of a task."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable()


def context(**changes: Any) -> Any:
    """What a task's context holds of its instance, as far as our operators read it."""
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


def forget_peak() -> None:
    """Let :func:`peak_memory` begin anew; a process begins with its parent's."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """The most memory that this process has had, bytes."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def access_token(url: str) -> str:
    """A token that is requested for it."""
    import requests

    from benchmarks.token_clients import Service, request_token

    return request_token(requests.Session(), Service(url, "ausao8uveaPmyhv0v357", "", ""))


def spread(values: Iterable[float], digits: int = 0) -> str:
    """The median, and the range where there is one."""
    listed = list(values)
    three = (statistics.median(listed), min(listed), max(listed))
    middle, low, high = (f"{one:.{digits}f}" for one in three)
    return middle if low == high else f"{middle} ({low} to {high})"
