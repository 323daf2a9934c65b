# SPDX-License-Identifier: Apache-2.0
"""The harness's client of Airflow: what it asks again, and what it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from dev import airflow_api
from dev.airflow_api import AirflowApi, AirflowApiError

LOCKED = {"detail": {"reason": "Database error", "orig_error": "database is locked"}}
BROKEN = {"detail": {"reason": "Database error", "orig_error": "no such table: dag"}}


@contextmanager
def airflow(*answers: tuple[int, dict[str, object]]) -> Iterator[tuple[AirflowApi, list[str]]]:
    """An API server that gives these answers to what is no login, and the methods that it was asked with."""
    waiting, asked = list(answers), list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/auth/token":
                self._answer(200, {"access_token": "token"})
            else:
                self.do_PATCH()

        def do_PATCH(self) -> None:
            asked.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(*waiting.pop(0))

        def _answer(self, status: int, content: dict[str, object]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield AirflowApi(f"http://127.0.0.1:{server.server_port}"), asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_api.time, "sleep", lambda _: None)


@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_a_locked_database_is_asked_again(method: str) -> None:
    with airflow((500, LOCKED), (500, LOCKED), (200, {"is_paused": False})) as (client, asked):
        assert client.api(method, "dags/one") == {"is_paused": False}
    assert asked == [method] * 3


def test_a_database_that_stays_locked_is_told() -> None:
    with (
        airflow(*[(500, LOCKED)] * 5) as (client, asked),
        pytest.raises(AirflowApiError, match="database is locked"),
    ):
        client.api("PATCH", "dags/one")
    assert len(asked) == 5


def test_what_else_is_broken_is_told_at_once() -> None:
    with airflow((500, BROKEN)) as (client, asked), pytest.raises(AirflowApiError, match="no such table"):
        client.api("PATCH", "dags/one")
    assert asked == ["PATCH"]


def test_asset_events_are_asked_for_again_while_a_run_that_one_created_is_queued() -> None:
    with airflow((500, {}), (500, {}), (200, {"asset_events": [{"id": 1}]})) as (client, asked):
        assert client.asset_events() == [{"id": 1}]
    assert asked == ["GET"] * 3


def test_asset_events_that_cannot_be_read_are_told() -> None:
    with airflow((500, {})) as (client, _), pytest.raises(AirflowApiError, match="assets/events"):
        client.asset_events(timeout=0)
