# SPDX-License-Identifier: Apache-2.0
"""A client of Airflow's REST API (v2) for demos and live tests."""

from __future__ import annotations

import time
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Keys of a log message; the others are the same on each line.
_LOG_HEAD = ("timestamp", "level", "event")
_LOG_NOISE = (
    *("dag_id", "run_id", "task_id", "map_index", "try_number", "ti_id"),
    *("filename", "lineno"),
)

# SQLite's message, which Airflow returns with ``[api] expose_stacktrace``.
LOCKED = "database is locked"

FINAL_RUN_STATES = frozenset({"success", "failed"})


class AirflowApiError(RuntimeError):
    """Airflow responded with an error status."""

    def __init__(self, method: str, path: str, response: requests.Response) -> None:
        super().__init__(f"{method} {path}: {response.status_code} {response.text[:500]}")
        self.status = response.status_code


def loopback_session() -> requests.Session:
    """A session without the proxy of the environment, which does not reach 127.0.0.1."""
    session = requests.Session()
    session.trust_env = False
    return session


class AirflowApi:
    """A client of an Airflow whose simple auth manager makes every user an admin."""

    def __init__(self, url: str, say: Callable[[str], object] = print) -> None:
        self.url = url
        self.say = say
        self._session = loopback_session()
        self._token: str | None = None

    def api(self, method: str, path: str, /, **json: Any) -> Any:
        """Call ``/api/v2/<path>``; the keyword arguments are the JSON body, a query belongs into the path."""
        response = self._call(method, path, json)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            self._token = None
            response = self._call(method, path, json)
        if not response.ok:
            raise AirflowApiError(method, path, response)
        return response.json() if response.content else None

    def _call(self, method: str, path: str, json: dict[str, Any]) -> requests.Response:
        if self._token is None:
            response = self._session.get(f"{self.url}/auth/token", timeout=30)
            response.raise_for_status()
            self._token = str(response.json()["access_token"])
        attempts = 5
        while True:
            attempts -= 1
            try:
                response = self._session.request(
                    method,
                    f"{self.url}/api/v2/{path.lstrip('/')}",
                    json=json or None,
                    headers={"Authorization": f"Bearer {self._token}", "Accept": "application/json"},
                    timeout=60,
                )
            except requests.ConnectionError:
                # A persistent connection at a restart of the API server, or a busy machine.
                if attempts == 0 or method != "GET":
                    raise
            else:
                # Nothing was written, see LOCK_TIMEOUT in dev/airflow_config.py.
                locked = response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR and LOCKED in response.text
                if attempts == 0 or not locked:
                    return response
            time.sleep(1)

    def health(self) -> dict[str, Any]:
        """The health of Airflow's components; empty while the API server does not respond."""
        try:
            response = self._session.get(f"{self.url}/api/v2/monitor/health", timeout=10)
            return dict(response.json()) if response.ok else {}
        except requests.RequestException:
            return {}

    def wait_for_dag(self, dag_id: str, timeout: float = 60) -> None:
        """Wait until the DAG is parsed and can be triggered."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.api("GET", f"dags/{_q(dag_id)}/details")
            except AirflowApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
            else:
                return
            if time.monotonic() > deadline:
                errors = self.api("GET", "importErrors")["import_errors"]
                texts = [f"{each['filename']}:\n{each['stack_trace']}" for each in errors] or [
                    "no import errors"
                ]
                raise TimeoutError(f"no DAG {dag_id!r} after {timeout:.0f} s; " + "\n".join(texts))
            time.sleep(0.5)

    def unpause(self, dag_id: str) -> None:
        self.api("PATCH", f"dags/{_q(dag_id)}?update_mask=is_paused", is_paused=False)

    def pause(self, dag_id: str) -> None:
        """Let the scheduler start no run of the DAG."""
        self.api("PATCH", f"dags/{_q(dag_id)}?update_mask=is_paused", is_paused=True)

    def trigger(
        self, dag_id: str, conf: dict[str, Any] | None = None, logical_date: datetime | str | None = None
    ) -> str:
        """Start a run and return its id."""
        date = logical_date.isoformat() if isinstance(logical_date, datetime) else logical_date
        run = self.api("POST", f"dags/{_q(dag_id)}/dagRuns", conf=conf or {}, logical_date=date)
        return str(run["dag_run_id"])

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        timeout: float = 120,
        *,
        on_progress: Callable[[str], object] | None = None,
    ) -> str:
        """Wait for the end of a run, and report each change of a task's state; the final state."""
        tell = on_progress or self.say
        seen: dict[str, str] = {}
        begin = time.monotonic()
        while True:
            run_state = str(self.api("GET", f"{_run(dag_id, run_id)}")["state"])
            for task in self.task_instances(dag_id, run_id):
                name, state = _task_name(task), f"{task['state'] or 'waiting'} (try {task['try_number']})"
                if seen.get(name) != state:
                    tell(f"  {time.monotonic() - begin:5.1f} s  {name}: {state}")
                    seen[name] = state
            if run_state in FINAL_RUN_STATES:
                return run_state
            if time.monotonic() - begin > timeout:
                raise TimeoutError(f"run {run_id} of {dag_id} is {run_state} after {timeout:.0f} s: {seen}")
            time.sleep(0.5)

    def wait_for_task(
        self, dag_id: str, run_id: str, task_id: str, states: Sequence[str], timeout: float = 60
    ) -> dict[str, Any]:
        """Wait until one (unmapped) task is in one of the states and return its task instance."""
        deadline = time.monotonic() + timeout
        while True:
            tasks = [each for each in self.task_instances(dag_id, run_id) if each["task_id"] == task_id]
            if tasks and tasks[0]["state"] in states:
                return tasks[0]
            if time.monotonic() > deadline:
                state = tasks[0]["state"] if tasks else "missing"
                raise TimeoutError(f"task {task_id} is {state} after {timeout:.0f} s, not in {list(states)}")
            time.sleep(0.2)

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """All task instances of a run, page by page."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.api("GET", f"{_run(dag_id, run_id)}/taskInstances?limit=100&offset={len(found)}")
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def log_messages(
        self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1
    ) -> list[dict[str, Any]]:
        """The log of one try: ``timestamp``, ``level``, ``event``, ``logger``, …; the triggerer's lines included."""
        query = f"map_index={map_index}&full_content=true"
        path = f"{_run(dag_id, run_id)}/taskInstances/{_q(task_id)}/logs/{try_number}?{query}"
        content = self.api("GET", path)["content"]
        return [{"event": line} if isinstance(line, str) else line for line in content]

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1
    ) -> str:
        """The same as text, one message a line."""
        messages = self.log_messages(dag_id, run_id, task_id, try_number, map_index)
        return "\n".join(map(_log_line, messages))

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """The value of one XCom."""
        path = (
            f"{_run(dag_id, run_id)}/taskInstances/{_q(task_id)}/xcomEntries/{_q(key)}?map_index={map_index}"
        )
        return self.api("GET", path)["value"]

    def asset_events(self, query: str = "", timeout: float = 60) -> list[dict[str, Any]]:
        """
        The events of all assets, or of those that the query selects.

        Airflow 3.3.2 returns 500 as long as a run that an event has created is queued: its start date is null, which
        the response's model refuses (``DagRunAssetReference``).
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                return list(self.api("GET", f"assets/events?{query}")["asset_events"])
            except AirflowApiError as error:
                if error.status != HTTPStatus.INTERNAL_SERVER_ERROR or time.monotonic() >= deadline:
                    raise
            time.sleep(0.5)

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_ids: Sequence[str | tuple[str, int]] | None = None,
        *,
        only_failed: bool = False,
        downstream: bool = False,
    ) -> None:
        """Clear some tasks, or all of a run, so that they run again; a pair names one map index."""
        body: dict[str, Any] = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": only_failed,
            "include_downstream": downstream,
        }
        if task_ids is not None:
            body["task_ids"] = list(task_ids)
        self.api("POST", f"dags/{_q(dag_id)}/clearTaskInstances", **body)


def _q(part: str) -> str:
    return quote(part, safe="")


def _run(dag_id: str, run_id: str) -> str:
    return f"dags/{_q(dag_id)}/dagRuns/{_q(run_id)}"


def _task_name(task: dict[str, Any]) -> str:
    index = task["map_index"]
    return str(task["task_id"]) if index < 0 else f"{task['task_id']}[{index}]"


def _log_line(message: dict[str, Any]) -> str:
    head = [str(message[key]) for key in _LOG_HEAD if message.get(key)]
    rest = [f"{key}={value}" for key, value in message.items() if key not in _LOG_HEAD + _LOG_NOISE]
    return " ".join(head + rest)
