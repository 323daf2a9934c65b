# SPDX-License-Identifier: Apache-2.0
"""
The chunk operator against the emulator over real sockets: what it writes, and what each kind of death costs.

Attempts are played by making the operator anew with the same task instance, as Airflow does. The real
processes are in ``tests/system/live``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from airflow.providers.common.compat.sdk import TaskDeferred
from made_up_calls import then

from lucidworks_provider.client import chunking
from lucidworks_provider.client import chunking as api_chunking
from lucidworks_provider.client.auth.source import forget_sources
from lucidworks_provider.client.chunking import submit_text
from lucidworks_provider.client.jobs import poll_job
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import (
    AuthenticationError,
    ConfigurationError,
    InputError,
    JobFailedError,
    JobTimeoutError,
    LucidworksError,
    ResultGoneError,
    StorageError,
    StorageNotSharedError,
    SubmissionUnknownError,
    TokenError,
)
from lucidworks_provider.jobs import decisions, task
from lucidworks_provider.jobs.chunk_task import ChunkTask
from lucidworks_provider.operators import chunking as chunk_operator
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.triggers import LucidworksJobsTrigger
from tests.task_state import TaskStateStore

TEXTS = {
    "spider": "The itsy bitsy spider climbed up the spout. Down came the rain. And washed the spider out.",
    "moon": "The cow jumped over the moon. The little dog laughed. Größe zählt: 🐄🌙 done.",
    "star": "Twinkle, twinkle, little star.\n\nHow I wonder what you are.",
}
DOCUMENTS = [{"id": name, "text": text} for name, text in TEXTS.items()]


@dataclass
class Service:
    """The emulator, with what a test wants to know of it."""

    url: str
    env: pytest.MonkeyPatch

    def connect(self, **parts: Any) -> None:
        """Make it the default connection."""
        extra = dict.fromkeys(("auth_url", "application_url", "models_url"), self.url) | {
            "share_via": "memory"
        }
        conn = {"conn_type": "lucidworks", "login": "demo-client", "password": "demo-secret", "host": "app"}
        conn |= {"extra": extra} | parts
        self.env.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(conn))

    def settings(self, **changes: Any) -> None:
        """Turn switches."""
        requests.patch(f"{self.url}/_emulator/settings", json=changes, timeout=10).raise_for_status()

    def fault(self, match: str, kind: str, times: int = 1, **more: Any) -> None:
        """Order faults."""
        body = {"match": match, "kind": kind, "times": times} | more
        requests.post(f"{self.url}/_emulator/faults", json=body, timeout=10).raise_for_status()

    def log(self, endpoint: str) -> list[dict[str, Any]]:
        """The calls of an endpoint."""
        lines = requests.get(f"{self.url}/_emulator/log", timeout=10).json()
        return [line for line in lines if line["endpoint"] == endpoint]

    def submissions(self) -> Counter[str]:
        """How often each text was taken."""
        return Counter(line["text_sha256"] for line in self.log("submit") if line["job_id"])

    def take_away(self, job_id: str) -> None:
        """Read a job's result as somebody else would."""
        token = requests.post(
            f"{self.url}/oauth2/ausao8uveaPmyhv0v357/v1/token",
            params={"scope": "machinelearning.predict", "grant_type": "client_credentials"},
            headers={
                "Accept": "application/json",
                "Cache-Control": "no-cache",
                "Content-Type": "application/x-www-form-urlencoded",
            },
            auth=("demo-client", "demo-secret"),
            timeout=10,
        ).json()["access_token"]
        for _ in range(3):
            answer = requests.get(
                f"{self.url}/ai/async-chunking/{job_id}",
                headers={"Authorization": f"Bearer {token}"},
                timeout=10,
            )
        assert answer.json()["status"] == "RETRIEVED"


@pytest.fixture
def service(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(decisions, "GONE_PATIENCE", 0.3)
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")
    monkeypatch.setattr(decisions, "NEVER_SEEN", 0.1)
    service = Service(emulator.url, monkeypatch)
    service.connect()
    return service


@pytest.fixture(params=["3.3", "2.11"], ids=["with state store", "without state store"])
def context(request: pytest.FixtureRequest) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=2)
    return {"ti": ti} | ({"task_state_store": TaskStateStore()} if request.param == "3.3" else {})


def operator(path: Path | str, **arguments: Any) -> LucidworksChunkOperator:
    defaults: dict[str, Any] = {
        "task_id": "t",
        "chunker": "sentence",
        "chunker_config": {"chunkSize": 1},
        "model_id": "gte-small",
        "result_path": str(path),
        "poll_interval": 0.05,
        "timeout": 20,
        "deferrable": False,
    }
    if "text" not in arguments:
        defaults["documents"] = DOCUMENTS
    return LucidworksChunkOperator(**defaults | arguments)


def wait(deferred: TaskDeferred) -> dict[str, Any]:
    """Run a trigger as the triggerer does: made anew from its serialised form."""
    _, kwargs = deferred.trigger.serialize()
    kwargs = json.loads(json.dumps(kwargs))

    async def first() -> dict[str, Any]:
        async for event in LucidworksJobsTrigger(**kwargs).run():
            return dict(json.loads(json.dumps(event.payload)))
        raise AssertionError("no event")

    return asyncio.run(first())


@pytest.mark.parametrize(
    ("model_config", "kind"),
    [
        (None, pa.float32()),
        ({"vectorQuantizationMethod": "max-scale"}, pa.int8()),
        ({"vectorQuantizationMethod": "min-max", "dimReductionSize": 32}, pa.uint8()),
    ],
)
@pytest.mark.parametrize("deferrable", [False, True])
def test_documents_become_a_parquet_file(
    service: Service,
    context: dict[str, Any],
    tmp_path: Path,
    deferrable: bool,
    model_config: dict[str, Any] | None,
    kind: pa.DataType,
) -> None:
    path = tmp_path / "out" / "chunks.parquet"
    arguments = {"deferrable": deferrable, "model_config": model_config}
    if deferrable:
        with pytest.raises(TaskDeferred) as deferred:
            operator(path.as_uri(), **arguments).execute(context)
        assert "text" not in json.dumps(deferred.value.trigger.serialize())
        event = wait(deferred.value)
        manifest = operator(path.as_uri(), **arguments).execute_complete(
            context, event, **deferred.value.kwargs
        )
    else:
        manifest = operator(path.as_uri(), **arguments).execute(context)

    table = pq.read_table(path)
    dimension = (model_config or {}).get("dimReductionSize", 384)
    assert table.schema.names == [
        "document_id",
        "id",
        "chunk_index",
        "text",
        "start",
        "end",
        "vector",
        "input_tokens",
    ]
    assert table.schema.field("vector").type == pa.list_(kind, dimension)
    rows = table.to_pylist()
    assert [row["document_id"] for row in rows] == ["spider"] * 3 + ["moon"] * 3 + ["star"] * 2
    for row in rows:
        assert TEXTS[row["document_id"]][row["start"] : row["end"]] == row["text"]
    assert manifest == {
        "uri": path.as_uri(),
        "documents": 3,
        "chunks": 8,
        "dimension": dimension,
        "tokens": sum(row["input_tokens"] for row in rows),
        "warnings": 0,
    }
    described = json.loads(table.schema.metadata[b"lucidworks"])
    assert (described["chunker"], described["model_id"], described["data_type"]) == (
        "sentence",
        "gte-small",
        "passage",
    )
    assert len(service.log("token")) == 1
    left = {p.name for p in path.parent.rglob("*") if p.is_file()}
    assert left == ({path.name} if "task_state_store" in context else {path.name, "record.json"})


def test_json_lines(service: Service, context: dict[str, Any], tmp_path: Path) -> None:
    manifest = operator(tmp_path / "c.jsonl", text=TEXTS["moon"]).execute(context)
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert [row["chunk_index"] for row in rows] == [0, 1, 2]
    assert {row["document_id"] for row in rows} == {"text"}
    assert [TEXTS["moon"][row["start"] : row["end"]] for row in rows] == [row["text"] for row in rows]
    assert manifest["dimension"] == len(rows[0]["vector"]) == 384


def test_the_older_result_shape_gives_the_same_file(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    operator(tmp_path / "new.jsonl").execute(context)
    service.settings(legacy_shape=True)
    context["ti"].run_id = "r2"
    operator(tmp_path / "old.jsonl").execute(context)
    new, old = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("new.jsonl", "old.jsonl")
    )
    for row in [*new, *old]:
        row.pop("input_tokens")
    assert new == old, "spans are found again by searching"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"chunker": "lines"}, ["lines", "dynamic-newline", "semantic"]),
        ({"chunker_config": {"maxChunkSize": 5}}, ["maxChunkSize", "chunkSize", "overlapSize"]),
        ({"chunker_config": "{not json"}, ["chunker_config", "JSON"]),
        ({"model_config": {"dimReductionSize": 0}}, ["dimReductionSize", "from 1"]),
        ({"data_type": "doc"}, ["passage", "query"]),
        ({"documents": None}, ["text", "documents"]),
        ({"text": "a", "documents": DOCUMENTS}, ["either"]),
        ({"documents": [], "on_empty": "fail"}, ["documents has no rows"]),
        ({"documents": [{"id": "a"}]}, ["documents[0]", "text"]),
        ({"documents": [{"id": "a", "text": " "}]}, ["'a'", "no text"]),
        ({"documents": [{"id": "", "text": "x"}]}, ["documents[0]", "id"]),
        ({"documents": DOCUMENTS + DOCUMENTS}, ["documents[3]", "spider"]),
        ({"documents": [{"id": "big", "text": "x" * 1_000_001}]}, ["'big'", "1,000,000"]),
        (
            {"documents": [{"id": str(n), "text": "x"} for n in range(10_001)]},
            ["10,001", "10,000", "LucidworksChunkCorpusOperator"],
        ),
        ({"documents": "[{'id': 1}]"}, ["tojson"]),
        ({"result_path": "out.parquet"}, ["result_path", "absolute"]),
        ({"result_path": "file:///tmp/out.csv"}, [".parquet", ".jsonl"]),
        ({"result_path": "file:///tmp/out/"}, ["folder"]),
        ({"result_path": ""}, ["result_path"]),
        ({"poll_interval": 0}, ["poll_interval"]),
        ({"poll_interval": "often"}, ["poll_interval", "often"]),
        ({"timeout": "10m"}, ["timeout", "10m"]),
        ({"timeout": None}, ["timeout"]),
        ({"timeout": float("nan")}, ["timeout"]),
        ({"timeout": float("inf")}, ["timeout"]),
        ({"max_text_bytes": "1MB"}, ["max_text_bytes"]),
        ({"documents": [{"id": "\ud800", "text": "x"}]}, ["documents[0]", "id"]),
        ({"documents": None, "text": b"bytes"}, ["text is b'bytes' (bytes), which is not text"]),
        ({"on_unknown_submission": "retry"}, ["resubmit", "fail"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent_or_written(
    service: Service, context: dict[str, Any], tmp_path: Path, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        operator(tmp_path / "x" / "c.parquet", **arguments).execute(context)
    for word in words:
        assert word in str(caught.value)
    assert service.log("token") + service.log("submit") == []
    assert list(tmp_path.iterdir()) == []


def test_the_operator_and_the_api_have_one_limit() -> None:
    assert chunk_operator.MAX_TEXT_BYTES == api_chunking.MAX_TEXT_BYTES


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"login": ""}, "Client ID"),
        ({"password": None}, "Client Secret"),
        ({"host": "", "extra": {}}, "Application ID"),
    ],
)
def test_an_incomplete_connection_is_named(
    service: Service, context: dict[str, Any], tmp_path: Path, parts: dict[str, Any], field: str
) -> None:
    service.connect(**parts)
    with pytest.raises(ConfigurationError, match="'lucidworks_default'") as caught:
        operator(tmp_path / "c.parquet").execute(context)
    assert field in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_credentials_give_the_services_words_and_no_secret(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.connect(password="wrong-s3cret")
    with pytest.raises(AuthenticationError, match="invalid_client") as caught:
        operator(tmp_path / "c.parquet").execute(context)
    assert "wrong-s3cret" not in str(caught.value)
    assert len(service.log("token")) == 1, "not tried again"


def test_a_place_that_cannot_be_written_is_found_out_before_the_first_submission(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "c.parquet", tmp_path / "folder.parquet"):
        (tmp_path / "folder.parquet").mkdir(exist_ok=True)
        with pytest.raises(StorageError, match=str(path)):
            operator(path).execute(context)
    assert service.log("submit") == []


class Death(BaseException):
    """The process is gone: nothing after this runs."""


def die_after_waiting(first: LucidworksChunkOperator, context: dict[str, Any]) -> None:
    """An attempt that dies when its results are on storage and its file is not written yet, at the latest."""

    def die(*_: Any) -> Any:
        raise Death

    with pytest.MonkeyPatch.context() as dying:
        dying.setattr(ChunkTask, "settle", die)
        with pytest.raises(Death):
            first.execute(context)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_retry_submits_only_what_has_no_id(
    service: Service, context: dict[str, Any], tmp_path: Path, after: int
) -> None:
    first = operator(tmp_path / "c.jsonl")
    done = []

    def dying(*args: Any, **kwargs: Any) -> Any:
        if len(done) == after:
            raise Death
        done.append(args)
        return submit_text(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        # One at a time, so that the moment is certain.
        patch.setattr(task, "SUBMISSIONS", 1)
        patch.setattr(chunking, "submit_text", dying)
        die_after_waiting(first, context)
    operator(tmp_path / "c.jsonl").execute(context)
    assert sorted(service.submissions().values()) == [1, 1, 1]


def test_a_retry_on_another_host_finds_the_ids_in_the_state_store(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    if "task_state_store" not in context:
        pytest.skip("before Airflow 3.3 the record lies beside the result only")
    service.settings(pending_seconds=0.3)
    die_after_waiting(operator(tmp_path / "here" / "c.jsonl"), context)
    (record,) = (tmp_path / "here").rglob("record.json")
    record.unlink()
    assert operator(tmp_path / "here" / "c.jsonl").execute(context)["documents"] == 3
    assert sorted(service.submissions().values()) == [1, 1, 1]


def test_a_state_store_that_fails_at_the_end_costs_nothing(
    service: Service, context: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's API server is away when the result stands, so the success is not told either: Airflow tries again."""
    if "task_state_store" not in context:
        pytest.skip("before Airflow 3.3 there is none")
    store = context["task_state_store"]
    first = operator(tmp_path / "c.jsonl")
    with monkeypatch.context() as away:

        def fails(key: str, value: str) -> None:
            if json.loads(value)["result"]:
                raise ConnectionError("no API server")
            store.values[key] = value

        away.setattr(store, "set", fails)
        manifest = first.execute(context)
    assert operator(tmp_path / "c.jsonl").execute(context) == manifest
    assert sorted(service.submissions().values()) == [1, 1, 1]


def test_ids_of_a_cleared_task_count_though_the_state_store_never_took_them(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    """The state store still holds the success before the clear, and Airflow's API server goes away."""
    if "task_state_store" not in context:
        pytest.skip("before Airflow 3.3 there is none")
    operator(tmp_path / "c.jsonl").execute(context)
    context["ti"].max_tries += 3
    context["task_state_store"].down = True
    die_after_waiting(operator(tmp_path / "c.jsonl"), context)
    operator(tmp_path / "c.jsonl").execute(context)
    assert sorted(service.submissions().values()) == [2, 2, 2]


def test_bodies_that_arrived_are_not_asked_for_again(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    die_after_waiting(operator(tmp_path / "c.jsonl"), context)
    polls = len(service.log("poll"))
    assert operator(tmp_path / "c.jsonl").execute(context)["chunks"] == 8
    assert len(service.log("poll")) == polls
    assert sorted(service.submissions().values()) == [1, 1, 1]


def test_after_a_success_a_retry_returns_and_a_clear_repeats(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    manifest = operator(tmp_path / "c.jsonl").execute(context)
    assert operator(tmp_path / "c.jsonl").execute(context) == manifest
    assert sorted(service.submissions().values()) == [1, 1, 1]
    context["ti"].max_tries += 3
    assert operator(tmp_path / "c.jsonl").execute(context) == manifest
    assert sorted(service.submissions().values()) == [2, 2, 2]
    (tmp_path / "c.jsonl").unlink()
    assert operator(tmp_path / "c.jsonl").execute(context) == manifest
    assert sorted(service.submissions().values()) == [3, 3, 3]


def test_changed_input_does_not_meet_the_old_bodies(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    die_after_waiting(operator(tmp_path / "c.jsonl"), context)
    changed = [{"id": "spider", "text": "Another text."}]
    assert operator(tmp_path / "c.jsonl", documents=changed).execute(context)["chunks"] == 1
    assert json.loads((tmp_path / "c.jsonl").read_text())["text"] == "Another text."


def test_documents_may_be_rendered_json(service: Service, context: dict[str, Any], tmp_path: Path) -> None:
    rendered = json.dumps(DOCUMENTS)
    assert operator(tmp_path / "c.jsonl", documents=rendered).execute(context)["documents"] == 3


@pytest.mark.parametrize("mode", ["empty", "404"])
def test_a_result_that_somebody_else_took_is_submitted_once_more(
    service: Service, context: dict[str, Any], tmp_path: Path, mode: str
) -> None:
    service.settings(retrieved=mode)
    first = operator(tmp_path / "c.jsonl", deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        first.execute(context)
    job_id = service.log("submit")[0]["job_id"]
    if mode == "empty":
        service.take_away(job_id)
    else:
        requests.post(f"{service.url}/_emulator/jobs/{job_id}", json={"state": "GONE"}, timeout=10)
    event = wait(deferred.value)
    assert (event["gone"], event["collected"]) == ([0], 2)
    with pytest.raises(TaskDeferred) as again:
        operator(tmp_path / "c.jsonl", deferrable=True).execute_complete(
            context, event, **deferred.value.kwargs
        )
    manifest = operator(tmp_path / "c.jsonl", deferrable=True).execute_complete(
        context, wait(again.value), **again.value.kwargs
    )
    assert manifest["documents"] == 3
    assert sorted(service.submissions().values()) == [1, 1, 2]


def test_a_result_that_is_gone_twice_is_an_error(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.fault("poll", "cut-json", times=100)
    # A cut answer has used the only copy up; what follows says RETRIEVED.
    service.settings(pending_polls=0)
    requests.delete(f"{service.url}/_emulator/faults", timeout=10)
    service.fault("poll", "cut-json", times=1)
    one = operator(tmp_path / "c.jsonl", text="One.", deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        one.execute(context)
    event = wait(deferred.value)
    assert event["gone"] == [0]
    service.fault("poll", "cut-json", times=1)
    with pytest.raises(TaskDeferred) as again:
        operator(tmp_path / "c.jsonl", text="One.", deferrable=True).execute_complete(
            context, event, **deferred.value.kwargs
        )
    with pytest.raises(ResultGoneError, match=r"'text'.*second time"):
        operator(tmp_path / "c.jsonl", text="One.", deferrable=True).execute_complete(
            context, wait(again.value), **again.value.kwargs
        )
    assert operator(tmp_path / "c.jsonl", text="One.").execute(context)["chunks"] == 1, "the next attempt may"


def test_a_job_in_error_names_document_job_and_reason_and_a_retry_submits_it_again(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.fault("submit", "error-job")
    with pytest.raises(JobFailedError) as caught:
        operator(tmp_path / "c.jsonl").execute(context)
    failed = service.log("submit")[0]["job_id"]
    assert "1 of 3 documents failed" in str(caught.value)
    assert f"Document 'spider' (job {failed})" in str(caught.value)
    assert operator(tmp_path / "c.jsonl").execute(context)["documents"] == 3
    assert sorted(service.submissions().values()) == [1, 1, 2]


def test_one_error_answer_does_not_fail_a_job(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.fault("poll", "error-job")
    assert operator(tmp_path / "c.jsonl").execute(context)["documents"] == 3


def test_the_policy_for_a_submission_without_an_answer(
    service: Service, context: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.fault("submit", "disconnect-after")
    with pytest.raises(SubmissionUnknownError, match=r"'spider'.*on_unknown_submission"):
        operator(tmp_path / "c.jsonl", on_unknown_submission="fail").execute(context)
    assert sum(service.submissions().values()) == 1
    with pytest.raises(SubmissionUnknownError, match="An earlier attempt"):
        operator(tmp_path / "c.jsonl", on_unknown_submission="fail").execute(context)
    context["ti"].max_tries += 3  # cleared: somebody has decided
    operator(tmp_path / "c.jsonl", on_unknown_submission="fail").execute(context)
    assert sorted(service.submissions().values()) == [1, 1, 2]

    context["ti"].run_id = "r2"
    service.fault("submit", "disconnect-after")
    assert operator(tmp_path / "d.jsonl").execute(context)["documents"] == 3
    assert "may be an orphan" in caplog.text


def test_a_late_job_keeps_its_id_for_the_retry(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.settings(pending_seconds=1.0)
    with pytest.raises(JobTimeoutError, match=r"3 of 3.*'spider' \(job "):
        operator(tmp_path / "c.jsonl", timeout=0.2).execute(context)
    assert operator(tmp_path / "c.jsonl").execute(context)["documents"] == 3
    assert sorted(service.submissions().values()) == [1, 1, 1]


def test_a_trigger_that_sees_another_storage_gives_the_jobs_back_unread(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        operator(tmp_path / "c.jsonl", deferrable=True).execute(context)
    record = next(tmp_path.rglob("record.json"))
    kept = record.read_bytes()
    for seen in (None, kept.replace(json.loads(kept)["nonce"].encode(), b"namesake")):
        if seen is None:
            record.unlink()
        else:
            record.write_bytes(seen)
        event = wait(deferred.value)
        record.write_bytes(kept)
        with pytest.raises(StorageNotSharedError, match=r"c\.jsonl.*triggerer on"):
            operator(tmp_path / "c.jsonl", deferrable=True).execute_complete(
                context, event, **deferred.value.kwargs
            )
    assert service.log("poll") == []
    event = wait(deferred.value)
    operator(tmp_path / "c.jsonl", deferrable=True).execute_complete(context, event, **deferred.value.kwargs)
    assert sorted(service.submissions().values()) == [1, 1, 1]


def test_input_that_changes_during_the_wait_is_not_mixed_up(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        operator(tmp_path / "c.jsonl", deferrable=True).execute(context)
    event = wait(deferred.value)
    for changed in (DOCUMENTS[::-1], [*DOCUMENTS, {"id": "new", "text": "New."}]):
        with pytest.raises(InputError, match="changed while the task was waiting"):
            operator(tmp_path / "c.jsonl", deferrable=True, documents=changed).execute_complete(
                context, event, **deferred.value.kwargs
            )
    assert not (tmp_path / "c.jsonl").exists()
    assert operator(tmp_path / "c.jsonl", documents=DOCUMENTS[::-1]).execute(context)["documents"] == 3


def test_a_resumption_that_airflow_repeats_returns_the_manifest(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        operator(tmp_path / "c.jsonl", deferrable=True).execute(context)
    event, kwargs = wait(deferred.value), deferred.value.kwargs
    first = operator(tmp_path / "c.jsonl", deferrable=True).execute_complete(context, event, **kwargs)
    assert operator(tmp_path / "c.jsonl", deferrable=True).execute_complete(context, event, **kwargs) == first


def test_the_record_of_an_earlier_attempt_on_another_disk_proves_nothing(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    if "task_state_store" not in context:
        pytest.skip("before Airflow 3.3 another host knows nothing of the first attempt")
    service.settings(pending_seconds=0.2)
    here, there = tmp_path / "disk", tmp_path / "the other host's disk"
    here.mkdir()
    first = operator(here / "c.jsonl", deferrable=True)
    with pytest.raises(TaskDeferred) as lost:
        first.execute(context)
    here.rename(there)  # the retry runs on a host where nothing of it is to be seen
    with pytest.raises(TaskDeferred) as deferred:
        operator(here / "c.jsonl", deferrable=True).execute(context)
    assert deferred.value.trigger.nonce != lost.value.trigger.nonce
    here.rename(tmp_path / "second")
    there.rename(here)  # the triggerer runs on the first host
    assert wait(deferred.value)["unshared"]
    assert service.log("poll") == []


def test_a_payload_that_came_with_an_unknown_status_is_not_lost(
    service: Service, context: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = operator(tmp_path / "c.jsonl", text="One. Two.")
    completed = then(poll_job, lambda body: body.replace(b'"READY"', b'"COMPLETED"'))
    monkeypatch.setattr("lucidworks_provider.jobs.polling.poll_job", completed)
    assert first.execute(context)["chunks"] == 2
    assert sum(service.submissions().values()) == 1


def test_a_refused_submission_names_connection_and_document(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(
        LucidworksError, match=r"Document 'spider': Connection 'lucidworks_default': .*HTTP 404"
    ):
        operator(tmp_path / "c.jsonl", model_id="no-such-model").execute(context)


def test_polls_that_are_always_refused_do_not_storm_the_token_endpoint(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.fault("poll", "unauthorized", times=10_000)
    with pytest.raises(JobTimeoutError, match="401"):
        operator(tmp_path / "c.jsonl", timeout=5).execute(context)
    assert len(service.log("token")) <= 6


def test_a_submission_that_certainly_failed_is_no_unknown_one(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    context["ti"].max_tries = 5
    one = {"on_unknown_submission": "fail"}
    url = service.url
    service.url = "http://127.0.0.1:9"
    service.connect()
    with pytest.raises(LucidworksError, match="No access token"):
        operator(tmp_path / "c.jsonl", **one).execute(context)
    service.url = url
    service.connect()
    service.fault("submit", "429", times=50)
    with pytest.raises(LucidworksError, match="429"):
        operator(tmp_path / "c.jsonl", **one).execute(context)
    requests.delete(f"{service.url}/_emulator/faults", timeout=10)
    assert operator(tmp_path / "c.jsonl", **one).execute(context)["documents"] == 3
    assert sorted(service.submissions().values()) == [1, 1, 1]


def test_a_token_endpoint_that_is_down_is_not_asked_without_end(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.fault("token", "503", times=200)
    with pytest.raises(TokenError, match="503"):
        operator(tmp_path / "c.jsonl").execute(context)
    assert service.log("submit") == []
    assert len(service.log("token")) <= 3 * 6


def test_repeated_submissions_wait_as_long_as_the_service_asks(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    service.fault("submit", "503", retry_after=1)
    begin = time.monotonic()
    operator(tmp_path / "c.jsonl", text="One.").execute(context)
    assert time.monotonic() - begin >= 1.0


def test_jobs_without_an_answer_do_not_hold_up_the_others(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    many = [{"id": str(n), "text": f"Text {n}."} for n in range(12)]
    service.settings(pending_polls=0)
    service.fault("poll", "503", times=10)
    begin = time.monotonic()
    assert operator(tmp_path / "c.jsonl", documents=many).execute(context)["documents"] == 12
    assert time.monotonic() - begin < 8


def test_stopping_a_trigger_starts_no_further_reads(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    many = [{"id": str(n), "text": f"Text {n}."} for n in range(40)]
    with pytest.raises(TaskDeferred) as deferred:
        operator(tmp_path / "c.jsonl", documents=many, deferrable=True).execute(context)
    service.settings(latency=0.5, pending_polls=0)

    async def stop_early() -> None:
        running = asyncio.ensure_future(anext(aiter(deferred.value.trigger.run())))
        await asyncio.sleep(0.4)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(stop_early())
    taken = len(service.log("poll"))
    assert 0 < taken <= 8
    assert len(list(tmp_path.rglob("0*.json"))) == taken, "what was under way is on storage"
    event = wait(deferred.value)
    operator(tmp_path / "c.jsonl", documents=many, deferrable=True).execute_complete(
        context, event, **deferred.value.kwargs
    )
    assert set(service.submissions().values()) == {1}


def test_a_worker_that_resumes_on_another_storage_says_so(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        operator(tmp_path / "c.jsonl", deferrable=True).execute(context)
    event = wait(deferred.value)
    next(tmp_path.rglob("record.json")).unlink()
    with pytest.raises(StorageNotSharedError, match="worker"):
        operator(tmp_path / "c.jsonl", deferrable=True).execute_complete(
            context, event, **deferred.value.kwargs
        )


def test_waiting_that_fails_for_good_is_reported_with_its_cause(
    service: Service, context: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        operator(tmp_path / "c.jsonl", deferrable=True).execute(context)
    forget_sources()
    service.connect(password="rotated")
    event = wait(deferred.value)
    with pytest.raises(LucidworksError, match=r"Waiting for the jobs failed.*invalid_client"):
        operator(tmp_path / "c.jsonl", deferrable=True).execute_complete(
            context, event, **deferred.value.kwargs
        )


def test_a_deferral_outlasts_the_heartbeat_of_the_worker(
    service: Service, context: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else Airflow 3 may take the late exit report of the deferring process for the resumed task's."""
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "1")
    with pytest.raises(TaskDeferred) as deferred:
        operator(tmp_path / "c.jsonl", text="One.", deferrable=True).execute(context)
    begin = time.monotonic()
    assert wait(deferred.value)["collected"] == 1
    assert 3.0 <= time.monotonic() - begin < 6.0


def test_a_cut_off_tail_is_told(
    service: Service, context: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "A b. " * 1200
    manifest = operator(tmp_path / "c.jsonl", text=text).execute(context)
    assert manifest["chunks"] < 1200
    assert "The chunks of 1 of 1 documents do not cover the text. The first: 'text', its end" in caplog.text


def test_unquantised_values_where_bytes_were_asked_for_are_an_error(
    service: Service, context: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = operator(
        tmp_path / "c.parquet", text="One.", model_config={"vectorQuantizationMethod": "max-scale"}
    )
    floats = then(poll_job, lambda body: body.replace(b'"vector":[', b'"vector":[0.5,'))
    monkeypatch.setattr("lucidworks_provider.jobs.polling.poll_job", floats)
    with pytest.raises(LucidworksError, match=r"max-scale.*kept in .*unusable"):
        first.execute(context)
    assert not (tmp_path / "c.parquet").exists()
