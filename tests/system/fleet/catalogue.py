# SPDX-License-Identifier: Apache-2.0
"""
The story of the example ``chunk_catalogue`` on a fleet: two tables by both workers, and one of them dies.

The workers have no disk in common but the folders of this story, which replace the bucket that they would share.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from dev.processes import REPOSITORY, until
from tests.system.corpus.judge import Catalogue, ServiceLog, Verdict, judge

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.fleet.stories import Fleet, Run

DAG, CLIENT, VICTIM = "chunk_catalogue", "catalogue", "worker-1"
SHARDS = 4
# Seconds that a job takes in the first night, and in the second, so that the kill comes before the first result.
JOB, LONG_JOB = 0.5, 5.0


def environment(root: Path) -> dict[str, str]:
    """What the example reads."""
    return {
        "LUCIDWORKS_DOCUMENTS": (root / "catalogue").as_uri(),
        "LUCIDWORKS_OUTPUT": (root / "out").as_uri(),
    }


def catalogue(fleet: Fleet) -> None:
    """The example chunk_catalogue on both workers, two nights; one worker is killed in the second."""
    from tests.system.fleet.stories import HOUR

    fleet.live_for(HOUR)
    fleet.emulator.set(pending_seconds=JOB, pending_polls=0, latency=0.05)
    source = Catalogue(fleet.out.parent / "catalogue", random.Random(1))
    source.fill(fleet.size.documents)
    # Only now, since its schedule starts the first night at once.
    shutil.copy(REPOSITORY / "example_dags" / f"{DAG}.py", fleet.airflow.config.dags)
    fleet.airflow.wait_for_dag(DAG, 120)
    first = _scheduled(fleet)
    _tell(fleet, "first night", source, first, expected=Counter(added=len(source.texts)), kills=[])

    before = dict(source.texts)
    source.change()
    fleet.emulator.set(pending_seconds=LONG_JOB)
    second = fleet.run(DAG)
    killed = _kill_a_worker(fleet, second)
    expected = Counter(
        {
            "added": len(source.texts.keys() - before.keys()),
            "removed": len(before.keys() - source.texts.keys()),
            "changed": sum(
                before[path] != source.texts[path] for path in before.keys() & source.texts.keys()
            ),
        }
    )
    _tell(fleet, "second night, one worker killed", source, second, expected=expected, kills=[killed])


def _scheduled(fleet: Fleet) -> Run:
    """The run that the scheduler makes of the last interval."""
    from tests.system.fleet.stories import Run

    runs: list[dict[str, Any]] = []

    def there() -> bool:
        runs[:] = fleet.airflow.api("GET", f"dags/{DAG}/dagRuns")["dag_runs"]
        return bool(runs)

    until(there, f"the scheduled run of {DAG}", 300)
    return Run(fleet, DAG, str(runs[0]["dag_run_id"]))


def _log(fleet: Fleet) -> list[dict[str, Any]]:
    """What the emulator was asked by this story."""
    return [line for line in fleet.emulator.get("log") if line["client_id"] == CLIENT]


def _kill_a_worker(fleet: Fleet, run: Run) -> float:
    """``kill -9`` with all its tasks while one of the mapped tasks sends from there; when that was."""

    before = len(_log(fleet))

    def sends() -> bool:
        running = [
            task
            for task in run.tasks()
            if task["task_id"] == "chunk"
            and task["state"] == "running"
            and fleet.airflow.worker_of(task) == VICTIM
        ]
        return bool(running) and len(_log(fleet)) > before + SHARDS

    until(sends, f"a mapped task that sends from {VICTIM}", 300)
    time.sleep(1)
    fleet.airflow.kill_part(VICTIM)
    killed = time.time()
    fleet.airflow.start_part(VICTIM)
    return killed


def _tell(
    fleet: Fleet, night: str, source: Catalogue, run: Run, *, expected: Counter[str], kills: list[float]
) -> None:
    state = run.ends()
    verdict: Verdict = judge(
        source, str(fleet.out / "catalogue" / "gte-small"), ServiceLog.of(_log(fleet)), kills
    )
    tasks = [task for task in run.tasks() if task["task_id"] == "chunk"]
    what = f"chunk_catalogue, {night}"
    fleet.tell(
        f"{what}: documents that are not there exactly once",
        "0",
        f"{len(verdict.wrong)} of {len(source.texts)} ({state}) {' '.join(verdict.wrong[:3])}",
        good=state == "success" and not verdict.wrong,
    )
    fleet.tell(
        f"{what}: submitted twice",
        f"<= {verdict.in_flight + verdict.unflushed} in flight or unflushed at the kill",
        verdict.twice,
        good=verdict.twice <= verdict.in_flight + verdict.unflushed,
    )
    tries = sum(task["try_number"] > 1 for task in tasks)
    workers = {fleet.airflow.worker_of(task) for task in tasks}
    fleet.tell(
        f"{what}: workers of {len(tasks)} shards",
        "2" if not kills else "a second try at least",
        f"{len(workers)}, {tries} tasks tried again",
        good=len(tasks) == SHARDS and (len(workers) == 2 if not kills else tries > 0),
        timing=True,
    )
    events = fleet.airflow.asset_events(f"source_dag_id={DAG}&order_by=-timestamp")
    counts = Counter(
        {name: events[0]["extra"].get(name, 0) for name in ("added", "changed", "removed")} if events else {}
    )
    fleet.tell(
        f"{what}: counts of the asset event",
        str(dict(+expected)),
        dict(+counts),
        good=+counts == +expected,
    )
