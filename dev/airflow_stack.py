# SPDX-License-Identifier: Apache-2.0
"""
A real Airflow in a temporary home: API server, scheduler, DAG processor and triggerer as processes.

For the demo and the live tests, because ``dag.test()`` runs no triggerer::

    with install_signal_handlers(), AirflowStack(home, dags, env={"AIRFLOW_CONN_X": "..."}) as airflow:
        airflow.wait_for_dag("my_dag", 60)
        airflow.unpause("my_dag")
        run_id = airflow.trigger("my_dag")
        assert airflow.wait_for_run("my_dag", run_id, 120) == "success"

``env=postgres.settings`` selects PostgreSQL (:class:`dev.services.PostgresServer`). :mod:`dev.airflow_fleet` adds
workers and a broker. All processes end with the program, see :mod:`dev.processes`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from dev.airflow_api import AirflowApi
from dev.airflow_config import AirflowConfig
from dev.processes import ManagedProcess, ProcessGroup, install_signal_handlers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["AirflowStack", "install_signal_handlers"]

# Task logs are files that the API server reads itself, so the log servers would only cost start-up time.
PARTS: dict[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


class AirflowStack(AirflowApi):
    """
    An Airflow; a context manager that starts and ends all parts.

    :param home: AIRFLOW_HOME; created, and kept afterwards (logs, database).
    :param dags: the DAG folder.
    :param env: more environment for every part, e.g. ``AIRFLOW_CONN_...``; overrides the stack's own settings.
    :param parallelism: tasks at the same time.
    :param port: of the API server; by default a free one.
    :param say: receives the progress lines.
    :param start_timeout: seconds until all parts must be healthy.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        env: Mapping[str, str] | None = None,
        parallelism: int = 8,
        port: int | None = None,
        say: Callable[[str], object] = print,
        start_timeout: float = 180,
    ) -> None:
        self.config = AirflowConfig.create(home, dags, parallelism, port)
        super().__init__(self.config.url, say)
        self.env = dict(env or {})
        self.group = ProcessGroup()
        self.logs = self.config.home / "stack-logs"
        self.start_timeout = start_timeout
        self.start_seconds = 0.0
        self.commands = dict(PARTS)
        # What a part is started through, by name: `unshare`, for example. It must become the part's process.
        self.wrappers: dict[str, tuple[str, ...]] = {}
        self.python = Path(sys.executable)
        # The parts whose child processes are the tasks.
        self.runners: tuple[str, ...] = ("scheduler",)
        self._parts: dict[str, ManagedProcess] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Create the database, start all parts, and wait until they are healthy."""
        begin = time.monotonic()
        self.say(f"Airflow: preparing a database in {self.config.home}")
        self.config.home.mkdir(parents=True, exist_ok=True)
        self._migrate()
        self.say(
            f"Airflow: database ready after {time.monotonic() - begin:.1f} s, starting {', '.join(self.commands)}"
        )
        for name in self.commands:
            self.start_part(name, wait=False)
        self._wait_healthy(self.commands, begin)
        self.start_seconds = time.monotonic() - begin
        self.say(f"Airflow: ready after {self.start_seconds:.1f} s at {self.url}")

    def stop(self) -> None:
        """Terminate the parts, then kill the rest; idempotent."""
        try:
            others = [part for name, part in self._parts.items() if name != "api-server"]
            # Short: a running task holds the scheduler until it ends, and an unused triggerer takes 10 s.
            _end(others, grace=2.5)
            _end([part for name, part in self._parts.items() if name == "api-server"], grace=1.5)
        finally:
            self._parts.clear()
            self.group.close()
            self._session.close()

    def start_part(
        self, name: str, *, cwd: Path | None = None, env: Mapping[str, str] | None = None, wait: bool = True
    ) -> None:
        """
        Start a part, or restart it after it was stopped or killed.

        :param cwd: working directory; by default the home.
        :param env: more environment for this start only.
        :param wait: for a heartbeat of the new process.
        """
        part = self._part(name, self.commands[name], cwd, env)
        self._parts[name] = part
        part.start()
        if wait:
            self._wait_healthy([name], time.monotonic())

    def stop_part(self, name: str, sig: signal.Signals = signal.SIGTERM, grace: float = 20.0) -> None:
        """Terminate a part, and kill its process tree after ``grace`` seconds. A triggerer can take 10 s."""
        if part := self._parts.pop(name, None):
            part.terminate(sig, grace)

    def kill_part(self, name: str) -> None:
        """SIGKILL the process tree of a part; that of the scheduler includes all running tasks."""
        if part := self._parts.pop(name, None):
            part.kill()

    def processes(self) -> list[psutil.Process]:
        """All live processes, including tasks."""
        return self.group.processes()

    def running_tasks(self) -> list[psutil.Process]:
        """The processes of all running tasks: runners (with the operator's code) and supervisors."""
        found: list[psutil.Process] = []
        for name in self.runners:
            if (part := self._parts.get(name)) and part.pid:
                found += _tasks_of(part.pid, self.group.processes(name))
        return found

    def kill_task(self, dag_id: str, run_id: str, task_id: str, *, supervisor: bool = False) -> None:
        """
        SIGKILL the process of a running task, which Airflow retries at once.

        :param supervisor: kill the supervisor too, as at a crash of the machine; Airflow retries the task after
            ``task_instance_heartbeat_timeout``.
        """
        task = self.wait_for_task(dag_id, run_id, task_id, ["running"])
        runner = psutil.Process(task["pid"])
        victims = [runner]
        if supervisor and (parent := runner.parent()) is not None:
            victims.insert(0, parent)
        if not {each.pid for each in victims} <= {each.pid for each in self.running_tasks()}:
            raise RuntimeError(f"the processes of {task_id} are not ours: {victims}")
        for victim in victims:
            victim.kill()

    def _part(
        self, name: str, args: tuple[str, ...], cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> ManagedProcess:
        return ManagedProcess(
            [*self.wrappers.get(name, ()), str(self.python), "-m", "airflow", *args],
            self.environment(name) | self.env | dict(env or {}),
            self.logs / f"{name}.log",
            cwd or self.home_of(name),
            name=name,
            group=self.group,
        )

    def environment(self, name: str) -> dict[str, str]:
        """The settings of a part, which :attr:`env` overrides."""
        return self.config.environment()

    def home_of(self, name: str) -> Path:
        return self.config.home

    def _migrate(self) -> None:
        database = self.config.database
        url = (self.environment("db-migrate") | self.env)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        if url.startswith(f"sqlite:///{database}") and not database.exists():
            new_database(database, self.python, self._run_migration)
        else:
            self._run_migration()

    def _run_migration(self) -> None:
        migration = self._part("db-migrate", ("db", "migrate"))
        migration.start()
        if migration.wait(self.start_timeout) != 0:
            raise migration.error("failed")

    def _wait_healthy(self, names: Iterable[str], begin: float) -> None:
        waiting = set(names)
        deadline, next_word = begin + self.start_timeout, time.monotonic() + 5
        while waiting:
            health = self.health()
            up = {name for name in waiting if self._is_up(name, health)}
            for name in sorted(up):
                self.say(f"Airflow: {time.monotonic() - begin:5.1f} s  {name} is up")
            waiting -= up
            for part in self._parts.values():
                if not part.alive:
                    raise part.error(f"ended after {time.monotonic() - begin:.0f} s")
            if waiting and time.monotonic() > deadline:
                raise self._parts[min(waiting)].error(f"is not healthy after {self.start_timeout:.0f} s")
            if waiting and time.monotonic() > next_word:
                self.say(
                    f"Airflow: {time.monotonic() - begin:5.1f} s  waiting for {', '.join(sorted(waiting))}"
                )
                next_word += 5
            if waiting:
                time.sleep(0.2)

    def _is_up(self, name: str, health: dict[str, Any]) -> bool:
        if name == "api-server":
            return bool(health) and health["metadatabase"]["status"] == "healthy"
        key = name.replace("-", "_")
        state = health.get(key) or {}
        heartbeat = state.get(f"latest_{key}_heartbeat")
        # A killed part stays "healthy" for a while: only a heartbeat of the new process counts.
        fresh = heartbeat and datetime.fromisoformat(heartbeat) >= self._parts[name].started_at
        return bool(fresh) and state.get("status") == "healthy"


def new_database(database: Path, python: Path, migrate: Callable[[], object]) -> None:
    """
    Create an SQLite file for Airflow. The first of an environment is migrated, which takes seven seconds.

    :param python: of the environment, which keeps a copy for the next one.
    :param migrate: creates the file.
    """
    root = python.parents[1]
    found = [path.stem for path in root.glob("lib/python*/site-packages/apache_airflow_core-*.dist-info")]
    template = root / f"{found[0]}.db" if len(found) == 1 else None
    if template is not None and template.exists():
        shutil.copyfile(template, database)
        return
    migrate()
    with closing(sqlite3.connect(database)) as connection:
        # Readers and the one writer do not block each other; the mode is kept in the file.
        connection.execute("PRAGMA journal_mode=WAL")
        if template is not None:
            written = template.with_name(f"{template.name}.{os.getpid()}")
            # Not a copy of the file: with a connection of `migrate` still open, the tables are in the log beside it.
            with suppress(OSError, sqlite3.Error):  # an environment that may not be written to
                with closing(sqlite3.connect(written)) as kept:
                    connection.backup(kept)
                written.replace(template)


def _tasks_of(runner: int, processes: list[psutil.Process]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.Error, OSError):
            # The supervisor puts the runner into a process group of its own in the session of the part.
            if process.pid == os.getpgid(process.pid) != os.getsid(process.pid):
                found.append(process)
                parent = process.parent()
                if parent is not None and parent.pid not in {1, runner} and os.getsid(parent.pid) == runner:
                    found.append(parent)
    return found


def _end(parts: list[ManagedProcess], grace: float) -> None:
    for part in parts:
        part.send(signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(part.alive for part in parts) and time.monotonic() < deadline:
        time.sleep(0.05)
    for part in parts:
        part.kill()
