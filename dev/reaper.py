# SPDX-License-Identifier: Apache-2.0
"""Find, and end, every process that carries a mark in its environment.

A process tree is no safe handle on what a program has started: Airflow's children leave the process group,
lose their parent and live on. The environment a process was started with stays readable and is inherited
through every fork and exec, so a mark in it finds them all.

Run as a script, this module is the safety net of :class:`dev.processes.ProcessGroup`: it blocks on a pipe
whose other end only the harness holds, so it wakes when the harness ends, *however* it ends (SIGKILL
included), and then ends every marked process. ``PR_SET_PDEATHSIG`` would reach only the direct children (a
fork clears it), only on Linux, and fires already when the *thread* that started the child ends.
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
    """Every live process of a group, or of one part of it; zombies have no environment and do not count."""
    found: dict[int, psutil.Process] = {}
    blank: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            environ = process.environ()
        except (psutil.Error, OSError):  # gone meanwhile, a zombie, or another user's
            continue
        if environ.get(GROUP_MARK) == group and (part is None or environ.get(PART_MARK) == part):
            found[process.pid] = process
        elif not environ:
            blank.append(process)
    # The children of PostgreSQL write their titles over their environment; their parent keeps its own.
    for process in blank:
        try:
            if process.ppid() in found and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
        except psutil.Error:
            continue
    return list(found.values())


def kill_marked(group: str, part: str | None = None, *, seconds: float = 15.0) -> int:
    """SIGKILL every marked process and return how many there were.

    A process can fork between the look and the kill, and shows no environment in the middle of an exec, so
    only two empty looks in a row count as done.
    """
    killed: set[int] = set()
    empty = 0
    deadline = time.monotonic() + seconds
    while empty < 2 and time.monotonic() < deadline:
        processes = find_marked(group, part)
        # Parents first: a supervisor must not see its child die and report that, or start another one.
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
    """Wait for the end of standard input, then end the group named on the command line.

    What was written there until then are folders to remove, each ended by a zero byte.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # a Ctrl-C or a closed terminal is what this process is for
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    folders = sys.stdin.buffer.read().split(b"\0")[:-1]
    kill_marked(sys.argv[1])
    for folder in folders:
        shutil.rmtree(os.fsdecode(folder), ignore_errors=True)


if __name__ == "__main__":
    main()
