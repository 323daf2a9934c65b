# SPDX-License-Identifier: Apache-2.0
"""
What waiting costs in the triggerer: memory, sockets, stalls of its loop, and how late a result is found.

Nothing of Airflow is replaced. For each row ``airflow triggerer`` is started on a migrated database (SQLite), and
deferred task instances with their triggers are inserted into it, as a scheduler and workers leave them. Its
supervisor hands them to its runner (a process of its own: comms, greenback portals, watchdog, log files), reads the
connections and the token from the database for it, and writes the events back. Settings are those of
:mod:`dev.airflow_config`, with more capacity. What is not there: scheduler, workers and API server, so nobody picks a
resumed task up; and the jobs' records, which a worker writes beside its result, are written here with the same
classes. One more trigger in the runner is the benchmark's own (:mod:`benchmarks.trigger_probe`): it ticks on the
loop, and answers questions over a Unix socket.

The service is :mod:`benchmarks.trigger_server`, a process of its own, over plain HTTP.

Each row, in a fresh triggerer:

1. An idle runner, with the probe: its stall, its memory.
2. One trigger of the kind, which loads its modules: "first".
3. N more, as fast as the triggerer takes them. Memory per trigger is the growth of the runner's resident set from
   here, by N; a second triggerer does the same under tracemalloc. That of "sleeping", a trigger of Airflow's own that
   does nothing, is Airflow's share.
4. They wait: stall, requests, processor time.
5. All jobs become ready in one instant. Detection is the time from there until the runner logs "Trigger fired event".

The triggers of apache-airflow-providers-http get a token that is good for ever, as they have no way to get one:

* ``HttpTrigger`` asks once, so its server responds when the job is ready (the real service does not).
* ``HttpSensorTrigger`` asks until the response is no 404, so its server returns 404 until then (the real does not).
* ``HttpEventTrigger`` asks until a function finds the response good; the server is the one that ours ask.

The machine and everything on it share the cores, so compare rows of one run. ``pip install --group bench`` first.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import requests

from benchmarks.harness import served, spread
from benchmarks.trigger_server import FIXED_TOKEN
from dev.processes import ManagedProcess, until

SMALL = 20_000
LARGE = 12_000_000
# A runner takes up to 50 rows a second, and a loaded machine longer.
PATIENCE = 240.0
DAG_ID, TASK_ID = "waiting", "wait"
CHECK = '''"""The check that a user of HttpEventTrigger writes."""


async def ready(response):
    return response.json()["status"] == "READY"
'''


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row's triggers find things."""

    home: Path
    run_id: str
    poll: float
    size: int


Make = Callable[[Place, int, list[str]], tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Kind:
    """
    A kind of trigger.

    :param make: class path and arguments of a task's trigger, by its map index and its job ids.
    :param package: that has to be installed for it.
    """

    name: str
    make: Make
    package: str = "apache-airflow"


@dataclass(frozen=True, slots=True)
class Row:
    """
    A row of the tables.

    :param jobs: of each trigger.
    :param size: of a result, in bytes.
    :param late: everything is ready before the triggerer gets to it, as after a restart: all ask at once.
    """

    name: str
    kind: Kind
    triggers: int
    jobs: int = 1
    size: int = SMALL
    late: bool = False

    @property
    def about_results(self) -> bool:
        """Whether waiting is only the way there, so that its cost is not looked at."""
        return self.size == LARGE


def sleeping(place: Place, _index: int, _jobs: list[str]) -> tuple[str, dict[str, Any]]:
    """Airflow's own, looking for a file once an hour."""
    path = "airflow.providers.standard.triggers.file.FileTrigger"
    return path, {"filepath": str(place.home / "no-such-file"), "recursive": False, "poke_interval": 3600.0}


def ours(place: Place, index: int, jobs: list[str]) -> tuple[str, dict[str, Any]]:
    """With the record that a worker leaves beside its result."""
    from lucidworks_provider.jobs.record import JobRecord, JobStateStore, ResultDirectory

    result = f"file://{place.home}/results/{index}.parquet"
    bodies = ResultDirectory.beside(result, DAG_ID, place.run_id, TASK_ID, index)
    record = JobRecord("benchmark", generation=0, size=len(jobs))
    for position, job_id in enumerate(jobs):
        record.submitted(position, job_id)
    JobStateStore(bodies, None).save(record)
    return "lucidworks_provider.triggers.LucidworksJobsTrigger", {
        "kind": "chunking",
        "lucidworks_conn_id": "lucidworks_default",
        "folder": bodies.folder,
        "nonce": record.nonce,
        "poll_interval": place.poll,
        "deadline": time.time() + 3600,
    }


def http(name: str, way: str, pace: str = "", **options: Any) -> Make:
    """
    A trigger of the http provider.

    :param way: to a job, at the server.
    :param pace: its argument for the poll interval.
    """

    def make(place: Place, _index: int, jobs: list[str]) -> tuple[str, dict[str, Any]]:
        arguments = options | {
            "http_conn_id": "http_default",
            "method": "GET",
            "headers": {"Authorization": f"Bearer {FIXED_TOKEN}"},
            "endpoint": f"{way}ai/async-chunking/{jobs[0]}",
        }
        return f"airflow.providers.http.triggers.http.{name}", arguments | (
            {pace: place.poll} if pace else {}
        )

    return make


SLEEPING = Kind("sleeping", sleeping)
OURS = Kind("LucidworksJobsTrigger", ours)
_HTTP = "apache-airflow-providers-http"
_CHECKED = http("HttpEventTrigger", "", "poll_interval", response_check_path="trigger_check.ready")
OTHERS = (
    Kind("HttpTrigger", http("HttpTrigger", "held/"), _HTTP),
    Kind("HttpSensorTrigger", http("HttpSensorTrigger", "missing/", "poke_interval"), _HTTP),
    Kind("HttpEventTrigger", _CHECKED, _HTTP),
)


@dataclass(frozen=True, slots=True)
class Stall:
    """
    Of the loop, in seconds: the longest of a phase.

    :param own: the longest, without the time for which Python's garbage collector ran. Its oldest generation is
        mostly what Airflow has imported, and who makes it run is whoever happens to allocate.
    """

    longest: float
    own: float


PHASES = ("filling", "waiting", "ending")


@dataclass(frozen=True, slots=True)
class Cell:
    """
    One measurement. Memory in MiB where it does not say KiB, times in seconds.

    :param first: growth of the memory by the first trigger.
    :param each: growth by each of the others, KiB.
    :param requests: per second while waiting.
    :param processor: share of a core while waiting.
    :param peak: growth of the memory from the ready moment on.
    :param found: detection, one for each trigger that fired.
    :param missing: triggers that have not.
    :param wrong: results that were lost or asked for twice, refused calls, events that tell of an error.
    """

    idle: Stall
    first: float
    each: float
    filling: Stall
    waiting: Stall
    ending: Stall
    sockets: int
    requests: float
    processor: float
    peak: float
    found: list[float]
    missing: int
    wrong: int


@dataclass(frozen=True, slots=True)
class Pace:
    """
    Seconds.

    :param poll: the interval that the triggers are told.
    :param settle: until nothing moves any more.
    :param window: for which waiting is looked at.
    """

    poll: float
    settle: float
    window: float


@dataclass(frozen=True, slots=True)
class Server:
    """The service."""

    url: str

    def control(self, **order: Any) -> dict[str, Any]:
        """Give an order; the counts."""
        said: dict[str, Any] = requests.post(f"{self.url}/control", json=order, timeout=60).json()
        return said


class Probe:
    """The other end of the probe, and what the system knows of its process."""

    def __init__(self, path: str) -> None:
        until(lambda: Path(path).exists(), "a probe in the runner", PATIENCE)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(120)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r")
        self.pid = int(self.ask("pid"))

    def ask(self, question: str) -> Any:
        """Ask."""
        self._socket.sendall(question.encode() + b"\n")
        return json.loads(self._lines.readline())

    def stall(self) -> Stall:
        """The longest since the last question."""
        return Stall(**self.ask("stalls"))

    def memory(self) -> float:
        """Resident, in MiB."""
        return self._status("VmRSS")

    def peak(self) -> float:
        """The most that was resident since :meth:`forget_peak`, in MiB."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def processor(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()

    def _status(self, name: str) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


class Airflow:
    """A home with a metadata database, and the rows in it."""

    def __init__(self, home: Path, server: Server) -> None:
        from dev.airflow_config import AirflowConfig

        self.home, self.server = home, server
        (home / "dags").mkdir()
        (home / "trigger_check.py").write_text(CHECK)
        self.config = AirflowConfig.create(home, home / "dags", 8, None)
        self.environment = self.config.environment() | {
            "AIRFLOW__TRIGGERER__CAPACITY": "5000",
            # A line that arrives when its trigger's file is closed goes to the console, and counts as well.
            "AIRFLOW__LOGGING__JSON_LOGS": "True",
            # Two cores are shared with whatever else runs: nobody takes this triggerer for dead.
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "120",
        }
        self.environment["PYTHONPATH"] += f"{os.pathsep}{home}"
        self.runs = 0
        self._migrate()
        os.environ.update(self.environment | {"AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"})
        self._write_dag()

    def _migrate(self) -> None:
        with self.process("migrate", "db", "migrate") as migration:
            if migration.wait(180) != 0:
                raise migration.error("failed")

    def process(self, name: str, *command: str) -> Any:
        """A part of Airflow, to be started."""
        return ManagedProcess(
            [sys.executable, "-m", "airflow", *command],
            self.environment,
            self.home / f"{name}.log",
            self.home,
            name=name,
        )

    def _write_dag(self) -> None:
        # Now that it is told where its home is.
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
        urls = {"auth_url": self.server.url, "application_url": self.server.url}
        with create_session() as session:
            session.add(DagBundleModel(name="benchmark"))
            session.add(
                Connection(
                    "lucidworks_default",
                    "lucidworks",
                    login="client",
                    password=secrets.token_hex(8),
                    extra=urls,
                )
            )
            session.add(Connection("http_default", "http", host=self.server.url))
            session.flush()
            SerializedDAG.bulk_write_to_db("benchmark", None, [dag], session=session)
            SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), "benchmark", session=session)

    def start_run(self) -> str:
        """A DAG run for a row of the table."""
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

    def defer(self, run_id: str, triggers: dict[int, tuple[str, dict[str, Any]]]) -> None:
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
        """How many task instances are still deferred."""
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
        """Leave nothing that the next triggerer would start."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.models.trigger import Trigger
        from airflow.utils.session import create_session
        from sqlalchemy import delete

        with create_session() as session:
            session.execute(delete(TaskInstance).where(TaskInstance.run_id == run_id))
            session.execute(delete(Trigger))
        shutil.rmtree(self.home / "results", ignore_errors=True)

    def fired(self, run_id: str) -> tuple[list[float], int]:
        """When the runner logged events of this run, in seconds since the epoch, and how many tell of an error."""
        folder = self.home / "logs" / f"dag_id={DAG_ID}" / f"run_id={run_id}"
        files = [*folder.rglob("*.trigger.*.log"), self.home / f"triggerer-{run_id}.log"]
        lines = [line for file in files for line in file.read_text().splitlines()]
        said = [json.loads(line) for line in lines if '"Trigger fired event"' in line]
        errors = sum("'status': 'error'" in line["result"] for line in said)
        return [datetime.fromisoformat(line["timestamp"]).timestamp() for line in said], errors

    @staticmethod
    def _dag(session: Any) -> Any:
        from airflow.models.serialized_dag import SerializedDagModel

        model: Any = SerializedDagModel.get(DAG_ID, session=session)
        return model.dag

    @contextmanager
    def triggerer(self, run_id: str) -> Iterator[Probe]:
        """A fresh one, with the probe in it."""
        path = f"{self.home}/{run_id}.socket"
        self.defer(run_id, {100_000: ("benchmarks.trigger_probe.ProbeTrigger", {"path": path})})
        triggerer = self.process(f"triggerer-{run_id}", "triggerer", "--skip-serve-logs")
        try:
            triggerer.start()
            probe = Probe(path)
            yield probe
            probe.close()
        finally:
            # It would take its time to end well, and nothing of it is kept.
            triggerer.kill()


class Filled:
    """One triggerer, filled step by step."""

    def __init__(self, airflow: Airflow, probe: Probe, kind: Kind, place: Place, settle: float) -> None:
        self.airflow, self.probe, self.kind, self.place, self.settle = airflow, probe, kind, place, settle
        self.triggers = self.jobs = 0
        self._tasks = int(probe.ask("tasks"))

    def add(self, triggers: int, jobs: int) -> None:
        """Insert triggers with so many jobs each, and wait until they wait."""
        indices = range(self.triggers, self.triggers + triggers)
        ids = {index: [f"{self.place.run_id}-{index}-{job}" for job in range(jobs)] for index in indices}
        made = {index: self.kind.make(self.place, index, its) for index, its in ids.items()}
        self.airflow.defer(self.place.run_id, made)
        self.triggers += triggers
        self.jobs += triggers * jobs
        until(self._all_wait, f"{self.triggers} triggers that wait", PATIENCE)
        time.sleep(self.settle)

    def _all_wait(self) -> bool:
        if self.kind is not SLEEPING:
            return bool(self.airflow.server.control()["jobs_seen"] >= self.jobs)
        return int(self.probe.ask("tasks")) >= self._tasks + self.triggers

    def resolve(self) -> int:
        """Make every job ready; the number of triggers that have not fired in time."""
        self.airflow.server.control(ready=True)
        with suppress(TimeoutError):
            until(lambda: self.unfinished() == 0, "event of each trigger", PATIENCE)
        return self.unfinished()

    def unfinished(self) -> int:
        """Triggers that wait, without the probe."""
        return self.airflow.waiting(self.place.run_id) - 1

    def unkept(self) -> int:
        """Results that do not lie on storage, or were asked for twice, and refused calls."""
        counts = self.airflow.server.control()
        wrong = int(counts["refused"] + counts["again"] + self.jobs - counts["handed_out"])
        if self.kind is OURS:
            files = (self.airflow.home / "results").rglob("_*/[!r]*.json")
            wrong += abs(self.jobs - sum(file.stat().st_size > self.place.size / 2 for file in files))
        return wrong


@contextmanager
def filled(airflow: Airflow, kind: Kind, pace: Pace, size: int) -> Iterator[Filled]:
    """A fresh triggerer."""
    airflow.server.control(size=size)
    run_id = airflow.start_run()
    try:
        with airflow.triggerer(run_id) as probe:
            time.sleep(pace.settle)
            place = Place(airflow.home, run_id, pace.poll, size)
            yield Filled(airflow, probe, kind, place, pace.settle)
    finally:
        airflow.end_run(run_id)


def measure(airflow: Airflow, row: Row, pace: Pace) -> Cell:
    """Fill a triggerer, let it wait, make everything ready."""
    with filled(airflow, row.kind, pace, row.size) as one:
        probe, control = one.probe, airflow.server.control
        bare = probe.memory()
        probe.stall()
        time.sleep(pace.window)
        idle = probe.stall()
        if row.late or not row.about_results:
            one.add(1, 1)
        base = first = probe.memory()
        probe.stall()
        probe.forget_peak()
        if row.late:
            control(ready=True)
        one.add(row.triggers, row.jobs)
        filling = probe.stall()
        before, busy, begin = control()["requests"], probe.processor(), time.monotonic()
        time.sleep(pace.window)
        seconds = time.monotonic() - begin
        requests = (control()["requests"] - before) / seconds
        processor = (probe.processor() - busy) / seconds
        waiting = probe.stall()
        full = probe.memory()
        if not row.late:
            base = full
            probe.forget_peak()
        missing = wrong = 0
        if row.kind is not SLEEPING:
            missing = one.resolve()
            # The log's last lines are still on their way.
            time.sleep(1)
            wrong = one.unkept()
        counts = control()
        fired, errors = airflow.fired(one.place.run_id)
        return Cell(
            idle=idle,
            first=first - bare,
            each=(full - first) / row.triggers * 1024,
            filling=filling,
            waiting=waiting,
            ending=probe.stall(),
            sockets=counts["most_connections"],
            requests=requests,
            processor=processor,
            peak=probe.peak() - base,
            found=sorted(moment - counts["ready_at"] for moment in fired),
            missing=missing,
            wrong=wrong + errors,
        )


def traced(airflow: Airflow, kind: Kind, pace: Pace, *, triggers: int) -> float:
    """KiB that a trigger takes by tracemalloc, which slows everything down: a run of its own."""
    with filled(airflow, kind, pace, SMALL) as one:
        one.add(1, 1)
        one.probe.ask("trace")
        before = one.probe.ask("traced")
        one.add(triggers, 1)
        return float(one.probe.ask("traced") - before) / triggers / 1024


def table(heads: list[str], lines: list[list[str]]) -> None:
    """Print columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    for cells in [heads, *lines]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


Cells = dict[Row, list[Cell]]


def waiting_table(cells: Cells, traced_kib: dict[str, float]) -> None:
    """What triggers cost while they wait."""
    heads = ["waiting", "KiB each", "tracemalloc", "sockets", "requests/s", "core %", "first one, MiB"]
    lines = [
        [
            row.name,
            spread((one.each for one in its), 1),
            f"{traced_kib[row.name]:.1f}" if row.name in traced_kib else "",
            spread(one.sockets for one in its),
            spread(one.requests for one in its),
            spread(100 * one.processor for one in its),
            spread((one.first for one in its), 1),
        ]
        for row, its in cells.items()
        if not row.about_results
    ]
    table(heads, lines)


def stall_table(cells: Cells) -> None:
    """The longest stall of each phase, in ms."""
    heads = ["longest stall, ms", "idle", "filling", "waiting", "ending", "without the collector"]
    lines = [
        [
            row.name,
            *(spread(1000 * getattr(one, phase).longest for one in its) for phase in ("idle", *PHASES)),
            spread(1000 * max(getattr(one, phase).own for phase in PHASES) for one in its),
        ]
        for row, its in cells.items()
    ]
    table(heads, lines)


def ending_table(cells: Cells) -> None:
    """From the moment when everything is ready."""
    heads = ["ready", "found after s", "the last", "peak, MiB more", "lost", "did not fire"]
    lines = [
        [
            row.name,
            spread((statistics.median(one.found) for one in its), 1),
            spread((one.found[-1] for one in its), 1),
            spread(one.peak for one in its),
            spread(one.wrong for one in its),
            spread(one.missing for one in its),
        ]
        for row, its in cells.items()
        if all(one.found for one in its)
    ]
    table(heads, lines)


def goals(cells: Cells, traced_kib: dict[str, float], pace: Pace) -> Iterator[tuple[str, float, float]]:
    """What our rows have to reach, the most, what was measured: medians, but for what must never be exceeded."""
    by_name = {row.name: its for row, its in cells.items()}
    for row, its in cells.items():
        if row.kind is not OURS:
            continue
        # Not filling: there the runner's own log line, one for each trigger that starts, waits for the supervisor.
        stalls = (max(one.waiting.own, one.ending.own) for one in its)
        yield f"{row.name}: longest stall without the collector, s", 0.2, statistics.median(stalls)
        yield f"{row.name}: sockets", 8, max(one.sockets for one in its)
        yield f"{row.name}: lost, or did not fire", 0, max(one.wrong + one.missing for one in its)
        if not row.late:
            found = max(one.found[-1] for one in its)
            yield f"{row.name}: the last one found after, s", pace.poll + 1, found
        if row.about_results:
            yield f"{row.name}: peak, MiB", 200, statistics.median(one.peak for one in its)
        elif row.jobs == 1 and SLEEPING.name in by_name:
            each = statistics.median(one.each for one in its)
            floor = statistics.median(one.each for one in by_name[SLEEPING.name])
            yield f"{row.name}: KiB each beside a sleeping one", 16, each - floor
        if row.name in traced_kib:
            yield f"{row.name}: KiB each by tracemalloc, Airflow's own included", 16, traced_kib[row.name]


def rows(triggers: int, results: int, *, others: bool) -> list[Row]:
    """The table's."""
    kinds = [SLEEPING, OURS, *OTHERS] if others else [OURS]
    crowd = [Row(kind.name, kind, triggers) for kind in kinds if installed(kind)]
    ours_only = [
        Row(f"{triggers} jobs of one task", OURS, 1, jobs=triggers),
        Row(f"{results} results of 12 MB", OURS, results, size=LARGE),
    ]
    if others:
        ours_only.append(Row("the same after a restart", OURS, results, size=LARGE, late=True))
    return crowd + ours_only


def installed(kind: Kind) -> bool:
    """Whether its package is; says how to get it."""
    try:
        version(kind.package)
    except PackageNotFoundError:
        print(f"  {kind.name}: skipped, no {kind.package}; pip install --group bench")
        return False
    return True


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure waiting in the triggerer.")
    parser.add_argument("--short", action="store_true", help="ours alone, 100 triggers and 10 results, once")
    parser.add_argument(
        "--triggers", type=int, help="number of waiting triggers, or jobs of one (default 1000)"
    )
    parser.add_argument("--results", type=int, help="number of results of 12 MB (default 100)")
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--poll", type=float, help="poll interval in seconds (default 5, 2 when short)")
    given = parser.parse_args()
    for name, short, usual in (
        ("triggers", 100, 1000),
        ("results", 10, 100),
        ("rounds", 1, 3),
        ("poll", 2.0, 5.0),
    ):
        if getattr(given, name) is None:
            setattr(given, name, short if given.short else usual)
    return given


def run(given: argparse.Namespace, pace: Pace) -> tuple[Cells, dict[str, float]]:
    """Measure everything, a round after the other."""
    cells: Cells = {}
    traced_kib: dict[str, float] = {}
    planned = rows(given.triggers, given.results, others=not given.short)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triggers-")))
        airflow = Airflow(home, Server(stack.enter_context(served("trigger_server"))))
        for number in range(given.rounds):
            for row in planned:
                print(f"  round {number + 1}: {row.name}", file=sys.stderr, flush=True)
                cells.setdefault(row, []).append(measure(airflow, row, pace))
        # A hundred are too few for what is there once and for all.
        for row in () if given.short else planned:
            if row.jobs == 1 and not row.about_results:
                print(f"  tracemalloc: {row.name}", file=sys.stderr, flush=True)
                traced_kib[row.name] = traced(airflow, row.kind, pace, triggers=row.triggers)
    return cells, traced_kib


def main() -> int:
    """Print the tables; 1 when a goal is missed."""
    given = options()
    pace = Pace(given.poll, 0.5, 1.0) if given.short else Pace(given.poll, 3.0, 2 * given.poll)
    # The supervisor opens a log file for each trigger, and HttpTrigger's runner a socket.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    load, cores = os.getloadavg()[0], os.cpu_count()
    packages = sorted({kind.package for kind in (SLEEPING, *OTHERS) if installed(kind)})
    print(f"{given.triggers} triggers, poll interval {given.poll:g} s; median of {given.rounds} (range)")
    print(f"  Python {sys.version.split()[0]}, {cores} cores, load average {load:.1f} at the start")
    print("  " + ", ".join(f"{package} {version(package)}" for package in packages))
    cells, traced_kib = run(given, pace)
    waiting_table(cells, traced_kib)
    print()
    stall_table(cells)
    print()
    ending_table(cells)
    judged = list(goals(cells, traced_kib, pace))
    missed = [one for one in judged if one[2] > one[1]]
    for what, goal, measured in missed:
        print(f"MISSED  {what}: {measured:.2f}, to reach {goal:g}")
    print(f"{len(judged) - len(missed)} of {len(judged)} goals reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
