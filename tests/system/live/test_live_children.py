# SPDX-License-Identifier: Apache-2.0
"""Child processes of a task that request a token, in a real Airflow."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dev.airflow_stack import AirflowStack
from dev.demo import Emulator

pytestmark = pytest.mark.live

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What each task returned."""
    root = tmp_path_factory.mktemp("children")
    (root / "dags").mkdir()
    for name in ("children_dags.py", "child_calls.py"):
        shutil.copy(HERE / name, root / "dags")
    with ExitStack() as stack:
        emulator = stack.enter_context(
            Emulator(root / "emulator.log", "--client=memory:of-memory", "--client=stored:of-stored")
        )
        stored = json.loads(emulator.connection()) | {"login": "stored", "password": "of-stored"}
        memory = json.loads(emulator.connection(share_via="memory"))
        memory |= {"login": "memory", "password": "of-memory"}
        environment = {
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(),
            "AIRFLOW_CONN_LUCIDWORKS_MEMORY": json.dumps(memory),
        }
        airflow = AirflowStack(root / "home", root / "dags", env=environment)
        # Nothing here defers.
        del airflow.commands["triggerer"]
        stack.enter_context(airflow)
        airflow.wait_for_dag("children")
        stored["extra"] = json.dumps(stored["extra"])
        airflow.api("POST", "connections", connection_id="lucidworks_stored", **stored)
        run_id = airflow.trigger("children", {})
        ended = airflow.wait_for_run("children", run_id, 120)
        tasks = ("fork", "spawn", "forks")
        assert ended == "success", {name: airflow.task_log("children", run_id, name, 1) for name in tasks}
        yield {name: airflow.xcom("children", run_id, name) for name in tasks}


def assert_out_of_reach(found: dict[str, Any]) -> None:
    shared = found["lucidworks_default"]
    assert (shared["error"], shared["retryable"]) == ("TokenStoreError", False), shared
    assert "a child process of a task" in shared["message"]
    assert ".expand" in shared["message"]
    stored = found["lucidworks_stored"]
    assert (stored["error"], stored["retryable"]) == ("ConfigurationError", False), stored
    assert "AIRFLOW_CONN_LUCIDWORKS_STORED" in stored["message"]
    assert found["lucidworks_memory"]["token"] > 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["pool", "executor"])
def test_a_pool(seen: dict[str, Any], method: str, kind: str) -> None:
    assert_out_of_reach(seen[method][kind])


def test_a_fork_leaves_the_channel_of_the_task_alone(seen: dict[str, Any]) -> None:
    assert_out_of_reach(seen["forks"])


@pytest.mark.parametrize("task", ["fork", "spawn", "forks"])
def test_the_task_itself_gets_tokens(seen: dict[str, Any], task: str) -> None:
    assert all(found.get("token", 0) > 0 for found in seen[task]["task"].values()), seen[task]["task"]
