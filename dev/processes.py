# SPDX-License-Identifier: Apache-2.0
"""
Processes that never outlive the program that started them.

:class:`ProcessGroup` marks the processes it starts (see :mod:`dev.reaper`) and ends them; :class:`ManagedProcess` is
a process with a log file; :func:`install_signal_handlers` makes ``finally`` run on SIGTERM and SIGHUP.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self
from unittest import mock

from dev.reaper import GROUP_MARK, PART_MARK, find_marked, kill_marked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    import psutil

REPOSITORY = Path(__file__).resolve().parents[1]

HOST_MARK = "LUCIDWORKS_STACK_HOST"

_INHERITED = (
    *("HOME", "LOGNAME", "PATH", "TMPDIR", "USER", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
    *("LANG", "LC_ALL", "LC_CTYPE", "TZ"),
)


def until(condition: Callable[[], Any], what: str, timeout: float = 60, *, pause: float = 0.1) -> Any:
    """Wait until a condition is true, and return its value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:.0f} s")
        time.sleep(pause)
    return value


@contextmanager
def hurried() -> Iterator[None]:
    """Limit each sleep of this process to 0.05 s, because the service is an emulator."""
    sleep, asleep = time.sleep, asyncio.sleep
    with (
        mock.patch("time.sleep", lambda seconds: sleep(min(seconds, 0.05))),
        mock.patch("asyncio.sleep", lambda delay, *result: asleep(min(delay, 0.05), *result)),
    ):
        yield


class ProcessError(RuntimeError):
    """A process ended early or was not ready in time; the text has the end of its log."""


def clean_environment() -> dict[str, str]:
    """The environment of a child, without AIRFLOW_*, proxy and PYTHON* settings."""
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment["PYTHONPATH"] = str(REPOSITORY)
    environment["PYTHONUNBUFFERED"] = "1"
    # Otherwise setproctitle, which Airflow uses, overwrites the environment, and so the mark of the group.
    environment["SPT_NOENV"] = "1"
    return environment


def host_name() -> str:
    """Airflow's ``[core] hostname_callable`` in a fleet, which simulates several machines."""
    return os.environ.get(HOST_MARK, "127.0.0.1")


def free_ports(count: int) -> list[int]:
    """Different free ports."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def install_signal_handlers() -> Iterator[None]:
    """
    Turn SIGTERM and SIGHUP into SystemExit, so that ``finally`` and ``with`` clean up. In the main thread only.

    Signals after the first are ignored, because the clean-up takes a few seconds.
    """
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class ProcessGroup:
    """The processes of a harness, which have a mark in their environment."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self._reaper: subprocess.Popen[bytes] | None = None

    def marks(self, part: str) -> dict[str, str]:
        """The environment variables that mark a process of this group."""
        return {GROUP_MARK: self.id, PART_MARK: part}

    def guard(self) -> None:
        """Start the reaper, which ends the group if this program dies."""
        if self._reaper is None:
            script = str(REPOSITORY / "dev" / "reaper.py")
            self._reaper = subprocess.Popen(
                [sys.executable, "-P", script, self.id],
                env=clean_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def remove_at_end(self, folder: Path) -> None:
        """Make the reaper remove a folder when the group ends."""
        self.guard()
        if self._reaper is not None and self._reaper.stdin is not None:
            self._reaper.stdin.write(os.fsencode(folder) + b"\0")
            self._reaper.stdin.flush()

    def processes(self, part: str | None = None) -> list[psutil.Process]:
        """The live processes of the group, or of one part."""
        return find_marked(self.id, part)

    def kill(self, part: str | None = None) -> int:
        """SIGKILL the group, or one part with its whole process tree."""
        return kill_marked(self.id, part)

    def close(self) -> None:
        """End all processes and the reaper; idempotent."""
        self.kill()
        reaper, self._reaper = self._reaper, None
        if reaper is not None and reaper.stdin is not None:
            reaper.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                reaper.wait(20)


class ManagedProcess:
    """
    A process with a log file; a context manager that starts and ends it.

    :param env: the complete environment, see :func:`clean_environment`.
    :param log_path: to which standard output and error are appended.
    :param name: of the part; :meth:`kill` ends all processes of the group with this name.
    :param group: in which it ends; by default its own.
    """

    def __init__(
        self,
        args: Sequence[str],
        env: Mapping[str, str],
        log_path: Path,
        cwd: Path | None = None,
        *,
        name: str = "process",
        group: ProcessGroup | None = None,
    ) -> None:
        self.args, self.env, self.log_path, self.cwd, self.name = list(args), dict(env), log_path, cwd, name
        self.started_at = datetime.now(UTC)
        self._own_group = group is None
        self._group = group or ProcessGroup()
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return self._popen.pid if self._popen else None

    @property
    def alive(self) -> bool:
        """Whether the process itself runs."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it in a new session, so that Ctrl-C reaches only the harness."""
        self._group.guard()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.started_at = datetime.now(UTC)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._popen = subprocess.Popen(
                self.args,
                env=self.env | self._group.marks(self.name),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> int:
        """Wait for the end; the exit code."""
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() > deadline:
                raise self.error(f"did not end within {seconds:.0f} s")
            time.sleep(0.05)
        return self._popen.returncode if self._popen else -1

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        deadline = time.monotonic() + seconds
        while True:
            alive = self.alive  # before the log is read, which is complete then
            if match := re.search(pattern, self.output(), re.MULTILINE):
                return match
            if not alive:
                raise self.error("ended early")
            if time.monotonic() > deadline:
                raise self.error(f"did not print {pattern!r} within {seconds:.0f} s")
            time.sleep(0.05)

    def output(self) -> str:
        """The output since the last start."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.output().splitlines()[-lines:])

    def error(self, what: str) -> ProcessError:
        """An error with the end of the log."""
        code = "" if self.alive or self._popen is None else f" (exit code {self._popen.returncode})"
        return ProcessError(f"{self.name} {what}{code}; the end of {self.log_path}:\n{self.tail()}")

    def send(self, sig: signal.Signals) -> None:
        """Send a signal to the process itself."""
        if self.alive and self._popen is not None:
            self._popen.send_signal(sig)

    def terminate(self, sig: signal.Signals = signal.SIGTERM, grace: float = 5.0) -> None:
        """Send a signal, wait for ``grace`` seconds, then kill the rest of the process tree."""
        self.send(sig)
        try:
            if self._popen is not None:
                with suppress(subprocess.TimeoutExpired):
                    self._popen.wait(grace)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL the process tree, and wait for its end."""
        self._group.kill(self.name)
        if self._popen is not None:
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(5)
        if self._own_group:
            self._group.close()
