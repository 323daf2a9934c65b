# SPDX-License-Identifier: Apache-2.0
"""The Async Prediction API (section 6): the jobs of chunking with other results."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import requests
from emulator_client import Caller

from lucidworks_provider.emulator import EmulatorSettings, running
from lucidworks_provider.emulator.use_cases import USE_CASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lucidworks_provider.emulator.server import RunningEmulator

ASYNC = [name for name in USE_CASES if name not in {"embedding", "classification"}]


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with running(EmulatorSettings(pending_polls=0)) as started:
        yield started


@pytest.fixture
def caller(emulator: RunningEmulator) -> Caller:
    emulator.state.reset()
    return Caller(emulator).log_in()


def job_of(answer: requests.Response) -> str:
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"predictionId", "status"}
    assert answer.json()["status"] == "SUBMITTED"
    return str(UUID(answer.json()["predictionId"], version=4))


@pytest.mark.parametrize("name", ASYNC)
def test_every_use_case_gives_what_the_synchronous_one_gives(caller: Caller, name: str) -> None:
    memory = caller.predict("rag", "Why Germany?").json()["predictions"][0]["memoryUuid"]
    needs = name in {"standalone-query-rewriter", "rag"}
    body = {"useCaseConfig": {"memoryUuid": memory}} if needs else {}
    texts = ["Harry Potter went to London.", "x"]
    job_id = job_of(caller.submit_prediction(name, *texts, **body))
    answer = caller.poll_prediction(job_id).json()
    assert (answer["predictionId"], answer["status"]) == (job_id, "READY")
    expected = caller.predict(name, *texts, **body).json()["predictions"]
    if name == "rag":  # the prompt grows with the conversation
        for one in (*answer["predictions"], *expected):
            del one["tokensUsed"]
    assert answer["predictions"] == expected


@pytest.mark.parametrize("name", ["embedding", "classification", "translation"])
def test_use_cases_without_an_async_page(caller: Caller, name: str) -> None:
    body = {"useCaseConfig": {"labels": ["a"]}} if name == "classification" else {}
    for model in ("gte-small", "llama-3-8b-instruct"):
        assert caller.submit_prediction(name, model=model, **body).status_code == 404
    assert caller.control("GET", "/jobs") == []


def test_table_of_use_cases() -> None:
    assert [name for name, use_case in USE_CASES.items() if use_case.asynchronous] == ASYNC


def test_life_of_a_job(caller: Caller) -> None:
    caller.control("PATCH", "/settings", pending_polls=2)
    job_id = job_of(caller.submit_prediction())
    answers = [caller.poll_prediction(job_id).json() for _ in range(5)]
    assert [one["status"] for one in answers] == ["SUBMITTED"] * 2 + ["READY"] + ["RETRIEVED"] * 2
    assert ["predictions" in one for one in answers] == [False, False, True, False, False]
    assert {one["predictionId"] for one in answers} == {job_id}


def test_ids_of_one_kind_mean_nothing_to_the_other(caller: Caller) -> None:
    prediction = job_of(caller.submit_prediction())
    chunking = caller.submit().json()["chunkingId"]
    assert caller.poll(prediction).status_code == 404
    assert caller.poll_prediction(chunking).status_code == 404
    assert [(one["job_id"], one["kind"]) for one in caller.control("GET", "/jobs")] == [
        (prediction, "prediction"),
        (chunking, "chunking"),
    ]
    assert caller.poll_prediction(prediction.upper()).json()["status"] == "READY"


def test_switches_of_later_polls_and_retention(caller: Caller) -> None:
    caller.control("PATCH", "/settings", retrieved="payload", retention=100)
    job_id = job_of(caller.submit_prediction())
    first, second = (caller.poll_prediction(job_id).json() for _ in range(2))
    assert (first["status"], second["status"]) == ("READY", "RETRIEVED")
    assert first["predictions"] == second["predictions"]
    caller.control("PATCH", "/settings", retrieved="404")
    assert caller.poll_prediction(job_id).status_code == 404
    job_id = job_of(caller.submit_prediction())
    caller.control("POST", "/clock", advance=100)
    assert caller.poll_prediction(job_id).status_code == 404


def test_forced_states(caller: Caller) -> None:
    job_id = job_of(caller.submit_prediction())
    caller.control("POST", f"/jobs/{job_id}", state="ERROR", message="out of memory")
    assert caller.poll_prediction(job_id).json() == {
        "predictionId": job_id,
        "status": "ERROR",
        "message": "out of memory",
    }
    caller.control("POST", f"/jobs/{job_id}", state="READY")
    assert "predictions" in caller.poll_prediction(job_id).json()
    caller.control("POST", f"/jobs/{job_id}", state="GONE")
    assert caller.poll_prediction(job_id).status_code == 404


def test_faults(caller: Caller) -> None:
    caller.fault("error-job", "submit-prediction")
    assert caller.poll_prediction(job_of(caller.submit_prediction())).json()["status"] == "ERROR"
    caller.fault("never-ending", "submit-prediction")
    endless = job_of(caller.submit_prediction())
    assert {caller.poll_prediction(endless).json()["status"] for _ in range(3)} == {"SUBMITTED"}
    job_id = job_of(caller.submit_prediction())
    caller.fault("error-job", "poll-prediction")
    assert [caller.poll_prediction(job_id).json()["status"] for _ in range(2)] == ["ERROR", "READY"]
    caller.fault("disconnect-after", "submit-prediction")
    with pytest.raises(requests.ConnectionError):
        caller.submit_prediction()
    assert len(caller.control("GET", "/jobs")) == 4


def test_log_and_stats_keep_the_two_kinds_apart(caller: Caller) -> None:
    job_id = job_of(caller.submit_prediction("ner", "Bob", model="nu-zero-ner"))
    caller.poll_prediction(job_id)
    submitted, polled = caller.control("GET", "/log")[-2:]
    assert (submitted["endpoint"], submitted["use_case"], submitted["job_id"]) == (
        "submit-prediction",
        "ner",
        job_id,
    )
    assert (polled["endpoint"], polled["job_status"]) == ("poll-prediction", "READY")
    stats = caller.control("GET", "/stats")
    assert (stats["submissions"], stats["polls"]) == (0, 0)
    assert (stats["calls"]["submit-prediction"], stats["calls"]["poll-prediction"]) == (1, 1)
    assert stats["jobs"]["RETRIEVED"] == 1


def test_hundreds_of_waiting_jobs_do_not_slow_a_poll(caller: Caller) -> None:
    caller.control("PATCH", "/settings", pending_seconds=60)
    with ThreadPoolExecutor(4) as pool:
        jobs = list(
            pool.map(lambda _: job_of(caller.submit_prediction("summarization", "A b c.")), range(300))
        )
    began = time.perf_counter()
    assert {caller.poll_prediction(job_id).json()["status"] for job_id in jobs[:30]} == {"SUBMITTED"}
    assert time.perf_counter() - began < 1.5  # about 4 ms each, most of them the client's
    caller.control("POST", "/clock", advance=60)
    assert caller.poll_prediction(jobs[-1]).json()["status"] == "READY"
