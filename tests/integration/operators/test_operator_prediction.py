# SPDX-License-Identifier: Apache-2.0
"""
The prediction operators over real sockets: what they send, what they write, and what each trouble costs.

What the asynchronous one has in common with other tasks of jobs is in ``test_operator_chunking.py``.
"""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_calls import then
from operator_service import (
    LLAMA,
    MEMORY,
    Attempts,
    Death,
    Service,
    both_stores,
    by_jobs,
    direct,
    hash_of,
    new_context,
    rows_of,
    wait,
)

from lucidworks_provider import metrics, retrying, storage
from lucidworks_provider.client import predictions as client_predictions
from lucidworks_provider.client.http import rate_limiter
from lucidworks_provider.client.http.messages import Response
from lucidworks_provider.client.predictions import predict_items, read_response, submit_items
from lucidworks_provider.client.use_cases import PredictionOptions
from lucidworks_provider.documents.document import TableColumns
from lucidworks_provider.errors import (
    BudgetExceededError,
    ContentEncodingError,
    ForbiddenError,
    InputError,
    JobFailedError,
    LucidworksError,
    MalformedResponseError,
    RateLimitError,
    RequestRefusedError,
    ServiceError,
    StorageError,
    TokenRefusedError,
    TooManyRejectsError,
    UnknownResourceError,
)
from lucidworks_provider.jobs import polling, record, task
from lucidworks_provider.jobs.prediction_task import SyncBatchRunner, row_rules
from lucidworks_provider.jobs.record import QuarantineReason, ResultDirectory
from lucidworks_provider.jobs.rows import read_batches
from lucidworks_provider.operators import base
from tests.task_state import TaskStateStore

TEN = [f"Text {n}." for n in range(10)]
BATCHES = [TEN[:4], TEN[4:8], TEN[8:]]
MANY = [{"text": f"Number {n} of many.", "id": f"id-{n}"} for n in range(107)]
GERMANY = {"body": "I'm off to Germany to go to the Oktoberfest!", "source": "http://example.com/112"}
QUESTION = {"text": "Why did I go to Germany?", "documents": [GERMANY]}


@pytest.fixture
def sync(service: Service, context: dict[str, Any], tmp_path: Path) -> Attempts:
    """Three batches in order, to a file; `result_path=None` returns the rows."""
    path = tmp_path / "p.jsonl"

    def make(**changes: Any) -> Any:
        return direct(**{"inputs": TEN, "result_path": str(path), "concurrency": 1} | changes)

    return Attempts(make, path, context)


@pytest.fixture
def jobs(service: Service, context: dict[str, Any], tmp_path: Path) -> Attempts:
    """The same three batches as jobs."""
    path = tmp_path / "p.jsonl"
    return Attempts(lambda **changes: by_jobs(**{"inputs": TEN, "path": path} | changes), path, context)


@pytest.fixture(params=["direct", "jobs"])
def either(request: pytest.FixtureRequest) -> Attempts:
    return request.getfixturevalue("sync" if request.param == "direct" else "jobs")


@pytest.fixture(params=["rows", "file"])
def where(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"result_path": None} if request.param == "rows" else {}


def texts_of(rows: list[dict[str, Any]]) -> list[Any]:
    return [row["response"] for row in rows]


def paid(service: Service) -> int:
    """Requests for predictions."""
    return len(service.calls("predict"))


# Every use case: model, options, input, and what must be in each row. Then what else the answer shows.

USE_CASES: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "embedding": ("gte-small", {"dataType": "passage"}, "Germany", {}),
    "classification": (LLAMA, {"labels": ["a", "b"]}, "Germany", {}),
    "passthrough": (LLAMA, {"dataType": "text"}, "Germany", {"response": "Germany"}),
    "rag": (
        LLAMA,
        {"extractRelevantContent": False},
        QUESTION,
        {"answer": GERMANY["body"], "answerFound": True, "sources": [GERMANY["source"]]},
    ),
    "summarization": (LLAMA, {"maxWords": 1}, "Germany is large.", {"response": "Germany"}),
    "keyword-extraction": (LLAMA, {"maxKeywords": 1}, "Germany", {"keywords": ["germany"]}),
    "ner": ("nu-zero-ner", {"entityTypeMap": {"place": ["Germany"]}}, "Germany", {}),
    "faq-enrichment": (LLAMA, None, "Germany is large.", {}),
    "standalone-query-rewriter": (LLAMA, {"memoryUuid": MEMORY}, "And when?", {}),
}
ASYNCHRONOUS = [name for name in USE_CASES if name not in {"embedding", "classification"}]


def asked(service: Service, use_case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    model, config, given, wanted = USE_CASES[use_case]
    service.emulator.state.conversations.remember(MEMORY, "Why Germany?")
    arguments = {"use_case": use_case, "model_id": model, "use_case_config": config}
    return arguments | {"inputs": [given, given]}, wanted


def check_rows(use_case: str, rows: list[dict[str, Any]], wanted: dict[str, Any], *, parquet: bool) -> None:
    assert [row["index"] for row in rows] == [0, 1]
    for row in rows:
        assert wanted.items() <= row.items()
        match use_case:
            case "embedding":
                assert len(row["vector"]) == 384
            case "classification":
                pairs = (
                    [tuple(one.values()) for one in row["labels"]] if parquet else [*row["labels"].items()]
                )
                assert pairs == sorted(pairs, key=lambda pair: -pair[1])
                assert pairs[0][0] == row["label"]
            case "rag":
                assert len(row["memoryUuid"]) == len(MEMORY)
            case "ner":
                found = {one["type"]: one["names"] for one in row["entities"]} if parquet else row["entities"]
                assert found == {"place": ["Germany"]}
            case "faq-enrichment":
                assert row["pairs"][0]["answer"] == "Germany is large."
            case "standalone-query-rewriter":
                assert "germany" in row["response"].lower()


@pytest.mark.parametrize("use_case", USE_CASES)
def test_every_use_case_in_every_form(service: Service, sync: Attempts, use_case: str) -> None:
    arguments, wanted = asked(service, use_case)
    inline = sync.run(**arguments, result_path=None)
    json.dumps(inline)
    check_rows(use_case, inline, wanted, parquet=False)
    for path in (sync.path, sync.path.with_suffix(".parquet")):
        manifest = sync.run(**arguments, result_path=path.as_uri())
        rows = rows_of(path)
        check_rows(use_case, rows, wanted, parquet=path != sync.path)
        counted = sum(row.get("tokens_used") or 0 for row in rows)
        assert (manifest["uri"], manifest["predictions"]) == (path.as_uri(), 2)
        assert manifest["tokens"] == (counted or manifest["tokens"]) > 0
    assert sync.files() == {"p.jsonl", "p.parquet"}, "nothing is left beside"
    assert len(service.calls("token")) == 1


@pytest.mark.parametrize("use_case", ASYNCHRONOUS)
@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])
def test_every_asynchronous_use_case(service: Service, jobs: Attempts, use_case: str, name: str) -> None:
    arguments, wanted = asked(service, use_case)
    jobs.path = jobs.path.with_name(name)
    manifest = jobs.run(**arguments, path=jobs.path.as_uri(), deferrable=True)
    check_rows(use_case, jobs.rows(), wanted, parquet=name == "p.parquet")
    assert (manifest["uri"], manifest["predictions"]) == (jobs.path.as_uri(), 2)
    assert jobs.only_the_result()


@pytest.mark.parametrize(
    ("method", "kind"), [(None, pa.float32()), ("max-scale", pa.int8()), ("min-max", pa.uint8())]
)
@pytest.mark.parametrize("shape", ["vector", "embedding"])
def test_vectors_are_a_column_of_fixed_size(
    service: Service, sync: Attempts, shape: str, method: str | None, kind: pa.DataType
) -> None:
    service.settings(embedding_shape=shape)
    path = sync.path.with_suffix(".parquet")
    config = {"dimReductionSize": 8} | ({"vectorQuantizationMethod": method} if method else {})
    arguments = {"use_case": "embedding", "model_id": "gte-small"}
    sync.run(**arguments, model_config=config, result_path=str(path))
    table = pq.read_table(path)
    assert table.schema.field("vector").type == pa.list_(kind, 8)
    inline = sync.run(**arguments, model_config=json.dumps(config), result_path=None)
    assert [row["vector"] for row in inline] == [pytest.approx(row["vector"]) for row in table.to_pylist()]
    assert arguments.items() <= json.loads(table.schema.metadata[b"lucidworks"]).items()


# Order


def check_many(rows: list[dict[str, Any]]) -> None:
    wanted = [(n, one["id"], one["text"]) for n, one in enumerate(MANY)]
    assert [(row["index"], row["id"], row["response"]) for row in rows] == wanted


@pytest.mark.parametrize("form", [None, "p.jsonl", "p.parquet"])
def test_each_row_is_about_its_input_whichever_batch_ends_first(
    service: Service, sync: Attempts, form: str | None
) -> None:
    service.fault("predict", "slow", delay=0.3)
    service.fault("predict", "503")
    path = form and sync.path.with_name(form)
    result = sync.run(inputs=MANY, batch_size=10, concurrency=4, result_path=path and str(path))
    check_many(rows_of(path) if path else result)
    assert (set(service.sent().values()), paid(service)) == ({1}, 12)
    answered = [record for record in service.calls("predict") if record.items]
    assert [record.items for record in answered].count(7) == 1, "the last, smaller batch"
    texts = [one["text"] for one in MANY]
    in_order = [hash_of(*texts[n : n + 10]) for n in range(0, 107, 10)]
    assert [record.text_sha256 for record in answered] != in_order


def test_each_row_of_jobs_is_about_its_input_whichever_job_ends_first(
    service: Service, jobs: Attempts
) -> None:
    service.fault("poll-prediction", "503", times=3)
    service.fault("poll-prediction", "error-job")
    jobs.run(inputs=MANY, batch_size=10, deferrable=True)
    check_many(jobs.rows())
    assert sorted(service.submitted().values()) == [1] * 11


def test_names_may_end_in_a_line_feed(either: Attempts) -> None:
    either.run(use_case="passthrough\n", model_id=f"{LLAMA}\n")
    assert either.responses() == TEN


def test_inputs_may_be_rendered_json(either: Attempts) -> None:
    either.run(inputs=json.dumps(TEN), use_case_config='{"useSystemPrompt": false}')
    assert either.responses() == TEN


# Refused before anything is sent or written; ``mistakes.txt`` has more

BAD_ARGUMENTS: list[tuple[dict[str, Any], list[str]]] = [
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
    ({"use_case_config": {"since": {1}}}, ["use_case_config", "JSON"]),
    ({"model_config": "[]"}, ["model_config", "not a JSON object"]),
    ({"model_config": {"topk": 1}}, ["Did you mean 'topK'"]),
    ({"batch_size": 0}, ["batch_size", "1 to 32"]),
    ({"batch_size": 33}, ["batch_size is 33"]),
    ({"result_path": "out.jsonl"}, ["result_path", "absolute"]),
    ({"result_path": "file:///tmp/out.csv"}, [".parquet", ".jsonl"]),
    ({"result_path": "file:///tmp/out/"}, ["folder"]),
    ({"result_path": Path("/tmp/out.jsonl")}, ["result_path", "URI"]),  # noqa: S108
]
BAD_DIRECT: list[tuple[dict[str, Any], list[str]]] = [
    ({"use_case": "classification"}, ["labels is missing"]),
    ({"concurrency": 0}, ["concurrency is 0", "1 to 8"]),
    ({"concurrency": 9}, ["concurrency is 9"]),
]
# The checks above are shared; one of each kind shows that jobs make them too.
BAD_JOBS: list[tuple[dict[str, Any], list[str]]] = [
    *BAD_ARGUMENTS[::5],
    ({"use_case": "embedding", "model_id": "gte-small"}, ["'embedding'", "asynchronously", "chunking"]),
    (
        {"use_case": "classification", "use_case_config": {"labels": ["a"]}},
        ["'classification'", "LucidworksPredictionOperator"],
    ),
    ({"result_path": ""}, ["result_path"]),
    ({"poll_interval": 0}, ["poll_interval"]),
    ({"timeout": "10m"}, ["timeout", "10m"]),
    ({"on_unknown_submission": "retry"}, ["resubmit", "fail"]),
    ({"inputs": [str(n) for n in range(32_001)], "batch_size": 1}, ["32,001", "32,000", "expand"]),
]


@pytest.mark.parametrize(
    ("fixture", "arguments", "words"),
    [("sync", *one) for one in [*BAD_ARGUMENTS, *BAD_DIRECT]] + [("jobs", *one) for one in BAD_JOBS],
)
def test_bad_arguments_are_refused(
    request: Any, service: Service, tmp_path: Path, fixture: str, arguments: dict[str, Any], words: list[str]
) -> None:
    attempts: Attempts = request.getfixturevalue(fixture)
    with pytest.raises(InputError) as caught:
        attempts.run(**{"result_path": str(tmp_path / "x" / "p.jsonl")} | arguments)
    assert [word for word in words if word not in str(caught.value)] == []
    assert service.nothing_sent()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_found_out_before_anything_is_paid_for(
    service: Service, either: Attempts, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.jsonl").mkdir()
    for path in (tmp_path / "file" / "p.jsonl", tmp_path / "folder.jsonl"):
        with pytest.raises(StorageError, match=rf"result_path.*{path.parent}|{path}"):
            either.run(result_path=str(path))
    assert service.calls("predict") + service.calls("submit-prediction") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model_id": "llama-3-8b-instuct"}, "For 'passthrough' the service lists llama-3-8b-instruct"),
        ({"use_case": "sumarization"}, "The service lists no use case .*Did you mean 'summarization'\\?"),
        ({"use_case": "keyword_extraction", "model_id": "gte-small"}, "For 'keyword_extraction' the service"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest_ones(
    either: Attempts, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnknownResourceError, match=rf"Connection 'lucidworks_default'.*404.*{words}"):
        either.run(**arguments)


@pytest.mark.parametrize(
    ("kind", "reason"), [("500", "ServiceError, HTTP 500."), ("html", "MalformedResponseError, HTTP 200.")]
)
def test_what_concerns_all_batches_is_not_tried_with_each(
    service: Service, sync: Attempts, where: dict[str, Any], caplog: Any, kind: str, reason: str
) -> None:
    caplog.set_level("INFO")
    service.fault("usecases", kind, times=50)
    with pytest.raises(UnknownResourceError, match=r"1 of 3 batches failed. Inputs 0 to 3: .*404"):
        sync.run(model_id="nobody", **where)
    assert (paid(service), len(service.calls("usecases"))) == (1, 1), "the list that fails hides nothing"
    [said] = [text for text in caplog.messages if "names no alternatives" in text]
    assert reason in said


# Batches that fail


@pytest.mark.parametrize("kind", ["429", "500", "503", "html", "disconnect", "cut-json", "unauthorized"])
def test_a_batch_that_fails_is_repeated_alone(service: Service, sync: Attempts, kind: str) -> None:
    service.fault("predict", kind, times=2)
    assert texts_of(sync.run(result_path=None)) == TEN
    requests = service.calls("predict")
    assert [record.fault for record in requests] == [kind, kind, None, None, None]
    assert [one.text_sha256 for one in requests[2:]] == [hash_of(*batch) for batch in BATCHES]


@both_stores
def test_a_batch_that_fails_for_good_leaves_the_others_on_storage_and_a_retry_sends_only_it(
    service: Service, sync: Attempts
) -> None:
    service.fault("predict", "500", times=retrying.ATTEMPTS)
    words = r"1 of 3 batches failed. Inputs 0 to 3: .*HTTP 500.*stored for a retry"
    with pytest.raises(ServiceError, match=words):
        sync.run()
    assert not sync.path.exists()
    assert paid(service) == retrying.ATTEMPTS + 2
    service.emulator.state.log.clear()
    assert sync.run()["predictions"] == 10
    assert sync.responses() == TEN
    assert service.sent() == {hash_of(*BATCHES[0]): 1}
    assert sync.only_the_result()


def test_what_a_batch_holds_may_be_refused_without_harm_to_the_others(
    service: Service, sync: Attempts
) -> None:
    good, bad = (json.dumps([{"role": role, "content": "Hello"}]) for role in ("user", "robot"))
    arguments: dict[str, Any] = {"use_case_config": {"dataType": "json_prompt"}, "batch_size": 1}
    words = r"2 of 5 batches failed. Input 2: .*HTTP 400.*; Input 4: .*HTTP 400"
    with pytest.raises(RequestRefusedError, match=words):
        sync.run(inputs=[good, good, bad, good, bad], **arguments)
    assert paid(service) == 5, "a refusal is not repeated"
    sync.run(inputs=[good] * 5, **arguments)
    assert (paid(service), sync.responses()) == (7, ["Hello"] * 5)


def test_without_a_file_the_first_failure_ends_it(service: Service, sync: Attempts) -> None:
    service.fault("predict", "500", times=retrying.ATTEMPTS)
    with pytest.raises(ServiceError, match=r"1 of 3 batches failed") as caught:
        sync.run(result_path=None)
    assert "stored" not in str(caught.value)
    assert paid(service) == retrying.ATTEMPTS


def test_many_failures_are_summarized(service: Service, sync: Attempts) -> None:
    service.fault("predict", "500", times=1000)
    with pytest.raises(ServiceError, match=r"8 of 8 batches failed.*; and 5 more"):
        sync.run(inputs=TEN[:8], batch_size=1, concurrency=8)


@pytest.mark.parametrize("kind", ["503", "disconnect", "html"])
def test_a_service_that_is_down_is_not_tried_with_every_batch(
    service: Service, sync: Attempts, kind: str
) -> None:
    service.fault("predict", kind, times=10_000)
    with pytest.raises(LucidworksError, match="3 of 10 batches failed"):
        sync.run(batch_size=1)
    assert paid(service) == 3 * retrying.ATTEMPTS
    service.heal()
    sync.run(batch_size=1)
    assert sync.responses() == TEN


def test_a_batch_that_is_refused_to_the_end_ends_the_task(
    service: Service, sync: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one would wait as long for its turn, and be refused too."""
    monkeypatch.setattr(retrying, "LONGEST_REFUSAL", 0.0)
    monkeypatch.setattr(rate_limiter, "REFUSED_PROBES", 1)
    service.fault("predict", "429", times=10_000)
    with pytest.raises(RateLimitError, match="1 of 10 batches failed"):
        sync.run(batch_size=1)
    assert paid(service) == 3
    service.heal()
    assert sync.run(batch_size=1)["predictions"] == 10


def test_failures_with_responses_in_between_block_no_batch(service: Service, sync: Attempts) -> None:
    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        text = body["batch"][0]["text"]
        return (500, {}) if int(text[5]) % 2 else (200, {"predictions": [{"response": text}]})

    server = service.answers(reply)
    with pytest.raises(ServiceError, match="5 of 10 batches failed"):
        sync.run(batch_size=1)
    assert {one["batch"][0]["text"] for one in server.heard} == set(TEN)


def test_a_storage_that_fails_in_the_middle_ends_the_asking(
    service: Service, sync: Attempts, monkeypatch: pytest.MonkeyPatch
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
        sync.run(batch_size=1)
    assert paid(service) == 2, "what cannot be kept is not paid for"


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
    service: Service, sync: Attempts, change: dict[str, Any], sent_again: int
) -> None:
    sync.die(SyncBatchRunner, "write")
    service.emulator.state.log.clear()
    sync.run(**change)
    assert paid(service) == sent_again
    inputs = change.get("inputs", TEN)
    assert sync.responses() == [one if isinstance(one, str) else one["text"] for one in inputs]
    assert list(sync.path.parent.iterdir()) == [sync.path]


@both_stores
@pytest.mark.parametrize("place", ["log", "link", "removals"])
def test_whatever_ends_it_once_the_result_is_written_a_retry_returns_that(
    service: Service, sync: Attempts, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The log is the last step: there, Airflow's API server is away as well, and twice."""
    store = sync.context.get("task_state_store", TaskStateStore())
    store.down = place == "log"

    def half_way(*_: Any) -> None:
        min(sync.path.parent.rglob("_*/[!r]*.json")).unlink()
        raise Death

    if place == "removals":
        with monkeypatch.context() as dying:
            dying.setattr(record, "discard", half_way)
            sync.die(record, "discard_folder", half_way)
    for _ in range({"log": 2, "link": 1, "removals": 0}[place]):
        sync.die(*((metrics, "log_result") if place == "log" else (base, "push_result")))
    store.down = False
    written = sync.path.stat().st_mtime_ns
    manifest = sync.run()
    assert (manifest["uri"], manifest["predictions"]) == (str(sync.path), 10)
    assert set(service.sent().values()) == {1}
    assert sync.path.stat().st_mtime_ns == written
    assert sync.only_the_result()


@both_stores
def test_what_could_not_be_removed_fails_nothing_and_is_not_used_later(
    service: Service, sync: Attempts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(uri: str) -> None:
        raise StorageError(f"{uri} cannot be removed: AccessDenied")

    monkeypatch.setattr(storage, "remove_file", refuses)
    monkeypatch.setattr(storage, "remove_folder", refuses)
    for times in (1, 2, 3):
        service.fault("predict", "500", times=retrying.ATTEMPTS)
        with pytest.raises(ServiceError, match="1 of 3 batches failed"):
            sync.run()
        for _ in range(2):
            sync.run()
            assert sync.responses() == TEN
        assert "AccessDenied" in caplog.text
        assert service.sent() == {hash_of(*batch): times for batch in BATCHES}, "paid for once a generation"
        sync.clear()


@both_stores
@pytest.mark.parametrize("how", ["cleared", "vanished", "other inputs"])
def test_after_a_success_everything_is_asked_again(service: Service, sync: Attempts, how: str) -> None:
    sync.run()
    service.emulator.state.log.clear()
    if how == "cleared":
        sync.clear()
    elif how == "vanished":
        sync.path.unlink()
    inputs = [f"{text}!" for text in TEN] if how == "other inputs" else TEN
    sync.run(inputs=inputs)
    assert (len(service.sent()), sync.responses()) == (3, inputs)


@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_the_number_of_requests_in_flight_is_limited(
    service: Service, sync: Attempts, concurrency: int
) -> None:
    service.settings(latency=0.06)
    inputs = [str(n) for n in range(24)]
    assert len(sync.run(inputs=inputs, batch_size=1, concurrency=concurrency, result_path=None)) == 24
    assert service.in_flight() == concurrency


def superseding(service: Service, call: Any, at: int) -> Any:
    """An endpoint whose access token is superseded by another system's at one of its calls."""
    done = []

    def endpoint(*args: Any) -> Any:
        done.append(args)
        if len(done) == at:
            service.supersede()
        return call(*args)

    return endpoint


def test_a_token_that_is_superseded_in_the_middle_costs_one_more(
    service: Service, sync: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sync.make(batch_size=1, concurrency=2, result_path=None)
    monkeypatch.setattr(client_predictions, "predict_items", superseding(service, predict_items, 5))
    assert texts_of(one.execute(sync.context)) == TEN
    assert len(service.calls("token")) == 2
    assert 1 <= [record.status for record in service.calls("predict")].count(401) <= 2


def test_tokens_that_are_always_refused_are_an_error_after_a_few(
    service: Service, sync: Attempts, where: dict[str, Any]
) -> None:
    service.fault("predict", "unauthorized", times=1000)
    with pytest.raises(TokenRefusedError, match="Several access tokens were refused"):
        sync.run(**where)
    assert max(len(service.calls("token")), paid(service)) <= 4


def test_a_rate_limit_slows_down_and_fails_no_batch(service: Service, sync: Attempts) -> None:
    service.settings(rate_limit=5, rate_window=0.3, retry_after=False)
    assert texts_of(sync.run(batch_size=1, concurrency=4, result_path=None)) == TEN
    assert {record.status for record in service.calls("predict")} == {200, 429}


def test_not_entitled_is_said_at_once(service: Service, sync: Attempts) -> None:
    server = service.answers(lambda path, body: (403, {"message": "This application may not use gpt-4o."}))
    with pytest.raises(ForbiddenError, match=r"1 of 3 batches.*may not use gpt-4o"):
        sync.run(result_path=None)
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
def test_another_number_of_predictions_is_paid_for_once(
    service: Service, sync: Attempts, where: dict[str, Any], missing: int
) -> None:
    def reply(_: str, body: dict[str, Any]) -> tuple[int, Any]:
        wrong = TEN[4] in [one["text"] for one in body["batch"]] and len(server.heard) <= 3
        given = len(body["batch"]) + (missing if wrong else 0)
        return 200, {"predictions": [{"response": f"{n}"} for n in range(given)]}

    server = service.answers(reply)
    words = f"Inputs 4 to 7: .*{4 + missing} predictions for 4 inputs"
    with pytest.raises(MalformedResponseError, match=words) as caught:
        sync.run(**where)
    assert len(server.heard) == (2 if where else 3)
    if not where:
        [kept] = sync.path.parent.rglob("*.unusable")
        assert len(json.loads(kept.read_bytes())["predictions"]) == 4 + missing, "it was paid for"
        assert str(kept) in str(caught.value)
        with pytest.raises(MalformedResponseError, match=words):
            sync.run()
        assert len(server.heard) == 3, "a retry does not request it again"
        sync.clear()
        sync.run()
        assert len(server.heard) == 4, "after clearing, only the invalid batch is requested again"


@pytest.mark.parametrize("encoding", ["", "br"])
def test_a_retry_after_a_503_does_not_pay_again_for_an_invalid_response(
    tmp_path: Path, encoding: str
) -> None:
    options = PredictionOptions("passthrough", LLAMA)
    texts = TableColumns(None, "text", (), (), "inputs")
    batches = read_batches(["down", "bad", "good"], texts, row_rules(options), 1)
    attempts: list[list[str]] = []

    async def predict(items: Any) -> Any:
        attempts[-1].append(text := items[0]["text"])
        if text == "down" and len(attempts) == 1:
            raise ServiceError("HTTP 503", status=503)
        if text == "bad" and encoding:
            raise ContentEncodingError("A gateway's", status=200, body=b"paid", encoding=encoding)
        given = json.dumps({"predictions": [{"response": text}] * (1 + (text == "bad"))}).encode()
        return given, read_response(Response(200, {}, given), options, 1)

    for generation, error in [(0, ServiceError), (0, MalformedResponseError), (1, LucidworksError)]:
        attempts.append([])
        runner = SyncBatchRunner(
            options, batches, predict, 4, ResultDirectory(f"{tmp_path}/_x"), generation=generation
        )
        with pytest.raises(error, match=r"Input 1: .*(kept|stored) in \S*_x") as caught:
            asyncio.run(runner.run())
        assert caught.value.retryable == (error is ServiceError)
    assert [sorted(sent) for sent in attempts] == [["bad", "down", "good"], ["down"], ["bad"]]


def test_unreadable_responses_are_not_paid_for_with_every_batch(service: Service, sync: Attempts) -> None:
    server = service.answers(lambda path, body: (200, {"results": []}))
    with pytest.raises(MalformedResponseError, match=r"3 of 10 batches failed.*no list of `predictions`"):
        sync.run(batch_size=1)
    assert len(server.heard) == 3


@pytest.mark.parametrize("form", ["p.jsonl", "p.parquet"])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([1, 2, 3], "vectors have 3 numbers, those of other results 2"),
        ([0.5, 1], "max-scale was requested"),
        ([128, 0], "max-scale was requested"),
    ],
)
def test_vectors_that_do_not_belong_together_are_requested_again(
    service: Service, sync: Attempts, form: str, place: int, wrong: list[float], words: str
) -> None:
    sync.path = sync.path.with_name(form)
    config = {"vectorQuantizationMethod": "max-scale"}
    run = partial(sync.run, use_case="embedding", model_config=config, result_path=str(sync.path))
    good = {"vector": [-127, 127]}
    given = [good] * 4
    given[place] = {"vector": wrong}
    server = service.answers(predictions(*given))
    first = 4 * place
    with pytest.raises(
        MalformedResponseError, match=f"Inputs {first} to {first + 3}: .*{words}.*kept in .*unusable"
    ):
        run()
    assert not sync.path.exists()
    sync.clear()
    assert run()["predictions"] == 10
    assert len(server.heard) == 4, "only the invalid batch is requested again"
    assert list(sync.path.parent.iterdir()) == [sync.path]


def test_vectors_that_do_not_belong_together_are_not_returned(service: Service, sync: Attempts) -> None:
    service.answers(predictions({"vector": [0.5]}, {"vector": [0.5, 2]}, {"vector": [0.5]}))
    with pytest.raises(MalformedResponseError, match="vectors have 2 numbers, those of other results 1"):
        sync.run(use_case="embedding", result_path=None)


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


def test_fields_of_another_type_than_documented_cost_no_prediction(service: Service, sync: Attempts) -> None:
    inputs = [{"text": "Why?", "documents": [GERMANY]}] * 2
    service.answers(predictions({}, ODD, {}, ODD))
    for path in (sync.path, sync.path.with_suffix(".parquet")):
        sync.run(inputs=inputs, use_case="rag", batch_size=1, result_path=str(path))
    plain, odd = rows_of(path)
    assert (plain["response"], plain["more"], plain["id"]) == ("Why?", None, None)
    assert (odd["response"], odd["answer"], odd["answerFound"], odd["id"]) == (None, None, None, None)
    assert (odd["sources"], odd["tokens_used"]) == (["http://example.com/1"], 0)
    kept = {name: value for name, value in ODD.items() if name not in {"sources", "tokensUsed"}}
    assert json.loads(odd["more"]) == kept
    assert sync.rows()[1] == ODD | {"index": 1, "status": "predicted", "sources": ["http://example.com/1"]}


@pytest.mark.parametrize(
    ("use_case", "name", "empty"), [("faq-enrichment", "pairs", []), ("ner", "entities", {})]
)
def test_a_list_that_ends_after_max_tokens(
    service: Service, sync: Attempts, use_case: str, name: str, empty: Any
) -> None:
    rows = sync.run(
        use_case=use_case, inputs=["Ann has a tent."], model_config={"maxTokens": 5}, result_path=None
    )
    assert (rows[0]["status"], rows[0][name]) == ("predicted", empty)
    assert rows[0]["response"].startswith(("[{", "{"))


PEOPLE = [{"type": "PERSON", "text": "Bob"}]
# Of each use case: the column, what its responses have there that cannot be read, and what can.
UNREAD: dict[str, tuple[str, list[Any], Any]] = {
    "rag": ("sources", [[{"url": "http://a/1"}], {"url": "http://a/1"}], ["http://a/1"]),
    "keyword-extraction": ("keywords", [{"a": 0.9}, [{"keyword": "a", "score": 0.9}], 7], ["a"]),
    "ner": ("entities", [{"PERSON": [{"text": "Bob"}]}, PEOPLE, "Bob"], {"PERSON": ["Bob"]}),
    "faq-enrichment": (
        *("pairs", [[{"frage": "Who?", "antwort": "Ann."}], [{"question": "Who?"}], {"Who?": "Ann."}]),
        [{"question": "Who?", "answer": "Ann."}],
    ),
    "classification": ("labels", [], {"a": 0.9}),
    "embedding": ("vector", [], [0.5, 1]),
}


@pytest.mark.parametrize("use_case", UNREAD)
def test_what_a_column_cannot_hold_is_in_more(service: Service, sync: Attempts, use_case: str) -> None:
    name, unread, read = UNREAD[use_case]
    failed = [[], "text", {"a": []}, [{"b": 1}], read]
    sent = [{name: read}, *({name: one} for one in unread), *({name: one, "error": "no"} for one in failed)]
    service.answers(lambda path, body: (200, {"predictions": sent}))
    arguments = asked(service, use_case)[0]
    arguments |= {"inputs": arguments["inputs"][:1] * len(sent), "max_reject_ratio": 1, "batch_size": 32}
    path = sync.path.with_suffix(".parquet")
    assert sync.run(**arguments, result_path=str(path))["errors"] == len(failed)
    rows = rows_of(path)
    assert [row["status"] for row in rows] == ["predicted"] * (1 + len(unread)) + ["failed"] * len(failed)
    assert (len(rows[0][name]), rows[0]["more"]) == (len(read), None)
    assert [row[name] for row in rows[1:]] == [None] * (len(sent) - 1)
    assert [json.loads(row["more"])[name] for row in rows[1:]] == unread + failed


def test_whole_numbers_as_floats_fit_into_bytes(service: Service, sync: Attempts) -> None:
    path = sync.path.with_suffix(".parquet")
    service.answers(predictions(*[{"embedding": [-127.0, 127]}] * 3))
    config = {"vectorQuantizationMethod": "max-scale"}
    sync.run(use_case="embedding", model_config=config, result_path=str(path))
    assert {tuple(row["vector"]) for row in rows_of(path)} == {(-127, 127)}


def test_an_undocumented_use_case(service: Service, sync: Attempts) -> None:
    mood = {"mood": "sunny", "score": 1}
    server = service.answers(predictions(*[mood] * 6))
    run = partial(sync.run, use_case="sentiment", use_case_config={"languages": ["de"]})
    assert run(result_path=None)[9] == {"index": 9, "status": "predicted", "response": TEN[9], **mood}
    path = sync.path.with_suffix(".parquet")
    run(result_path=str(path))
    assert json.loads(rows_of(path)[9]["more"]) == mood
    assert server.heard[0]["useCaseConfig"] == {"languages": ["de"]}


# Conversations, large results, budgets


def test_a_conversation_is_passed_on(sync: Attempts) -> None:
    first = sync.run(inputs=[QUESTION], use_case="rag")
    assert sync.rows()[0]["memoryUuid"] == first["memory_uuid"]
    memory = {"memoryUuid": first["memory_uuid"]}
    rewriter = {"use_case": "standalone-query-rewriter", "use_case_config": memory}
    [row] = sync.run(inputs=["And when?"], result_path=None, **rewriter)
    assert "germany" in row["response"].lower()
    following = by_jobs(["And then?"], sync.path, use_case="rag", use_case_config=memory)
    assert following.execute(new_context())["memory_uuid"] == first["memory_uuid"]
    several = sync.run(inputs=[QUESTION, QUESTION], use_case="rag")
    assert "memory_uuid" not in several, "there is not just one"


def test_a_large_result_without_a_file_is_a_warning(
    sync: Attempts, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # The logger of an operator writes to one or the other, by the version of Airflow.
    sync.run(inputs=["x"], result_path=None)
    assert "result_path" not in capsys.readouterr().out + caplog.text
    large = {"inputs": ["word " * 200] * 64, "batch_size": 32, "model_config": {"maxTokens": 9999}}
    sync.run(result_path=None, **large)
    assert "set a result_path" in capsys.readouterr().out + caplog.text


@pytest.mark.parametrize("with_path", [False, True])
def test_predictions_are_counted_where_they_are_returned_too(
    sync: Attempts, monkeypatch: pytest.MonkeyPatch, with_path: bool
) -> None:
    counted: list[Any] = []
    monkeypatch.setattr(metrics, "documents", lambda counts, chunks: counted.append(counts))
    sync.run(inputs=["x", " ", "y"], max_reject_ratio=0.5, **({} if with_path else {"result_path": None}))
    assert counted == [{"chunked": 0, "predicted": 2, "rejected": 1}]


@both_stores
def test_a_budget_of_tokens_keeps_the_responses_and_a_clear_sends_the_rest(
    service: Service, sync: Attempts
) -> None:
    with pytest.raises(BudgetExceededError, match=r"max_tokens=1\. ") as caught:
        sync.run(max_tokens="1", batch_size=1, concurrency=2)
    assert not caught.value.retryable
    assert 1 <= paid(service) <= 3, "those in flight are finished"
    assert not sync.path.exists()
    sync.clear()
    assert sync.run(max_tokens=10_000, batch_size=1, concurrency=2)["predictions"] == 10
    assert (paid(service), sync.responses()) == (10, TEN)


def test_a_budget_of_requests_is_checked_before_the_first(service: Service, either: Attempts) -> None:
    with pytest.raises(BudgetExceededError, match="3 requests, more than max_requests=2"):
        either.run(max_requests=2)
    assert service.calls("submit-prediction") == service.calls("predict") == []
    assert either.run(max_requests=3)["predictions"] == 10


def test_after_too_many_errors_a_clear_sends_the_batches_with_errors_again(
    service: Service, either: Attempts
) -> None:
    service.settings(pending_polls=0, pending_seconds=0)
    for endpoint in ("predict", "poll-prediction"):
        service.fault(endpoint, "item-error")
    words = r"^1 of 10 inputs have no prediction\. The first error is that of input (0|4|8): .+\. That is more than"
    with pytest.raises(TooManyRejectsError, match=words) as caught:
        either.run()
    assert not caught.value.retryable
    assert not either.path.exists()
    either.clear()
    assert either.run().get("errors") is None
    assert either.responses() == TEN
    assert sorted((service.sent() + service.submitted()).values()) == [1, 1, 2]
    assert either.only_the_result()


# Jobs


@pytest.mark.parametrize(
    ("where", "after"), [("before the POST", 0), ("before the POST", 2), ("between POST and record", 1)]
)
def test_a_retry_after_a_kill_submits_what_has_no_id(
    service: Service, jobs: Attempts, caplog: Any, monkeypatch: pytest.MonkeyPatch, where: str, after: int
) -> None:
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

    with monkeypatch.context() as patch:
        patch.setattr(task, "SUBMISSIONS", 1)  # One at a time, so that the moment is certain.
        jobs.die(client_predictions, "submit_items", dying)
    jobs.run()
    assert jobs.responses() == TEN
    again = {after} if where == "between POST and record" else set()
    assert service.submitted() == {hash_of(*batch): 1 + (n in again) for n, batch in enumerate(BATCHES)}
    assert f"Inputs {after * 4} to " in caplog.text
    assert "may be an orphan" in caplog.text


def test_a_jobs_error_names_inputs_job_and_reason_and_a_retry_submits_only_them(
    service: Service, jobs: Attempts
) -> None:
    deferred = jobs.defer()
    failed = service.emulator.state.jobs.all()[1].job_id
    service.job(1, "ERROR", "The model has no room.")
    with pytest.raises(JobFailedError) as caught:
        jobs.resume(deferred)
    assert str(caught.value) == (
        f"1 of 3 batches failed: Inputs 4 to 7 (job {failed}): The model has no room. "
        "Clear the task to submit them again."
    )
    assert not jobs.path.exists()
    jobs.run(deferrable=True)
    assert jobs.responses() == TEN
    assert service.submitted() == {hash_of(*BATCHES[0]): 1, hash_of(*BATCHES[1]): 2, hash_of(*BATCHES[2]): 1}


@both_stores
@pytest.mark.parametrize("attempts", [1, 2])
def test_a_quarantined_body_outlives_the_next_submission_of_the_only_job(
    service: Service, jobs: Attempts, attempts: int
) -> None:
    """It may be the only copy of a result."""
    for _ in range(attempts):
        deferred = jobs.defer(inputs=["One."])
    (job,) = service.emulator.state.jobs.all()
    bodies = ResultDirectory(deferred.trigger.folder)
    kept = asyncio.run(bodies.of(job.job_id).quarantine(b"body", QuarantineReason.UNUSABLE))
    service.job(0, "GONE")
    event = wait(deferred)
    jobs.make = partial(jobs.make, inputs=["One."])
    jobs.defer_again(deferred, event)
    assert storage.read_file(kept) == b"body"


@pytest.fixture
def windows(jobs: Attempts, monkeypatch: pytest.MonkeyPatch) -> Attempts:
    """15 jobs, of which 5 are outstanding at most."""
    monkeypatch.setattr(task, "WINDOW", 5)
    monkeypatch.setattr(polling, "WINDOW", 5)
    jobs.make = partial(jobs.make, inputs=MANY[:30], batch_size=2)
    return jobs


@both_stores
@pytest.mark.parametrize("deferrable", [False, True])
def test_a_task_of_many_jobs_has_few_of_them_outstanding(
    service: Service, windows: Attempts, caplog: pytest.LogCaptureFixture, deferrable: bool
) -> None:
    caplog.set_level("INFO")
    assert windows.run(deferrable=deferrable)["predictions"] == 30
    assert windows.responses() == [one["text"] for one in MANY[:30]]
    assert set(service.submitted().values()) == {1}
    outstanding = most = 0
    for call in service.emulator.state.log:
        outstanding += call.endpoint == "submit-prediction"
        outstanding -= call.endpoint == "poll-prediction" and call.job_status == "READY"
        most = max(most, outstanding)
    assert most == 5
    stored = [line.split(" stored")[0] for line in caplog.messages if "stored after" in line]
    assert stored == [f"{n} of 15 results" for n in (5, 10, 15)]
    assert windows.only_the_result()


@both_stores
def test_a_retry_resumes_in_the_window_of_the_kill(service: Service, windows: Attempts) -> None:
    windows.defer_again(windows.defer())
    assert len(service.calls("submit-prediction")) == 2 * 5
    assert windows.run(deferrable=True)["predictions"] == 30
    assert set(service.submitted().values()) == {1}


def test_results_that_another_host_took_are_waited_for_in_windows(
    service: Service, windows: Attempts, tmp_path: Path
) -> None:
    """The ids are in the state store, and the bodies on a disk that is gone."""
    service.settings(pending_polls=0)
    windows.defer_again(windows.defer())
    for path in list(tmp_path.rglob("*.json")):
        path.unlink()
    second = windows.defer()
    event = wait(second)
    assert (event["gone"], event["left"]) == ([0, 1, 2, 3, 4], 5)
    assert wait(windows.defer_again(second, event))["collected"] == 5
    assert windows.run(deferrable=True)["predictions"] == 30
    assert max(service.submitted().values()) == 2


@pytest.mark.parametrize(("inputs", "deadlines"), [(30, 2), (10, 1)])
def test_the_next_window_has_a_timeout_of_its_own_and_a_result_that_is_gone_has_not(
    service: Service, windows: Attempts, inputs: int, deadlines: int
) -> None:
    windows.make = partial(windows.make, inputs=MANY[:inputs])
    first = windows.defer()
    service.job(0, "GONE")
    second = windows.defer_again(first)
    assert len({first.kwargs["deadline"], second.kwargs["deadline"]}) == deadlines


def test_one_trigger_waits_for_two_hundred_jobs(service: Service, jobs: Attempts) -> None:
    inputs = [{"text": f"Text {n}.", "id": str(n)} for n in range(200)]
    jobs.path = jobs.path.with_suffix(".parquet")
    jobs.make = partial(jobs.make, inputs=inputs, path=jobs.path, batch_size=1)
    deferred = jobs.defer()
    row = json.dumps(deferred.trigger.serialize())
    assert (len(row) < 1000, "Text 7" in row) == (True, False)
    event = wait(deferred)
    assert (event["collected"], len(json.dumps(event)) < 300) == (200, True)
    assert jobs.resume(deferred, event)["predictions"] == 200
    assert [{"text": row["response"], "id": row["id"]} for row in jobs.rows()] == inputs
    assert set(service.submitted().values()) == {1}
    assert len(service.calls("token")) == 1


def test_a_token_that_is_superseded_fails_no_job(
    service: Service, jobs: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(task, "SUBMISSIONS", 1)
        patch.setattr(client_predictions, "submit_items", superseding(service, submit_items, 2))
        deferred = jobs.defer()
    service.supersede()
    jobs.resume(deferred)
    assert jobs.responses() == TEN
    assert sorted(service.submitted().values()) == [1, 1, 1]
    assert len(service.calls("token")) == 3


def test_a_rate_limit_submits_nothing_twice(service: Service, jobs: Attempts) -> None:
    service.fault("submit-prediction", "429", times=3)
    service.fault("poll-prediction", "429", times=5)
    jobs.run()
    assert sorted(service.submitted().values()) == [1, 1, 1]


def test_input_that_changes_during_the_wait_is_not_mixed_up(jobs: Attempts) -> None:
    deferred = jobs.defer()
    event = wait(deferred)
    for change in ({"inputs": TEN[::-1]}, {"batch_size": 5}, {"model_config": {"topP": 1}}):
        with pytest.raises(InputError, match="changed while the task was waiting"):
            jobs.resume(deferred, event, **change)
    assert not jobs.path.exists()
    jobs.run(inputs=TEN[::-1])
    assert jobs.responses() == TEN[::-1]


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_jobs_response_with_another_number_of_predictions_is_set_aside_and_submitted_again(
    service: Service, jobs: Attempts, deferrable: bool
) -> None:
    short = [True]
    batches: dict[str, Any] = {}

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body:
            job = f"job-{uuid4()}"
            batches[job] = body["batch"]
            return 200, {"predictionId": job, "status": "SUBMITTED"}
        texts = [one["text"] for one in batches[path.rsplit("/", 1)[1]]]
        if short and texts[0] == TEN[4]:
            texts.pop()
        return 200, {"status": "READY", "predictions": [{"response": text} for text in texts]}

    server = service.answers(reply)
    words = r"Inputs 4 to 7 \(job job-\S+\): .*3 predictions for 4 inputs.*kept in"
    with pytest.raises(MalformedResponseError, match=words):
        jobs.run(deferrable=deferrable)
    short.clear()
    jobs.run(deferrable=deferrable)
    assert len(server.heard) == 4, "only that batch is submitted again"
    assert jobs.responses() == TEN


def test_a_service_that_cannot_be_reached_is_named_by_its_connection(
    service: Service, either: Attempts
) -> None:
    service.connect(extra={"application_url": "http://127.0.0.1:9"})
    with pytest.raises(LucidworksError, match="lucidworks_default"):
        either.run()
