# SPDX-License-Identifier: Apache-2.0
"""The chunking API by values: what is refused, what is sent, and how both documented results are read."""

import json
import re
import time
from functools import partial
from typing import Any, cast

import pytest

from lucidworks_provider.client.chunking import (
    CHUNKERS,
    Chunk,
    ChunkingOptions,
    ChunkingResult,
    is_exponential,
    read_result,
    submit_chunking,
    submit_text,
)
from lucidworks_provider.client.http.messages import Response
from lucidworks_provider.client.jobs import CHUNKING, JobState, poll_request, read_submission
from lucidworks_provider.client.options import MAX_TEXT_BYTES, check_text
from lucidworks_provider.client.settings import parse_settings
from lucidworks_provider.errors import InputError, MalformedResponseError, NoJobIdError, RequestRefusedError

BASE = "https://app.example"
SETTINGS = parse_settings("c", login="i", password="s", host=None, extra={"application_url": BASE})


def test_rendered_options_are_in_their_types() -> None:
    config = {"maxChunkSize": " 512 ", "overlapSize": None, "cosineThreshold": "0.5", "approximate": "True"}
    options = ChunkingOptions("semantic", "gte-small", "passage", config, {"dimReductionSize": "48"})
    sent = {"approximate": True, "cosineThreshold": 0.5, "maxChunkSize": 512}
    assert options.as_json()["chunker_config"] == sent
    assert options.as_json()["model_config"] == {"dimReductionSize": 48}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunker": "paragraph"}, ["paragraph", *CHUNKERS]),
        ({"chunker": "dynamic_newline"}, ["dynamic_newline", "dynamic-newline"]),
        ({"model_id": ""}, ["model_id"]),
        ({"model_id": ".."}, ["model_id"]),
        ({"data_type": "document"}, ["data_type", "passage", "query"]),
        ({"chunker_config": {"chunkSize": 3}}, ["chunkSize", "dynamic-newline", "maxChunkSize"]),
        ({"chunker_config": {"maxChunkSize": 0}}, ["maxChunkSize", "0", "from 1"]),
        ({"chunker_config": {"maxChunkSize": True}}, ["maxChunkSize", "True"]),
        ({"chunker_config": {"maxChunkSize": "512 tokens"}}, ["maxChunkSize", "'512 tokens'"]),
        ({"chunker_config": {"maxChunkSize": "512.0"}}, ["maxChunkSize", "'512.0'"]),
        ({"chunker_config": [1]}, ["chunker_config", "dictionary"]),
        ({"chunker": "regex-splitter", "chunker_config": {"regex": "("}}, ["regex", "'('"]),
        ({"chunker": "semantic", "chunker_config": {"cosineThreshold": 1.5}}, ["cosineThreshold", "-1 to 1"]),
        ({"chunker": "semantic", "chunker_config": {"approximate": "yes"}}, ["approximate", "true or false"]),
        ({"chunker": "sentence", "chunker_config": {"chunkSize": 2, "overlapSize": 2}}, ["overlapSize", "2"]),
        ({"chunker": "sentence", "chunker_config": {"overlapSize": 5}}, ["overlapSize", "5"]),
        ({"model_config": {"dimReductionSize": 0}}, ["dimReductionSize", "from 1"]),
        ({"model_config": {"vectorQuantizationMethod": "int8"}}, ["int8", "min-max", "max-scale"]),
        ({"model_config": {"temperature": 1}}, ["temperature", "dimReductionSize"]),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        ChunkingOptions(**{"chunker": "dynamic-newline", "model_id": "gte-small"} | options)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no text"),
        (" \n\t", "no text"),
        (None, "no text"),
        (7, "not text"),
        ("ä" * 495_001, "990,002 bytes as JSON"),
        ("\n" * 495_001 + "a", "990,003 bytes as JSON"),
        ("half \ud800 a pair", "surrogate"),
        ("a\0", "NUL"),
    ],
)
def test_texts_that_the_service_would_refuse_are_refused_here(text: object, words: str) -> None:
    with pytest.raises(InputError, match=f"^The text .*{words}"):
        submit_chunking(cast("str", text), chunker="sentence", model_id="gte-small")


def test_a_text_of_exactly_the_limit_passes() -> None:
    for text in ("ä" * 5, 'a\n"\\\tb', "\x1babcd"):
        check_text(text, "it", max_bytes=10)
        with pytest.raises(InputError, match="it has 11 bytes as JSON, over the limit of 10"):
            check_text(f"{text}1", "it", max_bytes=10)


@pytest.mark.parametrize("part", ["a", "ä", '"', "\\", "\n", "\x1b", "日", "🐄"])
def test_a_request_with_the_longest_text_is_within_the_limit(part: str) -> None:
    each = len(json.dumps(part, ensure_ascii=False).encode()) - 2
    text = "a" * (MAX_TEXT_BYTES % each or each) + part * ((MAX_TEXT_BYTES - 1) // each)
    config = {"regex": "\n(?=Chapter )|" * 500 + "\n"}
    submit = partial(submit_chunking, chunker="regex-splitter", model_id="m", chunker_config=config)
    body = submit(text).first(SETTINGS).request.body or b""
    assert MAX_TEXT_BYTES < len(body) <= 1_000_000
    with pytest.raises(InputError, match="990,001 bytes as JSON, over the limit of 990,000"):
        submit(f"{text}a")


def test_the_request_is_the_documented_one() -> None:
    config = {"maxChunkSize": 512, "approximate": True}
    model_config = {"vectorQuantizationMethod": "max-scale", "dimReductionSize": 256}
    options = ChunkingOptions("semantic", "my model/1", "query", config, model_config)
    request = submit_text(options, "Größe").first(SETTINGS).request
    assert (request.method, request.url) == ("POST", f"{BASE}/ai/async-chunking/semantic/my%20model%2F1")
    assert request.replayable is False
    assert json.loads(request.body or b"") == {
        "batch": [{"text": "Größe"}],
        "useCaseConfig": {"dataType": "query"},
        "modelConfig": model_config,
        "chunkerConfig": config,
    }
    assert "Größe".encode() in (request.body or b""), "not escaped: the service limits bytes"
    # What is not set is not sent.
    plain = submit_text(ChunkingOptions("sentence", "gte-small", None), "x").first(SETTINGS).request
    assert json.loads(plain.body or b"") == {"batch": [{"text": "x"}]}
    assert poll_request(BASE, CHUNKING, "a/b").url == f"{BASE}/ai/async-chunking/a%2Fb"


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (200, b'{"status": "SUBMITTED"}', MalformedResponseError, "chunkingId"),
        (200, b'{"status": "ERROR", "message": "no capacity"}', RequestRefusedError, "no capacity"),
        # An error may have an id of its own.
        (
            200,
            b'{"status": "ERROR", "message": "quota", "errorId": "e"}',
            RequestRefusedError,
            "ERROR: quota",
        ),
        (200, b'{"error": {"message": "quota", "id": "e"}}', RequestRefusedError, "HTTP 200: quota"),
        (
            200,
            b'{"chunkingId": "j-1", "status": "ERROR", "message": "quota"}',
            RequestRefusedError,
            "ERROR: quota",
        ),
        (200, b'{"chunkingId": "j-1", "error": "quota"}', RequestRefusedError, "HTTP 200: quota"),
        (200, b'{"chunkingId": true}', MalformedResponseError, "chunkingId"),
        (200, b"<html>login</html>", MalformedResponseError, "<html>login"),
        (200, b'{"chunkingId": "1', MalformedResponseError, "HTTP 200"),
        (200, b'{"requestId": "r-1", "status": "SUBMITTED"}', NoJobIdError, "requestId"),
        (200, b'{"id": "a", "jobId": "b"}', NoJobIdError, "HTTP 200"),
        (200, b'{"traceId": "a", "data": {"correlation_id": "b"}}', NoJobIdError, "traceId"),
        (413, b'{"message": "too large"}', RequestRefusedError, "413.*too large"),
        (302, b"", RequestRefusedError, "redirects"),
    ],
)
def test_a_submission_without_an_id_is_an_error(status: int, body: bytes, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        read_submission(Response(status, {}, body), CHUNKING)


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"chunkingId": "a", "status": "%s"}' % one for one in (b"SUBMITTED", b"READY", b"WHATEVER")),
        b'{"chunkingId": "a", "sta',  # truncated
        b'\xef\xbb\xbf{"chunkingId": "a"}',
        b'{"id": "a"}',
        b'{"chunking_id": "a", "requestId": "b"}',
        b'{"jobId": "a", "status": "SUBMITTED"}',
        b'{"data": {"chunkingId": "a"}, "traceId": "b"}',
        b'{"result": {"id": "a"}}',
        b'{"id": "a", "jobId": "a"}',
        b'{"job": "441eb3be-7de6-470a-8141-e416a15c7db1"}',
        b'{"chunkingId": 100}',
    ],
)
def test_the_id_of_a_submission(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    found = read_submission(Response(200, {}, body), CHUNKING)
    assert found in {"a", "100", "441eb3be-7de6-470a-8141-e416a15c7db1"}
    named = body.lstrip(b"\xef\xbb\xbf").startswith(b'{"chunkingId"')
    assert ("in another field" in caplog.text) is not named, "a lone id under another name"


ITEM: dict[str, Any] = {
    "chunks": ["One.", "Two."],
    "spans": [[0, 4], [5, 9]],
    "vectors": [
        {"tokensUsed": {"inputTokens": 3}, "vector": [1, -2]},
        {"tokensUsed": {"inputTokens": 4}, "vector": [3, 4]},
    ],
}


def read(status: str = "READY", **changes: object) -> ChunkingResult:
    """The result with one item, the newer shape of a body."""
    return read_result({"status": status, "chunkedData": [ITEM | changes]}, "job-7")


def test_both_shapes_of_a_result() -> None:
    newer = (Chunk("One.", (0, 4), [1, -2], 3), Chunk("Two.", (5, 9), [3, 4], 4))
    assert (read().state, read().chunks) == (JobState.RESULT, newer)
    # A payload of an unknown status is read.
    assert (read("ARCHIVED").state, read("ARCHIVED").chunks) == (JobState.PENDING, newer)
    vectors = [{"vector": [1, -2]}, {"vector": [3, 4]}]
    older = {"status": "READY", "chunkedData": [{"chunks": ["One.", "Two."]}], "vector": vectors}
    found = read_result(older, "j").chunks
    assert found == (Chunk("One.", None, [1, -2], None), Chunk("Two.", None, [3, 4], None))


INFINITE, LARGE = float("inf"), 10**400


@pytest.mark.parametrize(
    ("sent", "tokens"),
    [(0, 0), (2.0, 2), *((one, None) for one in (-5, -1.0, True, "2", LARGE, INFINITE, None))],
)
def test_a_number_of_tokens_that_is_none_is_missing(sent: object, tokens: int | None) -> None:
    vectors = [{"tokensUsed": {"inputTokens": sent}, "vector": [1.0]}] * 2
    assert [chunk.input_tokens for chunk in read(vectors=vectors).chunks] == [tokens] * 2


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([[1.0]], "2 chunks and 1 vectors"),
        ([[LARGE], [1]], "not a finite number"),
        ([[1.0], [1.0, 2.0]], "different lengths"),
        ([[], []], "not a list of numbers"),
        ([["1"], ["2"]], "not a list of numbers"),
        *(([[one], [1.0]], "not a list of numbers") for one in (True, None, [1.0])),
        ([{"0": 1.0}, [1.0]], "not a list of numbers"),
        ([[float("nan")], [1.0]], "not a finite number"),
        ([[INFINITE, -INFINITE], [1.0, 1]], "not a finite number"),
        ([[LARGE, -LARGE], [1, 1]], "not a finite number"),
    ],
)
def test_results_that_do_not_fit_together_are_errors(vectors: list[Any], words: str) -> None:
    with pytest.raises(MalformedResponseError, match=f"job-7.*{words}"):
        read(vectors=[{"vector": vector} for vector in vectors])
    with pytest.raises(MalformedResponseError, match="not a list of texts"):
        read(chunks="One. Two.")


def test_finite_numbers_with_a_sum_that_is_not_are_read() -> None:
    [chunk] = read(chunks=["One."], vectors=[{"vector": [1.7e308, 1.7e308, 5]}]).chunks
    assert list(chunk.vector) == [1.7e308, 1.7e308, 5]


@pytest.mark.parametrize("spans", [[], [[0, 4]], "x", None, [[4, 0], "x"]])
def test_spans_that_are_none_do_not_cost_the_result(spans: object) -> None:
    assert [(c.text, c.span) for c in read(spans=spans).chunks] == [("One.", None), ("Two.", None)]


# Patterns of the regex splitter

# With the letter that makes the trouble, and one after which nothing matches.
EXPONENTIAL = {
    r"(a+)+$": "a",
    r"(a*)*$": "a",
    r"(?:a+)*?$": "a",
    r"((a)+)+$": "a",
    r"(?:(?:a|b)+)+$": "a",
    r"(\w+\s*)+$": "a",
    r"(\s*\w+\s*)+$": "a",
    r"(a*b*)*$": "a",
    r"x|(a+)+$": "a",
    r"(?=(a+)+$)": "a",
    r"(a{1,})+$": "a",
    r"((a+){2,})*$": "a",
}
FINE = (
    *(r"\n", r"\n\s*\n", r"(a+b)+$", r"(\w+\s+)+$", r"(?:a|b)+$", r"(ab?)+$", r"(\b\w+)+$", r"((?>a+))+$"),
    *(r"(a++)+$", r"(a+){3}$", r"[.!?]\s+(?=[A-Z])", r"^#{1,6} .+$", r"(?:\d{1,3},)*\d+", "", "(a+)?"),
    *(r"(---+\n)+", r"(.*?\n){2}"),
)


def seconds(pattern: str, letter: str, length: int) -> float:
    begin = time.perf_counter()
    re.split(pattern, letter * length + "!")
    return time.perf_counter() - begin


@pytest.mark.parametrize("pattern", EXPONENTIAL)
def test_what_takes_exponential_time_is_found(pattern: str) -> None:
    assert is_exponential(pattern)
    # It does: eight letters more take 100 times as long at least, where any power of the length would take 16.
    letter = EXPONENTIAL[pattern]
    short, long = (min(seconds(pattern, letter, length) for _ in range(3)) for length in (8, 16))
    assert long > 20 * short


@pytest.mark.parametrize("pattern", FINE)
def test_what_does_not_is_left_alone(pattern: str) -> None:
    assert not is_exponential(pattern)
    for letter in ("a", "b", "\n", " ", "-", "1,"):
        assert seconds(pattern, letter, 60) < 0.5


def test_it_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InputError, match=r"repetitions like \(a\+\)\+"):
        ChunkingOptions("regex-splitter", "gte-small", chunker_config={"regex": r"(\w+\s*)+\n"})
    ChunkingOptions("regex-splitter", "gte-small", chunker_config={"regex": r"\n\n+"})
