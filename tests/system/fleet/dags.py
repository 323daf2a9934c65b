# SPDX-License-Identifier: Apache-2.0
"""
The DAGs of the fleet; the DAG folder of its Airflow has a copy.

How many tasks there are, how long they call and with which connection comes from the conf of a run.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from airflow.providers.common.compat.sdk import DAG, BaseOperator, task
from airflow.triggers.base import StartTriggerArgs

from lucidworks_provider.operators.chunking import LucidworksChunkOperator

TRIGGERS_A_RUN = 100


@task
def numbers(dag_run: Any = None) -> list[int]:
    """As many as the run's conf says."""
    return list(range(dag_run.conf["tasks"]))


@task
def call(number: int, dag_run: Any = None) -> dict[str, Any]:
    """Call the service for a while from a worker; a failed call is a failed task."""
    from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

    conf = dag_run.conf
    calls, end = 0, time.monotonic() + conf["seconds"]
    slowest = 0.0
    with LucidworksAuthHook(conf["conn_id"]).get_conn() as session:
        while not calls or time.monotonic() < end:
            begin = time.monotonic()
            session.get("/ai/usecases").raise_for_status()
            slowest = max(slowest, time.monotonic() - begin)
            calls += 1
            time.sleep(conf["interval"])
    return {"home": os.environ["AIRFLOW_HOME"], "calls": calls, "slowest": slowest}


with DAG("fleet_calls", schedule=None):
    call.expand(number=numbers())

with DAG("fleet_chunks", schedule=None):
    LucidworksChunkOperator.partial(
        task_id="chunk",
        lucidworks_conn_id="{{ dag_run.conf['conn_id'] }}",
        chunker="sentence",
        model_id="gte-small",
        result_path="{{ dag_run.conf['out'] }}/{{ ti.map_index }}.parquet",
        poll_interval=2,
        deferrable=True,
    ).expand(
        documents=numbers().map(lambda number: [{"id": "a", "text": f"One of {number}. And another one."}])
    )


class FromTrigger(BaseOperator):
    """Starts and ends in the triggerer: no worker has to start for it."""

    start_from_trigger = True

    def __init__(self, *, trigger: str, options: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=f"tests.system.fleet.triggers.{trigger}",
            trigger_kwargs=options,
            next_method="execute_complete",
            timeout=None,
        )

    def execute_complete(self) -> None:
        """Never runs: the trigger ends the task."""


with DAG("fleet_triggers", schedule=None):
    for index in range(TRIGGERS_A_RUN):
        FromTrigger(
            task_id=f"trigger_{index}",
            trigger="CallTrigger",
            options={"conn_ids": os.environ["FLEET_CROWD"], "seconds": 20.0, "interval": 2.0},
        )

with DAG("fleet_warm", schedule=None):
    FromTrigger(
        task_id="trigger",
        trigger="CallTrigger",
        options={"conn_ids": "warm", "seconds": 1.0, "interval": 0.5},
    )

for dag_id, trigger_name, limit in (
    ("fleet_renewals", "WatchTrigger", "FLEET_RENEWING_SECONDS"),
    ("fleet_idle", "IdleTrigger", "FLEET_IDLE_SECONDS"),
):
    with DAG(dag_id, schedule=None):
        FromTrigger(
            task_id="watch",
            trigger=trigger_name,
            options={
                "conn_ids": os.environ["FLEET_RENEWING"],
                "seconds": float(os.environ[limit]),
                "interval": 0.1,
            },
        )


@task
def die(dag_run: Any = None) -> None:
    """Get a token, and be killed at one step of that."""
    from lucidworks_provider.client.auth import source
    from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

    before, after = dag_run.conf["step"].split()
    perform = source.TokenSource.perform

    def deadly(self: Any, command: Any) -> Any:
        name = type(command).__name__
        if before == "before" and name == after:
            os.kill(os.getpid(), signal.SIGKILL)
        reply = perform(self, command)
        if before == "after" and name == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    source.TokenSource.perform = deadly  # type: ignore[method-assign]
    hook = LucidworksAuthHook(dag_run.conf["conn_id"])
    hook.get_token()
    raise RuntimeError(f"never came to {dag_run.conf['step']}")


@task(trigger_rule="all_done")
def recover(dag_run: Any = None) -> dict[str, Any]:
    """What the next one sees: how long its first call takes."""
    from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

    with LucidworksAuthHook(dag_run.conf["conn_id"]).get_conn() as session:
        # Reading the connection and the first Variable is not what is measured.
        begin = time.monotonic()
        session.get("/ai/usecases").raise_for_status()
        return {"seconds": time.monotonic() - begin}


with DAG("fleet_deaths", schedule=None):
    die() >> recover()
