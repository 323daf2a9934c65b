# SPDX-License-Identifier: Apache-2.0
"""
Find and kill every process with a mark in its environment.

Airflow's children leave the process group and outlive their parent, so a process tree is incomplete. The environment
is inherited by every fork and exec, and remains readable.

As a script, this module reads from a pipe of :class:`dev.processes.ProcessGroup`, which is closed when the harness
ends, by SIGKILL too, and then kills every marked process. ``PR_SET_PDEATHSIG`` applies to direct children only, and
fires when the *thread* that started the child ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

import psutil

GROUP_MARK = "LUCIDWORKS_STACK_ID"
PART_MARK = "LUCIDWORKS_STACK_PART"


def find_marked(group: str, part: str | None = None) -> list[psutil.Process]:
    """Every live process of a group, or of one part; zombies have no environment."""
    found: dict[int, psutil.Process] = {}
    blank: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            environ = process.environ()
        except (psutil.Error, OSError):  # ended, a zombie, or another user's
            continue
        if environ.get(GROUP_MARK) == group and (part is None or environ.get(PART_MARK) == part):
            found[process.pid] = process
        elif not environ:
            blank.append(process)
    # PostgreSQL's children overwrite their environment with a title; their parent does not.
    for process in blank:
        try:
            if process.ppid() in found and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
        except psutil.Error:
            continue
    return list(found.values())


def kill_marked(group: str, part: str | None = None, *, seconds: float = 15.0) -> int:
    """
    SIGKILL every marked process; the number of processes.

    A process can fork before it is killed, and has no environment during an exec, so it ends after two searches in a
    row without a process.
    """
    killed: set[int] = set()
    empty = 0
    deadline = time.monotonic() + seconds
    while empty < 2 and time.monotonic() < deadline:
        processes = find_marked(group, part)
        # Parents first: a supervisor would report the death of its child, or start another.
        for process in sorted(processes, key=_age):
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
            killed.add(process.pid)
        empty = 0 if processes else empty + 1
        time.sleep(0.05)
    return len(killed)


def _age(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.Error:
        return 0.0


def main() -> None:
    """
    Wait for the end of standard input, then kill the group of the command line.

    The input names folders to remove, each with a zero byte at its end.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # it must outlive a Ctrl-C or a closed terminal
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    folders = sys.stdin.buffer.read().split(b"\0")[:-1]
    kill_marked(sys.argv[1])
    for folder in folders:
        shutil.rmtree(os.fsdecode(folder), ignore_errors=True)


if __name__ == "__main__":
    main()
