# SPDX-License-Identifier: Apache-2.0
"""Arguments in their types, and the limit of a wait."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException, TaskDeferred

from lucidworks_provider.client.options import check_option, number, whole
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import InputError, JobTimeoutError, LucidworksError
from lucidworks_provider.operators.base import FLAG, SECONDS, execution_limit
from lucidworks_provider.sensors.jobs import LucidworksJobSensor
from lucidworks_provider.sensors.models import LucidworksDeploymentSensor

SHARE = number(0, 1)


@pytest.mark.parametrize(
    ("option", "given", "value"),
    [
        *((FLAG, given, True) for given in (" true ", "1")),
        *((FLAG, given, False) for given in ("false", "False", "0", None)),
        (SECONDS, "30", 30.0),
        (SECONDS, " 0.5 ", 0.5),
        (SECONDS, "1e3", 1000.0),
        (SECONDS, timedelta(minutes=1), 60.0),
        (SHARE, "0.05", 0.05),
        (SHARE, "1", 1.0),
        (SHARE, 0, 0.0),
        *((whole(0), given, value) for given, value in ((0, 0), ("7", 7), (" 512 ", 512), ("+3", 3))),
    ],
)
def test_values(option: Any, given: Any, value: Any) -> None:
    found = check_option(given, "x", option)
    assert (found, isinstance(found, bool)) == (value, isinstance(value, bool))


@pytest.mark.parametrize("given", ["no", "off", "2", "", 2, 0, 1.0, [], "{{ x }}"])
def test_what_is_no_truth_value(given: Any) -> None:
    with pytest.raises(InputError, match=r"deferrable is .*it must be True or False"):
        LucidworksJobSensor(task_id="t", job_id="j", deferrable=given).execute({})


WHOLE = [-1, "-1", 1.0, "1.0", "1e3", True, None, "", "x", "9" * 5000]


@pytest.mark.parametrize(
    ("option", "given", "words"),
    [
        *[
            (SECONDS, one, "")
            for one in ("0", "-1", "nan", "inf", "0x10", "1_000", "", "soon", True, None, 1e12)
        ],
        *[(SHARE, one, "") for one in ("1.1", "-0.1", "5%", "nan", True, None)],
        *[(whole(0), one, ".*whole number from 0") for one in WHOLE],
        (whole(1, 8), "9", ".*from 1 to 8"),
    ],
)
def test_what_is_no_number(option: Any, given: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"x is {words}"):
        check_option(given, "x", option)


STARTED = datetime(2026, 1, 1, tzinfo=UTC)
TIMED_OUT = {"kind": "deployment", "resource_id": "d", "target": "DEPLOYED"}
TIMED_OUT |= {"state": "DEPLOYING", "end": "timeout"}


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


def sensor(**arguments: Any) -> LucidworksDeploymentSensor:
    return LucidworksDeploymentSensor(
        **{"task_id": "t", "deployment_id": "d", "deferrable": True} | arguments
    )


def started(moment: datetime) -> Any:
    return {"ti": SimpleNamespace(start_date=moment)}


@pytest.mark.parametrize(
    ("timeout", "execution_timeout", "left", "named"),
    [
        (3600, timedelta(seconds=20), 18.0, "execution_timeout=20 s"),
        (5, timedelta(seconds=20), 5.0, "timeout=5 s"),
        ("5", None, 5.0, "timeout=5 s"),
    ],
)
def test_the_smaller_limit_counts_and_is_named(
    timeout: Any, execution_timeout: Any, left: float, named: str, emulator: RunningEmulator
) -> None:
    one, now = sensor(timeout=timeout, execution_timeout=execution_timeout), datetime.now(UTC)
    with pytest.raises(TaskDeferred) as deferred:
        one.execute(started(now))
    trigger: Any = deferred.value.trigger
    assert trigger.deadline - now.timestamp() == pytest.approx(left, abs=1)
    with pytest.raises((AirflowSensorTimeout, JobTimeoutError), match=f" within {named}"):
        one.execute_complete(started(now - timedelta(seconds=left)), TIMED_OUT)


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
    began = started(datetime.now(UTC) - timedelta(seconds=19))
    with pytest.raises(error, match="DEPLOYING, and was not 'DEPLOYED' within"):
        sensor(timeout=3600, execution_timeout=execution_timeout).execute_complete(began, TIMED_OUT)
    assert JobTimeoutError.retryable


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"mode": "poke"}, "execution_timeout=20 s of the attempt's start. A retry resumes the wait."),
        ({"mode": "reschedule"}, "timeout=3600 s. Clear the task to resume the wait."),
        ({"mode": "reschedule", "deferrable": True}, "execution_timeout=20 s"),
    ],
)
def test_execution_timeout_does_not_end_a_wait_of_several_processes(how: dict[str, Any], named: str) -> None:
    """Airflow applies it to each poke of a sensor in reschedule mode."""
    one = sensor(**{"deferrable": False, "timeout": 3600, "execution_timeout": timedelta(seconds=20)} | how)
    began = started(datetime.now(UTC) - timedelta(seconds=19))
    with pytest.raises((AirflowSensorTimeout, JobTimeoutError), match=f"'DEPLOYED' within {named}"):
        one.execute_complete(began, TIMED_OUT)


@pytest.mark.parametrize(("never_fail", "error"), [(True, AirflowSkipException), (False, LucidworksError)])
def test_never_fail_covers_errors_after_a_deferral(never_fail: bool, error: type) -> None:
    """As of a poke, also those that a retry can resolve."""
    broken = TIMED_OUT | {"end": "error", "message": "HTTP 403"}
    one = sensor(never_fail=never_fail, timeout=3600, execution_timeout=timedelta(seconds=20))
    for event in (broken, TIMED_OUT):
        with pytest.raises(error):
            one.resume_execution("execute_complete", {"event": event}, started(datetime.now(UTC)))
