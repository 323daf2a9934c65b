# SPDX-License-Identifier: Apache-2.0
"""The Async Prediction API (section 6): the jobs of chunking with other results."""

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import requests
from emulator_client import Caller

from lucidworks_provider.emulator import EmulatorSettings
from lucidworks_provider.emulator.use_cases import USE_CASES

ASYNC = [name for name in USE_CASES if name not in {"embedding", "classification"}]


SETTINGS = EmulatorSettings(pending_polls=0)


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


@pytest.mark.alone
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
