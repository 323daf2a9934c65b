# SPDX-License-Identifier: Apache-2.0
"""The prediction API by values: how every documented answer is read, and whatever else may come."""

import json
import re
import sys
from typing import Any

import pytest

from lucidworks_provider.client import use_cases
from lucidworks_provider.client.http.messages import Response
from lucidworks_provider.client.jobs import PREDICTION, JobState, parse_poll
from lucidworks_provider.client.prediction_types import (
    Classification,
    Embedding,
    Entities,
    Faq,
    Keywords,
    Prediction,
    RagAnswer,
    TokensUsed,
    read_predictions,
)
from lucidworks_provider.client.predictions import read_prompt, read_response, read_result, read_tokens
from lucidworks_provider.client.use_cases import nearest, read_use_cases
from lucidworks_provider.errors import MalformedResponseError, RequestRefusedError

MODEL = "llama-3-8b-instruct"
MEMORY = "53417d2f-6b0e-47e4-8610-e6842b84a87b"
NAN = float("nan")
PASS = use_cases.passthrough(MODEL)
RAG = use_cases.rag(MODEL)


def answer(body: object) -> Response:
    return Response(200, {}, body if isinstance(body, bytes) else json.dumps(body).encode())


def read_one(kind: type[Prediction], sent: object) -> Any:
    """The only prediction of an answer."""
    [read] = read_predictions({"predictions": [sent]}, kind, "It")
    return read


# How answers are read

LABELS = {"Harry Potter": 0.3681640625, "Lord of the Rings": 0.40380859375}
CLASSIFIED = {
    "tokensUsed": {"inputTokens": 10, "labelsTokens": 26},
    "labels": LABELS,
    "response": "Lord of the Rings: 0.40, Harry Potter: 0.37",
}
PASSED_THROUGH = {
    "response": "The first President of the United States was George Washington.",
    "tokensUsed": {"promptTokens": 148, "completionTokens": 27, "totalTokens": 175},
}
RAG_SENT = {
    "tokensUsed": {"promptTokens": 606, "completionTokens": 23, "totalTokens": 629},
    "answer": "The reason for going to Germany was to attend Oktoberfest.",
    "answerFound": True,
    "sources": ["http://example.com/112"],
    "memoryUuid": MEMORY,
    "response": "SOURCES:\n- 0\nANSWER: The reason for going to Germany was to attend Oktoberfest.",
}
PAIRS = [{"question": "Who?", "answer": "Ann."}, {"question": "Where?", "answer": "Ulm."}]
READ_PAIRS = (("Who?", "Ann."), ("Where?", "Ulm."))


@pytest.mark.parametrize(
    ("options", "sent", "kind", "tokens", "own"),
    [
        (use_cases.classification("m", labels=["a"]), CLASSIFIED, Classification, (10, 26), [LABELS]),
        (PASS, PASSED_THROUGH, Prediction, (None, None, 148, 27, 175), []),
        (
            *(RAG, RAG_SENT, RagAnswer, (None, None, 606, 23, 629)),
            [RAG_SENT["answer"], True, ("http://example.com/112",), MEMORY],
        ),
    ],
)
def test_the_published_examples(options: Any, sent: Any, kind: Any, tokens: Any, own: list[Any]) -> None:
    [read] = read_response(answer({"predictions": [sent]}), options, 1)
    assert read == kind(sent, sent["response"], TokensUsed(*tokens), None, *own)
    assert type(read) is kind
    best = {"label": "Lord of the Rings"} if kind is Classification else {}
    assert (read.row(), read.tokens_used.sum) == (sent | best, sum(tokens[:2]) if best else tokens[-1])


@pytest.mark.parametrize(
    ("kind", "sent", "field", "value"),
    [
        (RagAnswer, {"sources": "http://a/1"}, "sources", ("http://a/1",)),
        (RagAnswer, {"sources": "http://a/1\nhttp://a/2"}, "sources", ("http://a/1", "http://a/2")),
        (RagAnswer, {"sources": '["http://a/1"]'}, "sources", ("http://a/1",)),
        (RagAnswer, {"sources": []}, "sources", ()),
        (RagAnswer, {"sources": ""}, "sources", ()),
        (RagAnswer, {"sources": None}, "sources", ()),
        (RagAnswer, {"sources": [1, None, ["x"]]}, "sources", ("1",)),
        (Entities, {"entities": {"person": ["Ann", " Bob "]}}, "entities", {"person": ("Ann", "Bob")}),
        (Entities, {"entities": {"person": "Ann"}}, "entities", {"person": ("Ann",)}),
        (Entities, {"entities": {"person": None}}, "entities", {"person": ()}),
        (Entities, {"response": '{"person": ["Ann"]}'}, "entities", {"person": ("Ann",)}),
        (Entities, {"response": '```json\n{"entities": {"a": ["B"]}}\n```'}, "entities", {"a": ("B",)}),
        (Entities, {"entities": None, "response": '{"city": ["Ulm"]}'}, "entities", {"city": ("Ulm",)}),
        (Entities, {"response": "No entities."}, "entities", {}),
        (Entities, {"response": "[1]"}, "entities", {}),
        (Entities, {}, "entities", {}),
        (Keywords, {"keywords": ["a", " b ", ""]}, "keywords", ("a", "b")),
        (Keywords, {"keywords": "a\nb"}, "keywords", ("a", "b")),
        (Keywords, {"keywords": '["a", "b"]'}, "keywords", ("a", "b")),
        (Keywords, {"keywords": [1, None, {}]}, "keywords", ("1",)),
        (Keywords, {"keywords": {}}, "keywords", ()),
        (Keywords, {"response": '["a", "b"]'}, "keywords", ("a", "b")),
        (Keywords, {"response": '{"keywords": ["a"]}'}, "keywords", ("a",)),
        (Keywords, {"response": '["cut \\ud83d"]'}, "keywords", ("cut \ufffd",)),
        (Keywords, {"keywords": '["cut \\ud83d"]'}, "keywords", ("cut \ufffd",)),
        (Keywords, {"response": '```\n["a"]\n```'}, "keywords", ("a",)),
        (Keywords, {"response": "The keywords are a and b."}, "keywords", ()),
        (Keywords, {}, "keywords", ()),
        (Faq, {"response": json.dumps(PAIRS)}, "pairs", READ_PAIRS),
        (Faq, {"response": f"```json\n{json.dumps(PAIRS)}\n```"}, "pairs", READ_PAIRS),
        (Faq, {"response": json.dumps({"faqs": PAIRS})}, "pairs", READ_PAIRS),
        (Faq, {"response": "see faq", "faq": PAIRS}, "pairs", READ_PAIRS),
        (Faq, {"response": json.dumps([{"Q": "Who?", "A": "Ann."}])}, "pairs", READ_PAIRS[:1]),
        (Faq, {"response": json.dumps([*PAIRS, {"question": "Why?"}])}, "pairs", READ_PAIRS),
        (Faq, {"response": json.dumps([*PAIRS, "x"])}, "pairs", ()),
        (Faq, {"response": "1. Who? Ann."}, "pairs", ()),
        (Faq, {}, "pairs", ()),
    ],
)
def test_the_shapes_of_a_field(kind: Any, sent: dict[str, Any], field: str, value: Any) -> None:
    sent = sent | {"modelVersion": {"a": [1]}, "finishReason": None}
    read = kind.read(sent)
    assert getattr(read, field) == value
    row = [{"question": q, "answer": a} for q, a in value] if field == "pairs" else value
    assert json.dumps(read.row()) == json.dumps(sent | {field: row}), "with the fields that are not known"


@pytest.mark.parametrize("change", [{"answerFound": "false"}, {"answer": 7}, {"memoryUuid": None}])
def test_rag_fields_of_another_shape_are_not_guessed_at(change: dict[str, Any]) -> None:
    sent = RAG_SENT | change | {"sources": {"a": 1}}
    read = RagAnswer.read(sent)
    assert None in {read.answer_found, read.answer, read.memory_uuid}
    assert (read.sources, read.row()) == ((), sent), "and kept"


@pytest.mark.parametrize(
    ("sent", "vector"),
    [
        ({"vector": [0.5, -1]}, (0.5, -1)),
        ({"embedding": [1, 2]}, (1, 2)),
        ({"vector": [0, 128, 255]}, (0, 128, 255)),
        ({"vector": [1, 2], "spans": [0, 9]}, (1, 2)),
        ({"vector": None, "values": [3.0]}, (3.0,)),
        ({"vector": "see values", "values": [3]}, (3,)),
        ({"data": [4], "tokens": ["a"], "flags": [True], "empty": []}, (4,)),
    ],
)
def test_a_vector_under_any_name(sent: dict[str, Any], vector: tuple[float, ...]) -> None:
    read = read_one(Embedding, sent)
    assert repr(read.vector) == repr(vector), "whole numbers stay whole"
    kept = {name: value for name, value in sent.items() if value != list(vector)}
    assert read.row() == kept | {"vector": list(vector)}


@pytest.mark.parametrize(
    ("kind", "sent", "what"),
    [
        *((Embedding, {"vector": one}, "vector") for one in ([], ["1"], [True], [NAN], [[1]], [10**400])),
        (Embedding, {"a": [1], "b": [2]}, "vector"),
        *((Classification, {"labels": one}, "scores") for one in (7, [["a", "b"]], [None])),
        *((Classification, {"labels": {"a": one}}, "scores") for one in ("0.5", None, NAN, True)),
    ],
)
def test_a_prediction_without_its_vector_or_scores_is_an_error(kind: Any, sent: Any, what: str) -> None:
    good = {"vector": [1], "labels": {}}
    with pytest.raises(MalformedResponseError, match=f"prediction 1: a prediction without (a )?{what}"):
        read_predictions({"predictions": [good, sent]}, kind, "It")


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        ({}, {}),  # none above the cutoff
        ([], {}),
        ("", {}),
        ("a", {"a": None}),
        (["a", "b"], {"a": None, "b": None}),
        ([{"label": "a", "score": 0.25}, {"label": "b", "score": 0.75}], {"b": 0.75, "a": 0.25}),
        ([["a", 0.5]], {"a": 0.5}),
    ],
)
def test_labels_come_in_other_shapes(labels: object, read: dict[str, Any]) -> None:
    found = read_one(Classification, {"labels": labels})
    assert list(found.labels.items()) == list(read.items())
    assert found.row() == {"labels": read, "label": next(iter(read), None)}


@pytest.mark.parametrize("kind", [Embedding, Classification, RagAnswer, Keywords, Prediction])
@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ({}, "sent nothing"),
        ({"tokensUsed": {}, "response": None}, "sent nothing"),
        ({"message": "too long", "tokensUsed": {}}, "sent nothing for this input: too long"),
        ({"error": "no capacity", "response": None}, "no capacity"),
        ({"error": {"message": "too long"}}, "too long"),
        ({"status": "FAILED", "message": "m"}, "m"),
    ],
)
def test_one_prediction_that_is_none_says_why(kind: Any, sent: dict[str, Any], error: str) -> None:
    assert error in read_one(kind, sent).error


def test_an_empty_error_is_none() -> None:
    for nothing in (None, "", [], {}, False):
        assert read_one(Prediction, {"error": nothing, "response": "Yes."}).error is None


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ([2, 0, 1], "bca"),
        ([3, 1, 2], "bca"),
        (["1", "0", "2"], "bac"),
        ([0, 0, 0], "abc"),
        ([7, 7, 7], "abc"),
        ([None, None, None], "abc"),
        ([0, 1, 1], None),
        ([1, 2, 4], None),
        ([0, None, 1], None),
        (["x", "y", "z"], None),
    ],
)
def test_an_index_gives_the_order_or_nothing(given: list[Any], order: str | None) -> None:
    sent = [{"response": text, "index": at} for text, at in zip("abc", given, strict=True)]
    if order is None:
        with pytest.raises(MalformedResponseError, match="does not define an order") as caught:
            read_predictions({"predictions": sent}, Prediction, "It")
        assert not caught.value.retryable
    else:
        read = read_predictions({"predictions": sent}, Prediction, "It")
        assert "".join(one.response for one in read) == order


@pytest.mark.parametrize(
    ("counts", "total"),
    [
        ({"promptTokens": 3, "completionTokens": 4}, 7),
        ({"promptTokens": 3, "completionTokens": 4, "totalTokens": 7}, 7),
        ({"inputTokens": 2.0}, 2),
        ({"inputTokens": "2", "labelsTokens": True, "totalTokens": None}, 0),
        ({"totalTokens": NAN, "promptTokens": -1, "inputTokens": 2**63}, 0),
        ([], 0),
        (None, 0),
        ("x", 0),
    ],
)
def test_token_counts_that_cannot_be_read_count_as_not_said(counts: object, total: int) -> None:
    assert TokensUsed.read(counts).sum == total


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "no list of `predictions`"),
        ({"predictions": None}, "no list of `predictions`"),
        ({"predictions": {}}, "no list"),
        ({"predictions": ["x"]}, "no list"),
        ({"predictions": []}, "0 predictions for 1 inputs"),
        ({"predictions": [{}, {}]}, "2 predictions for 1 inputs"),
        ([], "not a JSON object"),
        ("x", "not a JSON object"),
        (None, "not a JSON object"),
    ],
)
def test_a_response_with_another_number_of_predictions_is_an_error(body: object, words: str) -> None:
    with pytest.raises(MalformedResponseError, match=words) as caught:
        read_response(answer(body), PASS, 1)
    assert f"Predict passthrough with {MODEL}" in str(caught.value)
    assert caught.value.retryable is ("JSON" in words), "what the model has answered is not paid for twice"


DEEP = b'{"predictions": [{"response": ' + b"[" * 200_000 + b"]" * 200_000 + b"}]}"


@pytest.fixture(params=["orjson", "json"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the extra that brings the faster parser, which takes less than Python's own."""
    if request.param == "json":
        monkeypatch.setitem(sys.modules, "orjson", None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"predictions": [{"vector": [NaN]}]}',
        b'{"predictions": [{"vector": [1e999]}]}',
        b'{"predictions": [{"vector": [1' + b"0" * 5000 + b"]}]}",
        b'{"predictions": [{"vector": [1]}',
        b"\xff\xfe",
    ],
)
def test_numbers_and_texts_that_are_none_are_errors(parser: None, body: bytes) -> None:
    with pytest.raises(MalformedResponseError):
        read_response(answer(body), use_cases.embedding("m"), 1)


def test_deep_json_is_an_error_and_no_crash(parser: None) -> None:
    with pytest.raises(MalformedResponseError):
        read_response(answer(DEEP), PASS, 1)
    for text in ("[" * 100_000, "```json" + "{" * 100_000):
        for kind in (Keywords, Entities, Faq):
            assert kind.read({"response": text, "keywords": None}).response == text
        assert RagAnswer.read({"sources": text}).sources == (text,)


# Jobs


@pytest.mark.parametrize(
    ("body", "state", "read"),
    [
        ({"status": "SUBMITTED"}, JobState.PENDING, 0),
        ({"status": "READY", "predictions": [RAG_SENT]}, JobState.RESULT, 1),
        ({"status": "RETRIEVED", "predictions": [RAG_SENT]}, JobState.RESULT, 1),
        ({"status": "RETRIEVED"}, JobState.GONE, 0),
        ({"status": "ERROR", "message": "m", "predictions": ["unreadable"]}, JobState.FAILED, 0),
        ({"status": "ARCHIVED", "predictions": [RAG_SENT]}, JobState.PENDING, 1),
    ],
)
def test_a_jobs_response(body: dict[str, Any], state: JobState, read: int) -> None:
    result = read_result(body, "j", RagAnswer, 1)
    assert (result.state, len(result.predictions)) == (state, read)
    assert parse_poll(json.dumps(body).encode(), PREDICTION).state is state


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [("j-7", 2, "Prediction job j-7: 1 predictions for 2 inputs"), ("k", 1, "about job j-7")],
)
def test_a_job_gives_its_own_predictions_one_for_each_input(name: str, inputs: int, words: str) -> None:
    body = {"predictionId": "j-7", "status": "READY", "predictions": [RAG_SENT]}
    with pytest.raises(MalformedResponseError, match=words):
        read_result(body, name, RagAnswer, inputs)


# Previews

COUNTS = {"inputTokens": 40, "promptTokens": 148, "completionTokens": 0, "totalTokens": 175}


@pytest.mark.parametrize(
    ("listed", "texts"),
    [
        ([{"tokens": ["[CLS]", "mr", "."]}, {"tokens": []}], (("[CLS]", "mr", "."), ())),
        ([{"tokens": ['"[CLS]", "mr"']}, {"tokens": "a b"}], (('"[CLS]", "mr"',), ("a b",))),
        ([["a"], "b"], (("a",), ("b",))),
        ([{"tokens": [101, None]}, {"tokens": ["x"]}], (("101", "None"), ("x",))),
    ],
)
def test_tokens_in_lists_and_in_one_text(listed: object, texts: tuple[tuple[str, ...], ...]) -> None:
    read = read_tokens(answer({"generatedTokens": listed, "tokensUsed": COUNTS}), 2)
    assert (read.texts, read.tokens_used.input, read.tokens_used.total) == (texts, 40, 175)


@pytest.mark.parametrize(
    "listed", [None, {}, [{"tokens": ["a"]}], [{"tokens": None}, {"tokens": []}], [1, 2], "ab"]
)
def test_tokens_of_other_inputs_are_an_error(listed: object) -> None:
    with pytest.raises(MalformedResponseError, match="not a list of 2 lists"):
        read_tokens(answer({"generatedTokens": listed}), 2)


def test_a_prompt_is_at_the_top() -> None:
    text = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are …"
    read = read_prompt(answer({"tokensUsed": COUNTS, "prompt": text}))
    assert (read.text, read.tokens_used.prompt) == (text, 148)
    for body in ({}, {"prompt": None}, {"predictions": [{"prompt": "x"}]}):
        with pytest.raises(MalformedResponseError, match="no `prompt`"):
            read_prompt(answer(body))


# The list of use cases, which no page shows

LISTED = {"embedding": ("gte-small", "bge-large"), "rag": ("llama-3-8b-instruct",)}
ENTRIES = [{"useCase": name, "models": list(models)} for name, models in LISTED.items()]


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (ENTRIES, LISTED),
        ({"useCases": ENTRIES}, LISTED),
        ({"useCases": ENTRIES, "total": 2, "links": ["x"]}, LISTED),
        ([{**one, "description": "x", "aliases": ["y"]} for one in ENTRIES], LISTED),
        ([{**one, "models": [{"modelId": m, "a": 1} for m in one["models"]]} for one in ENTRIES], LISTED),
        ([{"useCase": "rag", "models": [m]} for m in ("a", "b")], {"rag": ("a", "b")}),
        ([{"useCase": "rag", "models": []}], {"rag": ()}),
        ([], {}),
        ({"useCases": []}, {}),
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_use_cases_in_the_assumed_shapes(body: object, read: dict[str, tuple[str, ...]]) -> None:
    assert read_use_cases(answer(body)) == read


@pytest.mark.parametrize(
    ("body", "received"),
    [
        (7, "is a number"),
        ("x", "is a text"),
        ({}, "is an object without fields"),
        ({"version": 3, "ok": True}, "is an object with `version` (a number), `ok` (a boolean)"),
        ({"errors": ["no", "access"]}, "is an object with `errors` (an array)"),
        ({"status": ["a"], "message": "b"}, "is an object with `status` (an array), `message` (a text)"),
        (LISTED, "is an object with `embedding` (an array), `rag` (an array)"),
        ({"data": {"useCases": ENTRIES}}, "is an object with `data` (an object)"),
        ({"data": ENTRIES}, "is an object with `data` (an array)"),
        ({"useCases": LISTED}, "is an object with `useCases` (an object)"),
        ({"useCases": None}, "is an object with `useCases` (null)"),
        ({"usecases": ENTRIES}, "is an object with `usecases` (an array)"),
        ({str(n): n for n in range(9)}, "`7` (a number), …"),
        (["embedding", "rag"], "entry 0 is a text"),
        ([ENTRIES[0], [1]], "entry 1 is an array"),
        ([None], "entry 0 is null"),
        ([{"models": ["a"]}], "entry 0 is an object with `models` (an array)"),
        ([{"useCase": "rag"}], "entry 0 is an object with `useCase` (a text)"),
        ([{"useCase": " ", "models": ["a"]}], "entry 0 is an object with"),
        ([{"useCase": 1.5, "models": ["a"]}], "`useCase` (a number), `models` (an array)"),
        ([{"name": "rag", "modelIds": ["a"]}], "`name` (a text), `modelIds` (an array)"),
        ([{"useCase": "rag", "models": "a"}], "`useCase` (a text), `models` (a text)"),
        ([{"useCase": "rag", "models": ["a", 7]}], "a model of entry 0 is a number"),
        ([{"useCase": "rag", "models": ["a", ""]}], "a model of entry 0 is a text"),
        ([{"useCase": "rag", "models": [{"id": "a"}]}], "a model of entry 0 is an object with `id` (a text)"),
        (
            [{"useCase": "rag", "models": [{"modelId": None}]}],
            "entry 0 is an object with `modelId` (null)",
        ),
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_use_cases_in_another_shape_are_an_error(body: object, received: str) -> None:
    words = f"^List use cases: .*{re.escape(received)}.*; expected a JSON array"
    with pytest.raises(MalformedResponseError, match=words):
        read_use_cases(answer(body))


def test_the_error_about_the_shape_contains_no_value() -> None:
    secret = "sk-" + "a1B2" * 8
    with pytest.raises(MalformedResponseError) as raised:
        read_use_cases(answer({"apiKey": "hunter2hunter2", secret: "x", "text": "Two people fit."}))
    assert "`apiKey` (a text), `***` (a text), `text` (a text)" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("body", [b"<html>", b"", b"null", b"[" * 100_000])
def test_a_list_of_use_cases_that_is_no_json(body: bytes) -> None:
    words = "List use cases: the response is not JSON, or null, and starts with '"
    with pytest.raises(MalformedResponseError, match=words):
        read_use_cases(answer(body))


NO_USE_CASE = "The service lists no use case"
MODELS = "For 'embedding' the service lists gte-small, bge-large."


@pytest.mark.parametrize(
    ("use_case", "model", "words"),
    [
        ("embeding", "gte-small", f"{NO_USE_CASE} 'embeding', but embedding, rag. Did you mean 'embedding'?"),
        ("xyz", "gte-small", f"{NO_USE_CASE} 'xyz', but embedding, rag."),
        ("embedding", "gte-smal", f"{MODELS} Did you mean 'gte-small'?"),
        ("embedding", "qqq", MODELS),
        ("embedding", "gte-small", ""),
    ],
)
def test_the_nearest_names(use_case: str, model: str, words: str) -> None:
    assert nearest(LISTED, use_case, model).startswith(words)
    assert bool(nearest(LISTED, use_case, model)) is bool(words)
    assert nearest({}, use_case, model) == ""
    # The service may write underscores.
    assert "mistral-7b" in nearest({"keyword_extraction": ["mistral-7b"]}, "keyword-extraction", "mistral")


def test_a_failure_with_a_success_status_has_the_services_message() -> None:
    words = f"Predict passthrough with {MODEL}: HTTP 200: status ERROR: the model is asleep"
    with pytest.raises(RequestRefusedError, match=words):
        read_response(answer({"status": "ERROR", "message": "the model is asleep"}), PASS, 1)
