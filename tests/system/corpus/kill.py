# SPDX-License-Identifier: Apache-2.0
"""
``kill -9`` at random moments of a run over a catalogue, and what it costs.

A real Airflow (scheduler, LocalExecutor) runs the operator over 2,000 documents; its task's process is killed at
thirty random moments, and Airflow tries it again. Each third kill waits for the commit: it comes within a moment
after the run has written the note from which its commits are made. When a run comes to its end before, the catalogue
changes (two of five documents, one of twenty gone, one of twenty new) and the next night begins. After each night
the tables are compared with the catalogue and with the emulator's log, document by document, and what the task
returned with both. Meanwhile :mod:`tests.system.corpus.readers` reads the tables in a process of its own.

``--plain`` plays the same in plain child processes without a scheduler: a kill every few seconds. ``--s3`` has the
tables in a bucket of moto's server.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from dev.airflow_stack import AirflowStack, install_signal_handlers
from dev.demo import Emulator
from dev.s3_server import delta_rs_options, s3_server
from lucidworks_provider.corpus.dataset import RUNS, below, open_documents
from lucidworks_provider.corpus.tables import read_tables
from lucidworks_provider.storage import names_in
from tests.system.corpus.judge import Catalogue, ServiceLog, Verdict, judge
from tests.system.corpus.readers import Readers

DAG, TASK = "corpus_kill", "chunk"
# Every request takes a while and every job longer, so that there is something in flight at any moment.
SERVICE = ("--latency", "0.05", "--pending-seconds", "0.5", "--pending-polls", "0")
NIGHTS = 100
# Each so manieth kill waits for the note of the run, and comes within so many seconds after it: on a disk the commits
# take a twentieth of a second, on moto's server half a second.
IN_COMMIT, COMMIT_SECONDS, COMMIT_SECONDS_S3 = 3, 0.1, 0.6
# Both tables, and both libraries.
READS = 1000
S3_CONN_ID = "bench_s3"
# What the children would each load: their server loads it once, so that most of a child's life is work.
PRELOADED = [
    "aiohttp",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "lucidworks_provider.corpus.run",
    "lucidworks_provider.hooks.lucidworks",
    "lucidworks_provider.operators.corpus",
    "lucidworks_provider.client.http.aio",
]


@dataclass(frozen=True, slots=True)
class Store:
    """
    Where the tables are.

    :param output: URI of their folder.
    :param environment: that it can be reached with.
    :param delta_rs: options of delta-rs for it.
    """

    output: str
    environment: Mapping[str, str] = field(default_factory=dict)
    delta_rs: Mapping[str, str] = field(default_factory=dict)

    def notes(self) -> set[str]:
        """Names of the notes of runs, each written directly before the commit."""
        return set(names_in(below(self.output, RUNS)))


@contextmanager
def store(root: Path, *, s3: bool) -> Iterator[Store]:
    """A folder below ``root``, or a bucket of moto's server in this process."""
    if not s3:
        yield Store(str(root / "output"))
        return
    with s3_server(S3_CONN_ID) as uri:
        name = f"AIRFLOW_CONN_{S3_CONN_ID.upper()}"
        yield Store(f"{uri}/output", {name: os.environ[name]}, delta_rs_options(S3_CONN_ID))


class Runner(ABC):
    """
    Runs the operator again and again until it has come to its end.

    :param store: where it has its tables.
    """

    store: Store

    @abstractmethod
    def begin(self, night: int) -> None:
        """Start a night's run."""

    @abstractmethod
    def kill_after(self, seconds: float, *, note: bool) -> float | None:
        """
        Kill the try so long after it began; the moment, or None when the run had ended.

        :param note: so long after it has written its note.
        """

    @abstractmethod
    def finish(self) -> Mapping[str, Any]:
        """Let the run end; what it returned."""


# The options of all runs.
CHUNKING: dict[str, Any] = {
    "chunker": "dynamic-sentence",
    "chunker_config": {"maxChunkSize": 64, "overlapSize": 0},
    "model_id": "gte-small",
    "prune": True,
    "max_reject_ratio": 0.0,
}


def attempt(
    environment: Mapping[str, str], options: Mapping[str, Any], run_id: str, number: int, returned: Path
) -> dict[str, Any]:
    """One try, in a process of its own; what it returned is in the file as well."""
    os.environ.update(environment)
    with returned.with_suffix(".log").open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    from lucidworks_provider.operators.corpus import LucidworksChunkCorpusOperator

    made = LucidworksChunkCorpusOperator(task_id=TASK, **options)
    ti = SimpleNamespace(
        dag_id=DAG,
        run_id=run_id,
        task_id=TASK,
        map_index=-1,
        try_number=number,
        max_tries=200,
        xcom_push=lambda **_: None,
    )
    found = dict(made.execute({"ti": ti}))  # type: ignore[typeddict-item]
    returned.write_text(json.dumps(found))
    return found


class Plain(Runner):
    """Child processes without a scheduler."""

    def __init__(self, root: Path, emulator: Emulator, store: Store | None = None) -> None:
        self.root = root
        self.store = store or Store(str(root / "output"))
        # For some nights only.
        self.options: dict[str, Any] = {}
        self.environment = {
            "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(share_via="memory"),
            **self.store.environment,
        }
        os.environ.setdefault("AIRFLOW_HOME", str(root / "home"))
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload([*PRELOADED, *(["s3fs"] if self.store.environment else [])])
        self.child: BaseProcess
        self.began = 0.0

    def begin(self, night: int) -> None:
        """Start the first try."""
        self.night, self.number = night, 0
        self.start()

    def kill_after(self, seconds: float, *, note: bool) -> float | None:
        """Kill the child, unless it has ended."""
        child, began = self.child, self.began
        if note:
            while child.exitcode is None and self.store.notes() <= self.noted:
                time.sleep(0.002)
            began = time.monotonic()
        child.join(max(0.0, began + seconds - time.monotonic()))
        if child.exitcode is not None:
            return None
        child.kill()
        moment = time.time()
        child.join()
        self.start()
        return moment

    def finish(self) -> Mapping[str, Any]:
        """Wait for the child."""
        self.child.join(600)
        if self.child.exitcode != 0:
            raise RuntimeError(f"try {self.number} of night {self.night}: {self._log()}")
        return dict(json.loads(self._returned.read_text()))

    def _log(self) -> str:
        return self._returned.with_suffix(".log").read_text(errors="replace")[-3000:]

    @property
    def _returned(self) -> Path:
        return self.root / f"returned-{self.night}.json"

    def start(self) -> None:
        """Start the next try, whatever became of the one before."""
        self.number += 1
        self.noted = self.store.notes()
        folders = {"source": str(self.root / "source"), "output_uri": self.store.output}
        options = CHUNKING | folders | self.options
        self.child = self.processes.Process(
            target=attempt,
            args=(
                self.environment,
                options,
                f"night-{self.night}",
                self.number,
                self._returned,
            ),
            daemon=True,
        )
        self.child.start()
        self.began = time.monotonic()


class Scheduled(Runner):
    """Tries of a real Airflow."""

    def __init__(self, root: Path, airflow: AirflowStack, store: Store) -> None:
        self.root, self.airflow, self.store = root, airflow, store

    def begin(self, night: int) -> None:
        """Trigger a run."""
        conf = {"source": str(self.root / "source"), "output": self.store.output}
        self.run_id, self.number = self.airflow.trigger(DAG, conf), 0

    def kill_after(self, seconds: float, *, note: bool) -> float | None:
        """Wait for the next try and kill the process that Airflow says it has."""
        noted = self.store.notes()
        while (task := self._task())["state"] != "running" or task["try_number"] <= self.number:
            if task["state"] in {"success", "failed"}:
                return None
            time.sleep(0.1)
        self.number = task["try_number"]
        process = psutil.Process(task["pid"])
        while note and process.is_running() and self.store.notes() <= noted:
            time.sleep(0.002)
        time.sleep(seconds)
        if process not in self.airflow.running_tasks():
            return None
        process.kill()
        return time.time()

    def finish(self) -> Mapping[str, Any]:
        """Wait for the run."""
        state = self.airflow.wait_for_run(DAG, self.run_id, 900, on_progress=lambda _: None)
        if state != "success":
            task = self._task()
            raise RuntimeError(self.airflow.task_log(DAG, self.run_id, TASK, task["try_number"]))
        return dict(self.airflow.xcom(DAG, self.run_id, TASK))

    def _task(self) -> dict[str, Any]:
        (task,) = self.airflow.task_instances(DAG, self.run_id)
        return task


@dataclass
class Story:
    """
    What is played, and what has come of it.

    :param kills: how many.
    :param documents: of the first night.
    :param span: the kills come so many seconds after a try began, at most.
    :param say: receives the progress lines.
    :param reading: of the tables at the same time.
    :param published: by version of the chunks, the texts of the night.
    :param killed: how many, by what of the run's commits was there.
    :param submitted: what the tasks returned, beyond the submissions of their runs.
    :param resubmitted: what the tasks returned.
    """

    root: Path
    emulator: Emulator
    runner: Runner
    kills: int
    documents: int
    span: float
    seed: int
    say: Callable[[str], object] = print
    reading: Readers | None = None
    moments: list[float] = field(default_factory=list)
    published: dict[int, dict[str, str]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    submitted: int = 0
    resubmitted: int = 0

    def __post_init__(self) -> None:
        # Not the sequence of the moments, which so do not depend on the texts.
        self.catalogue = Catalogue(self.root / "source", random.Random(self.seed + 1))

    def play(self) -> list[Verdict]:
        """A verdict for each night."""
        rng, catalogue = random.Random(self.seed), self.catalogue
        catalogue.fill(self.documents)
        commit = COMMIT_SECONDS_S3 if self.runner.store.environment else COMMIT_SECONDS
        last: dict[str, str] = {}
        twice = 0
        for night in range(1, NIGHTS):
            begun, before = time.monotonic(), len(self.moments)
            run, sent = read_tables(self.runner.store.output).run, len(self.emulator.submissions())
            if self.reading is not None:
                self.reading.expect(catalogue.texts)
            self.runner.begin(night)
            while len(self.moments) < self.kills:
                note = len(self.moments) % IN_COMMIT == IN_COMMIT - 1
                moment = self.runner.kill_after(rng.uniform(0, commit if note else self.span), note=note)
                if moment is None:
                    break
                self.moments.append(moment)
                self.killed[self._committed(run)] += 1
            returned = self.runner.finish()
            self.published[returned["version"]] = dict(catalogue.texts)
            verdict = self.judge()
            changed = {path for path, text in catalogue.texts.items() if last.get(path) != text}
            verdict.wrong.extend(self._check_returned(returned, changed))
            sent, twice = len(self.emulator.submissions()) - sent, verdict.twice - twice
            if returned["submitted"] < sent or returned["resubmitted"] < twice:
                found = {name: returned[name] for name in ("submitted", "resubmitted")}
                verdict.wrong.append(f"the task returned {found}, and the service counted {sent} and {twice}")
            self.submitted += returned["submitted"] - sent
            self.resubmitted += returned["resubmitted"]
            twice = verdict.twice
            last = dict(catalogue.texts)
            self.verdicts.append(verdict)
            self.say(
                f"night {night}: {len(self.moments) - before} kills, {time.monotonic() - begun:.0f} s, "
                f"{verdict.documents} documents, {verdict.chunks} chunks, {verdict.twice} submitted twice, "
                f"{verdict.in_flight} in flight and {verdict.unflushed} unflushed, {len(verdict.litter)} files left"
            )
            for words in verdict.wrong[:10]:
                self.say(f"  WRONG {words}")
            if len(self.moments) >= self.kills:
                break
            catalogue.change()
        # For debugging.
        seen = {"kills": self.moments, "log": self.emulator.get("log")}
        (self.root / "seen.json").write_text(json.dumps(seen))
        return self.verdicts

    def judge(self) -> Verdict:
        """Check the tables as they are now."""
        ledger = ServiceLog.of(self.emulator.get("log"))
        return judge(self.catalogue, self.runner.store.output, ledger, self.moments)

    def _committed(self, run: int) -> str:
        """What there is of the commits of the run after this one."""
        tables = read_tables(self.runner.store.output)
        if tables.incomplete_run is not None:
            return "between the two commits"
        return "before the commits" if tables.run == run else "after the commits"

    def _check_returned(self, returned: Mapping[str, Any], changed: set[str]) -> Iterator[str]:
        """What the task returned, beside what its run had to write."""
        rows = (
            open_documents(self.runner.store.output).to_table(["document_id", "chunks", "tokens"]).to_pylist()
        )
        written = [row for row in rows if row["document_id"] in changed]
        expected = {
            "documents": len(self.catalogue.texts),
            "written": sum(row["chunks"] for row in written),
            "tokens": sum(row["tokens"] for row in written),
        }
        found = {name: returned[name] for name in expected}
        if found != expected:
            yield f"the task returned {found}, and not {expected}"
        if returned["added"] + returned["changed"] != len(changed):
            yield f"the task returned {returned['added']} added and {returned['changed']} changed of {len(changed)}"


@contextmanager
def scheduled(root: Path, emulator: Emulator, store: Store) -> Iterator[Scheduled]:
    """An Airflow with the one DAG."""
    (root / "dags").mkdir()
    shutil.copy(Path(__file__).with_name("dags.py"), root / "dags" / "corpus_dags.py")
    environment = {
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(),
        **store.environment,
    }
    airflow = AirflowStack(root / "home", root / "dags", env=environment, parallelism=2)
    # Nothing here defers.
    del airflow.commands["triggerer"]
    with airflow:
        airflow.wait_for_dag(DAG, 120)
        yield Scheduled(root, airflow, store)


def main() -> int:
    """Play, print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plain", action="store_true", help="child processes instead of an Airflow")
    parser.add_argument("--s3", action="store_true", help="the tables in a bucket of moto's server")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--span", type=float, help="seconds after a try began in which it is killed")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", type=Path, help="a new folder for everything, kept afterwards")
    options = parser.parse_args()
    span = options.span or (4 + options.documents / 250 if options.plain else 15)
    print(f"seed {options.seed}, {options.kills} kills, each within {span:.0f} s of a try", flush=True)
    begun = time.monotonic()
    with install_signal_handlers(), ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="corpus-kill-"))
        root = options.keep or Path(temporary)
        (root / "source").mkdir(parents=True)
        emulator = stack.enter_context(Emulator(root / "emulator.log", *SERVICE))
        place = stack.enter_context(store(root, s3=options.s3))
        runner = (
            Plain(root, emulator, place)
            if options.plain
            else stack.enter_context(scheduled(root, emulator, place))
        )
        reading = Readers(place.output, root / "states.jsonl", place.environment, place.delta_rs)
        story = Story(
            root,
            emulator,
            runner,
            options.kills,
            options.documents,
            span,
            options.seed,
            say=lambda text: print(text, flush=True),
            reading=reading,
        )
        story.play()
        reads, faults = reading.stop()
    for fault in faults:
        print(f"  READ WRONG {fault}")
    last = story.verdicts[-1]
    wrong = sum(len(verdict.wrong) for verdict in story.verdicts)
    killed = ", ".join(f"{count} {when}" for when, count in sorted(story.killed.items()))
    print(
        f"\n{len(story.moments)} kills in {len(story.verdicts)} nights, {time.monotonic() - begun:.0f} s; seed "
        f"{options.seed}\n\n"
        "| what | to reach | measured |\n| --- | --- | --- |\n"
        f"| documents that are not in the tables exactly once, or returned counts that are wrong | 0 | {wrong} |\n"
        f"| reads meanwhile of what no night has published, of {reads:,} | 0 | {len(faults)} |\n"
        f"| submitted twice | <= {last.in_flight + last.unflushed} (in flight {last.in_flight}, unflushed "
        f"{last.unflushed}) | {last.twice} |\n"
        f"| `resubmitted` that the tasks returned | >= {last.twice} | {story.resubmitted} |\n"
        f"| `submitted` beyond the submissions | >= 0 | {story.submitted} |\n\n"
        f"Kills: {killed}."
    )
    good = all(verdict.good for verdict in story.verdicts) and not faults and reads >= READS
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
