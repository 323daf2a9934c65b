# SPDX-License-Identifier: Apache-2.0
"""Values of a wrong type, as of templates that are rendered to native objects: Airflow retries a bare TypeError."""

import json
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import BaseOperator, TaskDeferred
from operator_service import new_context
from test_operator_templates import CASES, OF_AIRFLOW, made

from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import LucidworksError

VALUES = [5, 2.5, True, [], {}, b"", {1: 2}, object(), [["a"]], ["a", None]]


@pytest.mark.parametrize("operator", CASES, ids=lambda one: one.__name__)
def test_a_wrong_type_is_an_error_of_this_package(
    operator: type[BaseOperator], emulator: RunningEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.csv").write_text("id,text\n1,One.\n")
    # Every request is refused, so that values of the right type end at once.
    connection = json.loads(emulator.conn_json()) | {"password": "wrong"}
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(connection))
    # Airflow's own decorators check the arguments of the function.
    for name in set(operator.template_fields) - OF_AIRFLOW:
        for value in VALUES:
            try:
                made(operator, tmp_path, **{name: value}).execute(new_context(state_store=False))
            except (LucidworksError, TaskDeferred):
                continue
            except Exception as err:  # noqa: BLE001  # any error of a wrong type
                pytest.fail(f"{name}={value!r}: {type(err).__name__}: {err}")
