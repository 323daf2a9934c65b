# SPDX-License-Identifier: Apache-2.0
"""
Triggers that wait in a real triggerer: memory, sockets, stalls of its event loop, and the delay of a result.

For each case ``airflow triggerer`` is started on a SQLite database with deferred task instances and their triggers.
The settings are those of :mod:`dev.airflow_config`, with more capacity. There is no scheduler, worker or API server,
so no task is resumed; the job records, which a worker writes beside its result, are written here with the same
classes. A probe (:mod:`benchmarks.trigger_probe`) measures the loop. The service is ``Jobs`` of
:mod:`benchmarks.servers`.

1. The runner is idle, with the probe: its stalls, its memory.
2. One trigger starts, which loads its modules: "first".
3. N more start. "Each" is the growth of the runner's resident memory by N; a second triggerer does the same with
   tracemalloc. That of "sleeping", a trigger of Airflow, is Airflow's own part.
4. They wait: stalls, requests, CPU.
5. All jobs become ready at the same moment. The delay of a result ends when the runner logs "Trigger fired event".

The triggers of apache-airflow-providers-http have a token that does not expire, because they cannot request one.
``HttpTrigger`` sends one request, so the server delays its response until the job is ready. ``HttpSensorTrigger``
polls while the status is 404, so the server returns that until then. ``HttpEventTrigger`` polls until a function
accepts the response.

``--short``: this package alone, 100 triggers, 10 results, one round.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import requests

from benchmarks.harness import (
    Goal,
    alternate,
    command_line,
    median_range,
    peak_memory,
    print_heads,
    print_row,
    report,
    reset_peak_memory,
    served,
    version_of,
)
from benchmarks.servers import FIXED_TOKEN
from dev.processes import ManagedProcess, until

SMALL, LARGE = 20_000, 12_000_000
# Seconds; a runner starts up to 50 triggers a second, a busy machine fewer.
TIMEOUT = 240.0
DAG_ID, TASK_ID = "waiting", "wait"
CHECK = '''"""The response check of HttpEventTrigger."""


async def ready(response):
    return response.json()["status"] == "READY"
'''
# Class path and arguments.
TriggerSpec = tuple[str, dict[str, Any]]
Figures = dict[str, float]


class Timing(NamedTuple):
    """Seconds: poll interval, pause after a change, and duration of a measurement."""

    poll: float
    settle: float
    window: float


class Kind(NamedTuple):
    """A kind of trigger; ``make`` creates one for a run, a map index and job ids."""

    name: str
    make: Callable[[Run, int, list[str]], TriggerSpec]
    package: str = "apache-airflow"


class Case(NamedTuple):
    """
    A row of the tables.

    :param jobs: of each trigger.
    :param size: of a result, in bytes.
    :param restarted: all jobs are ready before the triggers start, as after a restart.
    """

    name: str
    kind: Kind
    triggers: int
    jobs: int = 1
    size: int = SMALL
    restarted: bool = False


def sleeping(run: Run, _index: int, _jobs: list[str]) -> TriggerSpec:
    """A trigger of Airflow that checks for a file once an hour."""
    path = "airflow.providers.standard.triggers.file.FileTrigger"
    missing = str(run.airflow.home / "no-such-file")
    return path, {"filepath": missing, "recursive": False, "poke_interval": 3600.0}


def ours(run: Run, index: int, jobs: list[str]) -> TriggerSpec:
    """The trigger of this package, with the record that a worker writes beside its result."""
    from lucidworks_provider.jobs.record import JobRecord, JobStateStore, ResultDirectory

    result = f"file://{run.airflow.home}/results/{index}.parquet"
    bodies = ResultDirectory.beside(result, DAG_ID, run.id, TASK_ID, index)
    record = JobRecord("benchmark", generation=0, size=len(jobs))
    for position, job_id in enumerate(jobs):
        record.submitted(position, job_id)
    JobStateStore(bodies, None).save(record)
    return "lucidworks_provider.triggers.LucidworksJobsTrigger", {
        "kind": "chunking",
        "lucidworks_conn_id": "lucidworks_default",
        "folder": bodies.folder,
        "nonce": record.nonce,
        "poll_interval": run.timing.poll,
        "deadline": time.time() + 3600,
    }


def http(name: str, prefix: str, interval: str = "", **options: Any) -> Kind:
    """A trigger of the http provider, with the path prefix of the server and its argument for the poll interval."""

    def make(run: Run, _index: int, jobs: list[str]) -> TriggerSpec:
        arguments = options | {
            "http_conn_id": "http_default",
            "method": "GET",
            "headers": {"Authorization": f"Bearer {FIXED_TOKEN}"},
            "endpoint": f"{prefix}ai/async-chunking/{jobs[0]}",
        }
        if interval:
            arguments[interval] = run.timing.poll
        return f"airflow.providers.http.triggers.http.{name}", arguments

    return Kind(name, make, "apache-airflow-providers-http")


SLEEPING = Kind("sleeping", sleeping)
OURS = Kind("LucidworksJobsTrigger", ours)
OTHERS = (
    http("HttpTrigger", "held/"),
    http("HttpSensorTrigger", "missing/", "poke_interval"),
    http("HttpEventTrigger", "", "poll_interval", response_check_path="trigger_check.ready"),
)


class Probe:
    """A client of the probe in a triggerer, and of its process."""

    def __init__(self, path: str) -> None:
        until(lambda: Path(path).exists(), "a probe in the runner", TIMEOUT)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(120)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r")
        self.pid = int(self.query("pid"))
        self._process = psutil.Process(self.pid)

    def query(self, query: str) -> Any:
        """The response of the probe."""
        self._socket.sendall(query.encode() + b"\n")
        return json.loads(self._lines.readline())

    def stalls(self) -> tuple[float, float]:
        """The longest stall since the last query, and that without garbage collection, in ms."""
        longest, without_gc = self.query("stalls")
        return 1000 * longest, 1000 * without_gc

    def memory(self) -> float:
        """Resident memory, in MiB."""
        return float(self._process.memory_info().rss) / 2**20

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        return float(sum(self._process.cpu_times()[:2]))

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Airflow:
    """A metadata database with triggers, and triggerers that run them."""

    def __init__(self, home: Path, url: str) -> None:
        from dev.airflow_config import AirflowConfig

        self.home, self.url, self.runs = home, url, 0
        (home / "dags").mkdir()
        (home / "trigger_check.py").write_text(CHECK)
        self.environment = AirflowConfig.create(home, home / "dags", 8, None).environment() | {
            "AIRFLOW__TRIGGERER__CAPACITY": "5000",
            # A line that arrives when the file of its trigger is closed is written to the console.
            "AIRFLOW__LOGGING__JSON_LOGS": "True",
            # For a busy machine.
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "120",
        }
        self.environment["PYTHONPATH"] += f"{os.pathsep}{home}"
        with self.process("migrate", "db", "migrate") as migration:
            if migration.wait(180) != 0:
                raise migration.error("failed")
        os.environ.update(self.environment | {"AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"})
        self._write_dag()

    def control(self, **order: Any) -> dict[str, Any]:
        """Change the service; its counters."""
        counts: dict[str, Any] = requests.post(f"{self.url}/control", json=order, timeout=60).json()
        return counts

    def process(self, name: str, *command: str) -> ManagedProcess:
        """A command of Airflow, to be started."""
        return ManagedProcess(
            [sys.executable, "-m", "airflow", *command],
            self.environment,
            self.home / f"{name}.log",
            self.home,
            name=name,
        )

    def _write_dag(self) -> None:
        # Not before AIRFLOW_HOME is set.
        from airflow import settings
        from airflow.models.connection import Connection
        from airflow.models.dagbundle import DagBundleModel
        from airflow.models.serialized_dag import SerializedDagModel
        from airflow.providers.common.compat.sdk import BaseOperator
        from airflow.sdk import DAG
        from airflow.serialization.definitions.dag import SerializedDAG
        from airflow.serialization.serialized_objects import LazyDeserializedDAG
        from airflow.utils.session import create_session

        settings.initialize()  # type: ignore[no-untyped-call]
        with DAG(DAG_ID, schedule=None) as dag:
            BaseOperator(task_id=TASK_ID)
        with create_session() as session:
            session.add(DagBundleModel(name="benchmark"))
            extra = dict.fromkeys(("auth_url", "application_url"), self.url)
            login: dict[str, Any] = {"login": "client", "password": secrets.token_hex(8), "extra": extra}
            session.add(Connection("lucidworks_default", "lucidworks", **login))
            session.add(Connection("http_default", "http", host=self.url))
            session.flush()
            SerializedDAG.bulk_write_to_db("benchmark", None, [dag], session=session)
            SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), "benchmark", session=session)

    def start_run(self) -> str:
        """Create a DAG run; its id."""
        from airflow.utils.session import create_session
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        self.runs += 1
        run_id, now = f"run-{self.runs}", datetime.now(UTC)
        with create_session() as session:
            self._dag(session).create_dagrun(
                run_id=run_id,
                logical_date=now,
                data_interval=(now, now),
                run_after=now,
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState.RUNNING,
                session=session,
            )
        return run_id

    def defer(self, run_id: str, triggers: dict[int, TriggerSpec]) -> None:
        """Insert deferred task instances with their triggers, by map index."""
        from airflow.models.dag_version import DagVersion
        from airflow.models.taskinstance import TaskInstance
        from airflow.models.trigger import Trigger
        from airflow.utils.session import create_session
        from airflow.utils.state import TaskInstanceState

        with create_session() as session:
            task = self._dag(session).get_task(TASK_ID)
            dag_version: Any = DagVersion.get_latest_version(DAG_ID, session=session)
            rows = {index: Trigger(path, arguments) for index, (path, arguments) in triggers.items()}
            session.add_all(rows.values())
            session.flush()
            for index, row in rows.items():
                instance = TaskInstance(
                    task, dag_version.id, run_id=run_id, state=TaskInstanceState.DEFERRED, map_index=index
                )
                instance.trigger_id = row.id
                instance.trigger_timeout = datetime.now(UTC) + timedelta(hours=1)
                session.add(instance)

    def waiting(self, run_id: str) -> int:
        """The number of deferred task instances."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from airflow.utils.state import TaskInstanceState
        from sqlalchemy import func, select

        with create_session() as session:
            query = select(func.count()).where(
                TaskInstance.run_id == run_id, TaskInstance.state == TaskInstanceState.DEFERRED
            )
            return int(session.scalar(query) or 0)

    def end_run(self, run_id: str) -> None:
        """Remove everything that the next triggerer would start."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.models.trigger import Trigger
        from airflow.utils.session import create_session
        from sqlalchemy import delete

        with create_session() as session:
            session.execute(delete(TaskInstance).where(TaskInstance.run_id == run_id))
            session.execute(delete(Trigger))
        shutil.rmtree(self.home / "results", ignore_errors=True)

    def fired(self, run_id: str) -> tuple[list[float], int]:
        """When the runner logged the events of a run, in seconds since the epoch, and how many have an error."""
        folder = self.home / "logs" / f"dag_id={DAG_ID}" / f"run_id={run_id}"
        files = [*folder.rglob("*.trigger.*.log"), self.home / f"triggerer-{run_id}.log"]
        lines = [line for file in files for line in file.read_text().splitlines()]
        events = [json.loads(line) for line in lines if '"Trigger fired event"' in line]
        errors = sum("'status': 'error'" in event["result"] for event in events)
        return [datetime.fromisoformat(event["timestamp"]).timestamp() for event in events], errors

    @staticmethod
    def _dag(session: Any) -> Any:
        from airflow.models.serialized_dag import SerializedDagModel

        model: Any = SerializedDagModel.get(DAG_ID, session=session)
        return model.dag

    @contextmanager
    def run(self, kind: Kind, size: int, timing: Timing) -> Iterator[Run]:
        """A DAG run without triggers, and a new triggerer with the probe."""
        self.control(size=size)
        run_id = self.start_run()
        path = f"{self.home}/{run_id}.socket"
        try:
            self.defer(run_id, {100_000: ("benchmarks.trigger_probe.ProbeTrigger", {"path": path})})
            triggerer = self.process(f"triggerer-{run_id}", "triggerer", "--skip-serve-logs")
            try:
                triggerer.start()
                probe = Probe(path)
                time.sleep(timing.settle)
                yield Run(self, run_id, probe, kind=kind, size=size, timing=timing)
                probe.close()
            finally:
                triggerer.kill()  # a clean end takes longer
        finally:
            self.end_run(run_id)


class Run:
    """A DAG run whose triggers are added step by step."""

    def __init__(
        self, airflow: Airflow, run_id: str, probe: Probe, *, kind: Kind, size: int, timing: Timing
    ) -> None:
        self.airflow, self.id, self.probe = airflow, run_id, probe
        self.kind, self.size, self.timing = kind, size, timing
        self.triggers = self.jobs = 0
        self._tasks = int(probe.query("tasks"))

    def add(self, triggers: int, jobs: int) -> None:
        """Insert triggers with a number of jobs each, and wait until all have started."""
        indices = range(self.triggers, self.triggers + triggers)
        ids = {index: [f"{self.id}-{index}-{job}" for job in range(jobs)] for index in indices}
        self.airflow.defer(self.id, {index: self.kind.make(self, index, each) for index, each in ids.items()})
        self.triggers += triggers
        self.jobs += triggers * jobs
        until(self._started, f"{self.triggers} triggers that wait", TIMEOUT)
        time.sleep(self.timing.settle)

    def _started(self) -> bool:
        if self.kind is not SLEEPING:
            return bool(self.airflow.control()["seen"] >= self.jobs)
        return int(self.probe.query("tasks")) >= self._tasks + self.triggers

    def finish(self) -> int:
        """Make every job ready; the number of triggers that have not fired in time."""

        def waiting() -> int:
            return self.airflow.waiting(self.id) - 1  # the probe

        self.airflow.control(ready=True)
        with suppress(TimeoutError):
            until(lambda: waiting() == 0, "event of each trigger", TIMEOUT)
        return waiting()

    def lost(self) -> int:
        """Results that are not stored or were requested twice, and refused calls."""
        counts = self.airflow.control()
        lost = int(counts["unauthorized"] + counts["repeated"] + self.jobs - counts["returned"])
        if self.kind is OURS:
            files = (self.airflow.home / "results").rglob("_*/[!r]*.json")
            lost += abs(self.jobs - sum(file.stat().st_size > self.size / 2 for file in files))
        return lost


def measure(airflow: Airflow, case: Case, timing: Timing) -> Figures:
    """
    One round of a case.

    ``first``, ``peak``: MiB; ``each``: KiB; ``idle``, ``filling``, ``waiting``, ``ending``: longest stalls in ms, and
    ``without_gc`` of the last two without garbage collection; ``requests``: per second; ``cpu``: share of a core;
    ``median``, ``last``: delays of results in seconds; ``lost``, ``missing``: results, triggers.
    """
    with airflow.run(case.kind, case.size, timing) as run:
        probe, control = run.probe, airflow.control
        bare = probe.memory()
        probe.stalls()
        time.sleep(timing.window)
        idle, _ = probe.stalls()
        if case.restarted or case.size == SMALL:
            run.add(1, 1)
        base = first = probe.memory()
        probe.stalls()
        reset_peak_memory(probe.pid)
        if case.restarted:
            control(ready=True)
        run.add(case.triggers, case.jobs)
        filling, _ = probe.stalls()
        before, cpu, began = control()["requests"], probe.cpu(), time.monotonic()
        time.sleep(timing.window)
        seconds = time.monotonic() - began
        per_second, cpu = (control()["requests"] - before) / seconds, (probe.cpu() - cpu) / seconds
        waiting, waiting_without_gc = probe.stalls()
        full = probe.memory()
        if not case.restarted:
            base = full
            reset_peak_memory(probe.pid)
        missing = lost = 0
        if case.kind is not SLEEPING:
            missing = run.finish()
            time.sleep(1)  # until the last lines of the log are written
            lost = run.lost()
        counts = control()
        fired, errors = airflow.fired(run.id)
        ending, ending_without_gc = probe.stalls()
        delays = [moment - counts["ready_at"] for moment in fired]
        figures: Figures = {
            "idle": idle,
            "first": first - bare,
            "each": (full - first) / case.triggers * 1024,
            "filling": filling,
            "waiting": waiting,
            "ending": ending,
            "without_gc": max(waiting_without_gc, ending_without_gc),
            "sockets": counts["most_connections"],
            "requests": per_second,
            "cpu": 100 * cpu,
            "peak": peak_memory(probe.pid) / 2**20 - base,
            "missing": missing,
            "lost": lost + errors,
        }
        return figures | ({"median": statistics.median(delays), "last": max(delays)} if delays else {})


def trace(airflow: Airflow, case: Case, timing: Timing) -> float:
    """KiB of a trigger by tracemalloc, which is slow and so needs a triggerer of its own."""
    with airflow.run(case.kind, SMALL, timing) as run:
        run.add(1, 1)
        run.probe.query("trace")
        before = run.probe.query("traced")
        run.add(case.triggers, 1)
        return float(run.probe.query("traced") - before) / case.triggers / 1024


def measure_all(
    cases: Iterable[Case], timing: Timing, rounds: int, *, traced: bool = False
) -> dict[Case, list[Figures]]:
    """Measure cases in alternating rounds; ``traced`` adds the figure of tracemalloc."""
    # The supervisor opens a log file for each trigger, and HttpTrigger's runner a socket.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triggers-")))
        airflow = Airflow(home, stack.enter_context(served("jobs")))

        def measured(case: Case) -> Figures:
            print(f"{case.name} …", file=sys.stderr, flush=True)
            return measure(airflow, case, timing)

        results = alternate(rounds, {case: lambda case=case: measured(case) for case in cases})  # type: ignore[misc]
        for case, runs in results.items():
            if traced and case.jobs == 1 and case.size == SMALL:
                figure = {"traced": trace(airflow, case, timing)}
                results[case] = [run | figure for run in runs]
    return results


def installed(kind: Kind) -> bool:
    """Whether the package of a trigger is installed; prints how to install it."""
    if version_of(kind.package):
        return True
    print(f"{kind.name}: skipped, no {kind.package}; pip install --group bench")
    return False


def print_table(
    title: str, columns: Mapping[str, tuple[str, str]], results: Mapping[Case, list[Figures]]
) -> None:
    """Print figures by head; each has a key and a format."""
    print_heads(title, *columns)
    for case, runs in results.items():
        print_row(
            case.name,
            *(
                median_range((run[key] for run in runs), form) if all(key in run for run in runs) else ""
                for key, form in columns.values()
            ),
        )
    print()


WAITING = {
    "KiB each": ("each", ".1f"),
    "by tracemalloc": ("traced", ".1f"),
    "sockets": ("sockets", ".0f"),
    "requests/s": ("requests", ".0f"),
    "% of a core": ("cpu", ".0f"),
    "first one, MiB": ("first", ".1f"),
}
STALLS = {phase: (phase, ".0f") for phase in ("idle", "filling", "waiting", "ending")}
STALLS["waiting and ending, without the garbage collector"] = ("without_gc", ".0f")
ENDING = {
    "median, s": ("median", ".1f"),
    "the last, s": ("last", ".1f"),
    "peak, MiB more": ("peak", ".0f"),
    "lost": ("lost", ".0f"),
    "not fired": ("missing", ".0f"),
}


def goals(results: Mapping[Case, list[Figures]], poll: float) -> Iterator[Goal]:
    """The goals of this package's triggers: medians, but maxima of what must never be exceeded."""

    def median(case: Case, key: str) -> float:
        return statistics.median(run[key] for run in results[case])

    for case, runs in results.items():
        if case.kind is not OURS:
            continue
        # Not while filling: the runner then writes a log line for each trigger.
        yield Goal(f"{case.name}: stall without the garbage collector, ms", median(case, "without_gc"), 200)
        yield Goal(f"{case.name}: sockets", max(run["sockets"] for run in runs), 8)
        yield Goal(f"{case.name}: lost or not fired", max(run["lost"] + run["missing"] for run in runs), 0)
        if not case.restarted:
            last = max(run.get("last", float("inf")) for run in runs)
            yield Goal(f"{case.name}: last result, s", last, poll + 1)
        if case.size == LARGE:
            yield Goal(f"{case.name}: peak, MiB", median(case, "peak"), 200)
        elif case.jobs == 1:
            for other in results:
                if other.kind is SLEEPING:
                    more = median(case, "each") - median(other, "each")
                    yield Goal(f"{case.name}: KiB each, more than a sleeping one", more, 16)
            if "traced" in runs[0]:
                yield Goal(f"{case.name}: KiB each by tracemalloc", runs[0]["traced"], 16)


def main() -> int:
    """Print the tables; 1 if a goal is missed."""
    packages = ("apache-airflow", "apache-airflow-providers-http")
    short = command_line(__doc__, packages=packages, short=False).short
    if short:
        triggers, large, rounds, timing = 100, 10, 1, Timing(2.0, 0.5, 1.0)
    else:
        triggers, large, rounds, timing = 1000, 100, 3, Timing(5.0, 3.0, 10.0)
    kinds = [OURS] if short else [kind for kind in (SLEEPING, OURS, *OTHERS) if installed(kind)]
    cases = [Case(kind.name, kind, triggers) for kind in kinds]
    cases.append(Case(f"{triggers} jobs of one task", OURS, 1, jobs=triggers))
    cases.append(Case(f"{large} results of 12 MB", OURS, large, size=LARGE))
    if not short:
        cases.append(Case("the same after a restart", OURS, large, size=LARGE, restarted=True))
    # A hundred triggers are too few for tracemalloc.
    results = measure_all(cases, timing, rounds, traced=not short)
    print_table("waiting", WAITING, {case: runs for case, runs in results.items() if case.size == SMALL})
    print_table("longest stall of the loop, ms", STALLS, results)
    ended = {case: runs for case, runs in results.items() if case.kind is not SLEEPING}
    print_table('from "ready" to the event', ENDING, ended)
    return report(goals(results, timing.poll))


if __name__ == "__main__":
    sys.exit(main())
