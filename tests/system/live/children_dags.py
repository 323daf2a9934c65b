# SPDX-License-Identifier: Apache-2.0
"""A DAG for :mod:`test_live_children`: processes that a task starts, and the task's own channel meanwhile."""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing

from airflow.sdk import DAG, Variable, task
from child_calls import token, token_of_fork

CONNECTIONS = ["lucidworks_default", "lucidworks_memory", "lucidworks_stored"]

with DAG("children", schedule=None):

    @task
    def pools(method: str) -> dict:
        """In a pool of each kind, then in the task itself."""
        # Without it, Airflow cannot be imported in a spawned child of a task: the database's URL is invalid there.
        os.environ["_AIRFLOW__AS_LIBRARY"] = "1"
        context = multiprocessing.get_context(method)
        # One process each: a spawned one imports Airflow, seconds of work.
        with closing(context.Pool(1)) as pool:
            seen = {"pool": dict(zip(CONNECTIONS, pool.map(token, CONNECTIONS), strict=True))}
        # Leaving a pool's own context terminates its processes, and may wait for ever: forked ones have the handler
        # of SIGTERM of Airflow's task process, which ignores it in children.
        pool.join()
        with ProcessPoolExecutor(1, mp_context=context) as executor:
            seen["executor"] = dict(zip(CONNECTIONS, executor.map(token, CONNECTIONS), strict=True))
        return seen | {"task": {name: token(name) for name in CONNECTIONS}}

    @task
    def forks() -> dict:
        """Children that call while the task uses its channel."""
        readers = {name: token_of_fork(name) for name in CONNECTIONS}
        for number in range(60):
            Variable.set("of_the_task", str(number))
            assert Variable.get("of_the_task") == str(number)
        seen = {}
        for name, reader in readers.items():
            with os.fdopen(reader) as file:
                seen[name] = json.load(file)
        return seen | {"task": {name: token(name) for name in CONNECTIONS}}

    pools.override(task_id="fork")("fork")
    pools.override(task_id="spawn")("spawn")
    forks()
