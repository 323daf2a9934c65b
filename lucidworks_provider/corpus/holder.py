# SPDX-License-Identifier: Apache-2.0
"""Who writes into an output: a try of a task instance, and the process that it runs in."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

# Fields of /proc/PID/stat after the name; what stands for a time that cannot be read.
_STATE, _STARTED = 0, 19
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Holder:
    """
    A try of a task instance, and the process that it runs in.

    :param host: its name, for people.
    :param process: tells the process from others with its number: of another boot, container or time.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    host: str
    pid: int
    process: str = ""

    @classmethod
    def here(cls, *, dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int) -> Holder:
        """A try in this very process."""
        pid = os.getpid()
        process = f"{_machine()} {_started(pid)}"
        return cls(dag_id, run_id, task_id, map_index, try_number, socket.gethostname(), pid, process)

    def follows(self, other: Holder | None) -> bool:
        """Whether this is a later try of the other's task instance, which Airflow has given up by then."""
        if other is None or self.try_number <= other.try_number:
            return False
        return self.instance == other.instance

    @property
    def instance(self) -> tuple[str, str, str, int]:
        """What all tries have in common."""
        return (self.dag_id, self.run_id, self.task_id, self.map_index)

    def ended(self) -> bool:
        """Whether the process is known to be gone; False for one of another machine."""
        machine, _, started = self.process.rpartition(" ")
        if not machine or machine != _machine():
            return False
        return _started(self.pid) not in {started, _UNKNOWN}

    def __str__(self) -> str:
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return (
            f"task {self.task_id}{index} of DAG {self.dag_id}, run {self.run_id}, try {self.try_number} "
            f"(process {self.pid} on {self.host})"
        )


def _machine() -> str:
    """This boot of this machine, and this container: where a process number means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        # No Linux: processes are compared with those of the same host name.
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process began, in ticks since the boot; empty for one that is gone, or only waits to be buried."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return ""
    try:
        # After the name, which may hold spaces and brackets: state, parent, …
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _UNKNOWN
    return "" if fields[_STATE] in {"Z", "X"} else fields[_STARTED]
