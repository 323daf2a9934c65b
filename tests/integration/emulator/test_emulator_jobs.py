# SPDX-License-Identifier: Apache-2.0
"""The life of a job of chunking or of predictions: the same states, settings and faults (section 6.3)."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import requests
from emulator_client import Caller

from lucidworks_provider.emulator import EmulatorSettings

SETTINGS = EmulatorSettings(pending_polls=0)


@dataclass
class Jobs:
    """One of the two APIs: what submits and polls, its endpoints' names, and where ids and results are."""

    caller: Caller
    kind: str

    def __post_init__(self) -> None:
        chunking = self.kind == "chunking"
        self.id_field, self.payload = f"{self.kind}Id", "chunkedData" if chunking else "predictions"
        self.submit_endpoint = "submit" if chunking else "submit-prediction"
        self.poll_endpoint = "poll" if chunking else "poll-prediction"

    def submit(self) -> str:
        answer = self.caller.submit() if self.kind == "chunking" else self.caller.submit_prediction()
        body = answer.json()
        job_id = str(UUID(body[self.id_field], version=4))
        assert body == {self.id_field: job_id, "status": "SUBMITTED"}
        return job_id

    def get(self, job_id: str) -> requests.Response:
        return self.caller.poll(job_id) if self.kind == "chunking" else self.caller.poll_prediction(job_id)

    def polls(self, job_id: str, count: int = 1) -> list[dict[str, Any]]:
        answers = [self.get(job_id).json() for _ in range(count)]
        assert {one[self.id_field] for one in answers} == {job_id}
        return answers

    def words(self, job_id: str, count: int = 1) -> list[str]:
        return [one["status"] for one in self.polls(job_id, count)]


@pytest.fixture(params=["chunking", "prediction"])
def jobs(request: pytest.FixtureRequest, caller: Caller) -> Jobs:
    return Jobs(caller, request.param)


def test_life_of_a_job(jobs: Jobs) -> None:
    jobs.caller.set(pending_polls=2)
    answers = jobs.polls(jobs.submit(), 5)
    assert [one["status"] for one in answers] == ["SUBMITTED"] * 2 + ["READY"] + ["RETRIEVED"] * 2
    assert [jobs.payload in one for one in answers] == [False, False, True, False, False]


def test_switches_of_later_polls(jobs: Jobs) -> None:
    jobs.caller.set(retrieved="payload")
    job_id = jobs.submit()
    first, second = jobs.polls(job_id, 2)
    assert (first["status"], second["status"]) == ("READY", "RETRIEVED")
    assert first[jobs.payload] == second[jobs.payload]
    jobs.caller.set(retrieved="404")
    assert jobs.get(job_id).status_code == 404


def test_pending_seconds_and_retention(jobs: Jobs) -> None:
    jobs.caller.set(pending_seconds=60, retention=1000)
    job_id = jobs.submit()
    assert jobs.words(job_id) == ["SUBMITTED"]
    jobs.caller.advance(61)
    assert jobs.words(job_id) == ["READY"]
    jobs.caller.advance(1000)
    assert jobs.get(job_id).status_code == 404
    assert jobs.get("no-such-job").status_code == 404


def test_forced_states(jobs: Jobs) -> None:
    job_id = jobs.submit()
    path, control = f"/jobs/{job_id}", jobs.caller.control
    control("POST", path, state="SUBMITTED")
    assert jobs.words(job_id, 5) == ["SUBMITTED"] * 5
    control("POST", path, state="ERROR", message="out of memory")
    assert jobs.polls(job_id) == [{jobs.id_field: job_id, "status": "ERROR", "message": "out of memory"}]
    control("POST", path, state="READY")
    assert jobs.payload in jobs.polls(job_id)[0]
    assert control("GET", path)["state"] == "RETRIEVED"
    with pytest.raises(requests.HTTPError, match="400"):
        control("POST", path, state="READY")
    assert jobs.words(job_id) == ["RETRIEVED"]
    control("POST", path, state="GONE")
    assert jobs.get(job_id).status_code == 404


def test_faults_of_jobs(jobs: Jobs) -> None:
    fault = jobs.caller.fault
    fault("error-job", jobs.submit_endpoint)
    assert jobs.words(jobs.submit()) == ["ERROR"]
    fault("never-ending", jobs.submit_endpoint)
    assert jobs.words(jobs.submit(), 5) == ["SUBMITTED"] * 5
    job_id = jobs.submit()
    fault("error-job", jobs.poll_endpoint)
    assert jobs.words(job_id, 2) == ["ERROR", "READY"]
    fault("disconnect-after", jobs.submit_endpoint)
    with pytest.raises(requests.ConnectionError):
        jobs.submit()
    assert len(jobs.caller.control("GET", "/jobs")) == 4


def test_the_older_shape_is_one_of_chunking_only(caller: Caller) -> None:
    caller.fault("legacy-shape", "any")
    caller.ask_token()  # means nothing there, so the order waits
    caller.log_in()
    assert "vector" in caller.chunk("x")
