# SPDX-License-Identifier: Apache-2.0
"""Every answer that the emulator gives where the OpenAPI document has one is the documented one."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import requests
from contract_wire import Exchange, Recorders, judge, recording
from openapi_core.exceptions import OpenAPIError

from lucidworks_provider.emulator import EmulatorSettings, running
from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.emulator.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lucidworks_provider.emulator.server import RunningEmulator

SMALL = 2000
TOKEN_PATH = "/oauth2/ausao8uveaPmyhv0v357/v1/token"
TOKEN_HEADERS = {
    "Accept": "application/json",
    "Cache-Control": "no-cache",
    "Content-Type": "application/x-www-form-urlencoded",
}


class Vendor:
    """Calls the emulator through the recorders and has each answer judged."""

    def __init__(self, emulator: RunningEmulator, wire: Recorders) -> None:
        self.emulator, self.wire = emulator, wire
        self.bearer = ""

    def call(self, base: str, method: str, path: str, **options: Any) -> Exchange:
        requests.request(method, base + path, timeout=20, allow_redirects=False, **options)
        exchange = self.wire.seen[-1]
        judge().answer(exchange)
        return exchange

    def token(self, scope: str = "machinelearning.predict", **changes: Any) -> Exchange:
        options: dict[str, Any] = {
            "params": {"scope": scope, "grant_type": "client_credentials"},
            "auth": ("demo-client", "demo-secret"),
            "headers": TOKEN_HEADERS,
        }
        return self.call(self.wire.identity, "POST", TOKEN_PATH, **(options | changes))

    def log_in(self, scope: str = "machinelearning.predict") -> Vendor:
        self.bearer = json.loads(self.token(scope).data)["access_token"]
        return self

    def api(self, method: str, path: str, **options: Any) -> Exchange:
        headers = {"Authorization": f"Bearer {self.bearer}"} if self.bearer else {}
        return self.call(self.wire.application, method, path, headers=headers, **options)

    def submit(self, text: str = "One. Two.", path: str = "sentence/gte-small", **body: Any) -> Exchange:
        return self.api("POST", f"/ai/async-chunking/{path}", json={"batch": [{"text": text}], **body})

    def poll(self, job_id: str) -> Exchange:
        return self.api("GET", f"/ai/async-chunking/{job_id}")

    def fault(self, **order: Any) -> None:
        self.emulator.state.faults.order(Fault.from_json(order))


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[RunningEmulator, Recorders]]:
    with running(EmulatorSettings(max_text_bytes=SMALL)) as emulator, recording(emulator.url) as wire:
        yield emulator, wire


@pytest.fixture
def vendor(served: tuple[RunningEmulator, Recorders], plain_network: None) -> Vendor:
    emulator, wire = served
    emulator.state.reset()
    wire.seen.clear()
    return Vendor(emulator, wire)


def test_token(vendor: Vendor) -> None:
    body = json.loads(vendor.token().data)
    assert set(body) == {"token_type", "expires_in", "access_token", "scope"}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"auth": ("demo-client", "wrong")}, 401),
        ({"auth": None}, 401),
        ({"params": {"scope": "machinelearning.predict"}}, 400),
        ({"params": {"scope": "other", "grant_type": "client_credentials"}}, 400),
        ({"headers": {**TOKEN_HEADERS, "Cache-Control": "max-age=0"}}, 400),
    ],
)
def test_token_errors(vendor: Vendor, changes: dict[str, Any], status: int) -> None:
    assert vendor.token(**changes).status_code == status


@pytest.mark.parametrize("shape", ["inside", "legacy"])
@pytest.mark.parametrize("quantization", [None, "min-max", "max-scale"])
def test_a_job_from_submission_to_retrieved(vendor: Vendor, shape: str, quantization: str | None) -> None:
    vendor.log_in()
    if shape == "legacy":
        vendor.fault(kind="legacy-shape", match="submit")
    config = {} if quantization is None else {"modelConfig": {"vectorQuantizationMethod": quantization}}
    submitted = json.loads(vendor.submit(**config).data)
    job_id = submitted["chunkingId"]
    answers = [json.loads(vendor.poll(job_id).data) for _ in range(3)]
    assert [submitted["status"], *(one["status"] for one in answers)] == [
        "SUBMITTED",
        "SUBMITTED",
        "READY",
        "RETRIEVED",
    ]
    ready = answers[1]
    assert ("vector" in ready) is (shape == "legacy")
    assert ("vectors" in ready["chunkedData"][0]) is (shape == "inside")


@pytest.mark.parametrize("chunker", ["dynamic-newline", "dynamic-sentence", "regex-splitter", "semantic"])
def test_results_of_the_other_chunkers(vendor: Vendor, chunker: str) -> None:
    vendor.log_in()
    job_id = json.loads(vendor.submit("One.\nTwo. Three.", f"{chunker}/e5-small-v2").data)["chunkingId"]
    deadline = time.monotonic() + 10
    while json.loads(vendor.poll(job_id).data)["status"] != "READY":
        assert time.monotonic() < deadline


def test_a_failed_job(vendor: Vendor) -> None:
    vendor.log_in()
    job_id = json.loads(vendor.submit().data)["chunkingId"]
    job = vendor.emulator.state.jobs.find(job_id, vendor.emulator.state.settings)
    assert job is not None
    vendor.emulator.state.jobs.force(job, JobState.ERROR, "It went wrong.")
    body = json.loads(vendor.poll(job_id).data)
    assert (body["status"], body["message"]) == ("ERROR", "It went wrong.")


def test_refused_submissions(vendor: Vendor) -> None:
    assert vendor.submit().status_code == 401
    vendor.log_in()
    assert vendor.submit(chunkerConfig={"size": 1}).status_code == 400
    assert vendor.submit(path="sentence/no-such-model").status_code == 404
    assert vendor.submit("x" * (SMALL + 1)).status_code == 413
    vendor.log_in("machinelearning.model")
    assert vendor.submit().status_code == 403


def test_refused_polls(vendor: Vendor) -> None:
    assert vendor.poll(str(uuid4())).status_code == 401
    vendor.log_in()
    assert vendor.poll(str(uuid4())).status_code == 404


def test_use_cases(vendor: Vendor) -> None:
    assert vendor.api("GET", "/ai/usecases").status_code == 401
    vendor.log_in()
    assert "gte-small" in vendor.api("GET", "/ai/usecases").data.decode()
    assert vendor.api("GET", "/ai/usecases?modelId=nothing").status_code == 200


@pytest.mark.parametrize("match", ["token", "submit", "poll", "usecases"])
def test_rate_limit(vendor: Vendor, match: str) -> None:
    vendor.log_in()
    vendor.fault(kind="429", match=match, retry_after=1.5)
    calls = {
        "token": vendor.token,
        "submit": vendor.submit,
        "poll": lambda: vendor.poll(str(uuid4())),
        "usecases": lambda: vendor.api("GET", "/ai/usecases"),
    }
    exchange = calls[match]()
    assert (exchange.status_code, exchange.headers["Retry-After"]) == (429, "1.5")


@pytest.mark.parametrize(
    "body",
    [
        {"status": "READY"},
        {"chunkingId": "no-uuid", "status": "READY"},
        {"chunkingId": str(uuid4()), "status": "DONE"},
        {"chunkingId": str(uuid4()), "status": "READY", "chunkedData": [{"spans": [[1]]}]},
        {"chunkingId": str(uuid4()), "status": "READY", "chunkedData": {}},
    ],
)
def test_the_judge_refuses_wrong_answers(vendor: Vendor, body: dict[str, Any]) -> None:
    vendor.log_in()
    exchange = vendor.poll(json.loads(vendor.submit().data)["chunkingId"])
    exchange.data = json.dumps(body).encode()
    with pytest.raises(OpenAPIError):
        judge().answer(exchange)
