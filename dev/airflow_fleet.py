# SPDX-License-Identifier: Apache-2.0
"""
A distributed Airflow on one machine: CeleryExecutor, PostgreSQL, Redis, and workers that share no disk.

::

    install_services()
    with install_signal_handlers(), AirflowFleet(home, dags, workers=2) as airflow:
        airflow.wait_for_dag("my_dag", 60)
        airflow.unpause("my_dag")
        run_id = airflow.trigger("my_dag")
        airflow.kill_part("worker-1")  # kill -9, with all its tasks
        airflow.start_part("worker-1")
        airflow.redis.pause()
        ...

Each worker and the triggerer have their own AIRFLOW_HOME, HOME and TMPDIR below the home. They share the metadata
database, the broker, the keys, the DAGs, and the folder of the task logs, because the log servers of several workers
cannot listen on the same port.

The dependency group ``fleet`` and Debian's packages of PostgreSQL and Redis are needed.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dev.airflow_config import variables
from dev.airflow_stack import AirflowStack
from dev.faulty_proxy import FaultyProxy
from dev.packages import install_services
from dev.processes import HOST_MARK, install_signal_handlers
from dev.services import PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import psutil

__all__ = ["AirflowFleet", "install_services", "install_signal_handlers"]

_SETTINGS = {
    "core": {
        "executor": "CeleryExecutor",
        "hostname_callable": "dev.processes.host_name",
    },
    # One process would block all tasks during a request that uses much CPU.
    "api": {"workers": "2"},
    "database": {"sql_alchemy_pool_size": "20", "sql_alchemy_max_overflow": "20"},
    "scheduler": {
        "max_tis_per_query": "64",  # default: 16 per loop of half a second
        "task_instance_heartbeat_timeout": "45",
        # A task that a killed worker has received but not started stays queued that long (default 600 s, checked
        # every 120 s), because Celery redelivers only after the visibility timeout of a day.
        "task_queued_timeout": "120",
        "task_queued_timeout_check_interval": "15",
    },
    # One second would be 64 requests a second of 64 tasks that wait.
    "workers": {"min_heartbeat_interval": "2"},
    "triggerer": {"capacity": "1000", "triggerer_health_check_threshold": "15"},
    "celery": {
        "worker_prefetch_multiplier": "1",
        # Seconds for a task to reach the broker (default 1), for a busy machine.
        "operation_timeout": "10",
        # One process sends tasks to the broker without a fork; 0 is a process for each core but one.
        "sync_parallelism": "1",
        "worker_umask": "0o022",
    },
    # The default, without which Airflow logs a warning.
    "celery_broker_transport_options": {"visibility_timeout": "86400"},
}


class AirflowFleet(AirflowStack):
    """
    An Airflow whose tasks run on several workers; start, stop and kill its parts by name.

    Its parts are those of :class:`AirflowStack` and ``worker-1``, ``worker-2``, …

    :param home: of the central parts; the homes of workers and triggerer are below it.
    :param dags: the DAG folder.
    :param workers: number of workers.
    :param concurrency: tasks that a worker runs at the same time.
    :param env: more environment for every part, overrides the fleet's own settings.
    :param proxied: the workers reach the API server through :attr:`proxy`, which can inject faults.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        workers: int = 2,
        concurrency: int = 16,
        env: Mapping[str, str] | None = None,
        proxied: bool = False,
    ) -> None:
        super().__init__(home, dags, env=env, parallelism=workers * concurrency, start_timeout=300)
        self.workers = tuple(f"worker-{number}" for number in range(1, workers + 1))
        self.runners = self.workers
        for name in self.workers:
            self.commands[name] = (
                *("celery", "worker", "--celery-hostname", name, "--concurrency", str(concurrency)),
                *("--skip-serve-logs", "--without-gossip", "--without-mingle"),
            )
        folder = self.config.home / "services"
        self.postgres = PostgresServer(folder, group=self.group)
        self.redis = RedisServer(folder, group=self.group)
        self.proxy = FaultyProxy(self.config.url) if proxied else None
        self._services = ExitStack()

    def start(self) -> None:
        """Start the servers, then Airflow."""
        begin = time.monotonic()
        self._services.enter_context(self.postgres)
        self._services.enter_context(self.redis)
        if self.proxy is not None:
            self._services.enter_context(self.proxy)
        self.say(f"Airflow: PostgreSQL and Redis ready after {time.monotonic() - begin:.1f} s")
        for name in self.commands:
            (self.home_of(name) / "tmp").mkdir(parents=True, exist_ok=True)
        super().start()

    def stop(self) -> None:
        """End the parts, then the servers; idempotent."""
        try:
            super().stop()
        finally:
            self._services.close()

    def home_of(self, name: str) -> Path:
        return self.config.home / name if self._has_a_disk(name) else self.config.home

    def host_of(self, name: str) -> str:
        """The ``hostname`` of the task instances that a part runs."""
        # Addresses that refuse connections, so that the API server reads the log of a running task from the file.
        if name in self.workers:
            return f"127.0.0.{11 + self.workers.index(name)}"
        return "127.0.0.10" if name == "triggerer" else "127.0.0.1"

    def worker_of(self, task: Mapping[str, Any]) -> str | None:
        """The worker that ran a task instance of :meth:`task_instances`."""
        return {self.host_of(name): name for name in self.workers}.get(task["hostname"])

    def tasks_on(self, worker: str) -> list[psutil.Process]:
        """The processes of the tasks that a worker runs, see :meth:`running_tasks`."""
        pids = {process.pid for process in self.group.processes(worker)}
        return [process for process in self.running_tasks() if process.pid in pids]

    def environment(self, name: str) -> dict[str, str]:
        """The fleet's settings for a part."""
        home, slots = self.home_of(name), self.config.parallelism
        execution = self.proxy.url if self.proxy is not None and name in self.workers else self.config.url
        own = {
            "core": {
                "max_active_tasks_per_dag": str(slots),
                "default_pool_task_slot_count": str(max(slots, 128)),
                "execution_api_server_url": f"{execution}/execution/",
            },
            "celery": {
                "broker_url": self.redis.url,
                "result_backend": f"db+{self.postgres.url}",
            },
        }
        environment = (
            super().environment(name) | variables(_SETTINGS) | variables(own) | self.postgres.settings
        )
        environment |= {"AIRFLOW_HOME": str(home), HOST_MARK: self.host_of(name)}
        if self._has_a_disk(name):
            environment |= {"HOME": str(home), "TMPDIR": str(home / "tmp")}
        return environment

    def _has_a_disk(self, name: str) -> bool:
        return name == "triggerer" or name in self.workers

    def _is_up(self, name: str, health: dict[str, Any]) -> bool:
        if name in self.workers:
            return bool(re.search(rf"celery@{name}\b.* ready", self._parts[name].output()))
        return super()._is_up(name, health)
