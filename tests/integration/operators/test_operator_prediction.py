# SPDX-License-Identifier: Apache-2.0
"""
The prediction operators over real sockets: what they send, what they write, and what each trouble costs.

Attempts are played by making the operator anew with the same task instance, as Airflow does.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from made_up_calls import then
from prediction_service import (
    LLAMA,
    MEMORY,
    Service,
    by_jobs,
    direct,
    hash_of,
    new_context,
    rows_of,
    scripted,
    service_of,
    through_triggers,
    wait,
)

from lucidworks_provider import metrics, retrying, storage
from lucidworks_provider.client import predictions as client_predictions
from lucidworks_provider.client.http import rate_limiter
from lucidworks_provider.client.predictions import predict_items, submit_items
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import (
    BudgetExceededError,
    ForbiddenError,
    InputError,
    JobFailedError,
    JobTimeoutError,
    LucidworksError,
    MalformedAnswerError,
    RateLimitError,
    RequestRefusedError,
    ResultGoneError,
    ServiceError,
    StorageError,
    StorageNotSharedError,
    SubmissionUnknownError,
    TokenRefusedError,
    UnknownResourceError,
)
from lucidworks_provider.jobs import polling, record, task
from lucidworks_provider.jobs.prediction_task import SyncBatchRunner
from lucidworks_provider.jobs.record import QuarantineReason, ResultDirectory
from lucidworks_provider.operators import base
from lucidworks_provider.operators.base import JobOperator
from tests.task_state import TaskStateStore

TEN = [f"Text {n}." for n in range(10)]
BATCHES = [TEN[:4], TEN[4:8], TEN[8:]]
GERMANY = {"body": "I'm off to Germany to go to the Oktoberfest!", "source": "http://example.com/112"}


@pytest.fixture
def service(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> Service:
    return service_of(emulator, monkeypatch)


@pytest.fixture(params=[True, False], ids=["with state store", "without state store"])
def context(request: pytest.FixtureRequest) -> dict[str, Any]:
    return new_context(state_store=request.param)


class Death(BaseException):
    """The process is gone: nothing after this runs."""


def texts_of(rows: list[dict[str, Any]]) -> list[Any]:
    return [row["response"] for row in rows]


# Every use case. The table says what is asked, and what of the answer must be in a row.

USE_CASES: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "embedding": ("gte-small", {"dataType": "passage"}, "Germany", {}),
    "classification": (LLAMA, {"labels": ["a", "b"]}, "Germany", {}),
    "passthrough": (LLAMA, {"dataType": "text"}, "Germany", {"response": "Germany"}),
    "rag": (
        LLAMA,
        {"extractRelevantContent": False},
        {"text": "Why did I go to Germany?", "documents": [GERMANY]},
        {"answer": GERMANY["body"], "answerFound": True, "sources": [GERMANY["source"]]},
    ),
    "summarization": (LLAMA, {"maxWords": 1}, "Germany is large.", {"response": "Germany"}),
    "keyword-extraction": (LLAMA, {"maxKeywords": 1}, "Germany", {"keywords": ["germany"]}),
    "ner": ("nu-zero-ner", {"entityTypeMap": {"place": ["Germany"]}}, "Germany", {}),
    "faq-enrichment": (LLAMA, None, "Germany is large.", {}),
    "standalone-query-rewriter": (LLAMA, {"memoryUuid": MEMORY}, "And when?", {}),
}
ASYNCHRONOUS = [name for name in USE_CASES if name not in {"embedding", "classification"}]


def asked(service: Service, use_case: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    model, config, given, wanted = USE_CASES[use_case]
    if use_case == "standalone-query-rewriter":
        service.emulator.state.conversations.remember(MEMORY, "Why Germany?")
    arguments = {"use_case": use_case, "model_id": model, "use_case_config": config}
    return [given, given], arguments, wanted


def check_row(use_case: str, row: dict[str, Any], wanted: dict[str, Any], *, parquet: bool) -> None:
    assert wanted.items() <= row.items()
    match use_case:
        case "embedding":
            assert len(row["vector"]) == 384
        case "classification":
            scores = [one["score"] for one in row["labels"]] if parquet else list(row["labels"].values())
            names = [one["label"] for one in row["labels"]] if parquet else list(row["labels"])
            assert (names[0], scores) == (row["label"], sorted(scores, reverse=True))
        case "rag":
            assert len(row["memoryUuid"]) == len(MEMORY)
        case "ner":
            found = {one["type"]: one["names"] for one in row["entities"]} if parquet else row["entities"]
            assert found == {"place": ["Germany"]}
        case "faq-enrichment":
            assert row["pairs"][0]["answer"] == "Germany is large."
        case "standalone-query-rewriter":
            assert "Germany" in row["response"] or "germany" in row["response"]


@pytest.mark.parametrize("use_case", USE_CASES)
def test_every_use_case_in_every_form(service: Service, tmp_path: Path, use_case: str) -> None:
    inputs, arguments, wanted = asked(service, use_case)
    inline = direct(inputs, **arguments).execute(new_context())
    json.dumps(inline)
    for form in (None, "p.jsonl", "p.parquet"):
        rows, manifest = inline, None
        if form is not None:
            path = tmp_path / form
            manifest = direct(inputs, **arguments, result_path=path.as_uri()).execute(new_context())
            rows = rows_of(path)
        assert [row["index"] for row in rows] == [0, 1]
        for row in rows:
            check_row(use_case, row, wanted, parquet=form == "p.parquet")
        if manifest is not None:
            counted = sum(row.get("tokens_used") or 0 for row in rows)
            assert (manifest["uri"], manifest["predictions"]) == (path.as_uri(), 2)
            assert manifest["tokens"] == (counted or manifest["tokens"]) > 0
    assert {p.name for p in tmp_path.iterdir()} == {"p.jsonl", "p.parquet"}, "nothing is left beside"
    assert len(service.calls("token")) == 1


@pytest.mark.parametrize("use_case", ASYNCHRONOUS)
def test_every_asynchronous_use_case(
    service: Service, context: dict[str, Any], tmp_path: Path, use_case: str
) -> None:
    inputs, arguments, wanted = asked(service, use_case)
    for name in ("p.jsonl", "p.parquet"):
        path = tmp_path / name
        context["ti"].run_id = name
        manifest = through_triggers(
            lambda path=path: by_jobs(inputs, path.as_uri(), deferrable=True, **arguments),  # type: ignore[misc]
            context,
        )
        rows = rows_of(path)
        assert [row["index"] for row in rows] == [0, 1]
        for row in rows:
            check_row(use_case, row, wanted, parquet=name == "p.parquet")
        assert (manifest["uri"], manifest["predictions"]) == (path.as_uri(), 2)
    left = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert left - {"record.json"} == {"p.jsonl", "p.parquet"}


@pytest.mark.parametrize(
    ("model_config", "kind"),
    [
        ({}, pa.float32()),
        ({"vectorQuantizationMethod": "max-scale"}, pa.int8()),
        ({"vectorQuantizationMethod": "min-max"}, pa.uint8()),
    ],
)
@pytest.mark.parametrize("shape", ["vector", "embedding"])
def test_vectors_are_a_column_of_fixed_size(
    service: Service, tmp_path: Path, shape: str, model_config: dict[str, Any], kind: pa.DataType
) -> None:
    service.settings(embedding_shape=shape)
    path = tmp_path / "v.parquet"
    arguments = {"use_case": "embedding", "model_id": "gte-small"}
    direct(
        TEN, **arguments, model_config=model_config | {"dimReductionSize": 8}, result_path=str(path)
    ).execute(new_context())
    table = pq.read_table(path)
    assert table.schema.field("vector").type == pa.list_(kind, 8)
    inline = direct(
        TEN, **arguments, model_config=json.dumps(model_config | {"dimReductionSize": 8})
    ).execute(new_context())
    assert [row["vector"] for row in inline] == [pytest.approx(row["vector"]) for row in table.to_pylist()]
    described = json.loads(table.schema.metadata[b"lucidworks"])
    assert (described["use_case"], described["model_id"]) == ("embedding", "gte-small")


# Order

MANY = [{"text": f"Number {n} of many.", "id": f"id-{n}"} for n in range(107)]


def check_many(rows: list[dict[str, Any]]) -> None:
    assert [(row["index"], row["id"], row["response"]) for row in rows] == [
        (n, one["id"], one["text"]) for n, one in enumerate(MANY)
    ]


@pytest.mark.parametrize("form", ["inline", "p.jsonl", "p.parquet"])
def test_each_row_is_about_its_input_whichever_batch_ends_first(
    service: Service, tmp_path: Path, form: str
) -> None:
    service.fault("predict", "slow", delay=0.3)
    service.fault("predict", "503")
    path = None if form == "inline" else str(tmp_path / form)
    result = direct(MANY, batch_size=10, concurrency=4, result_path=path).execute(new_context())
    check_many(result if path is None else rows_of(tmp_path / form))
    assert (set(service.sent().values()), len(service.calls("predict"))) == ({1}, 12)
    assert [record.items for record in service.calls("predict")].count(7) == 1, "the last, smaller batch"
    texts = [one["text"] for one in MANY]
    ended = [record.text_sha256 for record in service.calls("predict") if record.items]
    assert ended != [hash_of(*texts[n : n + 10]) for n in range(0, 107, 10)], "not in the order of the rows"


@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])
def test_each_row_of_jobs_is_about_its_input_whichever_job_ends_first(
    service: Service, tmp_path: Path, name: str
) -> None:
    service.fault("poll-prediction", "503", times=3)
    service.fault("poll-prediction", "error-job")
    through_triggers(lambda: by_jobs(MANY, tmp_path / name, batch_size=10, deferrable=True), new_context())
    check_many(rows_of(tmp_path / name))
    assert sorted(service.submitted().values()) == [1] * 11


def test_without_ids_rows_have_their_position_only(service: Service) -> None:
    rows = direct(["a", {"text": "b", "id": 0}, "c"]).execute(new_context())
    assert [(row["index"], row.get("id", "none")) for row in rows] == [(0, "none"), (1, 0), (2, "none")]


def test_inputs_may_be_rendered_json(service: Service, tmp_path: Path) -> None:
    assert texts_of(direct(json.dumps(TEN)).execute(new_context())) == TEN
    by_jobs(json.dumps(TEN), tmp_path / "p.jsonl", use_case_config='{"useSystemPrompt": false}').execute(
        new_context()
    )
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == TEN


# Refused before anything is sent or written

BAD_ARGUMENTS = [
    ({"inputs": None}, ["inputs is of type NoneType"]),
    ({"inputs": [], "on_empty": "fail"}, ["inputs has no rows"]),
    ({"inputs": "Hello"}, ["tojson"]),
    ({"inputs": "[Hello"}, ["tojson"]),
    ({"inputs": '"Hello"'}, ["tojson"]),
    ({"inputs": {"texts": ["a"]}}, ["inputs is of type dict", "'texts'"]),
    ({"inputs": 7}, ["inputs is of type int"]),
    ({"inputs": [{"txt": "a"}]}, ["inputs[0] has no 'text'", "'txt'"]),
    ({"inputs": [("a", "b", "c")]}, ["inputs[0] is a row of 3 values", "2: id, text"]),
    ({"inputs": [{"text": "a", "id": 1}, {"text": "b", "id": 1}]}, ["duplicate id 1"]),
    ({"inputs": ["a", "b\0"]}, ["inputs[1]", "NUL"]),
    ({"inputs": ["a"] * 99 + ["b\0"], "on_invalid": "fail"}, ["1 of 100 rows", "inputs[99]", "NUL"]),
    ({"inputs": [{"text": "a", "error": 7}], "columns": ["error"]}, ["'error'", "passed through"]),
    ({"inputs": [{"text": "a"}], "columns": ["id"]}, ["columns names 'id' twice"]),
    ({"inputs": [{"text": "a"}], "columns": ["x"]}, ["inputs[0] has no 'x'"]),
    ({"id_column": "text"}, ["id_column and text_column are both"]),
    ({"on_invalid": "skip"}, ["on_invalid", "reject, fail"]),
    ({"on_empty": "none"}, ["on_empty", "succeed, skip, fail"]),
    ({"inputs": ["a", " "]}, ["inputs[1]", "no text"]),
    ({"inputs": [{"text": "a", "id": "\ud800"}]}, ["inputs[0]", "surrogate"]),
    ({"use_case": ""}, ["use_case"]),
    ({"model_id": None}, ["model_id"]),
    ({"use_case_config": "{not json"}, ["use_case_config", "not a JSON object"]),
    ({"use_case_config": {"dataType": 7}}, ["dataType"]),
    ({"use_case_config": {"since": {1}}}, ["use_case_config", "JSON"]),
    ({"model_config": "[]"}, ["model_config", "not a JSON object"]),
    ({"model_config": {"topk": 1}}, ["Did you mean 'topK'"]),
    ({"model_config": {"temperature": 2.1}}, ["temperature", "0 to 2"]),
    ({"use_case": "standalone_query_rewriter"}, ["memoryUuid is missing"]),
    ({"use_case": "rag"}, ["inputs[0]", "documents"]),
    ({"batch_size": 0}, ["batch_size", "1 to 32"]),
    ({"batch_size": 33}, ["batch_size is 33"]),
    ({"batch_size": True}, ["batch_size is True"]),
    ({"batch_size": "four"}, ["batch_size is 'four'"]),
    ({"result_path": "out.jsonl"}, ["result_path", "absolute"]),
    ({"result_path": "file:///tmp/out.csv"}, [".parquet", ".jsonl"]),
    ({"result_path": "file:///tmp/out/"}, ["folder"]),
    ({"result_path": Path("/tmp/out.jsonl")}, ["result_path", "URI"]),  # noqa: S108
]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *BAD_ARGUMENTS,
        ({"use_case": "classification"}, ["labels is missing"]),
        ({"concurrency": 0}, ["concurrency is 0", "1 to 8"]),
        ({"concurrency": 9}, ["concurrency is 9"]),
        ({"concurrency": True}, ["concurrency is True"]),
        ({"concurrency": 2.0}, ["concurrency is 2.0"]),
    ],
)
def test_bad_arguments_are_refused(
    service: Service, tmp_path: Path, arguments: dict[str, Any], words: list[str]
) -> None:
    given: dict[str, Any] = {"inputs": TEN, "result_path": str(tmp_path / "x" / "p.jsonl")} | arguments
    with pytest.raises(InputError) as caught:
        direct(**given).execute(new_context())
    for word in words:
        assert word in str(caught.value)
    assert service.nothing_sent()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *BAD_ARGUMENTS,
        ({"use_case": "embedding", "model_id": "gte-small"}, ["'embedding'", "asynchronously", "chunking"]),
        (
            {"use_case": "classification", "use_case_config": {"labels": ["a"]}},
            ["'classification'", "LucidworksPredictionOperator"],
        ),
        ({"result_path": ""}, ["result_path"]),
        ({"result_path": None}, ["result_path"]),
        ({"poll_interval": 0}, ["poll_interval"]),
        ({"timeout": "10m"}, ["timeout", "10m"]),
        ({"on_unknown_submission": "retry"}, ["resubmit", "fail"]),
        ({"inputs": [str(n) for n in range(32_001)], "batch_size": 1}, ["32,001", "32,000", "expand"]),
    ],
)
def test_bad_arguments_are_refused_by_the_asynchronous_operator(
    service: Service, tmp_path: Path, arguments: dict[str, Any], words: list[str]
) -> None:
    given: dict[str, Any] = {"inputs": TEN, "path": tmp_path / "x" / "p.jsonl"} | arguments
    with pytest.raises(InputError) as caught:
        by_jobs(**given).execute(new_context())
    for word in words:
        assert word in str(caught.value)
    assert service.nothing_sent()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [direct, by_jobs], ids=["direct", "jobs"])
def test_a_place_that_cannot_be_written_is_found_out_before_anything_is_paid_for(
    service: Service, tmp_path: Path, make: Any
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.jsonl").mkdir()
    for path in (tmp_path / "file" / "p.jsonl", tmp_path / "folder.jsonl"):
        arguments = {"result_path": str(path)} if make is direct else {"path": path}
        with pytest.raises(StorageError, match=rf"result_path.*{path.parent}|{path}"):
            make(TEN, **arguments).execute(new_context())
    assert service.calls("predict") + service.calls("submit-prediction") == []


# Unknown names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model_id": "llama-3-8b-instuct"}, "For 'passthrough' the service lists llama-3-8b-instruct"),
        (
            {"use_case": "sumarization"},
            "The service lists no use case .*Did you mean 'summarization'\\?",
        ),
        ({"use_case": "keyword_extraction", "model_id": "gte-small"}, "For 'keyword_extraction' the service"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["direct", "jobs"])
def test_unknown_names_are_answered_with_the_nearest_ones(
    service: Service, tmp_path: Path, asynchronous: bool, arguments: dict[str, Any], words: str
) -> None:
    one = by_jobs(TEN, tmp_path / "p.jsonl", **arguments) if asynchronous else direct(TEN, **arguments)
    with pytest.raises(UnknownResourceError, match=rf"Connection 'lucidworks_default'.*404.*{words}"):
        one.execute(new_context())


@pytest.mark.parametrize("path", [None, "p.jsonl"])
def test_what_concerns_all_batches_is_not_tried_with_each(
    service: Service, tmp_path: Path, path: str | None
) -> None:
    result_path = path and str(tmp_path / path)
    with pytest.raises(UnknownResourceError, match=r"1 of 3 batches failed. Inputs 0 to 3: "):
        direct(TEN, model_id="nobody", concurrency=1, result_path=result_path).execute(new_context())
    assert len(service.calls("predict")) == 1


@pytest.mark.parametrize(("kind", "reason"), [("500", "HTTP 500"), ("html", "the response is no JSON")])
def test_a_list_of_use_cases_that_cannot_be_had_hides_nothing(
    service: Service, caplog: pytest.LogCaptureFixture, kind: str, reason: str
) -> None:
    service.fault("usecases", kind, times=50)
    with caplog.at_level("INFO"), pytest.raises(UnknownResourceError, match="404"):
        direct(TEN, model_id="nobody", concurrency=1).execute(new_context())
    assert len(service.calls("usecases")) == 1
    [said] = [text for text in caplog.messages if "names no alternatives" in text]
    assert reason in said


# Batches that fail


@pytest.mark.parametrize("kind", ["429", "500", "503", "html", "disconnect", "cut-json", "unauthorized"])
def test_a_batch_that_fails_is_repeated_alone(service: Service, kind: str) -> None:
    service.fault("predict", kind, times=2)
    rows = direct(TEN, concurrency=1).execute(new_context())
    assert texts_of(rows) == TEN
    requests = service.calls("predict")
    assert len(requests) == 5
    assert [record.fault for record in requests] == [kind, kind, None, None, None]
    done = [record.text_sha256 for record in requests if record.text_sha256 and record.fault is None]
    assert done == [hash_of(*batch) for batch in BATCHES]


def left_in(folder: Path) -> set[str]:
    return {file.name for file in folder.rglob("*") if file.is_file()}


def left_by(context: dict[str, Any], path: Path) -> set[str]:
    """Below Airflow 3.3 the record has no other place."""
    return {path.name} if "task_state_store" in context else {path.name, "record.json"}


def test_a_batch_that_fails_for_good_leaves_the_others_on_storage_and_a_retry_sends_only_it(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "p.jsonl"
    service.fault("predict", "500", times=retrying.ATTEMPTS)
    with pytest.raises(
        ServiceError, match=r"1 of 3 batches failed. Inputs 0 to 3: .*HTTP 500.*stored for a retry"
    ):
        direct(TEN, concurrency=1, result_path=str(path)).execute(context)
    assert not path.exists()
    assert len(service.calls("predict")) == retrying.ATTEMPTS + 2
    service.emulator.state.log.clear()
    manifest = direct(TEN, concurrency=1, result_path=str(path)).execute(context)
    assert manifest["predictions"] == 10
    assert texts_of(rows_of(path)) == TEN
    assert service.sent() == {hash_of(*BATCHES[0]): 1}
    assert left_in(tmp_path) == left_by(context, path), "the kept answers are gone"


def test_what_a_batch_holds_may_be_refused_without_harm_to_the_others(
    service: Service, tmp_path: Path
) -> None:
    good = json.dumps([{"role": "user", "content": "Hello"}])
    bad = json.dumps([{"role": "robot", "content": "Hello"}])
    inputs = [good, good, bad, good, bad]
    arguments: dict[str, Any] = {"use_case_config": {"dataType": "json_prompt"}, "batch_size": 1}
    with pytest.raises(
        RequestRefusedError, match=r"2 of 5 batches failed. Input 2: .*HTTP 400.*; Input 4: .*HTTP 400"
    ):
        direct(inputs, **arguments, result_path=str(tmp_path / "p.jsonl")).execute(new_context())
    assert len(service.calls("predict")) == 5, "a refusal is not repeated"
    mended = [good, good, good, good, good]
    direct(mended, **arguments, result_path=str(tmp_path / "p.jsonl")).execute(new_context())
    assert len(service.calls("predict")) == 7
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == ["Hello"] * 5


def test_without_a_file_the_first_failure_ends_it(service: Service) -> None:
    service.fault("predict", "500", times=retrying.ATTEMPTS)
    with pytest.raises(ServiceError, match=r"1 of 3 batches failed") as caught:
        direct(TEN, concurrency=1).execute(new_context())
    assert "kept" not in str(caught.value)
    assert len(service.calls("predict")) == retrying.ATTEMPTS


def test_many_failures_are_told_in_short(service: Service, tmp_path: Path) -> None:
    service.fault("predict", "500", times=1000)
    with pytest.raises(ServiceError, match=r"8 of 8 batches failed.*; and 5 more"):
        direct(TEN[:8], batch_size=1, concurrency=8, result_path=str(tmp_path / "p.jsonl")).execute(
            new_context()
        )


@pytest.mark.parametrize("kind", ["503", "disconnect", "html"])
def test_a_service_that_is_down_is_not_tried_with_every_batch(
    service: Service, tmp_path: Path, kind: str
) -> None:
    service.fault("predict", kind, times=10_000)
    context, path = new_context(), str(tmp_path / "p.jsonl")
    with pytest.raises(LucidworksError, match="3 of 30 batches failed"):
        direct(TEN * 3, batch_size=1, concurrency=1, result_path=path).execute(context)
    assert len(service.calls("predict")) == 3 * retrying.ATTEMPTS
    service.heal()
    direct(TEN * 3, batch_size=1, concurrency=1, result_path=path).execute(context)
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == TEN * 3


def test_a_batch_that_is_refused_to_the_end_ends_the_task(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one would wait as long for its turn, and be refused too."""
    monkeypatch.setattr(retrying, "LONGEST_REFUSAL", 0.0)
    monkeypatch.setattr(rate_limiter, "REFUSED_PROBES", 1)
    service.fault("predict", "429", times=10_000)
    context, path = new_context(), str(tmp_path / "p.jsonl")
    with pytest.raises(RateLimitError, match="1 of 10 batches failed"):
        direct(TEN, batch_size=1, concurrency=1, result_path=path).execute(context)
    assert len(service.calls("predict")) == 3
    service.heal()
    assert direct(TEN, batch_size=1, concurrency=1, result_path=path).execute(context)["predictions"] == 10


def test_failures_with_answers_in_between_hold_up_nobody(service: Service, tmp_path: Path) -> None:
    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        text = body["batch"][0]["text"]
        return (500, {}) if int(text[5]) % 2 else (200, {"predictions": [{"response": text}]})

    with scripted(reply) as server:
        service.connect(extra={"application_url": server.url})
        with pytest.raises(ServiceError, match="5 of 10 batches failed"):
            direct(TEN, batch_size=1, concurrency=1, result_path=str(tmp_path / "p.jsonl")).execute(
                new_context()
            )
        assert {one["batch"][0]["text"] for one in server.heard} == set(TEN)


def test_a_storage_that_fails_in_the_middle_ends_the_asking(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    def keep(uri: str, data: bytes) -> None:
        if uri.endswith(".json"):
            if kept:
                raise StorageError("The disk is full.")
            kept.append(uri)

    monkeypatch.setattr(record, "write_file", keep)
    monkeypatch.setattr(record, "SAVE_WAIT", 0.001)
    with pytest.raises(StorageError, match=r"1 of 10 batches failed. Input 1: The disk is full"):
        direct(TEN, batch_size=1, concurrency=1, result_path=str(tmp_path / "p.jsonl")).execute(new_context())
    assert len(service.calls("predict")) == 2, "what cannot be kept is not paid for"


@pytest.mark.parametrize(
    ("change", "sent_again"),
    [
        ({"inputs": [*TEN[:9], "Another."]}, 1),
        ({"inputs": TEN[:8]}, 0),
        ({"inputs": [*TEN[:8], {"text": TEN[8], "id": "x"}, TEN[9]]}, 0),
        ({"inputs": TEN[::-1]}, 3),
        ({"use_case_config": {"useSystemPrompt": True}}, 3),
        ({"model_config": {"temperature": 0}}, 3),
        ({"model_id": "mistral-7b-instruct"}, 3),
        ({"batch_size": 5}, 2),
    ],
)
def test_a_retry_with_changed_arguments_sends_what_changed(
    service: Service,
    tmp_path: Path,
    change: dict[str, Any],
    sent_again: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, context = tmp_path / "p.jsonl", new_context()

    def die(*_: Any) -> Any:
        raise Death

    with monkeypatch.context() as dying:
        dying.setattr(SyncBatchRunner, "write", die)
        with pytest.raises(Death):
            direct(TEN, result_path=str(path)).execute(context)
    service.emulator.state.log.clear()
    given: dict[str, Any] = {"inputs": TEN, "result_path": str(path)} | change
    direct(**given).execute(context)
    assert len(service.calls("predict")) == sent_again
    wanted = [one if isinstance(one, str) else one["text"] for one in given["inputs"]]
    assert texts_of(rows_of(path)) == wanted
    assert list(tmp_path.iterdir()) == [path]


def test_once_the_result_stands_a_retry_pays_for_nothing(
    service: Service, context: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's API server goes away before the task can say that it is done: twice."""
    path = str(tmp_path / "p.jsonl")

    def die(*_: Any) -> Any:
        raise Death

    store = context.get("task_state_store", TaskStateStore())
    store.down = True
    with monkeypatch.context() as away:
        away.setattr(metrics, "log_result", die)
        for _ in range(2):
            with pytest.raises(Death):
                direct(TEN, result_path=path).execute(context)
    store.down = False
    manifest = direct(TEN, result_path=path).execute(context)
    assert (manifest["uri"], manifest["predictions"]) == (path, 10)
    assert set(service.sent().values()) == {1}
    assert left_in(tmp_path) == left_by(context, tmp_path / "p.jsonl")


@pytest.mark.parametrize("place", ["link", "removals"])
def test_whatever_ends_it_once_the_result_stands_a_retry_returns_that(
    service: Service,
    context: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    path = tmp_path / "p.jsonl"

    def die(*_: Any, **__: Any) -> None:
        if place == "removals":  # half-way
            min(tmp_path.rglob("0*.json")).unlink()
        raise Death

    with monkeypatch.context() as dying:
        if place == "link":
            dying.setattr(base, "push_result", die)
        else:
            dying.setattr(record, "discard", die)
            dying.setattr(record, "discard_folder", die)
        with pytest.raises(Death):
            direct(TEN, result_path=str(path)).execute(context)
    written = path.stat().st_mtime_ns
    manifest = direct(TEN, result_path=str(path)).execute(context)
    assert (manifest["uri"], manifest["predictions"]) == (str(path), 10)
    assert set(service.sent().values()) == {1}
    assert path.stat().st_mtime_ns == written
    assert left_in(tmp_path) == left_by(context, path)


def test_what_could_not_be_removed_fails_nothing_and_answers_nothing_later(
    service: Service,
    context: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "p.jsonl"

    def refuses(uri: str) -> None:
        raise StorageError(f"{uri} cannot be removed: AccessDenied")

    def execute() -> None:
        direct(TEN, concurrency=1, result_path=str(path)).execute(context)
        assert texts_of(rows_of(path)) == TEN
        assert "AccessDenied" in caplog.text

    monkeypatch.setattr(storage, "remove_file", refuses)
    monkeypatch.setattr(storage, "remove_folder", refuses)
    for times in (1, 2, 3):
        service.fault("predict", "500", times=retrying.ATTEMPTS)
        with pytest.raises(ServiceError, match="1 of 3 batches failed"):
            execute()
        execute()
        execute()
        assert service.sent() == {hash_of(*batch): times for batch in BATCHES}, "paid for once a generation"
        context["ti"].max_tries += 3


@pytest.mark.parametrize("how", ["cleared", "vanished", "other inputs"])
def test_after_a_success_everything_is_asked_again(
    service: Service, context: dict[str, Any], tmp_path: Path, how: str
) -> None:
    path = tmp_path / "p.jsonl"
    direct(TEN, result_path=str(path)).execute(context)
    service.emulator.state.log.clear()
    if how == "cleared":
        context["ti"].max_tries += 3
    elif how == "vanished":
        path.unlink()
    inputs = [f"{text}!" for text in TEN] if how == "other inputs" else TEN
    direct(inputs, result_path=str(path)).execute(context)
    assert len(service.sent()) == 3
    assert texts_of(rows_of(path)) == inputs


@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_so_many_requests_are_under_way_and_no_more(service: Service, concurrency: int) -> None:
    service.settings(latency=0.06)
    rows = direct([str(n) for n in range(24)], batch_size=1, concurrency=concurrency).execute(new_context())
    assert len(rows) == 24
    assert service.in_flight() == concurrency


def test_a_token_that_is_superseded_in_the_middle_costs_one_more(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = direct(TEN, batch_size=1, concurrency=2)
    asked_for = []

    def superseding(options: Any, batch: Any) -> Any:
        asked_for.append(batch)
        if len(asked_for) == 5:
            service.supersede()
        return predict_items(options, batch)

    monkeypatch.setattr(client_predictions, "predict_items", superseding)
    assert texts_of(one.execute(new_context())) == TEN
    assert len(service.calls("token")) == 2
    refused = [record for record in service.calls("predict") if record.status == 401]
    assert 1 <= len(refused) <= 2


@pytest.mark.parametrize("path", [None, "p.jsonl"])
def test_tokens_that_are_always_refused_are_an_error_after_a_few(
    service: Service, tmp_path: Path, path: str | None
) -> None:
    service.fault("predict", "unauthorized", times=1000)
    result_path = path and str(tmp_path / path)
    with pytest.raises(TokenRefusedError, match="Several access tokens were refused"):
        direct(TEN, concurrency=1, result_path=result_path).execute(new_context())
    assert len(service.calls("token")) <= 4
    assert len(service.calls("predict")) <= 4


def test_a_rate_limit_slows_down_and_fails_nobody(service: Service) -> None:
    service.settings(rate_limit=5, rate_window=0.3, retry_after=False)
    rows = direct(TEN, batch_size=1, concurrency=4).execute(new_context())
    assert texts_of(rows) == TEN
    assert {record.status for record in service.calls("predict")} == {200, 429}


def test_retry_after_is_waited_for(service: Service) -> None:
    service.fault("predict", "429", retry_after=1)
    begin = time.monotonic()
    direct(["One."]).execute(new_context())
    assert time.monotonic() - begin >= 1.0
    service.fault("predict", "429", retry_after=3600)
    with pytest.raises(RateLimitError):
        direct(["One."]).execute(new_context())


def test_not_entitled_is_said_at_once(service: Service) -> None:
    def forbid(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return 403, {"message": "This application may not use gpt-4o."}

    with scripted(forbid) as server:
        service.connect(extra={"application_url": server.url})
        with pytest.raises(ForbiddenError, match=r"1 of 3 batches.*may not use gpt-4o"):
            direct(TEN, concurrency=1).execute(new_context())
        assert len(server.heard) == 1


# Answers that do not fit


def predictions(*fields: dict[str, Any]) -> Any:
    """A server that answers each input with its text and what a test adds, batch by batch."""
    added = iter(fields)

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        more = next(added, {})
        return 200, {"predictions": [{"response": one["text"]} | more for one in body.get("batch", [])]}

    return reply


@pytest.mark.parametrize("missing", [-1, 1], ids=["too few", "too many"])
@pytest.mark.parametrize("path", [None, "p.jsonl"])
def test_another_number_of_predictions_is_paid_for_once(
    service: Service, tmp_path: Path, path: str | None, missing: int
) -> None:
    def reply(_: str, body: dict[str, Any]) -> tuple[int, Any]:
        wrong = TEN[4] in [one["text"] for one in body["batch"]] and len(server.heard) <= 3
        given = len(body["batch"]) + (missing if wrong else 0)
        return 200, {"predictions": [{"response": f"{n}"} for n in range(given)]}

    with scripted(reply) as server:
        service.connect(extra={"application_url": server.url})
        result_path = path and str(tmp_path / path)
        with pytest.raises(
            MalformedAnswerError, match=f"Inputs 4 to 7: .*{4 + missing} predictions for 4 inputs"
        ):
            direct(TEN, concurrency=1, result_path=result_path).execute(new_context())
        assert len(server.heard) == (2 if path is None else 3)
        if path is not None:
            direct(TEN, concurrency=1, result_path=result_path).execute(new_context())
            assert len(server.heard) == 4, "a retry asks for the wrong ones again"


def test_answers_that_nobody_can_read_are_not_paid_for_with_every_batch(
    service: Service, tmp_path: Path
) -> None:
    with scripted(lambda path, body: (200, {"results": []})) as server:
        service.connect(extra={"application_url": server.url})
        with pytest.raises(MalformedAnswerError, match=r"3 of 10 batches failed.*no list of `predictions`"):
            direct(TEN, batch_size=1, concurrency=1, result_path=str(tmp_path / "p.jsonl")).execute(
                new_context()
            )
        assert len(server.heard) == 3


@pytest.mark.parametrize("form", ["p.jsonl", "p.parquet"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"vector": [1, 2, 3]}, "a vector of 3 numbers after one of 2"),
        ({"vector": [0.5, 1]}, "max-scale was requested"),
        ({"vector": [128, 0]}, "max-scale was requested"),
    ],
)
def test_vectors_that_do_not_belong_together_are_asked_for_again(
    service: Service, tmp_path: Path, form: str, wrong: dict[str, Any], words: str
) -> None:
    arguments = {
        "use_case": "embedding",
        "model_config": {"vectorQuantizationMethod": "max-scale"},
        "result_path": str(tmp_path / form),
        "concurrency": 1,
    }
    good = {"vector": [-127, 127]}
    with scripted(predictions(good, wrong, good, good)) as server:
        service.connect(extra={"application_url": server.url})
        with pytest.raises(MalformedAnswerError, match=f"Inputs 4 to 7: .*{words}.*kept in .*unusable"):
            direct(TEN, **arguments).execute(new_context())
        assert not (tmp_path / form).exists()
        assert direct(TEN, **arguments).execute(new_context())["predictions"] == 10
        assert len(server.heard) == 4, "only the wrong batch is asked for again"
    assert list(tmp_path.iterdir()) == [tmp_path / form]


def test_vectors_that_do_not_belong_together_are_not_returned(service: Service) -> None:
    with scripted(predictions({"vector": [0.5]}, {"vector": [0.5, 2]}, {"vector": [0.5]})) as server:
        service.connect(extra={"application_url": server.url})
        with pytest.raises(MalformedAnswerError, match="vector of 2 numbers after one of 1"):
            direct(TEN, use_case="embedding", concurrency=1).execute(new_context())


ODD = {
    "response": {"text": "an object"},
    "answer": 7,
    "answerFound": "yes",
    "memoryUuid": ["x"],
    "sources": "http://example.com/1",
    "id": 5,
    "more": "mine",
    "tokens_used": "many",
    "tokensUsed": {"totalTokens": 2**70},
    "finish": None,
}


def test_fields_of_another_type_than_documented_cost_no_answer(service: Service, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"use_case": "rag", "batch_size": 1}
    inputs = [{"text": "Why?", "documents": [GERMANY]}] * 2
    with scripted(predictions({}, ODD, {}, ODD)) as server:
        service.connect(extra={"application_url": server.url})
        for name in ("p.parquet", "p.jsonl"):
            path = str(tmp_path / name)
            direct(inputs, **arguments, result_path=path, concurrency=1).execute(new_context())
    plain, odd = rows_of(tmp_path / "p.parquet")
    assert (plain["response"], plain["more"], plain["id"]) == ("Why?", None, None)
    assert (odd["response"], odd["answer"], odd["answerFound"], odd["id"]) == (None, None, None, None)
    assert (odd["sources"], odd["tokens_used"]) == (["http://example.com/1"], 0)
    kept = {name: value for name, value in ODD.items() if name not in {"sources", "tokensUsed"}}
    assert json.loads(odd["more"]) == kept
    assert rows_of(tmp_path / "p.jsonl")[1] == ODD | {
        "index": 1,
        "status": "predicted",
        "sources": ["http://example.com/1"],
    }


def test_whole_numbers_as_floats_fit_into_bytes(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    with scripted(predictions(*[{"embedding": [-127.0, 127]}] * 3)) as server:
        service.connect(extra={"application_url": server.url})
        config = {"vectorQuantizationMethod": "max-scale"}
        direct(TEN, use_case="embedding", model_config=config, result_path=str(path)).execute(new_context())
    assert {tuple(row["vector"]) for row in rows_of(path)} == {(-127, 127)}


def test_a_use_case_that_nobody_documented(service: Service, tmp_path: Path) -> None:
    with scripted(predictions(*[{"mood": "sunny", "score": 1}] * 6)) as server:
        service.connect(extra={"application_url": server.url})
        arguments: dict[str, Any] = {"use_case": "sentiment", "use_case_config": {"languages": ["de"]}}
        inline = direct(TEN, **arguments).execute(new_context())
        assert inline[9] == {
            "index": 9,
            "status": "predicted",
            "response": TEN[9],
            "mood": "sunny",
            "score": 1,
        }
        direct(TEN, **arguments, result_path=str(tmp_path / "p.parquet")).execute(new_context())
        assert json.loads(rows_of(tmp_path / "p.parquet")[9]["more"]) == {"mood": "sunny", "score": 1}
    assert server.heard[0]["useCaseConfig"] == {"languages": ["de"]}


# Conversations and large results


def test_a_conversation_is_handed_on(service: Service, tmp_path: Path) -> None:
    question = {"text": "Why did I go to Germany?", "documents": [GERMANY]}
    path = str(tmp_path / "p.jsonl")
    first = direct([question], use_case="rag", result_path=path).execute(new_context())
    assert rows_of(tmp_path / "p.jsonl")[0]["memoryUuid"] == first["memory_uuid"]
    memory = {"memoryUuid": first["memory_uuid"]}
    [row] = direct(["And when?"], use_case="standalone-query-rewriter", use_case_config=memory).execute(
        new_context()
    )
    assert "germany" in row["response"].lower()
    next_one = by_jobs(["And then?"], path, use_case="rag", use_case_config=memory).execute(new_context())
    assert next_one["memory_uuid"] == first["memory_uuid"]
    several = direct([question, question], use_case="rag", result_path=path).execute(new_context())
    assert "memory_uuid" not in several, "there is not just one"


def test_a_large_result_without_a_file_is_told(
    service: Service, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # The logger of an operator writes to one or the other, by the version of Airflow.
    direct(["x"]).execute(new_context())
    assert "result_path" not in capsys.readouterr().out + caplog.text
    direct(["word " * 200] * 64, batch_size=32, model_config={"maxTokens": 9999}).execute(new_context())
    assert "set a result_path" in capsys.readouterr().out + caplog.text


def test_a_budget_of_tokens_keeps_the_responses_and_a_clear_sends_the_rest(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"batch_size": 1, "concurrency": 2, "result_path": str(tmp_path / "p.jsonl")}
    with pytest.raises(BudgetExceededError, match=r"max_tokens=1\. ") as caught:
        direct(TEN, max_tokens="1", **given).execute(context)
    assert not caught.value.retryable
    sent = len(service.calls("predict"))
    assert 1 <= sent <= 3, "those in flight are finished"
    assert not (tmp_path / "p.jsonl").exists()
    context["ti"].max_tries += 1
    manifest = direct(TEN, max_tokens=10_000, **given).execute(context)
    assert (manifest["predictions"], len(service.calls("predict"))) == (10, 10)
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == TEN


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_budget_of_requests_is_checked_before_the_first(
    service: Service, context: dict[str, Any], tmp_path: Path, asynchronous: bool
) -> None:
    def make(most: int) -> Any:
        if asynchronous:
            return by_jobs(TEN, tmp_path / "p.jsonl", max_requests=most)
        return direct(TEN, batch_size=4, result_path=str(tmp_path / "p.jsonl"), max_requests=most)

    with pytest.raises(BudgetExceededError, match="3 requests, more than max_requests=2"):
        make(2).execute(context)
    assert service.calls("submit-prediction") == service.calls("predict") == []
    assert make(3).execute(context)["predictions"] == 10


# Jobs


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("where", ["before the POST", "between POST and record"])
def test_a_retry_after_a_kill_submits_what_has_no_id(
    service: Service,
    context: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    where: str,
    after: int,
) -> None:
    first = by_jobs(TEN, tmp_path / "p.jsonl")
    done = []

    def dying(*args: Any) -> Any:
        if len(done) == after and where == "before the POST":
            raise Death
        return then(submit_items, submitted)(*args)

    def submitted(job_id: str) -> str:
        done.append(job_id)
        if len(done) > after:
            raise Death
        return job_id

    with pytest.MonkeyPatch.context() as patch:
        # One at a time, so that the moment is certain.
        patch.setattr(task, "SUBMISSIONS", 1)
        patch.setattr(client_predictions, "submit_items", dying)
        with pytest.raises(Death):
            first.execute(context)
    by_jobs(TEN, tmp_path / "p.jsonl").execute(context)
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == TEN
    orphans = int(where == "between POST and record")
    assert sorted(service.submitted().values()) == sorted([1, 1, 1 + orphans])
    assert service.submitted()[hash_of(*BATCHES[after])] == 1 + orphans
    assert f"Inputs {after * 4} to " in caplog.text
    assert "may be an orphan" in caplog.text


def test_by_policy_a_submission_without_an_answer_is_not_repeated(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    fail = {"on_unknown_submission": "fail"}
    service.fault("submit-prediction", "disconnect-after")
    with pytest.raises(SubmissionUnknownError, match=r"Inputs 0 to 3: .*on_unknown_submission"):
        by_jobs(TEN, tmp_path / "p.jsonl", **fail).execute(context)
    with pytest.raises(SubmissionUnknownError, match="An earlier attempt"):
        by_jobs(TEN, tmp_path / "p.jsonl", **fail).execute(context)
    assert len(service.calls("submit-prediction")) == 1
    context["ti"].max_tries += 3  # cleared: somebody has decided
    assert by_jobs(TEN, tmp_path / "p.jsonl", **fail).execute(context)["predictions"] == 10


def test_a_jobs_error_names_inputs_job_and_reason_and_a_retry_submits_only_them(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    make = lambda: by_jobs(TEN, tmp_path / "p.jsonl", deferrable=True)  # noqa: E731
    with pytest.raises(TaskDeferred) as deferred:
        make().execute(context)
    failed = service.emulator.state.jobs.all()[1].job_id
    service.job(1, "ERROR", "The model has no room.")
    with pytest.raises(JobFailedError) as caught:
        make().execute_complete(context, wait(deferred.value), **deferred.value.kwargs)
    assert str(caught.value) == f"1 of 3 batches failed: Inputs 4 to 7 (job {failed}): The model has no room."
    assert not (tmp_path / "p.jsonl").exists()
    through_triggers(make, context)
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == TEN
    assert service.submitted() == {hash_of(*BATCHES[0]): 1, hash_of(*BATCHES[1]): 2, hash_of(*BATCHES[2]): 1}


@pytest.mark.parametrize("state", ["RETRIEVED", "GONE"])
def test_a_result_that_is_gone_is_submitted_once_more(
    service: Service, context: dict[str, Any], tmp_path: Path, state: str
) -> None:
    make = lambda: by_jobs(TEN, tmp_path / "p.jsonl", deferrable=True)  # noqa: E731
    with pytest.raises(TaskDeferred) as deferred:
        make().execute(context)
    service.job(2, state)
    event = wait(deferred.value)
    assert (event["gone"], event["collected"]) == ([2], 2)
    with pytest.raises(TaskDeferred) as again:
        make().execute_complete(context, event, **deferred.value.kwargs)
    assert service.submitted()[hash_of(*BATCHES[2])] == 2
    make().execute_complete(context, wait(again.value), **again.value.kwargs)
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == TEN


def test_a_result_that_is_gone_twice_is_an_error(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.settings(pending_polls=0)
    make = lambda: by_jobs(["One."], tmp_path / "p.jsonl", deferrable=True)  # noqa: E731
    # A cut answer has used the only copy up; what follows says RETRIEVED.
    service.fault("poll-prediction", "cut-json")
    with pytest.raises(TaskDeferred) as deferred:
        make().execute(context)
    event = wait(deferred.value)
    service.fault("poll-prediction", "cut-json")
    with pytest.raises(TaskDeferred) as again:
        make().execute_complete(context, event, **deferred.value.kwargs)
    with pytest.raises(ResultGoneError, match=r"Input 0: .*second time"):
        make().execute_complete(context, wait(again.value), **again.value.kwargs)
    assert by_jobs(["One."], tmp_path / "p.jsonl").execute(context)["predictions"] == 1


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_quarantined_body_outlives_the_next_submission_of_the_only_job(
    service: Service, context: dict[str, Any], tmp_path: Path, attempts: int
) -> None:
    """It may be the only copy of a result."""
    make = lambda: by_jobs(["One."], tmp_path / "p.jsonl", deferrable=True)  # noqa: E731
    for _ in range(attempts):
        with pytest.raises(TaskDeferred) as deferred:
            make().execute(context)
    (job,) = service.emulator.state.jobs.all()
    bodies = ResultDirectory(deferred.value.trigger.folder)
    kept = asyncio.run(bodies.of(0, job.job_id).quarantine(b"body", QuarantineReason.UNUSABLE))
    service.job(0, "GONE")
    with pytest.raises(TaskDeferred):
        make().execute_complete(context, wait(deferred.value), **deferred.value.kwargs)
    assert storage.read_file(kept) == b"body"


def test_a_late_job_keeps_its_id_for_the_retry(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.settings(pending_seconds=0.6)
    with pytest.raises(JobTimeoutError, match=r"3 of 3 batches were not ready.*Inputs 0 to 3 \(job "):
        by_jobs(TEN, tmp_path / "p.jsonl", timeout=0.2).execute(context)
    by_jobs(TEN, tmp_path / "p.jsonl").execute(context)
    assert sorted(service.submitted().values()) == [1, 1, 1]


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> int:
    """Jobs that a task has outstanding at most."""
    monkeypatch.setattr(task, "WINDOW", 5)
    monkeypatch.setattr(polling, "WINDOW", 5)
    return 5


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_task_of_many_jobs_has_few_of_them_outstanding(
    service: Service,
    context: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    window: int,
    deferrable: bool,
) -> None:
    caplog.set_level("INFO")
    make = lambda: by_jobs(MANY[:30], tmp_path / "p.jsonl", batch_size=2, deferrable=deferrable)  # noqa: E731
    assert through_triggers(make, context)["predictions"] == 30
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == [one["text"] for one in MANY[:30]]
    assert set(service.submitted().values()) == {1}
    outstanding = most = 0
    for call in service.emulator.state.log:
        outstanding += call.endpoint == "submit-prediction"
        outstanding -= call.endpoint == "poll-prediction" and call.job_status == "READY"
        most = max(most, outstanding)
    assert most == window
    stored = [line for line in caplog.messages if "stored after" in line]
    assert [line.split(" stored")[0] for line in stored] == [f"{n} of 15 results" for n in (5, 10, 15)]
    assert left_in(tmp_path) == left_by(context, tmp_path / "p.jsonl")


def test_a_retry_resumes_in_the_window_of_the_kill(
    service: Service, context: dict[str, Any], tmp_path: Path, window: int
) -> None:
    make = lambda: by_jobs(MANY[:30], tmp_path / "p.jsonl", batch_size=2, deferrable=True)  # noqa: E731
    with pytest.raises(TaskDeferred) as first:
        make().execute(context)
    with pytest.raises(TaskDeferred):
        make().execute_complete(context, wait(first.value), **first.value.kwargs)
    assert len(service.calls("submit-prediction")) == 2 * window
    assert through_triggers(make, context)["predictions"] == 30
    assert set(service.submitted().values()) == {1}


def test_results_that_another_host_took_are_waited_for_in_windows(
    service: Service, tmp_path: Path, window: int
) -> None:
    """The ids are in the state store, and the bodies on a disk that is gone."""
    context = new_context()
    service.settings(pending_polls=0)
    make = lambda: by_jobs(MANY[:30], tmp_path / "p.jsonl", batch_size=2, deferrable=True)  # noqa: E731
    with pytest.raises(TaskDeferred) as first:
        make().execute(context)
    with pytest.raises(TaskDeferred):
        make().execute_complete(context, wait(first.value), **first.value.kwargs)
    for path in list(tmp_path.rglob("*.json")):
        path.unlink()
    with pytest.raises(TaskDeferred) as second:
        make().execute(context)
    event = wait(second.value)
    assert (event["gone"], event["left"]) == ([0, 1, 2, 3, 4], 5)
    with pytest.raises(TaskDeferred) as third:
        make().execute_complete(context, event, **second.value.kwargs)
    assert wait(third.value)["collected"] == 5
    assert through_triggers(make, context)["predictions"] == 30
    assert max(service.submitted().values()) == 2


@pytest.mark.parametrize(("inputs", "deadlines"), [(30, 2), (10, 1)])
def test_the_next_window_has_a_timeout_of_its_own_and_a_result_that_is_gone_has_not(
    service: Service, tmp_path: Path, window: int, inputs: int, deadlines: int
) -> None:
    context = new_context()
    make = lambda: by_jobs(MANY[:inputs], tmp_path / "p.jsonl", batch_size=2, deferrable=True)  # noqa: E731
    with pytest.raises(TaskDeferred) as first:
        make().execute(context)
    service.job(0, "GONE")
    with pytest.raises(TaskDeferred) as second:
        make().execute_complete(context, wait(first.value), **first.value.kwargs)
    assert len({first.value.kwargs["deadline"], second.value.kwargs["deadline"]}) == deadlines


def test_one_trigger_waits_for_two_hundred_jobs(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    inputs = [{"text": f"Text {n}.", "id": str(n)} for n in range(200)]
    make = lambda: by_jobs(inputs, tmp_path / "p.parquet", batch_size=1, deferrable=True)  # noqa: E731
    with pytest.raises(TaskDeferred) as deferred:
        make().execute(context)
    row = json.dumps(deferred.value.trigger.serialize())
    assert len(row) < 1000
    assert "Text 7" not in row
    event = wait(deferred.value)
    assert event["collected"] == 200
    assert len(json.dumps(event)) < 300
    manifest = make().execute_complete(context, event, **deferred.value.kwargs)
    rows = rows_of(tmp_path / "p.parquet")
    assert [(row["id"], row["response"]) for row in rows] == [(one["id"], one["text"]) for one in inputs]
    assert manifest["predictions"] == 200
    assert set(service.submitted().values()) == {1}
    assert len(service.calls("token")) == 1


def test_a_token_that_is_superseded_fails_no_job(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    make = lambda: by_jobs(TEN, tmp_path / "p.jsonl", deferrable=True)  # noqa: E731
    one = make()
    done = []

    def superseding(*args: Any) -> Any:
        done.append(args)
        if len(done) == 2:
            service.supersede()
        return submit_items(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "SUBMISSIONS", 1)
        patch.setattr(client_predictions, "submit_items", superseding)
        with pytest.raises(TaskDeferred) as deferred:
            one.execute(context)
    service.supersede()
    make().execute_complete(context, wait(deferred.value), **deferred.value.kwargs)
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == TEN
    assert sorted(service.submitted().values()) == [1, 1, 1]
    assert len(service.calls("token")) == 3


def test_a_rate_limit_submits_nothing_twice(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.fault("submit-prediction", "429", times=3)
    service.fault("poll-prediction", "429", times=5)
    by_jobs(TEN, tmp_path / "p.jsonl").execute(context)
    assert sorted(service.submitted().values()) == [1, 1, 1]


def test_input_that_changes_during_the_wait_is_not_mixed_up(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        by_jobs(TEN, tmp_path / "p.jsonl", deferrable=True).execute(context)
    event = wait(deferred.value)
    for change in ({"inputs": TEN[::-1]}, {"inputs": TEN, "batch_size": 5}, {"model_config": {"topP": 1}}):
        given: dict[str, Any] = {"inputs": TEN, "path": tmp_path / "p.jsonl", "deferrable": True} | change
        with pytest.raises(InputError, match="changed while the task was waiting"):
            by_jobs(**given).execute_complete(context, event, **deferred.value.kwargs)
    assert not (tmp_path / "p.jsonl").exists()
    by_jobs(TEN[::-1], tmp_path / "p.jsonl").execute(context)
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == TEN[::-1]


def test_after_a_success_a_retry_returns_and_a_clear_repeats(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    manifest = by_jobs(TEN, tmp_path / "p.jsonl").execute(context)
    assert by_jobs(TEN, tmp_path / "p.jsonl").execute(context) == manifest
    assert sorted(service.submitted().values()) == [1, 1, 1]
    context["ti"].max_tries += 3
    assert by_jobs(TEN, tmp_path / "p.jsonl").execute(context) == manifest
    assert sorted(service.submitted().values()) == [2, 2, 2]


def test_another_storage_is_noticed_before_a_result_is_read(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    make = lambda: by_jobs(TEN, tmp_path / "p.jsonl", deferrable=True)  # noqa: E731
    with pytest.raises(TaskDeferred) as deferred:
        make().execute(context)
    record = next(tmp_path.rglob("record.json"))
    kept = record.read_bytes()
    record.unlink()
    event = wait(deferred.value)
    record.write_bytes(kept)
    with pytest.raises(StorageNotSharedError, match="triggerer on"):
        make().execute_complete(context, event, **deferred.value.kwargs)
    assert service.calls("poll-prediction") == []


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_jobs_answer_with_another_number_of_predictions_is_set_aside_and_submitted_again(
    service: Service, tmp_path: Path, deferrable: bool
) -> None:
    context, short = new_context(), [True]
    batches: dict[str, Any] = {}

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body:
            job = f"job-{uuid4()}"
            batches[job] = body["batch"]
            return 200, {"predictionId": job, "status": "SUBMITTED"}
        batch = batches[path.rsplit("/", 1)[1]]
        told = [{"response": one["text"]} for one in batch]
        if short and batch[0]["text"] == TEN[4]:
            told.pop()
        return 200, {"status": "READY", "predictions": told}

    make = lambda: by_jobs(TEN, tmp_path / "p.jsonl", deferrable=deferrable)  # noqa: E731
    with scripted(reply) as server:
        service.connect(extra={"application_url": server.url})
        with pytest.raises(
            MalformedAnswerError,
            match=r"Inputs 4 to 7 \(job job-\S+\): .*3 predictions for 4 inputs.*kept in",
        ):
            through_triggers(make, context)
        short.clear()
        through_triggers(make, context)
        assert len(server.heard) == 4, "only that batch is submitted again"
    assert texts_of(rows_of(tmp_path / "p.jsonl")) == TEN


def test_an_interrupted_connection_to_the_service_is_told_as_such(service: Service, tmp_path: Path) -> None:
    service.connect(extra={"application_url": "http://127.0.0.1:9"})
    for one in (direct(TEN), by_jobs(TEN, tmp_path / "p.jsonl")):
        with pytest.raises(LucidworksError, match="lucidworks_default"):
            one.execute(new_context())


def test_the_asynchronous_operator_is_a_job_operator() -> None:
    one = by_jobs(TEN, "/x/p.jsonl")
    assert isinstance(one, JobOperator)
    shared = set(one.template_fields) & set(direct(TEN).template_fields)
    # What a job's tokens are is known after its result only.
    assert set(direct(TEN).template_fields) - shared == {"concurrency", "max_tokens"}
