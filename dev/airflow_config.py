# SPDX-License-Identifier: Apache-2.0
"""Settings of the temporary Airflow, as environment variables."""

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

# Seconds that a writer waits for the lock of the SQLite file that all parts share. The default of 5 s is short on a
# busy machine. An API call that writes (unpause, trigger, clear) and a request of a task can block each other until
# this timeout, because the API server writes its log entry on the event loop (Airflow 3.3.2,
# api_fastapi/logging/decorators.py). Must be less than execution_api_timeout and task_instance_heartbeat_timeout.
LOCK_TIMEOUT = 15

_SETTINGS = {
    "core": {
        "executor": "LocalExecutor",
        "load_examples": "False",
        "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "simple_auth_manager_all_admins": "True",
        "dagbag_import_timeout": "120",  # a slow import on a busy machine is no import error
        "min_serialized_dag_update_interval": "0",  # edited DAGs apply at once, not after 30 s
        "test_connection": "Enabled",
    },
    # Errors of the database are in the response: dev/airflow_api.py retries on a lock.
    "api": {"host": HOST, "workers": "1", "expose_stacktrace": "True"},
    "scheduler": {
        "scheduler_idle_sleep_time": "0.5",
        "scheduler_heartbeat_sec": "2",
        # Delay until a restarted scheduler adopts the tasks of a killed one.
        "scheduler_health_check_threshold": "15",
        "orphaned_tasks_check_interval": "10",
        # A task that is killed together with its supervisor fails at most 25 s after the last heartbeat (default
        # 310 s), which the supervisor sends every [workers] min_heartbeat_interval.
        "task_instance_heartbeat_timeout": "20",
        "task_instance_heartbeat_timeout_detection_interval": "5",
        "trigger_timeout_check_interval": "5",
    },
    "workers": {
        # Also the delay with which the supervisor of every eighth task detects its end (measured, 3.3.2). A shorter
        # deferral can fail, because the scheduler attributes the old exit to the resumed task (apache/airflow
        # issues 67287 and 71580).
        "min_heartbeat_interval": "1",
        "execution_api_timeout": "30",  # the default of 5 s is short for SQLite's single writer
    },
    "triggerer": {
        # A killed triggerer's triggers are reassigned after the threshold (default 30 s), which is about the start
        # time of a triggerer.
        "job_heartbeat_sec": "1",
        "triggerer_health_check_threshold": "8",
    },
    "dag_processor": {
        # New and changed files are parsed at the next refresh, unchanged files after the interval, so that parsing
        # leaves the core to the tasks.
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
    """A home with its own database, ports and keys."""

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
        """Choose free ports, because another Airflow may use the defaults."""
        api, worker, trigger = free_ports(3)
        return cls(home.resolve(), dags.resolve(), parallelism, port or api, (worker, trigger))

    @property
    def url(self) -> str:
        """The URL of UI and API."""
        return f"http://{HOST}:{self.port}"

    @property
    def database(self) -> Path:
        return self.home / "airflow.db"

    def environment(self) -> dict[str, str]:
        """The environment of a part."""
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
            # All logs are local files (--skip-serve-logs), and the default ports may belong to another Airflow.
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
