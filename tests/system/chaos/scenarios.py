# SPDX-License-Identifier: Apache-2.0
"""What ``tests.system.chaos`` breaks, and how."""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dev import private_mounts
from dev.processes import until
from dev.tls_door import Papers
from dev.wrong_clock import WrongClock
from tests.system.chaos.judge import Work
from tests.system.chaos.stage import DAG, ONCE, PENDING, SECOND, Stage

HOUR = 3600


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    :param waits_for: the fault begins when so many of the run's jobs have been submitted, as a share of all.
    :param breaks: begins the fault, and returns when it has ended.
    :param settles: seconds after the run in which the emulator may still be busy with calls that were given up.
    :param pending: seconds that a job takes.
    :param retry_after: seconds that refused calls are asked to wait.
    :param before: prepares the parts, and ``after`` puts them back.
    :param fails: the run is to fail: returns what is wrong with its failure, and repairs the service; then the failed
        tasks are cleared.
    :param proves: says what is wrong with the fault itself: that it did not happen.
    :param needs: ``mounts`` or ``cc``, without which it is not run.
    """

    name: str
    breaks: Callable[[Stage, str], object]
    waits_for: float = 0.3
    short: bool = False
    settles: float = 0.0
    pending: float = PENDING
    retry_after: float | None = None
    before: Callable[[Stage], object] | None = None
    after: Callable[[Stage], object] | None = None
    fails: Callable[[Stage, Work, str], list[str]] | None = None
    proves: Callable[[Stage, str], list[str]] | None = None
    needs: str = ""

    @property
    def dag(self) -> str:
        """The DAG that is run."""
        return ONCE if self.fails else DAG

    def missing(self, stage: Stage) -> str:
        """Why it cannot be run here; empty if it can."""
        if self.needs == "mounts" and stage.names is None:
            return "mounts of its own need root"
        if self.needs == "cc" and not WrongClock.available():
            return "no C compiler"
        return ""


def _logs(stage: Stage, run_id: str) -> Path:
    return stage.airflow.config.home / "logs" / f"dag_id={DAG}" / f"run_id={run_id}"


# --- the service and the way to it ----------------------------------------------------------------


def _foreign(stage: Stage, _: str) -> None:
    """Another system with the same client id takes tokens."""
    for _number in range(3):
        stage.emulator.post("tokens/kill")
        time.sleep(2)


def _errors(stage: Stage, _: str) -> None:
    for status in ("500", "502", "503", "504"):
        stage.for_a_while(status, 2)


def _failing_jobs(stage: Stage, _: str) -> None:
    stage.order("error-job", "submit", 3)
    stage.order("error-job", "submit-prediction", 2)


def _service_hangs(stage: Stage, _: str) -> None:
    """It takes connections and answers nothing."""
    for process in stage.emulator.group.processes("emulator"):
        process.suspend()
    time.sleep(15)
    # The service now performs requests whose clients no longer wait for the answer.
    stage.toll.kills.append(time.time())
    for process in stage.emulator.group.processes("emulator"):
        process.resume()


def _name_fails(stage: Stage, _: str) -> None:
    """SERVFAIL to every client. Twice, as aiohttp keeps an address for ten seconds."""
    assert stage.names is not None
    stage.names.failing = True
    stage.cut()
    time.sleep(11)
    stage.cut()
    time.sleep(9)
    stage.names.failing = False


def _bad_papers(papers: Papers) -> Callable[[Stage, str], object]:
    def breaks(stage: Stage, _: str) -> None:
        stage.door.show(papers)
        stage.cut()
        time.sleep(8)
        stage.door.show(Papers.GOOD)

    return breaks


def _never_ending(stage: Stage) -> None:
    stage.order("never-ending", "submit", 8)
    stage.order("never-ending", "submit-prediction", 2)


def _at_once(words: str) -> Callable[[Stage, Work, str], list[str]]:
    """Errors that a retry cannot fix, which name their cause; the tasks are cleared afterwards."""

    def fails(stage: Stage, _: Work, run_id: str) -> list[str]:
        tasks = stage.airflow.task_instances(ONCE, run_id)
        failed = [task["task_id"] for task in tasks if task["state"] == "failed"]
        logs = {task_id: stage.airflow.task_log(ONCE, run_id, task_id) for task_id in failed}
        return [f"{task_id}: its log has no {words!r}" for task_id, log in logs.items() if words not in log]

    return fails


def _those_that_never_ended(stage: Stage, work: Work, run_id: str) -> list[str]:
    """Exactly they have failed, by name; then they end after all."""
    stuck = [line for line in stage.log() if line["fault"] == "never-ending" and line["job_id"]]
    hashes = {line["text_sha256"]: line["job_id"] for line in stuck}

    def of(texts: dict[str, str]) -> dict[str, str]:
        digests = {key: hashlib.sha256(text.encode()).hexdigest() for key, text in texts.items()}
        return {key: hashes[digest] for key, digest in digests.items() if digest in hashes}

    corpus, chunks = of(dict(work.catalogue.texts)), of(dict(work.documents))
    predictions = [line["job_id"] for line in stuck if line["endpoint"] == "submit-prediction"]
    wrong = []
    if len(corpus) + len(chunks) + len(predictions) != len(stuck):
        wrong.append("a job that never ended belongs to no document")
    tasks = {task["task_id"]: task["state"] for task in stage.airflow.task_instances(ONCE, run_id)}
    for task_id, jobs in (("corpus", corpus), ("chunk", chunks), ("predict", predictions)):
        if tasks[task_id] != ("failed" if jobs else "success"):
            wrong.append(f"{task_id}: {tasks[task_id]}, with {len(jobs)} jobs that never ended")
    if corpus:
        lines = (work.folder / "corpus" / "rejects.jsonl").read_text().splitlines()
        rejects = {row["document_id"]: row["reason"] for row in map(json.loads, lines)}
        if rejects != dict.fromkeys(corpus, "timeout"):
            wrong.append(f"corpus: {rejects} were rejected, and {sorted(corpus)} never ended")
    for task_id, ids in (("chunk", list(chunks.values())), ("predict", predictions)):
        if ids:
            told = stage.airflow.task_log(ONCE, run_id, task_id)
            said = re.search(r"JobTimeoutError.*?(\d+) of \d+ [\w ]+ were not ready", told)
            if said is None or int(said.group(1)) != len(ids) or not any(job in told for job in ids):
                wrong.append(f"{task_id}: {said and said.group(0)!r}, and {len(ids)} jobs never ended")
    for line in stuck:
        stage.emulator.post(f"jobs/{line['job_id']}", state="READY")
    return wrong


# --- Airflow ----------------------------------------------------------------------------------------


def _database_away(stage: Stage, _: str) -> None:
    stage.postgres.pause()
    time.sleep(60)
    stage.postgres.resume()


def _two_triggerers(stage: Stage, _: str) -> None:
    """Each hangs until the other has taken over its triggers, then both run them; one of them may have had none."""
    for part in ("triggerer", SECOND):
        processes = stage.airflow.group.processes(part)
        for process in processes:
            process.suspend()
        time.sleep(20)
        for process in processes:
            process.resume()
        stage.toll.kills.append(time.time())


def _both_ran(stage: Stage, run_id: str) -> list[str]:
    """Each triggerer writes a log of its own for a trigger that it runs."""
    folder = _logs(stage, run_id)
    shared = []
    for task_id in ("chunk", "predict"):
        found = [path.name for path in folder.glob(f"task_id={task_id}/*.trigger.*.log")]
        by_attempt: dict[str, int] = {}
        for name in found:
            attempt = name.partition(".log")[0]
            by_attempt[attempt] = by_attempt.get(attempt, 0) + 1
        if max(by_attempt.values(), default=0) > 1:
            shared.append(task_id)
    print(f"  triggers that two triggerers ran: {', '.join(shared) or 'none'}", flush=True)
    return [] if shared else ["no trigger was run by two triggerers"]


def _as_a_result_stands(stage: Stage, _: str) -> None:
    """The API server hangs before a task can report its result, for longer than the task's timeout."""
    folder = max(stage.results.iterdir(), key=lambda path: path.stat().st_mtime)
    processes = stage.airflow.group.processes("api-server")
    files = [folder / name for name in ("chunks.parquet", "predictions.jsonl")]
    until(lambda: any(file.exists() for file in files), "a result", 120, pause=0.0005)
    for process in processes:
        process.suspend()
    time.sleep(60)
    stage.kill("api-server")


def _state_store_failed(stage: Stage, run_id: str) -> list[str]:
    logs = [path.read_text() for path in _logs(stage, run_id).glob("task_id=*/attempt=*.log")]
    if any("could not be written to Airflow's task state store" in text for text in logs):
        return []
    return ["no task was refused by the task state store"]


def _kill_triggerers(stage: Stage, _: str) -> None:
    stage.kill("triggerer")
    stage.kill(SECOND)


def _every_task(stage: Stage, run_id: str) -> None:
    for task_id in ("corpus", "chunk", "predict"):
        stage.kill_task(task_id, run_id)


# --- disks and clocks -------------------------------------------------------------------------------


def _without_the_disk(stage: Stage) -> None:
    for name in ("triggerer", SECOND):
        stage.airflow.wrappers[name] = private_mounts.without(stage.results)
    stage.restart_triggerers()


def _the_disk_again(stage: Stage, _: str) -> None:
    time.sleep(20)
    for name in ("triggerer", SECOND):
        stage.airflow.wrappers.pop(name)
    stage.restart_triggerers()


def _full_disk(stage: Stage, _: str) -> None:
    """Not a byte is left for a while."""
    begin = time.time()
    filler = stage.results / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    time.sleep(15)
    filler.unlink()
    stage.toll.spans.append((begin, time.time()))


def _wrong_triggerer(stage: Stage) -> None:
    stage.restart_triggerers(["triggerer"], **stage.clock.environment())


def _right_triggerers(stage: Stage) -> None:
    stage.restart_triggerers()


def _wrong_tasks(stage: Stage) -> None:
    """The scheduler itself stays right: it would take all its tasks for dead."""
    stage.restart("scheduler", **stage.clock.environment(later=True))


def _right_tasks(stage: Stage) -> None:
    stage.restart("scheduler")


def _was_wrong(stage: Stage, run_id: str) -> list[str]:
    """Lines of its logs are of another hour."""
    folder = _logs(stage, run_id)
    now = time.time()
    for path in folder.glob("task_id=*/attempt=*.log"):
        for written in re.findall(r'"timestamp":"([^"]+)"', path.read_text()):
            if abs(datetime.fromisoformat(written).timestamp() - now) > HOUR / 2:
                return []
    return ["no clock was wrong"]


def _step(seconds: int) -> Callable[[Stage, str], object]:
    def breaks(stage: Stage, _: str) -> None:
        stage.clock.step(seconds)
        time.sleep(20)
        stage.clock.step(0)

    return breaks


def _kind(kind: str, times: int, **more: Any) -> Callable[[Stage, str], object]:
    return lambda stage, run: stage.order(kind, times=times, **more)


def _while(kind: str, seconds: float, **more: Any) -> Callable[[Stage, str], object]:
    return lambda stage, run: stage.for_a_while(kind, seconds, **more)


SCENARIOS = (
    Scenario("nothing", lambda stage, run: None, short=True),
    Scenario("tokens are deleted, thrice", _foreign, short=True),
    Scenario("401 for 6 s", _while("unauthorized", 6), fails=_at_once("HTTP 401")),
    Scenario("403 for 6 s", _while("403", 6), fails=_at_once("HTTP 403")),
    Scenario("429 for 8 s, Retry-After 2", _while("429", 8, retry_after=2), retry_after=2.0),
    Scenario("429 for 8 s", _while("429", 8)),
    # A date has no fractions of a second, so the wait is one second at least.
    Scenario(
        "429 for 8 s, Retry-After a date", _while("429", 8, retry_after=2, as_date=True), retry_after=1.0
    ),
    Scenario("500, 502, 503, 504, 2 s each", _errors),
    Scenario("pages of HTML with 200, 6 s", _while("html", 6)),
    Scenario("30 responses cut in half", _kind("cut-json", 30), 0.1),
    Scenario("30 responses reset in the middle", _kind("reset", 30), 0.1, short=True),
    Scenario("30 responses lost after the work was done", _kind("disconnect-after", 30), 0.1, short=True),
    Scenario("12 responses without an end", _kind("endless", 12), 0.1),
    Scenario("12 responses that come byte by byte, one a second", _kind("drip", 12, delay=1), 0.1),
    Scenario("connections closed without a response for 6 s", _while("disconnect", 6)),
    Scenario(
        "20 responses after 25 s, the client waits for 10", _kind("slow", 20, delay=25), 0.1, settles=26
    ),
    Scenario("the service hangs for 15 s", _service_hangs),
    Scenario("its name is not resolved for 20 s, all connections reset", _name_fails, needs="mounts"),
    Scenario(
        "an untrusted certificate for 8 s", _bad_papers(Papers.STRANGER), fails=_at_once("is not trusted")
    ),
    Scenario("no TLS handshake for 8 s", _bad_papers(Papers.NONE), short=True),
    Scenario("5 jobs end in ERROR", _failing_jobs, waits_for=0.1, fails=_at_once("made to fail")),
    Scenario(
        "10 jobs never end, until the run has failed",
        lambda stage, run: None,
        0.1,
        before=_never_ending,
        fails=_those_that_never_ended,
    ),
    Scenario("kill -9 of every task", _every_task, short=True),
    Scenario("kill -9 of both triggerers", _kill_triggerers, 0.9),
    Scenario("kill -9 of the scheduler and its tasks", lambda stage, run: stage.kill("scheduler")),
    Scenario("kill -9 of the API server", lambda stage, run: stage.kill("api-server")),
    Scenario(
        "the API server hangs for 60 s after a result is stored, and is killed",
        _as_a_result_stands,
        0.9,
        proves=_state_store_failed,
    ),
    Scenario(
        "each triggerer hangs for 20 s, and continues beside its successor",
        _two_triggerers,
        0.9,
        pending=60.0,
        proves=_both_ran,
    ),
    Scenario("the metadata database hangs for 60 s, with jobs in flight", _database_away, 0.9, pending=45.0),
    Scenario(
        "triggerers that do not see the results' disk, for 20 s and their restart",
        _the_disk_again,
        0.9,
        before=_without_the_disk,
        fails=_at_once("does not see what the worker wrote"),
        needs="mounts",
    ),
    Scenario("a full disk for 15 s", _full_disk, 0.9, short=True, needs="mounts"),
    *(
        Scenario(
            f"the clock of the {who} is an hour {how} for 20 s",
            _step(seconds),
            share,
            pending=15.0,
            before=before,
            after=after,
            proves=_was_wrong,
            needs="cc",
        )
        for who, share, before, after in (
            ("triggerer", 0.9, _wrong_triggerer, _right_triggerers),
            ("tasks", 0.3, _wrong_tasks, _right_tasks),
        )
        # The fast one last: its heartbeat stays in the future, and Airflow takes it for alive for an hour.
        for how, seconds in (("slow", -HOUR), ("fast", HOUR))
    ),
)
