# SPDX-License-Identifier: Apache-2.0
"""
What a real Airflow loses when things break: nothing, or this prints what.

PostgreSQL, scheduler, two triggerers and API server as processes, the emulator in the service's place. In each round
a corpus, a chunking task and asynchronous predictions run together; a fault begins while they submit (or while they
wait), ends, and the run has to end well. Then everything that was written is held against what was given, and the
submissions against what the design allows: one for each answer that was lost, or was in flight at a kill.

Undocumented by the vendor and so the emulator's: results can be read once (``retrieved``).
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from benchmarks.chaos_judge import SUBMISSIONS, Verdict, Work, judge
from benchmarks.corpus_judge import WORDS, Catalogue
from dev.airflow_stack import AirflowStack, install_signal_handlers
from dev.demo import Emulator
from dev.packages import install_services
from dev.services import PostgresServer

DAG = "chaos"
BATCH = 4  # that of chaos_dags
SECOND = "triggerer-2"
# What a fault may cost after its end, in seconds: the longest step of the back-off, and of a poll.
STEP = 30.0


@dataclass
class Stage:
    """Everything that runs, and the seed of what is random."""

    root: Path
    airflow: AirflowStack
    emulator: Emulator
    postgres: PostgresServer
    rng: random.Random
    documents: int
    kills: list[float] = field(default_factory=list)

    # -- what scenarios are made of ------------------------------------------------------------------

    def order(self, kind: str, match: str = "any", times: int = 1_000_000, **more: Any) -> None:
        """Let calls go wrong."""
        found = requests.post(
            f"{self.emulator.url}/_emulator/faults",
            json={"kind": kind, "match": match, "times": times} | more,
            timeout=30,
        )
        found.raise_for_status()

    def cancel(self) -> None:
        """Let all calls go right again."""
        requests.delete(f"{self.emulator.url}/_emulator/faults", timeout=30).raise_for_status()

    def for_a_while(self, kind: str, seconds: float, match: str = "any", **more: Any) -> None:
        """A fault that begins and ends."""
        self.order(kind, match, **more)
        time.sleep(seconds)
        self.cancel()

    def kill_task(self, task_id: str, run_id: str) -> None:
        """``kill -9`` its process, if it has one."""
        for task in self.airflow.task_instances(DAG, run_id):
            if task["task_id"] == task_id and task["state"] == "running":
                self.airflow.kill_task(DAG, run_id, task_id)
                self.kills.append(time.time())

    def kill(self, part: str, down: float = 3.0) -> None:
        """``kill -9`` a part with all its children, and start it again."""
        self.airflow.kill_part(part)
        self.kills.append(time.time())
        time.sleep(down)
        self.airflow.start_part(part, wait=part != SECOND)

    def log(self, since: float) -> list[dict[str, Any]]:
        """What the emulator was asked from a moment on."""
        return [line for line in self.emulator.get("log") if line["time"] >= since]


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    :param waits_for: the fault begins when so many of the run's jobs have been submitted, as a share of all.
    :param breaks: begins the fault, and returns when it has ended.
    :param settles: seconds after the run in which the emulator may still be busy with calls that were given up.
    """

    name: str
    breaks: Callable[[Stage, str], object]
    waits_for: float = 0.3
    short: bool = False
    settles: float = 0.0


def _foreign(stage: Stage, _: str) -> None:
    """Another system with the same client id takes tokens."""
    for _number in range(3):
        requests.post(f"{stage.emulator.url}/_emulator/tokens/kill", json={}, timeout=30).raise_for_status()
        time.sleep(2)


def _errors(stage: Stage, _: str) -> None:
    for status in ("500", "502", "503", "504"):
        stage.for_a_while(status, 2)


def _failing_jobs(stage: Stage, _: str) -> None:
    stage.order("error-job", "submit", 3)
    stage.order("error-job", "submit-prediction", 2)


def _database_away(stage: Stage, _: str) -> None:
    stage.postgres.pause()
    time.sleep(60)
    stage.postgres.resume()


def _service_hangs(stage: Stage, _: str) -> None:
    """It takes connections and answers nothing."""
    for process in stage.emulator.group.processes("emulator"):
        process.suspend()
    time.sleep(15)
    # What was sent meanwhile is done now, and nobody waits for its answer any more.
    stage.kills.append(time.time())
    for process in stage.emulator.group.processes("emulator"):
        process.resume()


def _two_triggerers(stage: Stage, _: str) -> None:
    """One hangs until the other has taken over its triggers, then both run them."""
    processes = stage.airflow.group.processes("triggerer")
    for process in processes:
        process.suspend()
    time.sleep(20)
    for process in processes:
        process.resume()
    stage.kills.append(time.time())


def _kill_triggerers(stage: Stage, _: str) -> None:
    stage.kill("triggerer")
    stage.kill(SECOND)


def _every_task(stage: Stage, run_id: str) -> None:
    for task_id in ("corpus", "chunk", "predict"):
        stage.kill_task(task_id, run_id)


SCENARIOS = (
    Scenario("nothing", lambda stage, run: None, short=True),
    Scenario("tokens are deleted, thrice", _foreign, short=True),
    Scenario("401 for 6 s", lambda stage, run: stage.for_a_while("unauthorized", 6)),
    Scenario("403 for 6 s", lambda stage, run: stage.for_a_while("403", 6)),
    Scenario("429 for 8 s, Retry-After 2", lambda stage, run: stage.for_a_while("429", 8, retry_after=2)),
    Scenario("429 for 8 s", lambda stage, run: stage.for_a_while("429", 8)),
    Scenario(
        "429 for 8 s, Retry-After a date",
        lambda stage, run: stage.for_a_while("429", 8, retry_after=2, as_date=True),
    ),
    Scenario("500, 502, 503, 504, 2 s each", _errors),
    Scenario("pages of HTML with 200, 6 s", lambda stage, run: stage.for_a_while("html", 6)),
    Scenario(
        "30 answers cut in half",
        lambda stage, run: stage.order("cut-json", times=30),
        waits_for=0.1,
        short=True,
    ),
    Scenario(
        "30 answers lost after the work was done",
        lambda stage, run: stage.order("disconnect-after", times=30),
        waits_for=0.1,
        short=True,
    ),
    Scenario("connections reset for 6 s", lambda stage, run: stage.for_a_while("disconnect", 6)),
    Scenario(
        "20 answers after 25 s, the client waits for 10",
        lambda stage, run: stage.order("slow", times=20, delay=25),
        waits_for=0.1,
        settles=26,
    ),
    Scenario("the service hangs for 15 s", _service_hangs),
    Scenario("5 jobs end in ERROR", _failing_jobs, waits_for=0.1),
    Scenario("kill -9 of every task", _every_task, short=True),
    Scenario("kill -9 of both triggerers", _kill_triggerers, 0.9),
    Scenario("kill -9 of the scheduler and its tasks", lambda stage, run: stage.kill("scheduler")),
    Scenario("kill -9 of the API server", lambda stage, run: stage.kill("api-server")),
    Scenario("a triggerer hangs for 20 s, and goes on beside its successor", _two_triggerers, 0.9),
    Scenario("the metadata database hangs for 60 s", _database_away),
)


@dataclass(frozen=True, slots=True)
class Round:
    """
    :param answered: seconds from the end of the fault until the service had answered well again.
    :param done: seconds from the end of the fault until the run ended.
    """

    scenario: Scenario
    state: str
    verdict: Verdict
    answered: float
    done: float
    faults: int

    @property
    def good(self) -> bool:
        """Whether nothing was lost, and no more submitted twice than the design allows."""
        return (
            self.state == "success" and not self.verdict.wrong and self.verdict.twice <= self.verdict.allowed
        )


def play(stage: Stage, scenario: Scenario) -> Round:
    """One run of the DAG, and the fault."""
    name = secrets.token_hex(4)
    work = work_for(stage, name)
    since = time.time()
    stage.kills.clear()
    run_id = stage.airflow.trigger(DAG, work.conf)
    jobs = len(work.catalogue.texts) + len(work.documents) + -(-len(work.inputs) // BATCH)
    deadline = time.monotonic() + 120
    while sum(_made(line) for line in stage.log(since)) < jobs * scenario.waits_for:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{scenario.name}: the tasks have submitted nothing for two minutes")
        time.sleep(0.05)
    scenario.breaks(stage, run_id)
    ended = time.time()
    state = stage.airflow.wait_for_run(DAG, run_id, 900, on_progress=lambda _: None)
    done = time.time()
    stage.cancel()
    time.sleep(scenario.settles)
    log = stage.log(since)
    good = [line["time"] + line["seconds"] for line in log if line["status"] == 200 and not line["fault"]]
    answered = min((moment - ended for moment in good if moment >= ended), default=0.0)
    if state != "success":
        for task in stage.airflow.task_instances(DAG, run_id):
            if task["state"] == "failed":
                told = stage.airflow.task_log(DAG, run_id, task["task_id"], task["try_number"])
                print("\n".join(told.splitlines()[-30:]), flush=True)
    verdict = judge(work, log, stage.kills, BATCH)
    shutil.rmtree(work.folder)
    return Round(scenario, state, verdict, answered, done - ended, sum(bool(line["fault"]) for line in log))


def _made(line: dict[str, Any]) -> bool:
    return line["endpoint"] in SUBMISSIONS and bool(line["job_id"])


def work_for(stage: Stage, name: str) -> Work:
    """Texts that no other round has."""
    folder = stage.root / "rounds" / name
    catalogue = Catalogue(folder / "source", random.Random(stage.rng.random()))
    catalogue.fill(stage.documents)
    for path in catalogue.texts:
        catalogue.texts[path] = f"{name}: {catalogue.texts[path]}"
        (catalogue.folder / path).write_text(catalogue.texts[path])

    def text(number: int) -> str:
        words = " ".join(stage.rng.choices(WORDS, k=40))
        return f"{name}-{number} is the first. {words[:100]}. {words[100:]}."

    documents = {f"document-{number}": text(number) for number in range(stage.documents // 3)}
    return Work(folder, catalogue, documents, [text(number + 1000) for number in range(stage.documents // 2)])


@contextmanager
def staged(root: Path, seed: int, documents: int, clients: Sequence[str] = ()) -> Iterator[Stage]:
    """
    Start everything.

    :param clients: client ids that the emulator knows besides that of the connection; their secret is the same.
    """
    install_services()
    (root / "dags").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("chaos_dags.py"), root / "dags")
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(root / "postgres"))
        known = [f"--client={name}:demo-secret" for name in ("demo-client", *clients)]
        options = ("--pending-seconds", "3", "--token-ttl", "120", *known)
        emulator = stack.enter_context(Emulator(root / "emulator.log", *options))
        environment = postgres.settings | {
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(timeout="10"),
        }
        airflow = AirflowStack(root / "home", root / "dags", env=environment, parallelism=6)
        airflow.commands[SECOND] = airflow.commands["triggerer"]
        started = [name for name in airflow.commands if name != SECOND]
        second = airflow.commands.pop(SECOND)
        stack.enter_context(airflow)
        airflow.commands[SECOND] = second
        airflow.start_part(SECOND, wait=False)
        airflow.wait_for_dag(DAG, 120)
        print(f"started: {', '.join([*started, SECOND])}", flush=True)
        yield Stage(root, airflow, emulator, postgres, random.Random(seed), documents)


def main() -> int:
    """Play the scenarios, print the table; 1 where something was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="those that CI plays")
    parser.add_argument("--only", help="scenarios with this in their name")
    parser.add_argument("--documents", type=int, default=48, help="of the corpus; the others have fewer")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", type=Path, help="a new folder for everything, kept afterwards")
    options = parser.parse_args()
    chosen = [
        one
        for one in SCENARIOS
        if (not options.short or one.short) and (not options.only or options.only in one.name)
    ]
    print(f"seed {options.seed}, {len(chosen)} scenarios", flush=True)
    rounds: list[Round] = []
    with install_signal_handlers(), tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        root = options.keep or Path(temporary)
        with staged(root, options.seed, options.documents) as stage:
            # Airflow's first run loads much, and a token is asked for.
            play(stage, SCENARIOS[0])
            for scenario in chosen:
                one = play(stage, scenario)
                rounds.append(one)
                print(_line(one), flush=True)
                for words in one.verdict.wrong[:10]:
                    print(f"  WRONG {words}", flush=True)
            (root / "requests.json").write_text(json.dumps(stage.emulator.get("log")))
    print()
    print("| fault | lost or wrong | submitted twice (allowed) | answered after | run ended after | |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one in rounds:
        print(_row(one))
    late = [one.answered for one in rounds if one.answered > STEP]
    good = sum(one.good for one in rounds)
    print(f"\n{good} of {len(rounds)} lost nothing; the service answered again {_spread(rounds)}")
    return int(good < len(rounds) or bool(late))


def _line(one: Round) -> str:
    return (
        f"{'ok' if one.good else 'MISSED':<8}{one.scenario.name}: {one.state}, {len(one.verdict.wrong)} wrong, "
        f"{one.verdict.twice} twice of {one.verdict.allowed}, {one.faults} faults, "
        f"answered after {one.answered:.1f} s, done after {one.done:.0f} s"
    )


def _row(one: Round) -> str:
    verdict = one.verdict
    return (
        f"| {one.scenario.name} | {len(verdict.wrong)} | {verdict.twice} ({verdict.allowed}) | "
        f"{one.answered:.1f} s | {one.done:.0f} s | {'ok' if one.good else 'missed'} |"
    )


def _spread(rounds: list[Round]) -> str:
    values = [one.answered for one in rounds]
    return f"{statistics.median(values):.1f} s (median) to {max(values):.1f} s after the fault ended"


if __name__ == "__main__":
    sys.exit(main())
