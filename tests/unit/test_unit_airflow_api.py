# SPDX-License-Identifier: Apache-2.0
"""The harness's client of Airflow: what it asks again, and what it does not."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from dev import airflow_api
from dev.airflow_api import AirflowApi, AirflowApiError

LOCKED = 500, {"detail": {"reason": "Database error", "orig_error": "database is locked"}}
BROKEN = 500, {"detail": {"reason": "Database error", "orig_error": "no such table: dag"}}


@pytest.fixture
def asked() -> list[str]:
    """The methods of the requests that are no login."""
    return []


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> Callable[..., AirflowApi]:
    """A client of an API server that gives these answers to what is no login."""

    def client(*answers: tuple[int, object]) -> AirflowApi:
        waiting = list(answers)

        def request(_: requests.Session, method: str, url: str, **__: Any) -> requests.Response:
            response = requests.Response()
            if url.endswith("/auth/token"):
                response.status_code, content = 200, {"access_token": "token"}
            else:
                asked.append(method)
                response.status_code, content = waiting.pop(0)
            response.raw = io.BytesIO(json.dumps(content).encode())
            return response

        monkeypatch.setattr(requests.Session, "request", request)
        monkeypatch.setattr(airflow_api.time, "sleep", lambda _: None)
        return AirflowApi("http://airflow.test")

    return client


@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_a_locked_database_is_asked_again(answered: Any, asked: list[str], method: str) -> None:
    assert answered(LOCKED, LOCKED, (200, {"a": 1})).api(method, "dags/one") == {"a": 1}
    assert asked == [method] * 3


@pytest.mark.parametrize(
    ("answer", "words", "times"), [(LOCKED, "database is locked", 5), (BROKEN, "no such table", 1)]
)
def test_an_error_that_stays_is_raised(
    answered: Any, asked: Any, answer: Any, words: str, times: int
) -> None:
    with pytest.raises(AirflowApiError, match=words):
        answered(*[answer] * 5).api("PATCH", "dags/one")
    assert len(asked) == times


def test_asset_events_are_requested_again_while_their_run_is_queued(answered: Any, asked: list[str]) -> None:
    assert answered((500, {}), (500, {}), (200, {"asset_events": [{"id": 1}]})).asset_events() == [{"id": 1}]
    assert asked == ["GET"] * 3
    with pytest.raises(AirflowApiError, match="assets/events"):
        answered((500, {})).asset_events(timeout=0)
