# SPDX-License-Identifier: Apache-2.0
"""The settings of the throw-away Airflow, as environment variables, with the reason for each number."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dev.processes import clean_environment, free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HOST = "127.0.0.1"

# Seconds that a writer waits for the lock of the one SQLite file that all parts share. The default of 5 s is
# short on a loaded machine. Much longer is worse: an API call that writes (unpause, trigger, clear) stores its log
# entry on the API server's event loop, which a request of a task needs to give the lock back. Where the two meet,
# both wait until this is over, and the call gets an error (Airflow 3.3.2, api_fastapi/logging/decorators.py;
# PostgreSQL locks rows). Must be less than execution_api_timeout and task_instance_heartbeat_timeout.
LOCK_TIMEOUT = 15

_SETTINGS = {
    "core": {
        "executor": "LocalExecutor",
        "load_examples": "False",
        "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "simple_auth_manager_all_admins": "True",
        "dagbag_import_timeout": "120",  # a loaded machine must not turn a slow import into an import error
        "min_serialized_dag_update_interval": "0",  # an edited DAG counts at once, not after 30 s
        "test_connection": "Enabled",
    },
    # What went wrong in the database is told to the caller: dev/airflow_api.py looks for a lock.
    "api": {"host": HOST, "workers": "1", "expose_stacktrace": "True"},
    "scheduler": {
        "scheduler_idle_sleep_time": "0.5",
        "scheduler_heartbeat_sec": "2",
        # How soon a restarted scheduler takes over the tasks of a killed one.
        "scheduler_health_check_threshold": "15",
        "orphaned_tasks_check_interval": "10",
        # How soon a task counts as dead that was killed together with its supervisor: at most 25 s after the
        # last heartbeat (default 310 s). The supervisor beats every [workers] min_heartbeat_interval.
        "task_instance_heartbeat_timeout": "20",
        "task_instance_heartbeat_timeout_detection_interval": "5",
        "trigger_timeout_check_interval": "5",
    },
    "workers": {
        # Also how late the supervisor of every eighth task notices its end (measured, 3.3.2). A deferral that
        # is shorter than that can fail: the scheduler takes the old exit for one of the resumed task
        # (apache/airflow issues 67287 and 71580).
        "min_heartbeat_interval": "1",
        "execution_api_timeout": "30",  # SQLite has one writer: the default of 5 s is short under load
    },
    "triggerer": {
        # A trigger of a killed triggerer is free once that one has been silent for the threshold (default
        # 30 s): about as long as its successor needs to start.
        "job_heartbeat_sec": "1",
        "triggerer_health_check_threshold": "8",
    },
    "dag_processor": {
        # New and changed files are parsed at the next refresh; an unchanged file again only after the
        # interval, so that parsing does not take a core away from the tasks.
        "refresh_interval": "2",
        "bundle_refresh_check_interval": "1",
        "min_file_process_interval": "60",
        "dag_file_processor_timeout": "150",
        "parsing_processes": "1",
    },
    "logging": {"colored_console_log": "False"},
    "usage_data_collection": {"enabled": "False"},
}


@dataclass(frozen=True, slots=True)
class AirflowConfig:
    """One home with its own database, ports and keys; all parts must share the keys."""

    home: Path
    dags: Path
    parallelism: int
    port: int
    log_ports: tuple[int, int]
    fernet_key: str = field(
        default_factory=lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(), repr=False
    )
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    @classmethod
    def create(cls, home: Path, dags: Path, parallelism: int, port: int | None) -> AirflowConfig:
        """Choose free ports: the defaults 8080, 8793 and 8794 may belong to another Airflow."""
        api, worker, trigger = free_ports(3)
        return cls(home.resolve(), dags.resolve(), parallelism, port or api, (worker, trigger))

    @property
    def url(self) -> str:
        """Where the UI and the API are."""
        return f"http://{HOST}:{self.port}"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.home / "airflow.db"

    def environment(self) -> dict[str, str]:
        """The complete environment of a part."""
        own = {
            "core": {
                "dags_folder": str(self.dags),
                "parallelism": str(self.parallelism),
                "fernet_key": self.fernet_key,
                "execution_api_server_url": f"{self.url}/execution/",
            },
            "database": {"sql_alchemy_conn": f"sqlite:///{self.database}?timeout={LOCK_TIMEOUT}"},
            "api": {"port": str(self.port), "base_url": self.url, "secret_key": self.secret},
            "api_auth": {"jwt_secret": self.secret},
            # Nobody listens there (--skip-serve-logs, all logs are local files); the API server must not ask
            # another Airflow's log server on the default ports either.
            "logging": {
                "base_log_folder": str(self.home / "logs"),
                "worker_log_server_port": str(self.log_ports[0]),
                "trigger_log_server_port": str(self.log_ports[1]),
            },
        }
        environment = clean_environment() | {"AIRFLOW_HOME": str(self.home), "NO_COLOR": "1"}
        return environment | variables(_SETTINGS) | variables(own)


def variables(settings: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Settings by section and option, as the environment variables that Airflow reads."""
    return {
        f"AIRFLOW__{section}__{option}".upper(): value
        for section, options in settings.items()
        for option, value in options.items()
    }
