# SPDX-License-Identifier: Apache-2.0
"""
The chunk operator over real sockets: what it writes, and what each kind of death costs.

What all tasks of jobs have in common is tested here; the real processes are in ``tests/system/live``.
"""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from made_up_calls import then
from operator_service import Attempts, Death, Service, both_stores, wait

from lucidworks_provider.client import chunking, options
from lucidworks_provider.client.auth.source import forget_sources
from lucidworks_provider.client.chunking import submit_text
from lucidworks_provider.client.jobs import poll_job
from lucidworks_provider.errors import (
    EmptyResultError,
    InputError,
    JobFailedError,
    JobTimeoutError,
    LucidworksError,
    MalformedResponseError,
    ResultGoneError,
    StorageNotSharedError,
    SubmissionUnknownError,
    TokenError,
)
from lucidworks_provider.jobs import task as job_task
from lucidworks_provider.jobs.chunk_task import ChunkTask
from lucidworks_provider.jobs.record import ResultDirectory, read_job_record
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.storage import write_file

TEXTS = {
    "spider": "The itsy bitsy spider climbed up the spout. Down came the rain. And washed the spider out.",
    "moon": "The cow jumped over the moon. The little dog laughed. Größe zählt: 🐄🌙 done.",
    "star": "Twinkle, twinkle, little star.\n\nHow I wonder what you are.",
}
DOCUMENTS = [{"id": name, "text": text} for name, text in TEXTS.items()]
TOO_MANY = [{"id": str(n), "text": "x"} for n in range(10_001)]
MANY = [{"id": str(n), "text": f"Text {n}."} for n in range(40)]


@pytest.fixture
def task(service: Service, context: dict[str, Any], tmp_path: Path) -> Attempts:
    path = tmp_path / "c.jsonl"

    def make(**changes: Any) -> LucidworksChunkOperator:
        given: dict[str, Any] = {
            **{"task_id": "t", "chunker": "sentence", "chunker_config": {"chunkSize": 1}},
            **{"model_id": "gte-small", "documents": None if "text" in changes else DOCUMENTS},
            **{"result_path": str(path), "poll_interval": 0.05, "timeout": 20, "deferrable": False},
        }
        return LucidworksChunkOperator(**given | changes)

    return Attempts(make, path, context)


def submissions(service: Service) -> list[int]:
    return sorted(service.submitted().values())


def die_after_waiting(task: Attempts) -> None:
    """An attempt that dies when its results are on storage and its file is not written yet, at the latest."""
    task.die(ChunkTask, "apply_outcome")


# The result


@pytest.mark.parametrize(
    ("model_config", "kind", "deferrable", "context"),
    [
        (None, pa.float32(), False, True),
        ({"vectorQuantizationMethod": "max-scale"}, pa.int8(), True, True),
        ({"vectorQuantizationMethod": "min-max", "dimReductionSize": 32}, pa.uint8(), True, False),
    ],
    indirect=["context"],
)
def test_documents_become_a_parquet_file(
    service: Service, task: Attempts, model_config: Any, kind: pa.DataType, deferrable: bool
) -> None:
    task.path = task.path.parent / "out" / "chunks.parquet"
    changes = {"model_config": model_config, "result_path": task.path.as_uri()}
    if deferrable:
        deferred = task.defer(**changes)
        assert "text" not in json.dumps(deferred.trigger.serialize())
        manifest = task.resume(deferred, **changes)
    else:
        manifest = task.run(**changes, documents=json.dumps(DOCUMENTS))
    table = pq.read_table(task.path)
    rows, dimension = table.to_pylist(), (model_config or {}).get("dimReductionSize", 384)
    columns = "document_id id chunk_index text start end vector input_tokens"
    assert table.schema.names == columns.split()
    assert table.schema.field("vector").type == pa.list_(kind, dimension)
    assert [row["document_id"] for row in rows] == ["spider"] * 3 + ["moon"] * 3 + ["star"] * 2
    assert [row["text"] for row in rows] == [TEXTS[row["id"]][row["start"] : row["end"]] for row in rows]
    tokens = sum(row["input_tokens"] for row in rows)
    counts = {"documents": 3, "chunks": 8, "dimension": dimension, "tokens": tokens, "warnings": 0}
    assert manifest == {"uri": task.path.as_uri()} | counts
    described = {"chunker": "sentence", "model_id": "gte-small", "data_type": "passage"}
    assert described.items() <= json.loads(table.schema.metadata[b"lucidworks"]).items()
    assert len(service.calls("token")) == 1
    assert task.only_the_result()


def test_documents_with_one_text_may_have_one_job(service: Service, task: Attempts) -> None:
    """The service knows a text again, and returns each result once."""
    polled: list[str] = []

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body:
            return 200, {"chunkingId": f"job-{body['batch'][0]['text']}", "status": "SUBMITTED"}
        job_id = path.rpartition("/")[2]
        polled.append(job_id)
        result = {"chunks": [job_id[-1]], "vectors": [{"vector": [0.5]}]}
        ready = {"status": "READY", "chunkedData": [result]}
        return 200, {"chunkingId": job_id} | (ready if polled.count(job_id) == 1 else {"status": "RETRIEVED"})

    service.answers(reply)
    texts = {"x": "a", "y": "b", "z": "a"}
    task.run(documents=[{"id": name, "text": text} for name, text in texts.items()])
    assert {row["document_id"]: row["text"] for row in task.rows()} == texts
    assert sorted(polled) == ["job-a", "job-b"]


def test_json_lines(task: Attempts) -> None:
    # A template may end in a line feed.
    manifest = task.run(text=TEXTS["moon"], model_id="gte-small\n")
    rows = task.rows()
    assert [(row["document_id"], row["chunk_index"]) for row in rows] == [("text", n) for n in range(3)]
    assert [TEXTS["moon"][row["start"] : row["end"]] for row in rows] == [row["text"] for row in rows]
    assert manifest["dimension"] == len(rows[0]["vector"]) == 384


def test_the_older_result_shape_gives_the_same_file(service: Service, task: Attempts) -> None:
    task.run()
    new = task.rows()
    service.settings(legacy_shape=True)
    task.clear()
    task.run()
    without_tokens = [[{**row, "input_tokens": 0} for row in rows] for rows in (new, task.rows())]
    assert without_tokens[0] == without_tokens[1], "spans are found again by searching"


def test_a_cut_off_tail_is_a_warning(task: Attempts, caplog: pytest.LogCaptureFixture) -> None:
    assert task.run(text="A b. " * 1200)["chunks"] < 1200
    assert "The chunks of 1 of 1 documents do not cover the text. The first: 'text', its end" in caplog.text


def test_unquantised_values_instead_of_bytes_are_an_error(
    task: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = task.make(text="One.", model_config={"vectorQuantizationMethod": "max-scale"})
    floats = then(poll_job, lambda body: body.replace(b'"vector":[', b'"vector":[0.5,'))
    monkeypatch.setattr("lucidworks_provider.jobs.polling.poll_job", floats)
    with pytest.raises(LucidworksError, match=r"max-scale.*kept in .*unusable"):
        first.execute(task.context)
    assert not task.path.exists()


@pytest.mark.parametrize("quotes", [4_900, 5_000])
def test_a_text_whose_escapes_are_over_the_limit_is_not_sent(
    service: Service, task: Attempts, quotes: int
) -> None:
    service.settings(max_body_bytes=10_200)
    documents = [*DOCUMENTS, {"id": "long", "text": '"\n' * (quotes // 2) + "A \\."}]
    found = task.run(documents=documents, max_text_bytes=9_990, max_reject_ratio=0.5)
    assert (found["documents"], found.get("rejected")) == ((4, None) if quotes == 4_900 else (3, 1))


# Refused before anything is sent or written; ``mistakes.txt`` has more


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"chunker": "lines"}, ["lines", "dynamic-newline", "semantic"]),
        ({"chunker_config": "{not json"}, ["chunker_config", "JSON"]),
        ({"model_config": {"dimReductionSize": 0}}, ["dimReductionSize", "from 1"]),
        ({"data_type": "doc"}, ["passage", "query"]),
        ({"documents": None}, ["text", "documents"]),
        ({"text": "a", "documents": DOCUMENTS}, ["either"]),
        ({"documents": DOCUMENTS + DOCUMENTS}, ["documents[3]", "spider"]),
        ({"documents": [{"id": "big", "text": "x" * (options.MAX_TEXT_BYTES + 1)}]}, ["'big'", "990,000"]),
        ({"text": "x\n" * 400_000}, ["'text'", "1,200,000 bytes as JSON", "990,000"]),
        ({"documents": TOO_MANY}, ["10,001", "10,000", "LucidworksChunkCorpusOperator"]),
        ({"documents": [{"id": "\ud800", "text": "x"}]}, ["documents[0]", "id"]),
        ({"result_path": ""}, ["result_path"]),
        ({"poll_interval": 0}, ["poll_interval"]),
        ({"timeout": "10m"}, ["timeout", "10m"]),
        ({"timeout": None}, ["timeout"]),
        ({"max_text_bytes": "1MB"}, ["max_text_bytes"]),
        ({"on_unknown_submission": "retry"}, ["resubmit", "fail"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent_or_written(
    service: Service, task: Attempts, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        task.run(**arguments)
    assert [word for word in words if word not in str(caught.value)] == []
    assert service.nothing_sent()
    assert task.files() == set()


# Retries


@both_stores
@pytest.mark.parametrize("after", [1, 3])
def test_a_retry_submits_only_what_has_no_id(
    service: Service, task: Attempts, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []

    def dying(*args: Any, **kwargs: Any) -> Any:
        if len(done) == after:
            raise Death
        done.append(args)
        return submit_text(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(job_task, "SUBMISSIONS", 1)  # One at a time, so that the moment is certain.
        patch.setattr(chunking, "submit_text", dying)
        die_after_waiting(task)
    task.run()
    assert submissions(service) == [1, 1, 1]


def test_a_retry_on_another_host_finds_the_ids_in_the_state_store(service: Service, task: Attempts) -> None:
    service.settings(pending_seconds=0.3)
    die_after_waiting(task)
    (record,) = task.path.parent.rglob("record.json")
    record.unlink()
    assert task.run()["documents"] == 3
    assert submissions(service) == [1, 1, 1]


def test_a_state_store_that_fails_at_the_end_costs_nothing(
    service: Service, task: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's API server is away when the result is written, so the success is lost: Airflow tries again."""
    store = task.context["task_state_store"]

    def fails(key: str, value: str) -> None:
        if json.loads(value)["result"]:
            raise ConnectionError("no API server")
        store.values[key] = value

    with monkeypatch.context() as away:
        away.setattr(store, "set", fails)
        manifest = task.run()
    assert task.run() == manifest
    assert submissions(service) == [1, 1, 1]


def test_ids_of_a_cleared_task_count_though_the_state_store_never_took_them(
    service: Service, task: Attempts
) -> None:
    """The state store still holds the success before the clear, and Airflow's API server goes away."""
    task.run()
    task.clear()
    task.context["task_state_store"].down = True
    die_after_waiting(task)
    task.run()
    assert submissions(service) == [2, 2, 2]


@both_stores
def test_bodies_that_arrived_are_not_asked_for_again(service: Service, task: Attempts) -> None:
    die_after_waiting(task)
    polls = len(service.calls("poll"))
    assert task.run()["chunks"] == 8
    assert (len(service.calls("poll")), submissions(service)) == (polls, [1, 1, 1])


@both_stores
def test_after_a_success_a_retry_returns_and_a_clear_repeats(service: Service, task: Attempts) -> None:
    manifest = task.run()
    assert (task.run(), submissions(service)) == (manifest, [1, 1, 1])
    task.clear()
    assert (task.run(), submissions(service)) == (manifest, [2, 2, 2])
    task.path.unlink()
    assert (task.run(), submissions(service)) == (manifest, [3, 3, 3])


@both_stores
def test_changed_input_does_not_meet_the_old_bodies(task: Attempts) -> None:
    die_after_waiting(task)
    assert task.run(documents=[{"id": "spider", "text": "Another text."}])["chunks"] == 1
    assert [row["text"] for row in task.rows()] == ["Another text."]


@both_stores
@pytest.mark.parametrize("state", ["RETRIEVED", "GONE"])
def test_a_result_that_another_client_has_read_is_submitted_once_more(
    service: Service, task: Attempts, state: str
) -> None:
    deferred = task.defer()
    service.job(0, state)
    event = wait(deferred)
    assert (event["gone"], event["collected"]) == ([0], 2)
    assert task.resume(task.defer_again(deferred, event))["documents"] == 3
    assert submissions(service) == [1, 1, 2]


def test_a_result_that_is_gone_twice_is_an_error(service: Service, task: Attempts) -> None:
    # The cut response was the only copy; later polls return RETRIEVED.
    service.settings(pending_polls=0)
    service.fault("poll", "cut-json")
    deferred = task.defer(text="One.")
    event = wait(deferred)
    assert event["gone"] == [0]
    service.fault("poll", "cut-json")
    with pytest.raises(TaskDeferred) as again:
        task.resume(deferred, event, text="One.")
    with pytest.raises(ResultGoneError, match=r"'text'.*second time"):
        task.resume(again.value, text="One.")
    assert task.run(text="One.")["chunks"] == 1, "the next attempt may"


def test_a_job_in_error_names_document_job_and_reason_and_a_retry_submits_it_again(
    service: Service, task: Attempts
) -> None:
    service.fault("submit", "error-job")
    with pytest.raises(JobFailedError) as caught:
        task.run()
    failed = service.calls("submit")[0].job_id
    assert f"1 of 3 documents failed: Document 'spider' (job {failed})" in str(caught.value)
    assert task.run()["documents"] == 3
    assert submissions(service) == [1, 1, 2]


@pytest.mark.parametrize(("kind", "times", "empty"), [("no-chunks", 1, 1), ("empty-payload", 1000, 3)])
def test_documents_without_a_result_are_named_and_clearing_submits_them_alone(
    service: Service, task: Attempts, kind: str, times: int, empty: int
) -> None:
    service.settings(pending_polls=0, retrieved="payload")
    service.fault("poll", kind, times=times)
    # A body that is on storage is not requested again.
    for _ in range(2 if kind == "no-chunks" else 1):
        with pytest.raises(EmptyResultError) as caught:
            task.run()
        assert len(re.findall(r"Document '\w+' \(job ", str(caught.value))) == empty
        assert "submit" in str(caught.value)
        assert len(service.calls("poll")) == (3 if kind == "no-chunks" else 6)
    assert submissions(service) == [1, 1, 1]
    service.heal()
    task.clear()
    assert task.run()["documents"] == 3
    assert submissions(service) == [1] * (3 - empty) + [2] * empty


def test_results_that_are_not_valid_do_not_hide_those_that_are_empty(
    service: Service, task: Attempts
) -> None:
    service.settings(pending_polls=0)
    service.fault("poll", "no-chunks")
    service.fault("poll", "other-text")
    with pytest.raises(
        MalformedResponseError, match=r"(no chunk.*another text|another text.*no chunk)"
    ) as caught:
        task.run()
    assert len(re.findall(r"Document '\w+' \(job ", str(caught.value))) == 2
    task.clear()
    assert task.run()["documents"] == 3
    assert submissions(service) == [1, 2, 2]


@pytest.mark.parametrize("wrong", [0, 2])
def test_a_result_whose_vectors_have_another_length_is_submitted_again_alone(
    task: Attempts, wrong: int, monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    die_after_waiting(task)
    record = read_job_record(ResultDirectory(str(next(task.path.parent.glob("_*")))))
    assert record is not None
    stored = ResultDirectory(str(next(task.path.parent.glob("_*")))).of(record.jobs[wrong])
    body = json.loads(stored.read() or b"")
    for one in body["chunkedData"]:
        for vector in one["vectors"]:
            vector["vector"].append(0.5)
    write_file(stored.uri, json.dumps(body).encode())
    with pytest.raises(MalformedResponseError, match="385 numbers, those of other results 384") as caught:
        task.run()
    assert len(re.findall(r"Document '\w+' \(job ", str(caught.value))) == 1
    task.clear()
    assert task.run()["documents"] == 3
    assert submissions(service) == [1, 1, 2]


def test_one_error_response_does_not_fail_a_job(service: Service, task: Attempts) -> None:
    service.fault("poll", "error-job")
    assert task.run()["documents"] == 3


@both_stores
def test_the_policy_for_a_submission_without_a_response(
    service: Service, task: Attempts, caplog: pytest.LogCaptureFixture
) -> None:
    service.fault("submit", "disconnect-after")
    with pytest.raises(SubmissionUnknownError, match=r"'spider'.*on_unknown_submission"):
        task.run(on_unknown_submission="fail")
    with pytest.raises(SubmissionUnknownError, match="An earlier attempt"):
        task.run(on_unknown_submission="fail")
    assert submissions(service) == [1]
    task.clear()  # the user's decision to submit again
    task.run(on_unknown_submission="fail")
    assert submissions(service) == [1, 1, 2]

    task.context["ti"].run_id = "r2"
    service.fault("submit", "disconnect-after")
    assert task.run(result_path=f"{task.path}l.jsonl")["documents"] == 3
    assert "may be an orphan" in caplog.text


def test_a_submission_that_certainly_failed_is_no_unknown_one(service: Service, task: Attempts) -> None:
    service.connect(extra={"auth_url": "http://127.0.0.1:9"})
    with pytest.raises(LucidworksError, match="No access token"):
        task.run(on_unknown_submission="fail")
    service.connect()
    service.fault("submit", "429", times=50)
    with pytest.raises(LucidworksError, match="429"):
        task.run(on_unknown_submission="fail")
    service.heal()
    assert task.run(on_unknown_submission="fail")["documents"] == 3
    assert submissions(service) == [1, 1, 1]


@both_stores
def test_a_late_job_keeps_its_id_for_the_retry(service: Service, task: Attempts) -> None:
    service.settings(pending_seconds=1.0)
    with pytest.raises(JobTimeoutError, match=r"3 of 3.*'spider' \(job "):
        task.run(timeout=0.2)
    assert task.run()["documents"] == 3
    assert submissions(service) == [1, 1, 1]


# Between the worker and the triggerer


@both_stores
@pytest.mark.parametrize("seen", ["nothing", "another record"])
def test_a_trigger_that_sees_another_storage_gives_the_jobs_back_unread(
    service: Service, task: Attempts, seen: str
) -> None:
    deferred = task.defer()
    record = next(task.path.parent.rglob("record.json"))
    kept = record.read_bytes()
    if seen == "nothing":
        record.unlink()
    else:
        record.write_bytes(kept.replace(json.loads(kept)["nonce"].encode(), b"namesake"))
    event = wait(deferred)
    record.write_bytes(kept)
    with pytest.raises(StorageNotSharedError, match=r"c\.jsonl.*triggerer on"):
        task.resume(deferred, event)
    assert service.calls("poll") == []
    task.resume(deferred)
    assert submissions(service) == [1, 1, 1]


def test_the_record_of_an_earlier_attempt_on_another_disk_proves_nothing(
    service: Service, task: Attempts, tmp_path: Path
) -> None:
    service.settings(pending_seconds=0.2)
    here, there = tmp_path / "disk", tmp_path / "the other host's disk"
    here.mkdir()
    lost = task.defer(result_path=f"{here}/c.jsonl")
    here.rename(there)  # the retry runs on a host where nothing of it is to be seen
    deferred = task.defer(result_path=f"{here}/c.jsonl")
    assert deferred.trigger.nonce != lost.trigger.nonce
    here.rename(tmp_path / "second")
    there.rename(here)  # the triggerer runs on the first host
    assert wait(deferred)["unshared"]
    assert service.calls("poll") == []


def test_a_worker_that_resumes_on_another_storage_says_so(task: Attempts) -> None:
    deferred = task.defer()
    event = wait(deferred)
    next(task.path.parent.rglob("record.json")).unlink()
    with pytest.raises(StorageNotSharedError, match="worker"):
        task.resume(deferred, event)


@both_stores
def test_input_that_changes_during_the_wait_is_not_mixed_up(task: Attempts) -> None:
    deferred = task.defer()
    event = wait(deferred)
    for changed in (DOCUMENTS[::-1], [*DOCUMENTS, {"id": "new", "text": "New."}]):
        with pytest.raises(InputError, match="changed while the task was waiting"):
            task.resume(deferred, event, documents=changed)
    assert not task.path.exists()
    assert task.run(documents=DOCUMENTS[::-1])["documents"] == 3


@both_stores
def test_a_resumption_that_airflow_repeats_returns_the_manifest(task: Attempts) -> None:
    deferred = task.defer()
    event = wait(deferred)
    assert task.resume(deferred, event) == task.resume(deferred, event)


def test_waiting_that_fails_for_good_is_reported_with_its_cause(service: Service, task: Attempts) -> None:
    deferred = task.defer()
    forget_sources()
    service.connect(password="rotated")
    with pytest.raises(LucidworksError, match=r"Waiting for the jobs failed.*invalid_client"):
        task.resume(deferred)


def test_a_deferral_outlasts_the_heartbeat_of_the_worker(
    task: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else Airflow 3 may take the late exit report of the deferring process for the resumed task's."""
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "1")
    deferred = task.defer(text="One.")
    begin = time.monotonic()
    assert wait(deferred)["collected"] == 1
    assert 3.0 <= time.monotonic() - begin < 15.0


def test_stopping_a_trigger_starts_no_further_reads(service: Service, task: Attempts) -> None:
    deferred = task.defer(documents=MANY)
    service.settings(latency=0.5, pending_polls=0)

    async def stop_early() -> None:
        running = asyncio.ensure_future(anext(aiter(deferred.trigger.run())))
        await asyncio.sleep(0.4)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(stop_early())
    taken = len(service.calls("poll"))
    assert 0 < taken <= 8
    bodies = task.files() - {"record.json", "writable"}
    assert len(bodies) == taken, "jobs that were in flight are on storage"
    service.settings(latency=0)
    task.resume(deferred, documents=MANY)
    assert set(service.submitted().values()) == {1}


# A service in trouble


def test_a_payload_that_came_with_an_unknown_status_is_not_lost(
    service: Service, task: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = task.make(text="One. Two.")
    completed = then(poll_job, lambda body: body.replace(b'"READY"', b'"COMPLETED"'))
    monkeypatch.setattr("lucidworks_provider.jobs.polling.poll_job", completed)
    assert first.execute(task.context)["chunks"] == 2
    assert submissions(service) == [1]


def test_a_refused_submission_names_connection_and_document(task: Attempts) -> None:
    words = r"Document 'spider': Connection 'lucidworks_default': .*HTTP 404"
    with pytest.raises(LucidworksError, match=words):
        task.run(model_id="no-such-model")


def test_polls_that_are_always_refused_do_not_storm_the_token_endpoint(
    service: Service, task: Attempts
) -> None:
    service.fault("poll", "unauthorized", times=10_000)
    with pytest.raises(JobTimeoutError, match="401"):
        task.run(timeout=5)
    assert len(service.calls("token")) <= 6


def test_a_token_endpoint_that_is_down_is_not_asked_without_end(service: Service, task: Attempts) -> None:
    service.fault("token", "503", times=200)
    with pytest.raises(TokenError, match="503"):
        task.run()
    assert service.calls("submit") == []
    assert len(service.calls("token")) <= 3 * 6


def test_jobs_without_a_response_do_not_hold_up_the_others(service: Service, task: Attempts) -> None:
    service.settings(pending_polls=0)
    service.fault("poll", "503", times=10)
    begin = time.monotonic()
    assert task.run(documents=MANY[:12])["documents"] == 12
    assert time.monotonic() - begin < 8


def test_repeated_submissions_wait_as_long_as_the_service_asks(service: Service, task: Attempts) -> None:
    service.fault("submit", "503", retry_after=1)
    task.run(text="One.")
    first, second = service.calls("submit")
    assert second.time - first.time >= 1.0
