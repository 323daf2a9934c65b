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

# The two others have no asynchronous page.
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


def test_ids_log_and_stats_keep_the_two_kinds_apart(caller: Caller) -> None:
    prediction = job_of(caller.submit_prediction("ner", "Bob", model="nu-zero-ner"))
    submitted = caller.last()
    assert (submitted["endpoint"], submitted["use_case"]) == ("submit-prediction", "ner")
    assert submitted["job_id"] == prediction
    chunking = caller.submit().json()["chunkingId"]
    assert caller.poll(prediction).status_code == 404
    assert caller.poll_prediction(chunking).status_code == 404
    kinds = [(one["job_id"], one["kind"]) for one in caller.control("GET", "/jobs")]
    assert kinds == [(prediction, "prediction"), (chunking, "chunking")]
    assert caller.poll_prediction(prediction.upper()).json()["status"] == "READY"
    assert (caller.last()["endpoint"], caller.last()["job_status"]) == ("poll-prediction", "READY")
    stats = caller.control("GET", "/stats")
    assert (stats["submissions"], stats["polls"], stats["jobs"]["RETRIEVED"]) == (1, 1, 1)
    assert (stats["calls"]["submit-prediction"], stats["calls"]["poll-prediction"]) == (1, 2)


@pytest.mark.alone
def test_hundreds_of_waiting_jobs_do_not_slow_a_poll(caller: Caller) -> None:
    caller.set(pending_seconds=60)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: caller.submit_prediction("summarization", "A b c."), range(300))
        jobs = list(map(job_of, answers))
    began = time.perf_counter()
    assert {caller.poll_prediction(job_id).json()["status"] for job_id in jobs[:30]} == {"SUBMITTED"}
    assert time.perf_counter() - began < 1.5  # about 4 ms each, most of them the client's
    caller.advance(60)
    assert caller.poll_prediction(jobs[-1]).json()["status"] == "READY"
