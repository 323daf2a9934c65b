# SPDX-License-Identifier: Apache-2.0
"""
Unfavourable answers in documented shapes: what every kind of task writes, submits and logs.

Each case is one fault of the emulator. ``fails`` is the text of the task's error, or, of a corpus, the reason of
the rejects; ``warns`` is the warning of a task that continues. A task without both has the rows of a correct answer.
"""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from operator_service import Service, by_jobs, direct, new_context, rows_of, through_triggers

from lucidworks_provider.corpus import open_dataset
from lucidworks_provider.errors import LucidworksError
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.corpus import LucidworksChunkCorpusOperator

TEXTS = {
    "a": "Das Mädchen läuft nach Hause. Es regnet stark. Der Hund wartet.",
    "b": "Quick foxes jump. Lazy dogs sleep. Birds sing.",
    "c": "Rivers flow south. Mountains stand. Snow melts in spring.",
}
DOCUMENTS = [{"id": name, "text": text} for name, text in TEXTS.items()]
COMMON: dict[str, Any] = {
    **{"task_id": "t", "chunker": "sentence", "chunker_config": {"chunkSize": 1}, "model_id": "gte-small"},
    **{"poll_interval": 0.1, "timeout": 200},
}
# Longer than any wait in here, and far shorter than the timeout of a task.
SOON = 45.0
ALWAYS = 1000


@dataclass(frozen=True)
class Case:
    """
    :param posts: submissions of each document or batch.
    :param chunk: the error of a chunking task; None where it succeeds.
    :param corpus: the reason of the rejects; None where all documents are in the dataset.
    :param counts: whether what it warns about is the result of each document.
    """

    order: tuple[str, str]
    more: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    posts: int = 1
    chunk: str | None = None
    corpus: str | None = None
    warns: str = ""
    counts: bool = True
    same_rows: bool = True

    @contextmanager
    def happens(self, service: Service, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        """From now on; no task waits for its timeout."""
        service.emulator.state.log.clear()
        caplog.clear()
        match, kind = self.order
        service.fault(match, kind, **{"times": ALWAYS, **self.more})
        began = time.monotonic()
        yield
        assert time.monotonic() - began < SOON
        assert max(service.submitted().values(), default=0) <= self.posts


@pytest.fixture(scope="module")
def kind_rows() -> dict[str, list[dict[str, Any]]]:
    """By task and arguments: the rows of a kind service."""
    return {}


EMPTY = {"chunk": "no result|no chunk", "corpus": "empty_result"}
OTHER = {"chunk": "another text", "corpus": "malformed"}
WHOLE = {"model_config": {"vectorQuantizationMethod": "max-scale"}}

CHUNKING: dict[str, Case] = {
    "payload null": Case(("poll", "null-payload"), **EMPTY),
    "payload empty": Case(("poll", "empty-payload"), **EMPTY),
    "no chunks": Case(("poll", "no-chunks"), **EMPTY),
    "in an envelope": Case(("poll", "envelope")),
    "id of another job": Case(("poll", "other-id"), warns="is about job"),
    "previous response for ever": Case(("poll", "previous-response"), **OTHER),
    # The second response took another job's result with it.
    "previous response once": Case(("poll", "previous-response"), {"times": 2}, posts=2),
    "one id for all": Case(("submit", "same-id"), chunk="is the job of Document", corpus="malformed"),
    "id under another name": Case(("submit", "id-name"), warns="in another field", counts=False),
    "no id": Case(("submit", "no-id"), chunk="without a usable", corpus="failed"),
    "lower case": Case(("poll", "lower-case"), same_rows=False),
    "composed": Case(("poll", "composed")),
    "chunks of another text": Case(("poll", "other-text"), **OTHER),
    "half of the chunks": Case(("poll", "cut-chunks"), warns="cover", same_rows=False),
    "first chunk missing": Case(("poll", "no-first-chunk"), warns="cover", same_rows=False),
    "middle chunk missing": Case(("poll", "no-middle-chunk"), warns="cover", same_rows=False),
    "two items": Case(("poll", "twice"), chunk="exactly once", corpus="malformed"),
    "dimension ignored": Case(
        ("poll", "long-vectors"),
        arguments={"model_config": {"dimReductionSize": 48}},
        chunk="dimReductionSize 48 was requested, and the vectors have 96",
        corpus="malformed",
    ),
    "whole numbers for floats": Case(
        ("poll", "whole-numbers"), chunk="whole numbers up to", corpus="malformed"
    ),
    "fractions for whole numbers": Case(
        ("poll", "fractions"), arguments=WHOLE, chunk="max-scale", corpus="malformed"
    ),
    "zeros": Case(("poll", "zeros"), warns="only zeros", same_rows=False),
    "404 of young jobs": Case(("poll", "404"), {"times": 9}),
    "400 for ever": Case(("poll", "400"), posts=2, chunk="second time", corpus="gone"),
    "400 twice": Case(("poll", "400"), {"times": 2}),
    **{
        f"{status} on some polls": Case(("poll", status), {"times": 6})
        for status in ("304", "403", "408", "409", "425")
    },
    **{
        word: Case(("poll", "status"), {"value": word}, chunk="An injected fault", corpus="failed")
        for word in ("FAILED", "FAILURE", "CANCELLED", "EXPIRED", "Timed out")
    },
    "an error in a 200": Case(("poll", "error-body"), {"value": "no room"}, chunk="no room", corpus="failed"),
    "SUCCEEDED": Case(("poll", "status"), {"value": "SUCCEEDED"}),
    "an unknown word": Case(("poll", "status"), {"value": "ARCHIVED"}, warns="quarantined"),
}


@pytest.fixture
def service(
    service: Service,
    short_corpus_waits: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Service:
    caplog.set_level(logging.WARNING)
    service.settings(pending_polls=0)
    monkeypatch.setattr("lucidworks_provider.jobs.decisions.NEVER_SEEN", 3.0)
    return service


def chunk(path: Path, **arguments: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The manifest and the rows."""
    given = COMMON | {"documents": DOCUMENTS, "result_path": str(path)} | arguments
    manifest = through_triggers(lambda: LucidworksChunkOperator(**given), new_context())
    return manifest, rows_of(path)


def corpus(folder: Path, night: int, **arguments: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The dataset's rows, and the reasons of the rejects."""
    given = COMMON | {"source": DOCUMENTS, "output_uri": str(folder), "max_reject_ratio": 1.0}
    operator = LucidworksChunkCorpusOperator(**given | arguments)
    context = new_context()
    vars(context["ti"]).update(
        run_id=f"r{night}", try_number=1, task=operator, xcom_push=lambda key, value: None
    )
    operator.execute(context)  # type: ignore[arg-type]
    rejects = rows_of(folder / "rejects.jsonl") if (folder / "rejects.jsonl").exists() else []
    rows = open_dataset(str(folder)).to_table().drop_columns(["content_hash"]).to_pylist()
    rows.sort(key=lambda row: (row["document_id"], row["chunk_index"]))
    return rows, {one["document_id"]: one["reason"] for one in rejects}


@pytest.mark.parametrize("deferrable", [False, True], ids=["in the worker", "in the triggerer"])
@pytest.mark.parametrize("name", CHUNKING)
def test_a_chunking_task(
    service: Service, tmp_path: Path, name: str, deferrable: bool, kind_rows: Any, caplog: Any
) -> None:
    case = CHUNKING[name]
    if (key := f"chunks {case.arguments}") not in kind_rows:
        manifest, kind_rows[key] = chunk(tmp_path / "kind.parquet", deferrable=False, **case.arguments)
        assert manifest["warnings"] == 0
    path = tmp_path / "out" / "chunks.parquet"
    with case.happens(service, caplog):
        if case.chunk is None:
            manifest, rows = chunk(path, deferrable=deferrable, **case.arguments)
            assert manifest["warnings"] == (len(TEXTS) if case.warns and case.counts else 0)
            assert {row["document_id"] for row in rows} == set(TEXTS)
            assert not case.same_rows or rows == kind_rows[key]
            assert case.warns in caplog.text
        else:
            with pytest.raises(LucidworksError, match=case.chunk):
                chunk(path, deferrable=deferrable, **case.arguments)
            assert not path.exists()


@pytest.mark.parametrize("name", CHUNKING)
def test_a_corpus_and_its_next_night(
    service: Service, tmp_path: Path, name: str, kind_rows: Any, caplog: pytest.LogCaptureFixture
) -> None:
    case = CHUNKING[name]
    if (key := f"corpus {case.arguments}") not in kind_rows:
        kind_rows[key], _ = corpus(tmp_path / "kind", 1, **case.arguments)
    with case.happens(service, caplog):
        rows, rejects = corpus(tmp_path / "out", 1, **case.arguments)
    assert {row["document_id"] for row in rows} | set(rejects) == set(TEXTS)
    assert set(rejects.values()) == ({case.corpus} if case.corpus else set())
    assert not case.same_rows or rows == [row for row in kind_rows[key] if row["document_id"] not in rejects]
    assert case.warns in caplog.text

    service.heal()
    service.emulator.state.log.clear()
    rows, after = corpus(tmp_path / "out", 2, **case.arguments)
    if case.corpus == "empty_result":
        assert (rows, after, service.submitted()) == ([], rejects, {})
        rows, after = corpus(tmp_path / "out", 3, full_refresh=True, **case.arguments)
    assert after == {}
    assert not case.same_rows or rows == kind_rows[key]
    assert set(service.submitted().values()) <= {1}


def test_a_corpus_counts_every_429_and_every_request_without_a_response(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.fault("submit", "429", times=5, retry_after=0.1)
    service.fault("poll", "429", times=4, retry_after=0.1)
    # A POST: aiohttp repeats a GET on a kept connection by itself.
    service.fault("submit", "disconnect", times=1)
    with caplog.at_level(logging.INFO):
        corpus(tmp_path / "out", 1)
    asked = len([*service.calls("submit"), *service.calls("poll")])
    assert f"{asked} requests; 9 got a 429, and 1 no response." in caplog.text


@pytest.mark.parametrize("name", ["chunks of another text", "dimension ignored", "whole numbers for floats"])
def test_on_mismatch_warn_takes_what_may_be_good(
    service: Service, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    case = CHUNKING[name]
    with case.happens(service, caplog):
        manifest, rows = chunk(tmp_path / "chunks.parquet", on_mismatch="warn", **case.arguments)
        assert manifest["warnings"] >= len(TEXTS)
        assert {row["document_id"] for row in rows} == set(TEXTS)
        assert re.search(str(case.chunk), caplog.text)
    with case.happens(service, caplog):
        rows, rejects = corpus(tmp_path / "out", 1, on_mismatch="warn", **case.arguments)
        assert ({row["document_id"] for row in rows}, rejects) == (set(TEXTS), {})
        assert re.search(str(case.chunk), caplog.text)


INPUTS = ["One.", "Two.", "Three.", "Four."]
LABELS = {
    "use_case": "classification",
    "model_id": "gte-small",
    "use_case_config": {"labels": ["shoes", "hats"]},
}
EMBEDDING = {"use_case": "embedding", "model_id": "gte-small"}
PREDICTIONS: dict[str, Case] = {
    "payload null": Case(("predict", "null-payload"), chunk="no list of"),
    "payload empty": Case(("predict", "empty-payload"), chunk="0 predictions for 4 inputs"),
    "an item is an error": Case(("predict", "item-error"), chunk="1 of 4 inputs have no prediction"),
    "an item is nothing": Case(("predict", "item-nothing"), chunk="1 of 4 inputs have no prediction"),
    "reordered from 0": Case(("predict", "reversed")),
    "reordered from 1": Case(("predict", "reversed"), {"value": "1"}),
    "a constant index": Case(("predict", "index"), {"value": "7"}),
    "an index that tells no order": Case(
        ("predict", "index"), {"value": "0,0,1,2"}, chunk="does not define an order"
    ),
    "labels as a list": Case(("predict", "labels"), arguments=LABELS),
    "labels as a text": Case(("predict", "labels"), {"value": "text"}, arguments=LABELS, same_rows=False),
    "dimension ignored": Case(
        ("predict", "long-vectors"),
        arguments={**EMBEDDING, "model_config": {"dimReductionSize": 48}},
        chunk="dimReductionSize 48",
    ),
    "whole numbers for floats": Case(
        ("predict", "whole-numbers"), arguments=EMBEDDING, chunk="whole numbers up to"
    ),
    "fractions for whole numbers": Case(
        ("predict", "fractions"), arguments={**EMBEDDING, **WHOLE}, chunk="max-scale"
    ),
    "zeros": Case(("predict", "zeros"), arguments=EMBEDDING, warns="only zeros", same_rows=False),
}


@pytest.mark.parametrize("form", ["rows", "p.jsonl", "p.parquet"])
@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_prediction_task(
    service: Service, tmp_path: Path, name: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    case = PREDICTIONS[name]

    def predict(folder: str, **more: Any) -> Any:
        to_file = {} if form == "rows" else {"result_path": str(tmp_path / folder / form)}
        result = direct(INPUTS, **case.arguments, **to_file, **more).execute(new_context())
        assert form == "rows" or result["warnings"] == bool(case.warns and folder == "out")
        return _plain(result if form == "rows" else rows_of(tmp_path / folder / form))

    kind = predict("kind")
    with case.happens(service, caplog):
        if case.chunk is None:
            rows = predict("out")
            assert not case.same_rows or rows == kind
            assert case.warns in caplog.text
        else:
            with pytest.raises(LucidworksError, match=case.chunk) as caught:
                predict("out")
            assert not caught.value.retryable
            assert not (tmp_path / "out" / form).exists()
        assert len(service.calls("predict")) == 1
    if "inputs have no prediction" in (case.chunk or ""):
        rows = predict("allowed", max_reject_ratio=0.25)
        assert [bool(row.get("error")) for row in rows] == [True, False, False, False]
        assert rows[1:] == kind[1:]
        assert "1 of 4 inputs have no prediction" in caplog.text


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what the service adds to say where a prediction belongs."""
    return [{name: row[name] for name in row if name not in {"memoryUuid", "more"}} for row in rows]


JOBS: dict[str, Case] = {
    "payload null": Case(("poll-prediction", "null-payload"), chunk="no result"),
    "payload empty": Case(("poll-prediction", "empty-payload"), chunk="no result"),
    "in an envelope": Case(("poll-prediction", "envelope")),
    "id of another job": Case(("poll-prediction", "other-id"), chunk="about job"),
    "previous response for ever": Case(("poll-prediction", "previous-response"), chunk="about job"),
    "previous response once": Case(("poll-prediction", "previous-response"), {"times": 2}, posts=2),
    "one id for all": Case(("submit-prediction", "same-id"), chunk="is the job of Input"),
    "id under another name": Case(
        ("submit-prediction", "id-name"), {"value": "job_id"}, warns="in another field"
    ),
    "no id": Case(("submit-prediction", "no-id"), chunk="without a usable"),
    "an item is an error": Case(("poll-prediction", "item-error"), chunk="2 of 4 inputs have no prediction"),
    "an item is nothing": Case(("poll-prediction", "item-nothing"), chunk="2 of 4 inputs have no prediction"),
    "reordered": Case(("poll-prediction", "reversed")),
    "an index that tells no order": Case(
        ("poll-prediction", "index"), {"value": "1,5"}, chunk="does not define an order"
    ),
    "FAILED": Case(("poll-prediction", "status"), {"value": "FAILED"}, chunk="An injected fault"),
    "an error in a 200": Case(("poll-prediction", "error-body"), {"value": "no room"}, chunk="no room"),
    "SUCCEEDED": Case(("poll-prediction", "status"), {"value": "SUCCEEDED"}),
    "an unknown word": Case(("poll-prediction", "status"), {"value": "ARCHIVED"}, warns="quarantined"),
    "400 for ever": Case(("poll-prediction", "400"), posts=2, chunk="second time"),
    "404 of young jobs": Case(("poll-prediction", "404"), {"times": 9}),
    "409 on some polls": Case(("poll-prediction", "409"), {"times": 6}),
}


@pytest.mark.parametrize("deferrable", [False, True], ids=["in the worker", "in the triggerer"])
@pytest.mark.parametrize("name", JOBS)
def test_an_asynchronous_prediction_task(
    service: Service, tmp_path: Path, name: str, deferrable: bool, kind_rows: Any, caplog: Any
) -> None:
    case, path = JOBS[name], tmp_path / "p.jsonl"

    def predict(path: Path) -> list[dict[str, Any]]:
        given: dict[str, Any] = {"batch_size": 2, "poll_interval": 0.1, "deferrable": deferrable}
        through_triggers(lambda: by_jobs(INPUTS, path, **given), new_context())
        return _plain(rows_of(path))

    if "jobs" not in kind_rows:
        kind_rows["jobs"] = predict(tmp_path / "kind.jsonl")
    with case.happens(service, caplog):
        if case.chunk is None:
            assert predict(path) == kind_rows["jobs"]
            assert case.warns in caplog.text
        else:
            with pytest.raises(LucidworksError, match=case.chunk):
                predict(path)
            assert not path.exists()


def test_batches_that_are_known_to_be_bad_keep_no_other_from_being_asked(
    service: Service, tmp_path: Path
) -> None:
    """Three bad ones in a row end an attempt, as the service may be down."""

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        bad = body["batch"][0]["text"] in {"0", "1", "2"}
        return 200, {"predictions": [] if bad else [{"response": body["batch"][0]["text"]}]}

    server, heard = service.answers(reply), []
    given: dict[str, Any] = {"batch_size": 1, "concurrency": 1, "result_path": str(tmp_path / "p.jsonl")}
    context = new_context()
    for _ in range(3):
        before = len(server.heard)
        with pytest.raises(LucidworksError, match="3 of 6 batches failed"):
            direct(list("012345"), **given).execute(context)
        context["ti"].max_tries += 3  # cleared
        heard.append([one["batch"][0]["text"] for one in server.heard[before:]])
    assert heard == [["0", "1", "2"], ["3", "4", "5", "0", "1", "2"], ["0", "1", "2"]]
