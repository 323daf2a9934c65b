# SPDX-License-Identifier: Apache-2.0
"""
Whatever a service answers, the client reads it or raises an error of its own that can be shown and stored.

Answers are made from documented ones: a value replaced, a name repeated, bytes cut, doubled or flipped. With
``FUZZ_EXAMPLES`` as many for each reader (``make fuzz`` makes 200,000 in all); 100 by default.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lucidworks_provider.client import use_cases
from lucidworks_provider.client.auth.token import parse_token_response, server_time
from lucidworks_provider.client.chunking import ChunkingOptions, read_result
from lucidworks_provider.client.http.messages import (
    Response,
    parse_object,
    printable,
    retry_after,
    vendor_message,
)
from lucidworks_provider.client.jobs import (
    CHUNKING,
    PREDICTION,
    parse_poll,
    poll_request,
    read_submission,
)
from lucidworks_provider.client.models import (
    read_deployment,
    read_deployments,
    read_model,
    read_models,
    read_undeployment,
)
from lucidworks_provider.client.predictions import read_prompt, read_response, read_tokens
from lucidworks_provider.client.predictions import read_result as read_prediction_result
from lucidworks_provider.client.use_cases import read_items, read_use_cases
from lucidworks_provider.client.validation import check_chunks
from lucidworks_provider.errors import LucidworksError
from lucidworks_provider.jobs.chunk_task import chunk_file
from lucidworks_provider.jobs.prediction_task import ResultPolicy, prediction_file
from lucidworks_provider.jobs.record import ResultDirectory
from lucidworks_provider.jobs.rows import Batch

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
TEXT = "First sentence. Second sentence."
JOB = "4f10a8a7-52a4-440d-a015-70d00483ac5e"

USED = {"promptTokens": 48, "completionTokens": 11, "totalTokens": 59, "inputTokens": 7}
CHUNKED = {
    "chunks": ["First sentence.", "Second sentence."],
    "spans": [{"start": 0, "end": 15}, {"start": 16, "end": 32}],
    "vectors": [{"tokensUsed": {"inputTokens": 7}, "vector": [0.25, -1.0]}] * 2,
}
CHUNKS = {"chunkingId": JOB, "status": "READY", "chunkedData": [CHUNKED]}
MODEL = {
    **{"id": JOB, "name": "shop", "state": "AVAILABLE", "modelType": "ecommerce-rnn", "region": "us"},
    **{"vectorSize": "256", "trainingData": {"catalog": "gs://a/b", "signals": "gs://a/c"}},
    **{"config": {"a": 1}, "deployments": [{"id": "d", "state": "DEPLOYED"}], "metrics": {"ndcg": 0.5}},
    **{"trainingStarted": "2026-01-01T00:00:00Z"},
}
DEPLOYMENT = {"id": "d", "modelId": JOB, "state": "DEPLOYED", "region": "us", "deployedAt": "2026-01-01"}
RAG = '{"ANSWER": "Yes.", "SOURCES": ["a"]}'
# By use case: its options, and a prediction.
PREDICTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "embedding": (use_cases.embedding("m"), {"vector": [0.25, -1.0]}),
    "classification": (
        use_cases.classification("m", labels=["shoes"]),
        {"labels": {"shoes": 0.75, "hats": 0.25}},
    ),
    "passthrough": (use_cases.passthrough("m"), {"response": "Yes."}),
    "rag": (
        use_cases.rag("m"),
        {"answer": "Yes.", "answerFound": True, "sources": ["a"], "memoryUuid": JOB, "response": RAG},
    ),
    "summarization": (use_cases.summarization("m"), {"summary": "Short.", "response": "Short."}),
    "keyword_extraction": (
        use_cases.keyword_extraction("m"),
        {"keywords": ["a"], "response": '{"keywords": ["a"]}'},
    ),
    "faq_enrichment": (
        use_cases.faq_enrichment("m"),
        {"response": '[{"question": "Who?", "answer": "Ada."}]'},
    ),
    "standalone_query_rewriter": (
        use_cases.standalone_query_rewriter("m", memory_uuid=JOB),
        {"response": "Who is Ada?"},
    ),
    "ner": (use_cases.ner("m"), {"entities": {"PERSON": ["Ada"]}, "response": '{"PERSON": ["Ada"]}'}),
}


def write_chunks(body: bytes) -> object:
    """As a task does: decode, read, and append to a file; from a job whose id the service chose."""
    result = read_result(parse_object(body, "Job", packed=True), JOB)
    options = ChunkingOptions("sentence", "m")
    checked = check_chunks(TEXT, options, result)
    with tempfile.TemporaryDirectory() as folder:
        with chunk_file(f"{folder}/x.parquet", options) as file:
            file.add("a", result.chunks, checked.spans)
        return file.manifest


def write_predictions(use_case: str) -> Callable[[Response], object]:
    """The same of predictions."""
    options, _ = PREDICTIONS[use_case]
    given: Any = {"text": "A text.", "documents": [{"body": "b", "source": "a"}]}
    items = read_items([given if use_case == "rag" else "A text."], options)

    def read(answer: Response) -> object:
        found = read_response(answer, options, 1)
        with tempfile.TemporaryDirectory() as folder:
            with prediction_file(f"{folder}/x.jsonl", options, ResultPolicy()) as file:
                file.add(Batch(0, 0, items), found)
            return file.manifest

    return read


def job_id_of(kind: Any) -> Callable[[Response], object]:
    """A job's id becomes a path of the service, and a name of a file."""

    def read(answer: Response) -> object:
        job_id = read_submission(answer, kind)
        request = poll_request("https://app.test", kind, job_id)
        rest = request.url.removeprefix(f"https://app.test{kind.path}/")
        assert "/" not in rest
        assert rest not in {".", ".."}
        with tempfile.TemporaryDirectory() as folder:
            bodies = ResultDirectory(f"{folder}/below")
            asyncio.run(bodies.of(job_id).save(b"{}"))
            (kept,) = (path for path in Path(folder).rglob("*") if path.is_file())
            assert kept.parent == Path(folder) / "below"
        return job_id

    return read


Read = Callable[[Response], object]
READERS: dict[str, tuple[Any, Read]] = {
    "token": ({"access_token": "eyJ.x.y", "expires_in": 3600, "token_type": "Bearer"}, parse_token_response),
    "submit chunking": ({"chunkingId": JOB, "status": "SUBMITTED"}, job_id_of(CHUNKING)),
    "submit prediction": ({"predictionId": JOB, "status": "SUBMITTED"}, job_id_of(PREDICTION)),
    "poll": (CHUNKS, lambda answer: parse_poll(answer.body, CHUNKING)),
    "chunks": (CHUNKS, lambda answer: write_chunks(answer.body)),
    "job of predictions": (
        {"predictionId": JOB, "status": "READY", "predictions": [{"response": "Yes.", "tokensUsed": USED}]},
        lambda answer: read_prediction_result(parse_object(answer.body, "Job"), JOB, inputs=1),
    ),
    "error": (
        {"message": "No.", "error": {"errorSummary": "No."}},
        lambda answer: vendor_message(answer.body),
    ),
    "models": ([MODEL], read_models),
    "model": (MODEL, read_model),
    "deployments": ([DEPLOYMENT], read_deployments),
    "deployment": (DEPLOYMENT, read_deployment),
    "undeployment": (DEPLOYMENT, read_undeployment),
    "tokens": (
        {"generatedTokens": [{"tokens": ["[CLS]", "a"]}], "tokensUsed": USED},
        lambda answer: read_tokens(answer, 1),
    ),
    "prompt": ({"prompt": "Say yes.", "tokensUsed": USED}, read_prompt),
    "use cases": (
        [{"useCase": "rag", "models": ["llama"]}, {"useCase": "ner", "models": []}],
        read_use_cases,
    ),
    **{
        f"predict {name}": ({"predictions": [one | {"tokensUsed": USED}]}, write_predictions(name))
        for name, (_, one) in PREDICTIONS.items()
    },
}

# -- what a service might say ------------------------------------------------------------------------

DEEP = "[" * 3000 + "]" * 3000
DEEPER = '{"a":' * 100_000
HOSTILE = [
    *("null", "true", "[]", "{}", '""', "0", "-1", "1e999", "-1e999", "NaN", "Infinity", "1.5", "2" * 5000),
    *("9" * 400, "1e-400", '"0"', '"12"', '" "', "[[]]", "[null]", '[""]', '{"":null}', DEEP),
    *(r'"\u0000"', r'"\ud800"', r'"\udfff\ud800"', r'"\u202e\u001b[2J\r\n"'),
    *('"../../../etc/passwd"', '"/"', '".."', '"a\\u0000b"', '"%2e%2e%2f"', json.dumps("x" * 20_000)),
    *('"\\\\server\\share"', '"s3://other/bucket"'),
]


@st.composite
def values(draw: st.DrawFn, sample: Any) -> str:
    """JSON text: the sample with some of its values replaced, missing, or there twice."""
    if draw(st.integers(0, 11)) == 0:
        return draw(st.sampled_from(HOSTILE) | anything())
    if isinstance(sample, dict):
        members = []
        for name, value in sample.items():
            times = draw(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2]))
            members += [f"{json.dumps(name)}:{draw(values(value))}" for _ in range(times)]
        if draw(st.integers(0, 15)) == 0:
            members.append(f"{json.dumps(draw(st.text(max_size=5)))}:{draw(st.sampled_from(HOSTILE))}")
        return "{" + ",".join(members) + "}"
    if isinstance(sample, list):
        few = [draw(values(value)) for value in sample]
        if few and draw(st.integers(0, 9)) == 0:
            few *= draw(st.sampled_from([0, 2, 7]))
        return "[" + ",".join(few) + "]"
    return json.dumps(sample)


def anything() -> st.SearchStrategy[str]:
    """Any JSON."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    tree = st.recursive(
        leaves,
        lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=5), below, max_size=4),
        max_leaves=8,
    )
    return tree.map(json.dumps)


@st.composite
def bodies(draw: st.DrawFn, sample: Any) -> bytes:
    """What comes over the wire: mostly JSON, now and then with bytes that were cut, doubled or flipped."""
    body = draw(values(sample)).encode()
    match draw(st.integers(0, 11)):
        case 0:
            body = body[: draw(st.integers(0, len(body)))]
        case 1 if body:
            place = draw(st.integers(0, len(body) - 1))
            body = body[:place] + draw(st.binary(min_size=1, max_size=3)) + body[place + 1 :]
        case 2:
            pages = [b"", b"\xef\xbb\xbf" + body, body + body, b"<html>503</html>", DEEPER.encode()]
            body = draw(st.sampled_from([*pages, b"\x00" * 64]))
        case 3:
            body = body.decode().encode(draw(st.sampled_from(["utf-16", "utf-32", "cp1252"])), "replace")
    return body


TIMES = ["5", "-5", "1e3", "NaN", "9" * 400, "\u00b2"]
TIMES += ["Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 99 Foo 9999 99:99:99"]
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "date", "content-type", "location", "www-authenticate"]),
    st.sampled_from(TIMES) | st.text(max_size=20),
    max_size=3,
)
STATUSES = st.sampled_from(
    [200] * 12 + [201, 202, 204, 301, 400, 401, 403, 404, 409, 422, 429, 500, 503, 599]
)


def shown(text: str) -> None:
    """Logs, databases and XCom take it."""
    text.encode()
    assert text == printable(text), text
    assert len(text) < 3000


@pytest.mark.parametrize("name", READERS)
def test_a_response_is_read_or_refused(name: str) -> None:
    sample, read = READERS[name]

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(STATUSES, HEADERS, bodies(sample))
    def fuzzed(status: int, headers: dict[str, str], body: bytes) -> None:
        answer = Response(status, headers, body)
        for tell in (retry_after, server_time):
            seconds = tell(answer)
            assert seconds is None or 0 <= seconds < 1e12
        try:
            found = read(answer)
        except LucidworksError as err:
            shown(str(err))
            return
        if name == "poll":
            shown(found.message)
            shown(found.status)
        if name.startswith("submit") or name == "error":
            shown(str(found))
        if isinstance(found, dict):
            json.dumps(found, allow_nan=False).encode()

    fuzzed()


@pytest.mark.parametrize("name", READERS)
def test_the_sample_itself_is_read(name: str) -> None:
    """Or else what is made of it would test little."""
    sample, read = READERS[name]
    assert read(Response(200, {}, json.dumps(sample).encode())) is not None
