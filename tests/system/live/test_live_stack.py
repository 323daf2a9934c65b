# SPDX-License-Identifier: Apache-2.0
"""
The harness of the live tests: its Airflow survives crashes, and nothing survives the harness.

``test_live_chunking.py`` tests that a deferral outlives its triggerer.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from dev.airflow_stack import AirflowStack
from dev.processes import REPOSITORY, ManagedProcess, ProcessError, clean_environment, until
from dev.reaper import find_marked

pytestmark = pytest.mark.live

DAGS = '''
"""DAGs of the harness' own test."""
import os, time
from datetime import timedelta

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, task


class Wait(BaseOperator):
    def execute(self, context):
        self.defer(
            trigger=TimeDeltaTrigger(timedelta(seconds=context["dag_run"].conf["seconds"])),
            method_name="resume",
        )

    def resume(self, context, event=None):
        self.log.info("resumed with an event of the trigger")
        return 20


with DAG("deferring"):

    @task
    def double(value):
        return value * 2

    double(Wait(task_id="wait").output)

with DAG("crashing"):

    @task(retries=1, retry_delay=timedelta(seconds=1))
    def hang(ti=None):
        print("I am try", ti.try_number)
        if ti.try_number == 1:
            time.sleep(300)
        return f"{ti.try_number} {os.environ['GREETING']} {os.environ.get('AIRFLOW__CORE__FOREIGN')}"

    hang()
'''


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    """One Airflow for the tests of this module."""
    root = tmp_path_factory.mktemp("stack")
    dags = root / "dags"
    dags.mkdir()
    (dags / "dags.py").write_text(DAGS)
    os.environ["AIRFLOW__CORE__FOREIGN"] = "must not be inherited"
    try:
        with AirflowStack(root / "home", dags, env={"GREETING": "hello"}, parallelism=4) as running:
            for dag_id in ("deferring", "crashing"):
                running.wait_for_dag(dag_id, 60)
                running.unpause(dag_id)
            yield running
    finally:
        del os.environ["AIRFLOW__CORE__FOREIGN"]


def _trigger_logs(stack: AirflowStack, run_id: str) -> list[str]:
    """What each triggerer that had the run's trigger wrote, the in order (a name ends in the job id)."""
    found = stack.config.home.glob(f"logs/dag_id=*/run_id={run_id}/*/attempt=1.log.trigger.*.log")
    return [path.read_text() for path in sorted(found, key=lambda path: int(path.suffixes[-2][1:]))]


def test_a_deferred_task_goes_through_the_triggerer(stack: AirflowStack) -> None:
    run_id = stack.trigger("deferring", {"seconds": 2})

    assert stack.wait_for_run("deferring", run_id, 60) == "success"

    log = stack.task_log("deferring", run_id, "wait")
    deferred, triggered, resumed = (
        log.find(text) for text in ("DEFERRED", "Trigger fired event", "resumed with an event of the trigger")
    )
    assert 0 <= deferred < triggered < resumed, log
    # The middle part was written by the triggerer: it is in the file that process keeps of this try.
    (written,) = _trigger_logs(stack, run_id)
    assert "Trigger fired event" in written
    assert stack.xcom("deferring", run_id, "double") == 40


def test_a_killed_task_is_tried_again(stack: AirflowStack) -> None:
    """``kill -9`` of the runner is noticed at once, of runner and supervisor by the missing heartbeats."""
    runs = {stack.trigger("crashing"): False, stack.trigger("crashing"): True}
    for run_id in runs:
        stack.wait_for_task("crashing", run_id, "hang", ["running"])
    time.sleep(1)
    assert len(stack.running_tasks()) == 4  # two tasks, each with its supervisor

    for run_id, supervisor in runs.items():
        stack.kill_task("crashing", run_id, "hang", supervisor=supervisor)
    began = time.monotonic()

    for run_id, supervisor in runs.items():
        assert stack.wait_for_run("crashing", run_id, 90) == "success"
        whom = "runner and supervisor" if supervisor else "runner"
        print(f"second try after kill -9 of {whom} done within {time.monotonic() - began:.1f} s")
        assert stack.xcom("crashing", run_id, "hang") == "2 hello None"
        assert "I am try 1" in stack.task_log("crashing", run_id, "hang", 1)
        assert "I am try 2" in stack.task_log("crashing", run_id, "hang", 2)
    assert stack.running_tasks() == []


def test_stop_leaves_no_process_and_no_port(stack: AirflowStack) -> None:
    stack.trigger("crashing")
    until(stack.running_tasks, "a task")
    assert len(stack.running_tasks()) == 2

    began = time.monotonic()
    stack.stop()
    stack.stop()
    print(f"stopped, in the middle of a task, within {time.monotonic() - began:.1f} s")

    assert stack.processes() == []
    for port in (stack.config.port, *stack.config.log_ports):
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0


def test_a_part_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    stack = AirflowStack(
        tmp_path,
        tmp_path / "dags",
        env={"AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "often"},
        say=lambda _: None,
    )
    with pytest.raises(ProcessError, match=r"(?s)triggerer ended after .*exit code 1.*often"):
        stack.__enter__()
    assert stack.processes() == []


SCRIPT = """
import sys
from pathlib import Path
from dev.airflow_stack import AirflowStack, install_signal_handlers

home = Path(sys.argv[1])
with install_signal_handlers():
    stack = AirflowStack(home, home / "dags")
    print("stack", stack.group.id, flush=True)
    with stack:
        print("all up", flush=True)
"""


# SIGHUP has the handler of SIGTERM; the demo's test interrupts with SIGINT.
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_the_middle_of_the_start_leaves_nothing(sig: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-c", dedent(SCRIPT), str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as script:
        assert script.stdout is not None
        group = script.stdout.readline().split()[1]
        assert "preparing" in script.stdout.readline()
        assert "starting" in script.stdout.readline()
        time.sleep(2)
        assert len(find_marked(group)) >= 4
        script.send_signal(sig)
        began = time.monotonic()
        output, _ = script.communicate(timeout=30)
    assert "all up" not in output
    assert script.returncode in {-sig, 128 + sig}
    if sig == signal.SIGKILL:  # only now does the safety net begin
        while find_marked(group) and time.monotonic() < began + 5:
            time.sleep(0.1)
    assert find_marked(group) == []
    print(f"{sig.name}: nothing left after {time.monotonic() - began:.1f} s")


def test_any_program_can_be_managed(tmp_path: Path) -> None:
    """Even one whose child left the session and ignores SIGTERM."""
    child = (
        "import os, signal, time; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"
    )
    program = f"""
        import subprocess, sys, time
        print("port 4711", subprocess.Popen([sys.executable, "-c", {child!r}]).pid)
        time.sleep(99)
    """
    args = [sys.executable, "-c", dedent(program)]
    with ManagedProcess(args, clean_environment(), tmp_path / "log.txt") as process:
        assert process.wait_for(r"port (\d+)", 10)[1] == "4711"
        pid = int(process.output().split()[-1])
        assert psutil.pid_exists(pid)
        with pytest.raises(ProcessError, match="did not print"):
            process.wait_for("never", 0.1)
    assert not process.alive
    # Where no init reaps orphans (containers) a killed one stays in the table as a zombie.
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
