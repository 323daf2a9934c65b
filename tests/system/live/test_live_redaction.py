# SPDX-License-Identifier: Apache-2.0
"""
What a real Airflow writes down when tasks and triggers are careless with a token.

Each way of being careless has a token of its own, so a token that is found tells which way it went. Most of
them look like nothing in particular, since Airflow itself replaces texts that look like JSON Web Tokens.
"""

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.airflow_stack import AirflowStack
from dev.processes import REPOSITORY

pytestmark = pytest.mark.live

DAGS = '''
"""Careless tasks and triggers. The triggerer imports this file as a module."""
import asyncio, hashlib, http.client, logging, os, socket, sys, threading, warnings

import structlog
from airflow.sdk import DAG, BaseOperator, BaseHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

from lucidworks_provider.client.secrets import redact_in_logs


def token(way, head="AT."):
    return head + way + "." + hashlib.sha512((os.environ["CARELESS_SEED"] + way).encode()).hexdigest() * 4


def show(where, log):
    """Write tokens to logs in all ways but print."""

    def of(way):
        return redact_in_logs(token(where + "-" + way))

    log.info("%s", of("own-arg"))
    log.info("%r", str(of("own-repr")))
    log.info("f " + of("own-text"))
    log.warning("%s", {"a": [str(of("own-nested"))]})
    BaseHook().log.info("hook %s", of("hook"))
    structlog.get_logger("careless").info("event", field=of("field"), deep={"a": [of("deep")]})
    stdlib = logging.getLogger("urllib3.connectionpool")
    stdlib.warning("%s", of("stdlib-arg"))
    stdlib.warning("headers %s", {"Authorization": b"Bearer " + of("stdlib-bytes").encode()})
    for name, logger in (("own", log), ("stdlib", stdlib)):
        try:
            try:
                raise ValueError(of(name + "-cause"))
            except ValueError as err:
                raise RuntimeError(of(name + "-exception")) from err
        except RuntimeError:
            logger.exception("caught")
    warnings.warn(of("warning"))
    log.info("shown everything in %s", where)


class Show(BaseOperator):
    def execute(self, context):
        show("task", self.log)
        # Not logging, so not ours.
        print(redact_in_logs(token("task-print")))
        print(redact_in_logs(token("task-printjwt", "eyJ")))
        print([redact_in_logs(token("task-printrepr"))])
        connection = http.client.HTTPConnection("127.0.0.1", 9)
        connection.set_debuglevel(1)
        connection.sock, other = socket.socketpair()
        connection.request("GET", "/", headers={"Authorization": "Bearer " + redact_in_logs(token("task-debug"))})
        known = lambda: redact_in_logs(token("task-thread"))
        thread = threading.Thread(target=lambda: 1 / 0 if not known() else fail("task-thread"))
        thread.start()
        thread.join()
        return redact_in_logs(token("task-xcom"))


def fail(way):
    raise RuntimeError("refused: " + redact_in_logs(token(way)))


class Fail(BaseOperator):
    def execute(self, context):
        fail("task-failure")


class Defer(BaseOperator):
    def __init__(self, failing, **kwargs):
        super().__init__(**kwargs)
        self.failing = failing

    def execute(self, context):
        self.defer(trigger=ShowTrigger(self.failing), method_name="resume")

    def resume(self, context, event=None):
        return "resumed"


class ShowTrigger(BaseTrigger):
    def __init__(self, failing):
        super().__init__()
        self.failing = failing

    def serialize(self):
        return "careless.ShowTrigger", {"failing": self.failing}

    async def run(self):
        if self.failing:
            fail("trigger-failure")
        show("trigger", self.log)
        await asyncio.to_thread(show, "triggerthread", self.log)
        print(redact_in_logs(token("trigger-print")))
        yield TriggerEvent({})


with DAG("careless"):
    Show(task_id="show")
    Fail(task_id="fail")
    Defer(task_id="defer", failing=False)
    Defer(task_id="defer_fail", failing=True)
'''

# Printed, not logged. So does Python with an exception that ends a thread; and one that ends a trigger is logged
# by Airflow in the task's process, which has never had the token.
NOT_COVERED = {"task-print", "task-debug", "task-thread", "trigger-print", "trigger-failure"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, AirflowStack, str, str]]:
    """A home in which everything has run, its Airflow, the seed of the tokens and the run."""
    root = tmp_path_factory.mktemp("redaction")
    (root / "dags").mkdir()
    (root / "dags" / "careless.py").write_text(DAGS)
    seed = secrets.token_hex(16)
    path = f"{root / 'dags'}:{REPOSITORY}"
    environment = {
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CARELESS_SEED": seed,
        "PYTHONPATH": path,
    }
    with AirflowStack(root / "home", root / "dags", env=environment) as airflow:
        airflow.wait_for_dag("careless")
        run_id = airflow.trigger("careless")
        airflow.wait_for_run("careless", run_id, 120)
        yield root / "home", airflow, seed, run_id


def shown(text: str, seed: str) -> set[str]:
    """The ways whose tokens are in a text."""
    found = set()
    for part in text.replace("eyJ", "AT.").split("AT.")[1:]:
        way, _, rest = part.partition(".")
        if rest.startswith(hashlib.sha512((seed + way).encode()).hexdigest()):
            found.add(way)
    return found


def test_logs(home: tuple[Path, AirflowStack, str, str]) -> None:
    folder, _, seed, _ = home
    logs = {path: path.read_text(errors="replace") for path in folder.rglob("*.log*") if path.is_file()}
    everything = "\n".join(logs.values())
    for where in ("task", "trigger", "triggerthread"):
        assert f"shown everything in {where}" in everything
    assert everything.count("***") > 40
    leaked = {path.name: ways for path, text in logs.items() if (ways := shown(text, seed))}
    assert set().union(*leaked.values()) <= NOT_COVERED
    assert "Task failed with exception" in everything
    assert "refused: ***" in everything


def test_a_returned_token_is_stored_as_it_is(home: tuple[Path, AirflowStack, str, str]) -> None:
    """Airflow serializes it as the text that it is, and has no hook for such types."""
    _, airflow, seed, run_id = home
    assert shown(str(airflow.xcom("careless", run_id, "show")), seed) == {"task-xcom"}
