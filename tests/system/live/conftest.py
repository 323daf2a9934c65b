# SPDX-License-Identifier: Apache-2.0
"""A stage for stories about chunking: one real Airflow, an emulator, and words for what happens on it."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dev.airflow_stack import AirflowStack
from dev.demo import Emulator
from dev.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

DAGS = Path(__file__).with_name("chunking_dags.py")
# Seconds that are longer than any test: such a job ends when the test says so.
HELD = 100_000.0
EXPIRING_TTL = 15
EXPIRING_PENDING = 50


@dataclass
class Stage:
    """
    :param emulator: where all connections but one lead to.
    :param expiring: the emulator of the connection ``lucidworks_expiring``, with tokens of short life.
    :param out: where the results go.
    :param secrets: client ids and their secrets, which must not be found anywhere.
    """

    airflow: AirflowStack
    emulator: Emulator
    expiring: Emulator
    out: Path
    secrets: list[tuple[str, str]]

    def run(self, dag_id: str, documents: dict[str, str], path: str | None = None, **conf: Any) -> Run:
        """Start a run over documents that no other run has."""
        name = f"{dag_id.removeprefix('chunking_')}-{secrets.token_hex(3)}"
        documents = {key: f"{text} Written for {name}." for key, text in documents.items()}
        path = path or f"{self.out}/{name}/chunks.parquet"
        conf |= {"path": path, "documents": [{"id": k, "text": t} for k, t in documents.items()]}
        return Run(self, dag_id, self.airflow.trigger(dag_id, conf), documents, path)

    def issued(self, client_id: str | None = None) -> int:
        """The number of access tokens issued to one client or to all."""
        return sum(
            line["endpoint"] == "token" and line["status"] == 200 and client_id in {None, line["client_id"]}
            for line in self.emulator.get("log")
        )

    @contextmanager
    def settings(self, **changed: Any) -> Iterator[None]:
        """Change the emulator for a while."""
        before = self.emulator.get("settings")
        self.emulator.set(**changed)
        try:
            yield
        finally:
            self.emulator.set(**{name: before[name] for name in changed})

    def held(self) -> Any:
        """No job ends by itself."""
        return self.settings(pending_seconds=HELD)


@dataclass
class Run:
    """One run of a DAG, and what the emulator saw of it."""

    stage: Stage
    dag_id: str
    run_id: str
    documents: dict[str, str]
    path: str
    started: float = field(default_factory=time.monotonic)

    def ends(self, timeout: float = 120) -> str:
        """Wait for the end."""
        return self.stage.airflow.wait_for_run(self.dag_id, self.run_id, timeout, on_progress=self._tell)

    def task(self, *states: str, timeout: float = 60) -> dict[str, Any]:
        """Wait until the task is in one of the states."""
        return self.stage.airflow.wait_for_task(self.dag_id, self.run_id, "chunk", states, timeout)

    def log(self, try_number: int = 1) -> str:
        """The log of a try."""
        return self.stage.airflow.task_log(self.dag_id, self.run_id, "chunk", try_number)

    def says(self, text: str, try_number: int = 1) -> None:
        """Wait for words in the log."""
        until(lambda: text in self.log(try_number), f"{text!r} in the log of {self.dag_id}")

    def kill(self) -> None:
        """``kill -9`` the process that runs the task."""
        self.stage.airflow.kill_task(self.dag_id, self.run_id, "chunk")
        self._tell("  killed")

    def clear(self, *, downstream: bool = False) -> None:
        """Clear the task, as a person does in the UI."""
        self.stage.airflow.clear(self.dag_id, self.run_id, ["chunk"], downstream=downstream)

    def xcom(self, task_id: str = "chunk") -> Any:
        """What a task returned."""
        return self.stage.airflow.xcom(self.dag_id, self.run_id, task_id)

    def submissions(self) -> dict[str, list[str]]:
        """The ids of the jobs that were made of each document, in order."""
        jobs: dict[str, list[str]] = {key: [] for key in self.documents}
        by_hash = {hashlib.sha256(text.encode()).hexdigest(): key for key, text in self.documents.items()}
        for line in self.stage.emulator.submissions():
            if line["text_sha256"] in by_hash:
                jobs[by_hash[line["text_sha256"]]].append(line["job_id"])
        return jobs

    def jobs(self) -> dict[str, str]:
        """The one job of each document, once all of them have one."""

        def complete() -> dict[str, list[str]] | None:
            found = self.submissions()
            return found if all(found.values()) else None

        found = until(complete, f"all submissions of {self.dag_id}")
        assert {len(jobs) for jobs in found.values()} == {1}, found
        return {key: jobs[0] for key, jobs in found.items()}

    def polls(self, *job_ids: str) -> Counter[tuple[str, str]]:
        """How often polls found each job in each state."""
        ids = set(job_ids) or {job for jobs in self.submissions().values() for job in jobs}
        return Counter(
            (line["job_id"], line["job_status"])
            for line in self.stage.emulator.get("log")
            if line["endpoint"] == "poll" and line["job_id"] in ids
        )

    def release(self, *job_ids: str) -> None:
        """Let jobs be READY, by default all."""
        for job_id in job_ids or self.jobs().values():
            self.stage.emulator.post(f"jobs/{job_id}", state="READY")

    @property
    def files(self) -> list[str]:
        """The files in the folder of the result, and below."""
        folder = Path(self.path).parent
        return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())

    def _tell(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s {self.dag_id}: {text.strip()}", flush=True)


def _connection(emulator: Emulator, login: str, password: str) -> str:
    return json.dumps(json.loads(emulator.connection()) | {"login": login, "password": password})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One Airflow and its emulators for all stories of a module."""
    root = tmp_path_factory.mktemp("chunking")
    (root / "dags").mkdir()
    shutil.copy(DAGS, root / "dags")
    clients = {name: f"secret-of-{name}-{secrets.token_hex(8)}" for name in ("story", "herd", "expiring")}
    wrong = f"no-secret-{secrets.token_hex(8)}"
    options = [f"--client={name}:{secret}" for name, secret in clients.items()]
    with ExitStack() as stack:
        emulator = stack.enter_context(Emulator(root / "emulator.log", *options))
        short = ("--token-ttl", str(EXPIRING_TTL), "--pending-seconds", str(EXPIRING_PENDING))
        expiring = stack.enter_context(Emulator(root / "expiring.log", *options, *short))
        environment = {
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CHUNKING_OUT": str(root / "out"),
            "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": _connection(emulator, "story", clients["story"]),
            "AIRFLOW_CONN_LUCIDWORKS_HERD": _connection(emulator, "herd", clients["herd"]),
            "AIRFLOW_CONN_LUCIDWORKS_WRONG": _connection(emulator, "story", wrong),
            "AIRFLOW_CONN_LUCIDWORKS_EXPIRING": _connection(expiring, "expiring", clients["expiring"]),
        }
        airflow = stack.enter_context(
            AirflowStack(root / "home", root / "dags", env=environment, parallelism=12)
        )
        airflow.wait_for_dag("chunking_expiring")
        yield Stage(airflow, emulator, expiring, root / "out", [*clients.items(), ("story", wrong)])
        # For debugging.
        (root / "requests.json").write_text(json.dumps(emulator.get("log"), indent=0))
        (root / "requests-expiring.json").write_text(json.dumps(expiring.get("log"), indent=0))
