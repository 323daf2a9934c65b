# SPDX-License-Identifier: Apache-2.0
"""Submission, life of a job, limits and shapes of the chunking API (sections 6.3, 7 and 15)."""

import hashlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from emulator_client import Caller

from benchmarks.remembering_emulator import remember
from lucidworks_provider.emulator import EmulatorSettings, chunkers
from lucidworks_provider.emulator.models import EmbeddingModel
from lucidworks_provider.emulator.vectors import VectorOptions

PATH = "/ai/async-chunking/sentence/gte-small"
CUSTOM = "5e893b16-01f8-427c-9ca8-ba52b01b1ba3"
SPIDER = "The itsy bitsy spider climbed up the waterspout.\nDown came the rain. Out came the sun."


SETTINGS = EmulatorSettings(pending_polls=0)


@pytest.mark.parametrize(
    "chunker", ["dynamic-newline", "dynamic-sentence", "regex-splitter", "semantic", "sentence"]
)
def test_every_chunker_end_to_end(caller: Caller, chunker: str) -> None:
    answer = caller.chunk(SPIDER, chunker, useCaseConfig={"dataType": "passage"}, chunkerConfig={})
    assert answer["status"] == "READY"
    (item,) = answer["chunkedData"]
    assert item["chunks"] == [SPIDER[start:end] for start, end in item["spans"]]
    assert len(item["chunks"]) == len(item["vectors"]) > 0
    for vector in item["vectors"]:
        assert len(vector["vector"]) == 384
        assert math.isclose(math.hypot(*vector["vector"]), 1, abs_tol=1e-5)
        assert vector["tokensUsed"]["inputTokens"] > 0


def test_characters_not_bytes_in_spans_and_batch_order(caller: Caller) -> None:
    texts = ["Ünïcode 😀 first. Second.", "Another text."]
    body = {"batch": [{"text": text} for text in texts], "chunkerConfig": {"chunkSize": 1}}
    job = caller.call("POST", PATH, json=body).json()["chunkingId"]
    items = caller.poll(job).json()["chunkedData"]
    assert [item["chunks"] for item in items] == [["Ünïcode 😀 first.", "Second."], ["Another text."]]
    assert items[0]["spans"] == [[0, 16], [17, 24]]


@pytest.mark.parametrize(("method", "low", "high"), [("min-max", 0, 255), ("max-scale", -127, 127)])
def test_quantized_and_reduced(caller: Caller, method: str, low: int, high: int) -> None:
    config = {"vectorQuantizationMethod": method, "dimReductionSize": 32}
    (item,) = caller.chunk(SPIDER, model="bge-large", modelConfig=config)["chunkedData"]
    for vector in item["vectors"]:
        assert len(vector["vector"]) == 32
        assert all(isinstance(value, int) and low <= value <= high for value in vector["vector"])


def test_results_are_returned_once_to_many_pollers(caller: Caller) -> None:
    job_id = caller.submit(SPIDER * 200).json()["chunkingId"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: caller.poll(job_id).json(), range(24)))
    assert sum("chunkedData" in one for one in answers) == 1


def test_legacy_shape(caller: Caller) -> None:
    caller.set(legacy_shape=True)
    answer = caller.chunk("One. Two.", chunkerConfig={"chunkSize": 1})
    assert answer["chunkedData"] == [{"chunks": ["One.", "Two."]}]
    assert [len(one["vector"]) for one in answer["vector"]] == [384, 384]


def test_chunk_table_cuts_silently_or_fails(caller: Caller) -> None:
    text = "\n".join(str(number) for number in range(400))
    config = {"model": "bge-large", "chunkerConfig": {"maxChunkSize": 1}}
    (item,) = caller.chunk(text, "dynamic-newline", **config)["chunkedData"]
    assert len(item["chunks"]) == len(item["spans"]) == len(item["vectors"]) == 375
    caller.set(chunk_overflow="error")
    failed = caller.chunk(text, "dynamic-newline", **config)
    assert (failed["status"], "chunkedData" in failed) == ("ERROR", False)
    assert "more chunks" in failed["message"]


@pytest.mark.parametrize(("switch", "status"), [("413", 413), ("400", 400), ("error-job", 200)])
def test_oversize(caller: Caller, switch: str, status: int) -> None:
    caller.set(oversize=switch)
    # The whole body counts, with the escapes.
    largest = '{"batch":[{"text":"\\n%sa"}]}' % ("é" * 499_987)
    assert len(largest.encode()) == 1_000_000
    json_type = {"Content-Type": "application/json"}
    assert caller.call("POST", PATH, data=largest.encode(), headers=json_type).status_code == 200
    answer = caller.call("POST", PATH, data=f"{largest} ".encode(), headers=json_type)
    assert answer.status_code == status
    if status == 200:
        assert caller.poll(answer.json()["chunkingId"]).json()["status"] == "ERROR"


def test_custom_deployment_must_be_registered(caller: Caller) -> None:
    assert caller.submit(model=CUSTOM).status_code == 404
    caller.set(deployments=[CUSTOM])
    assert caller.submit(model=CUSTOM).status_code == 200
    assert CUSTOM in caller.call("GET", "/ai/usecase").json()[0]["models"]


def test_segments(caller: Caller) -> None:
    assert caller.submit(chunker="dynamic_sentence", model="gte_small").status_code == 200
    assert caller.submit(chunker="paragraph").status_code == 404
    assert caller.submit(model="llama-3-8b-instruct").status_code == 404
    caller.set(strict_segments=True)
    assert caller.submit(chunker="dynamic_sentence").status_code == 404


ONE: dict[str, Any] = {"batch": [{"text": "x"}]}
INVALID: list[tuple[str, Any, str]] = [
    ("sentence", [], "body"),
    ("sentence", {}, "batch"),
    ("sentence", {"batch": []}, "batch"),
    ("sentence", {"batch": {"text": "x"}}, "batch"),
    ("sentence", {"batch": ["x"]}, "batch[0]"),
    ("sentence", {"batch": [{"text": "x"}, {"text": ""}]}, "batch[1].text"),
    ("sentence", {"batch": [{"text": 1}]}, "batch[0].text"),
    ("sentence", {"batch": [{"text": "x", "id": "1"}]}, "id"),
    ("sentence", {**ONE, "chunkConfig": {}}, "chunkConfig"),
    ("sentence", {**ONE, "chunkerConfig": None}, "chunkerConfig"),
    ("sentence", {**ONE, "chunkerConfig": {"maxChunkSize": 5}}, "maxChunkSize"),
    ("sentence", {**ONE, "chunkerConfig": {"chunkSize": True}}, "chunkSize"),
    ("sentence", {**ONE, "chunkerConfig": {"chunkSize": 0}}, "chunkSize"),
    ("sentence", {**ONE, "chunkerConfig": {"chunkSize": 5.0}}, "chunkSize"),
    ("sentence", {**ONE, "chunkerConfig": {"chunkSize": 2, "overlapSize": 2}}, "overlapSize"),
    ("dynamic-newline", {**ONE, "chunkerConfig": {"overlapSize": 1}}, "overlapSize"),
    ("dynamic-sentence", {**ONE, "chunkerConfig": {"maxChunkSize": "512"}}, "maxChunkSize"),
    ("dynamic-sentence", {**ONE, "chunkerConfig": {"overlapSize": -1}}, "overlapSize"),
    ("regex-splitter", {**ONE, "chunkerConfig": {"regex": "("}}, "regex"),
    ("regex-splitter", {**ONE, "chunkerConfig": {"regex": ""}}, "regex"),
    ("semantic", {**ONE, "chunkerConfig": {"cosineThreshold": 1.01}}, "cosineThreshold"),
    ("semantic", {**ONE, "chunkerConfig": {"cosineThreshold": True}}, "cosineThreshold"),
    ("semantic", {**ONE, "chunkerConfig": {"approximate": "true"}}, "approximate"),
    ("sentence", {**ONE, "modelConfig": {"vectorQuantizationMethod": "int8"}}, "vectorQuantizationMethod"),
    ("sentence", {**ONE, "modelConfig": {"vectorQuantizationMethod": None}}, "vectorQuantizationMethod"),
    ("sentence", {**ONE, "modelConfig": {"dimReductionSize": 385}}, "dimReductionSize"),
    ("sentence", {**ONE, "modelConfig": {"dimReductionSize": 0}}, "dimReductionSize"),
    ("sentence", {**ONE, "modelConfig": {"temperature": 1}}, "temperature"),
    ("sentence", {**ONE, "useCaseConfig": {"dataType": "document"}}, "dataType"),
]


@pytest.mark.parametrize(("chunker", "body", "field"), INVALID)
def test_invalid_bodies_name_the_field(shared: Caller, chunker: str, body: Any, field: str) -> None:
    answer = shared.call("POST", f"/ai/async-chunking/{chunker}/gte-small", json=body)
    assert answer.status_code == 400
    assert (answer.json()["status"], answer.json()["error"]) == (400, "Bad Request")
    assert field in answer.json()["message"]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"batch":[{"text":"\xff"}]}', b'{"batch":[{"text":"\\ud800"}]}', b"[" * 100_000, b"NaN"],
)
def test_broken_json(shared: Caller, data: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert shared.call("POST", PATH, data=data, headers=headers).status_code == 400


def test_content_type_is_required(shared: Caller) -> None:
    answer = shared.call("POST", PATH, data=b"{}", headers={"Content-Type": "text/plain"})
    assert "Content-Type" in answer.json()["message"]


def test_more_than_32_texts_are_no_error_for_chunking(shared: Caller) -> None:
    assert shared.call("POST", PATH, json={"batch": [{"text": "x"}] * 33}).status_code == 200


def test_log_identifies_the_text_by_its_hash(caller: Caller) -> None:
    caller.submit(SPIDER)
    record = caller.last()
    assert record["text_sha256"] == hashlib.sha256(SPIDER.encode()).hexdigest()
    seen = (record["text_bytes"], record["chunker"], record["model"])
    assert seen == (len(SPIDER), "sentence", "gte-small")


def test_the_emulator_of_the_benchmarks_computes_a_text_once() -> None:
    vectors = VectorOptions(EmbeddingModel("gte-small", 384), 384)
    first, again, other = (
        remember([text], chunkers.sentence, vectors, overflow_is_error=False)
        for text in ("One.", "One.", "Two.")
    )
    assert first is again is not other
    assert '"chunks":["One."]' in first(False)


@pytest.mark.alone
def test_other_calls_stay_fast_while_megabytes_are_chunked(caller: Caller) -> None:
    sentence = "Some words about spiders and the rain, said for the {}th time. "
    text = "".join(sentence.format(number) for number in range(15_000))[:990_000]
    jobs = [caller.submit(text, "semantic").json()["chunkingId"] for _ in range(2)]
    slowest = 0.0
    for _ in range(10):
        began = time.perf_counter()
        caller.log_in()
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 1.0  # tens of milliseconds when the machine is idle
    for job_id in jobs:
        while (answer := caller.poll(job_id).json())["status"] == "SUBMITTED":
            pass
        assert answer["status"] == "READY"
