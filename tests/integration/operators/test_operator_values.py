# SPDX-License-Identifier: Apache-2.0
"""Arguments in their types, and the limit of a wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout

from lucidworks_provider.errors import InputError, JobTimeoutError
from lucidworks_provider.operators.base import execution_limit
from lucidworks_provider.operators.models import LucidworksDeployModelOperator
from lucidworks_provider.operators.values import seconds, share, switch, whole
from lucidworks_provider.sensors.jobs import LucidworksJobSensor
from lucidworks_provider.sensors.models import LucidworksDeploymentSensor


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("false", False),
        ("False", False),
        (" true ", True),
        ("1", True),
        ("0", False),
        (None, False),
    ],
)
def test_truth_values(given: Any, value: bool) -> None:
    assert switch(given, "prune") is value
    sensor = LucidworksDeploymentSensor(task_id="t", deployment_id="d", deferrable=given)
    assert sensor._in_triggerer is value


@pytest.mark.parametrize("given", ["no", "off", "2", "", 2, 0, 1.0, [], "{{ x }}"])
def test_what_is_no_truth_value(given: Any) -> None:
    with pytest.raises(InputError, match=r"deferrable is .*give True or False"):
        _ = LucidworksJobSensor(task_id="t", job_id="j", deferrable=given)._in_triggerer


@pytest.mark.parametrize(
    ("convert", "given", "value"),
    [
        (seconds, "30", 30.0),
        (seconds, " 0.5 ", 0.5),
        (seconds, "1e3", 1000.0),
        (seconds, timedelta(minutes=1), 60.0),
        (share, "0.05", 0.05),
        (share, "1", 1.0),
        (share, 0, 0.0),
    ],
)
def test_numbers(convert: Any, given: Any, value: float) -> None:
    assert convert(given, "x") == value


@pytest.mark.parametrize(
    ("convert", "given"),
    [
        *[(seconds, one) for one in ("0", "-1", "nan", "inf", "0x10", "1_000", "", "soon", True, None, 1e12)],
        *[(share, one) for one in ("1.1", "-0.1", "5%", "nan", True, None)],
    ],
)
def test_what_is_no_number(convert: Any, given: Any) -> None:
    with pytest.raises(InputError, match="x is "):
        convert(given, "x")


def test_whole_numbers() -> None:
    assert [whole(one, "x", 0) for one in (0, "7", " 512 ", "+3")] == [0, 7, 512, 3]
    for bad in (-1, "-1", 1.0, "1.0", "1e3", True, None, "", "x", "9" * 5000):
        with pytest.raises(InputError, match=r"x is .*whole number of at least 0"):
            whole(bad, "x", 0)
    with pytest.raises(InputError, match="from 1 to 8"):
        whole("9", "x", 1, 8)


STARTED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("limit", "after"),
    [
        (timedelta(seconds=20), 18.0),
        (timedelta(minutes=2), 108.0),
        (timedelta(minutes=5), 270.0),
        (timedelta(hours=24), 86_370.0),
        (None, None),
    ],
)
def test_a_wait_ends_a_little_before_execution_timeout(limit: timedelta | None, after: float | None) -> None:
    found = execution_limit(SimpleNamespace(start_date=STARTED), limit)
    assert found == (after if after is None else STARTED.timestamp() + after)
    assert execution_limit(SimpleNamespace(start_date=None), limit) is None
    assert execution_limit(SimpleNamespace(), limit) is None


@pytest.mark.parametrize(
    ("timeout", "execution_timeout", "left", "named"),
    [
        (3600, timedelta(seconds=20), 18.0, "execution_timeout=20 s"),
        (5, timedelta(seconds=20), 5.0, "timeout=5 s"),
        ("5", None, 5.0, "timeout=5 s"),
    ],
)
def test_the_smaller_limit_counts_and_is_named(
    timeout: Any, execution_timeout: timedelta | None, left: float, named: str
) -> None:
    operator = LucidworksDeployModelOperator(
        task_id="t", model_id="m", timeout=timeout, execution_timeout=execution_timeout
    )
    now = datetime.now(UTC)
    context: Any = {"ti": SimpleNamespace(start_date=now)}
    assert operator._deadline(context) - now.timestamp() == pytest.approx(left, abs=1)
    ended: Any = {"ti": SimpleNamespace(start_date=now - timedelta(seconds=left))}
    assert operator._waited(ended).startswith(named)


@pytest.mark.parametrize(
    ("execution_timeout", "error"),
    [
        (None, AirflowSensorTimeout),
        (timedelta(seconds=20), JobTimeoutError),
        (timedelta(days=1), AirflowSensorTimeout),
    ],
)
def test_a_sensor_at_execution_timeout_is_retried(execution_timeout: timedelta | None, error: type) -> None:
    """Airflow never retries an AirflowSensorTimeout: the sensor's own timeout is over. An attempt's limit is not."""
    sensor = LucidworksDeploymentSensor(
        task_id="t", deployment_id="d", timeout=3600, execution_timeout=execution_timeout, deferrable=True
    )
    context: Any = {"ti": SimpleNamespace(start_date=datetime.now(UTC) - timedelta(seconds=19))}
    event = {
        "kind": "deployment",
        "resource_id": "d",
        "target": "DEPLOYED",
        "state": "DEPLOYING",
        "end": "timeout",
    }
    with pytest.raises(error, match="DEPLOYING, and was not 'DEPLOYED' within"):
        sensor.execute_complete(context, event)
    assert JobTimeoutError.retryable
