# SPDX-License-Identifier: Apache-2.0
"""Values of a wrong type, as of templates that are rendered to native objects: Airflow retries a bare TypeError."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException, TaskDeferred
from test_operator_templates import CASES

from lucidworks_provider.errors import LucidworksError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

    from lucidworks_provider.emulator.server import RunningEmulator

VALUES = [5, 2.5, True, [], {}, b"", {1: 2}, object(), [["a"]], ["a", None]]


@pytest.mark.parametrize("operator", CASES, ids=lambda one: one.__name__)
def test_a_wrong_type_is_an_error_of_this_package(
    operator: type[BaseOperator], emulator: RunningEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.csv").write_text("id,text\n1,One.\n")
    # Every request is refused, so that values of the right type end at once.
    connection = json.loads(emulator.conn_json()) | {"password": "wrong"}
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(connection))
    places = {"/a": "source", "/b": "tables", "/a.jsonl": "result.jsonl"}
    working = {
        name: f"file://{tmp_path}/{places[value]}" if isinstance(value, str) and value in places else value
        for name, value in CASES[operator][0].items()
    }
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=2, try_number=1)
    # Airflow's own decorators check these two.
    for name in set(operator.template_fields) - {"op_args", "op_kwargs"}:
        for value in VALUES:
            try:
                operator(task_id="t", **working | {name: value}).execute({"ti": ti})
            except (LucidworksError, TaskDeferred):
                continue
            except AirflowNotFoundException:
                assert name.endswith("conn_id")
            except Exception as err:  # noqa: BLE001  # any error of a wrong type
                pytest.fail(f"{name}={value!r}: {type(err).__name__}: {err}")
