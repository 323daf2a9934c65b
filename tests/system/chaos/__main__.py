# SPDX-License-Identifier: Apache-2.0
"""
Faults under a real Airflow; prints every document, job and result that is lost.

PostgreSQL, scheduler, two triggerers and API server as processes, the emulator in the service's place, and before it
a TLS proxy, under a name that ``dev.name_server`` resolves. In each round
a corpus, a chunking task and asynchronous predictions run together; a fault begins while they submit (or while they
wait), ends, and the run has to end well. Then everything that was written is held against what was given, and the
submissions against what the design allows: one for each answer that was lost, or was in flight at a kill.

Undocumented by the vendor and so the emulator's: results can be read once (``retrieved``).
"""

import argparse
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dev import private_mounts
from dev.airflow_stack import install_signal_handlers
from dev.processes import until
from tests.system.chaos.judge import Storm, Verdict, judge, storm
from tests.system.chaos.scenarios import SCENARIOS, Scenario
from tests.system.chaos.stage import BATCH, Stage, staged, work_for

# What a fault may cost after its end, in seconds: the longest step of the back-off, and of a poll.
STEP = 30.0
# Three tasks and two triggerers.
SENDERS = 5


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
    storm: Storm | None = None

    @property
    def good(self) -> bool:
        """Whether nothing was lost, and no more submitted twice than the design allows."""
        return (
            self.state == "success" and not self.verdict.wrong and self.verdict.twice <= self.verdict.allowed
        )


def play(stage: Stage, scenario: Scenario) -> Round:
    """One run of the DAG, and the fault."""
    work = work_for(stage)
    dag, airflow = scenario.dag, stage.airflow
    stage.forget()
    broken = stage.broken()
    stage.set_pending(scenario.pending)
    if scenario.before:
        scenario.before(stage)
    run_id = airflow.trigger(dag, work.conf)
    jobs = len(work.catalogue.texts) + len(work.documents) + -(-len(work.inputs) // BATCH)
    until(lambda: stage.submitted() >= jobs * scenario.waits_for, f"{scenario.name}: submissions", 120)
    scenario.breaks(stage, run_id)
    ended = time.time()
    state = airflow.wait_for_run(dag, run_id, 900, on_progress=lambda _: None)
    wrong: list[str] = []
    if scenario.fails:
        wrong = [] if state == "failed" else [f"the run was to fail, and ended with {state}"]
        wrong += scenario.fails(stage, work, run_id)
        ended = time.time()
        airflow.clear(dag, run_id, only_failed=True)
        state = airflow.wait_for_run(dag, run_id, 900, on_progress=lambda _: None)
    done = time.time()
    stage.cancel()
    time.sleep(scenario.settles)
    if scenario.proves:
        wrong += scenario.proves(stage, run_id)
    log = stage.log()
    if scenario.after:
        scenario.after(stage)
    good = [line["time"] + line["seconds"] for line in log if line["status"] == 200 and not line["fault"]]
    answered = min((moment - ended for moment in good if moment >= ended), default=0.0)
    if state != "success":
        for task in airflow.task_instances(dag, run_id):
            if task["state"] == "failed":
                told = airflow.task_log(dag, run_id, task["task_id"], task["try_number"])
                print("\n".join(told.splitlines()[-30:]), flush=True)
    verdict = judge(work, log, stage.toll, BATCH)
    if verdict.twice > verdict.allowed:
        # A task that died at an unrecorded moment has submitted again what it had in flight.
        for task in airflow.task_instances(dag, run_id):
            print(f"{task['task_id']}: try {task['try_number']}, {task['start_date']} to {task['end_date']}")
            for number in range(1, task["try_number"]):
                # Airflow does not keep every try that it took for dead.
                with suppress(RuntimeError):
                    told = airflow.task_log(dag, run_id, task["task_id"], number)
                    print("\n".join(told.splitlines()[-15:]), flush=True)
    shutil.rmtree(work.folder)
    return Round(
        scenario,
        state,
        replace(verdict, wrong=[*wrong, *verdict.wrong]),
        answered,
        done - ended,
        sum(bool(line["fault"]) for line in log) + stage.broken() - broken,
        storm(log, scenario.retry_after) if scenario.retry_after else None,
    )


def main() -> int:
    """Play the scenarios, print the table; 1 where something was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="those that CI plays")
    parser.add_argument("--only", help="scenarios whose name has this pattern in it")
    parser.add_argument("--documents", type=int, default=48, help="of the corpus; the others have fewer")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", type=Path, help="a new folder for everything, kept afterwards")
    options = parser.parse_args()
    chosen = [
        one
        for one in SCENARIOS
        if (not options.short or one.short) and (not options.only or re.search(options.only, one.name))
    ]
    print(f"seed {options.seed}, {len(chosen)} scenarios", flush=True)
    private = private_mounts.enter()
    rounds: list[Round] = []
    skipped: dict[str, str] = {}
    with install_signal_handlers(), tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        root = options.keep or Path(temporary)
        with staged(root, options.seed, options.documents, private=private) as stage:
            # Airflow's first run is slow, and requests a token.
            play(stage, SCENARIOS[0])
            for scenario in chosen:
                if missing := scenario.missing(stage):
                    skipped[scenario.name] = missing
                    continue
                try:
                    one = play(stage, scenario)
                except (TimeoutError, RuntimeError) as err:
                    # Continue with the other scenarios.
                    one = Round(scenario, "broken off", Verdict([str(err)], 0, 0), 0.0, 0.0, 0)
                    stage.cancel()
                rounds.append(one)
                print(_line(one), flush=True)
                for words in one.verdict.wrong[:10]:
                    print(f"  WRONG {words}", flush=True)
    print()
    print("| fault | lost or wrong | submitted twice (allowed) | answered after | run ended after | |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one in rounds:
        print(_row(one))
    for name, why in skipped.items():
        print(f"| {name} | | | | | not run: {why} |")
    for one in rounds:
        if one.storm:
            print(f"\n{one.scenario.name}: {_told(one.storm)}")
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


def _told(storm: Storm) -> str:
    return (
        f"asked to wait {storm.windows} times. {storm.on_the_way} requests were on their way, {storm.later} were "
        f"begun later in a wait, {storm.most} at most in one, by {SENDERS} processes"
        f"{': ' + storm.endpoints if storm.endpoints else ''}."
    )


def _spread(rounds: list[Round]) -> str:
    values = [one.answered for one in rounds]
    return f"{statistics.median(values):.1f} s (median) to {max(values):.1f} s after the fault ended"


if __name__ == "__main__":
    sys.exit(main())
