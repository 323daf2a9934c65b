# SPDX-License-Identifier: Apache-2.0
"""The nine use cases of the synchronous Prediction API (section 5), and what they refuse."""

import hashlib
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from emulator_client import MODEL, Caller

from lucidworks_provider.emulator.models import NER_ONLY, OPENAI
from lucidworks_provider.emulator.use_cases import USE_CASES, Conversations

POTTER = "Harry Potter went to London. The Dursleys of Privet Drive were normal. Harry was not normal."
GERMANY = {
    "text": "Why did I go to Germany?",
    "documents": [
        {"body": "The rates rose again.", "source": "http://example.com/1"},
        {
            "body": "Hello. I'm off to Germany to go to the Oktoberfest!",
            "source": "http://example.com/112",
            "title": "Off to Germany!",
            "date": "2022-01-31T19:31:34Z",
        },
    ],
}
COUNTS = {"promptTokens", "completionTokens", "totalTokens"}


def only(answer: Any) -> dict[str, Any]:
    """The one element of ``predictions``."""
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"predictions"}
    [element] = answer.json()["predictions"]
    return element


def body_of(name: str) -> dict[str, Any]:
    """The smallest body that a use case accepts, but for the conversation of the rewriter."""
    labels = {"useCaseConfig": {"labels": ["a"]}} if name == "classification" else {}
    return {"batch": [{"text": "x"}], **labels}


@pytest.mark.parametrize("model", ["gte-small", "multilingual-e5-base", "bge-large"])
def test_embedding(caller: Caller, model: str) -> None:
    answer = caller.predict("embedding", "The spider.", "The spider.", "Rain", model=model)
    elements = answer.json()["predictions"]
    size = {"gte-small": 384, "multilingual-e5-base": 768, "bge-large": 1024}[model]
    assert [set(one) for one in elements] == [{"tokensUsed", "vector"}] * 3
    assert elements[0] == elements[1] != elements[2]
    assert elements[0]["tokensUsed"] == {"inputTokens": 3}
    assert len(elements[0]["vector"]) == size
    assert math.isclose(math.hypot(*elements[0]["vector"]), 1, abs_tol=1e-5)


def test_embedding_ends_after_256_words_and_chunks_agree_before(caller: Caller) -> None:
    caller.set(pending_polls=0)
    words = [f"word{number}" for number in range(300)]
    whole = only(caller.predict("embedding", " ".join(words), model="gte-small"))
    cut = only(caller.predict("embedding", " ".join(words[:256]), model="gte-small"))
    assert whole == cut
    assert whole != only(caller.predict("embedding", " ".join(words[:255]), model="gte-small"))
    [item] = caller.chunk("The spider.")["chunkedData"]
    assert item["vectors"] == [only(caller.predict("embedding", "The spider.", model="gte-small"))]


def test_classification(caller: Caller) -> None:
    labels = ["Harry Potter", "Lord of the Rings", "Dune"]
    element = only(caller.predict("classification", POTTER, useCaseConfig={"labels": labels}))
    scores = element["labels"]
    assert set(scores) == set(labels)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert all(0 <= score < 1 for score in scores.values())
    assert element["response"] == ", ".join(f"{name}: {score:.2f}" for name, score in scores.items())
    assert set(element["tokensUsed"]) == {"inputTokens", "labelsTokens"}
    assert element == only(caller.predict("classification", POTTER, useCaseConfig={"labels": labels[::-1]}))


def test_classification_leaves_labels_out(caller: Caller) -> None:
    labels = ["Harry Potter", "Lord of the Rings", "Dune"]
    every = only(caller.predict("classification", POTTER, useCaseConfig={"labels": labels}))["labels"]
    best, second, _ = every.values()

    def found(**config: Any) -> dict[str, float]:
        answer = only(caller.predict("classification", POTTER, useCaseConfig={"labels": labels, **config}))
        return dict(answer["labels"])

    assert list(found(topK=2).values()) == [best, second]
    assert list(found(similarityCutoff=second).values()) == [best, second]
    assert list(found(topK=1, similarityCutoff=second).values()) == [best]
    assert found(similarityCutoff=1.0) == {}


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is it?"}]


@pytest.mark.parametrize(
    ("text", "config", "expected"),
    [
        ("Hello there.", {}, "Hello there."),
        ("Hello there.", {"useSystemPrompt": True}, "Hello there."),
        ("Hello there.", {"dataType": "text"}, "Hello there."),
        (json.dumps(MESSAGES), {"dataType": "json_prompt", "useSystemPrompt": False}, "Who is it?"),
        (json.dumps(MESSAGES[:1]), {"dataType": "json_prompt"}, "Be brief."),
        ("[not json", {"useSystemPrompt": False}, "[not json"),
    ],
)
def test_passthrough_echoes(caller: Caller, text: str, config: dict[str, Any], expected: str) -> None:
    element = only(caller.predict("passthrough", text, useCaseConfig=config))
    assert set(element) == {"tokensUsed", "response"}
    assert element["response"] == expected
    counts = element["tokensUsed"]
    assert set(counts) == COUNTS
    assert counts["totalTokens"] == counts["promptTokens"] + counts["completionTokens"]


def test_the_system_prompt_costs_tokens(caller: Caller) -> None:
    plain, wrapped = (
        only(caller.predict("passthrough", "Hi.", useCaseConfig={"useSystemPrompt": wrap}))["tokensUsed"]
        for wrap in (False, True)
    )
    assert plain["promptTokens"] < wrapped["promptTokens"]


def test_max_tokens_ends_a_generated_text(caller: Caller) -> None:
    text = " ".join(["word"] * 300)
    for use_case, config in (("passthrough", {}), ("summarization", {"maxWords": 300})):
        for model_config, most in (({}, 256), ({"maxTokens": 7}, 7)):
            answer = caller.predict(use_case, text, useCaseConfig=config, modelConfig=model_config)
            element = only(answer)
            assert len(element["response"].split()) == element["tokensUsed"]["completionTokens"] == most


@pytest.mark.parametrize(
    ("use_case", "whole", "cut"),
    [
        ("keyword-extraction", {"keywords": ["tent", "ann"]}, {"keywords": ["tent"]}),
        ("ner", {"entities": {"person": ["Ann"]}}, {"entities": {}}),
        ("faq-enrichment", {}, {}),
    ],
)
def test_max_tokens_ends_a_list(
    caller: Caller, use_case: str, whole: dict[str, Any], cut: dict[str, Any]
) -> None:
    config = {"useCaseConfig": {"entityTypeMap": {"person": ["Ann"]}}} if use_case == "ner" else {}
    complete = only(caller.predict(use_case, "A tent: Ann has a tent.", **config))
    element = only(
        caller.predict(use_case, "A tent: Ann has a tent.", modelConfig={"maxTokens": 2}, **config)
    )
    assert complete["response"].startswith(element["response"])
    assert element["tokensUsed"]["completionTokens"] <= 2 < complete["tokensUsed"]["completionTokens"]
    for shown, expected in ((complete, whole), (element, cut)):
        assert {name: shown[name] for name in expected} == expected


def test_rag_picks_the_document_that_shares_words(caller: Caller) -> None:
    element = only(caller.predict("rag", batch=[GERMANY]))
    assert str(UUID(element.pop("memoryUuid")))
    assert set(element.pop("tokensUsed")) == COUNTS
    answer = "I'm off to Germany to go to the Oktoberfest!"
    assert element == {
        "answer": answer,
        "answerFound": True,
        "sources": ["http://example.com/112"],
        "response": f"SOURCES:\n- 1\nANSWER: {answer}",
    }


def test_shapes_of_other_pages(caller: Caller) -> None:
    caller.set(sources_shape="string", embedding_shape="embedding")
    assert only(caller.predict("rag", batch=[GERMANY]))["sources"] == "http://example.com/112"
    assert only(caller.predict("rag", "Nothing?"))["sources"] == ""
    assert set(only(caller.predict("embedding", "x", model="gte-small"))) == {"tokensUsed", "embedding"}


@pytest.mark.parametrize("documents", [GERMANY["documents"], [], None])
def test_rag_without_an_answer(caller: Caller, documents: Any) -> None:
    item = {"text": "Which colour has the sky?"} | ({} if documents is None else {"documents": documents})
    element = only(caller.predict("rag", batch=[item], useCaseConfig={"answerNotFoundMessage": "No idea."}))
    assert (element["answer"], element["answerFound"], element["sources"]) == ("No idea.", False, [])


def test_conversations(caller: Caller) -> None:
    first = caller.predict("rag", batch=[GERMANY, GERMANY]).json()["predictions"]
    assert first[0]["memoryUuid"] != first[1]["memoryUuid"]
    memory = first[0]["memoryUuid"]
    config = {"memoryUuid": memory.upper(), "extractRelevantContent": False}
    again = only(caller.predict("rag", batch=[GERMANY], useCaseConfig=config))
    assert again["memoryUuid"] == memory
    assert again["tokensUsed"]["promptTokens"] > first[0]["tokensUsed"]["promptTokens"]
    for _ in range(2):  # the same request gets the same answer
        for segment in ("standalone-query-rewriter", "standalone_query_rewriter"):
            element = only(caller.predict(segment, "When was it?", useCaseConfig={"memoryUuid": memory}))
            assert element["response"] == "When was it why go germany?"
    caller.emulator.state.conversations.clear()
    answer = caller.predict("standalone-query-rewriter", "When?", useCaseConfig={"memoryUuid": memory})
    assert answer.status_code == 400
    own = str(uuid4())  # one that the emulator has forgotten, or never knew
    assert only(caller.predict("rag", "And?", useCaseConfig={"memoryUuid": own}))["memoryUuid"] == own


def test_conversations_are_bounded() -> None:
    memory = Conversations()
    for number in range(10_005):
        memory.remember(str(number), "q")
    assert (len(memory), "0" in memory, "10004" in memory) == (10_000, False, True)
    for number in range(40):
        memory.remember("x", str(number))
    assert memory["x"][-1] == "39"
    assert len(memory["x"]) == 16


def test_summary_keywords_entities_and_questions(caller: Caller) -> None:
    summary = only(caller.predict("summarization", POTTER, useCaseConfig={"maxWords": 4}))
    assert summary["response"] == "Harry Potter went to"
    keywords = only(caller.predict("keyword-extraction", POTTER, useCaseConfig={"maxKeywords": 2}))
    assert (keywords["keywords"], keywords["response"]) == (["harry", "normal"], "harry, normal")
    types = {"person": ["harry potter", "Harry"], "place": ["London", "Privet Drive", "dursleys"]}
    ner = only(caller.predict("ner", POTTER, model=NER_ONLY[0], useCaseConfig={"entityTypeMap": types}))
    assert ner["entities"] == {
        "person": ["Harry Potter", "Harry"],
        "place": ["London", "Dursleys", "Privet Drive"],
    }
    assert json.loads(ner["response"]) == ner["entities"]
    pairs = json.loads(only(caller.predict("faq-enrichment", POTTER))["response"])
    assert [set(pair) for pair in pairs] == [{"question", "answer"}] * 3
    assert pairs[0]["answer"] == "Harry Potter went to London."


@pytest.mark.parametrize("types", [{}, {"person": [], "place": []}])
def test_entities_outside_the_catalog_get_a_type(caller: Caller, types: dict[str, list[str]]) -> None:
    config = {"entityTypeMap": types} if types else {}
    entities = only(caller.predict("ner", POTTER, useCaseConfig=config))["entities"]
    assert set(entities) == set(types or ("person", "location", "organization"))
    found = [one for values in entities.values() for one in values]
    assert sorted(found) == ["Dursleys", "Harry", "Harry Potter", "London", "Privet Drive"]


def test_texts_without_words(caller: Caller) -> None:
    for name in USE_CASES:
        if name != "standalone-query-rewriter":
            model = "gte-small" if name == "embedding" else "llama-3-8b-instruct"
            body = {**body_of(name), "batch": [{"text": "…!"}]}
            only(caller.predict(name, model=model, **body))


@pytest.mark.parametrize("name", USE_CASES)
def test_models_serve_their_use_cases_only(caller: Caller, name: str) -> None:
    body = body_of(name)
    if name == "standalone-query-rewriter":
        memory = only(caller.predict("rag", "x"))["memoryUuid"]
        body["useCaseConfig"] = {"memoryUuid": memory}
    everything = {model for use_case in USE_CASES.values() for model in use_case.models}
    for model in sorted(everything):
        serves = model in USE_CASES[name].models
        config = {"modelConfig": {"apiKey": "k"}} if model in OPENAI else {}
        answer = caller.predict(name, model=model, **body, **config)
        assert answer.status_code == (200 if serves else 404), model
    assert caller.predict(name, model="no-such-model", **body).status_code == 404


def test_unknown_use_cases_and_segments(caller: Caller) -> None:
    assert caller.predict("translation", "x").status_code == 404
    assert caller.predict("keyword_extraction", "x", model="mistral_7b_instruct").status_code == 200
    caller.set(strict_segments=True)
    assert caller.predict("keyword_extraction", "x").status_code == 404
    assert caller.predict("summarization", "x", model="mistral_7b_instruct").status_code == 404


ONE = [{"text": "x"}]
DOCUMENT = {"body": "b", "source": "s"}
HYPER = ["temperature", "topP", "topK", "presencePenalty", "frequencyPenalty", "maxTokens"]
INVALID: list[tuple[str, Any, str]] = [
    ("passthrough", [], "body"),
    ("passthrough", {"batch": []}, "batch"),
    ("passthrough", {"batch": {"text": "x"}}, "batch"),
    ("passthrough", {"batch": ["x"]}, "batch[0]"),
    ("passthrough", {"batch": [{}]}, "batch[0].text"),
    ("passthrough", {"batch": [{"text": "x"}, {"text": ""}]}, "batch[1].text"),
    ("passthrough", {"batch": [{"text": 1}]}, "batch[0].text"),
    ("passthrough", {"batch": [{"text": "x", "documents": []}]}, "documents"),
    ("passthrough", {"batch": ONE * 33}, "32"),
    ("passthrough", {"chunkerConfig": {}}, "chunkerConfig"),
    ("passthrough", {"useCaseConfig": None}, "useCaseConfig"),
    ("passthrough", {"useCaseConfig": {"maxWords": 1}}, "maxWords"),
    ("passthrough", {"useCaseConfig": {"useSystemPrompt": "true"}}, "useSystemPrompt"),
    ("passthrough", {"useCaseConfig": {"dataType": "query"}}, "dataType"),
    ("passthrough", {"useCaseConfig": {"dataType": "json_prompt"}}, "json_prompt"),
    *(
        ("passthrough", {"batch": [{"text": text}], "useCaseConfig": {"dataType": "json_prompt"}}, "batch[0]")
        for text in ("[]", "{}", '["x"]', '[{"role":"user"}]', '[{"role":"robot","content":"x"}]')
    ),
    *(
        ("summarization", {"modelConfig": {name: value}}, name)
        for name in HYPER
        for value in ("1", True, None, -3)
    ),
    ("summarization", {"modelConfig": {"temperature": 2.1}}, "temperature"),
    ("summarization", {"modelConfig": {"topP": 1.1}}, "topP"),
    ("summarization", {"modelConfig": {"topK": 0}}, "topK"),
    ("summarization", {"modelConfig": {"topK": 1.5}}, "topK"),
    ("summarization", {"modelConfig": {"topk": 1}}, "topk"),
    ("summarization", {"modelConfig": {"presencePenalty": 2.5}}, "presencePenalty"),
    ("summarization", {"modelConfig": {"maxTokens": 0}}, "maxTokens"),
    ("summarization", {"modelConfig": {"maxTokens": 1.0}}, "maxTokens"),
    ("summarization", {"modelConfig": {"apiKey": ""}}, "apiKey"),
    ("summarization", {"modelConfig": {"azureEndpoint": "e", "apiKey": "k"}}, "azureDeployment"),
    ("summarization", {"modelConfig": {"azureEndpoint": "e", "azureDeployment": "d"}}, "apiKey"),
    ("summarization", {"useCaseConfig": {"maxWords": 0}}, "maxWords"),
    ("summarization", {"useCaseConfig": {"maxWords": "5"}}, "maxWords"),
    ("keyword-extraction", {"useCaseConfig": {"maxKeywords": 0}}, "maxKeywords"),
    ("ner", {"useCaseConfig": {"entityTypeMap": ["person"]}}, "entityTypeMap"),
    ("ner", {"useCaseConfig": {"entityTypeMap": {"person": "Bob"}}}, "entityTypeMap.person"),
    ("ner", {"useCaseConfig": {"entityTypeMap": {"person": [1]}}}, "entityTypeMap.person[0]"),
    ("faq-enrichment", {"useCaseConfig": {"maxQuestions": 1}}, "maxQuestions"),
    ("classification", {}, "labels"),
    ("classification", {"useCaseConfig": {"labels": []}}, "labels"),
    ("classification", {"useCaseConfig": {"labels": "a"}}, "labels"),
    ("classification", {"useCaseConfig": {"labels": ["a", ""]}}, "labels[1]"),
    ("classification", {"useCaseConfig": {"labels": ["a", "a"]}}, "labels"),
    ("classification", {"useCaseConfig": {"labels": ["a"], "topK": 0}}, "topK"),
    ("classification", {"useCaseConfig": {"labels": ["a"], "similarityCutoff": "a"}}, "similarity"),
    ("rag", {"batch": [{"text": "x", "documents": {}}]}, "batch[0].documents"),
    ("rag", {"batch": [{"text": "x", "documents": ["b"]}]}, "batch[0].documents[0]"),
    ("rag", {"batch": [{"text": "x", "documents": [{"body": "b"}]}]}, "documents[0].source"),
    ("rag", {"batch": [{"text": "x", "documents": [DOCUMENT, {"source": "s"}]}]}, "documents[1].body"),
    ("rag", {"batch": [{"text": "x", "documents": [{**DOCUMENT, "date": 2022}]}]}, "documents[0].date"),
    ("rag", {"batch": [{"text": "x", "documents": [{**DOCUMENT, "title": 1}]}]}, "documents[0].title"),
    ("rag", {"batch": [{"text": "x", "documents": [{**DOCUMENT, "url": "u"}]}]}, "url"),
    ("rag", {"useCaseConfig": {"memoryUuid": "mine"}}, "memoryUuid"),
    ("rag", {"useCaseConfig": {"extractRelevantContent": 0}}, "extractRelevantContent"),
    ("rag", {"useCaseConfig": {"answerNotFoundMessage": ""}}, "answerNotFoundMessage"),
    ("standalone-query-rewriter", {}, "memoryUuid"),
    ("standalone-query-rewriter", {"useCaseConfig": {"memoryUuid": "mine"}}, "memoryUuid"),
    ("standalone-query-rewriter", {"useCaseConfig": {"memoryUuid": str(uuid4())}}, "memoryUuid"),
    ("embedding", {"modelConfig": {"vectorQuantizationMethod": "int8"}}, "vectorQuantizationMethod"),
    ("embedding", {"modelConfig": {"dimReductionSize": 385}}, "dimReductionSize"),
    ("embedding", {"modelConfig": {"temperature": 1}}, "temperature"),
    ("embedding", {"useCaseConfig": {"dataType": "text"}}, "dataType"),
    ("embedding", {"batch": ONE * 33}, "32"),
]


@pytest.mark.parametrize(("use_case", "body", "field"), INVALID)
def test_invalid_bodies_name_the_field(shared: Caller, use_case: str, body: Any, field: str) -> None:
    model = "gte-small" if use_case == "embedding" else "llama-3-8b-instruct"
    for kind in ("prediction", "async-prediction"):
        path = f"/ai/{kind}/{use_case}/{model}"
        answer = shared.call("POST", path, json={"batch": ONE, **body} if isinstance(body, dict) else body)
        if kind == "async-prediction" and use_case in {"classification", "embedding"}:
            assert answer.status_code == 404
            continue
        assert answer.status_code == 400, answer.text
        assert field in answer.json()["message"]


@pytest.mark.parametrize(
    "config",
    [
        {
            "temperature": 0,
            "topP": 1,
            "topK": -1,
            "presencePenalty": 2,
            "maxTokens": 1,
            "frequencyPenalty": 1,
        },
        {"temperature": 2.0, "topP": 0.0, "topK": -1.0, "presencePenalty": -2.0, "frequencyPenalty": 0.5},
        {"topK": 40, "googleProjectId": "p", "googleRegion": "r"},
        {"azureDeployment": "d", "azureEndpoint": "e", "apiKey": "k"},
    ],
)
def test_valid_model_configs(shared: Caller, config: dict[str, Any]) -> None:
    assert shared.predict("summarization", "x", modelConfig=config).status_code == 200


def test_broken_json_and_content_type(shared: Caller) -> None:
    path = "/ai/prediction/passthrough/llama-3-8b-instruct"
    for data in (b"", b"{", b"{}", b'{"batch":[{"text":"\\ud800"}]}', b"NaN"):
        headers = {"Content-Type": "application/json"}
        assert shared.call("POST", path, data=data, headers=headers).status_code == 400
    answer = shared.call("POST", path, data=b"{}", headers={"Content-Type": "text/plain"})
    assert "Content-Type" in answer.json()["message"]


def test_keys_of_third_parties(caller: Caller) -> None:
    assert "apiKey" in caller.predict("passthrough", "x", model="gpt-4o").json()["message"]
    keyed = {"modelConfig": {"apiKey": "sk-not-to-be-seen"}}
    assert caller.predict("passthrough", "x", model="gpt-4o", **keyed).status_code == 200
    refused = caller.predict("passthrough", "x", model="gpt-4o", modelConfig={"apikey": "sk-not-to-be-seen"})
    shown = refused.text + json.dumps(caller.control("GET", "/log"))
    assert "sk-not" not in shown
    caller.set(managed_keys=True)
    assert caller.predict("passthrough", "x", model="gpt-4o").status_code == 200


def test_batches_of_more_than_32(caller: Caller) -> None:
    texts = [str(number) for number in range(33)]
    assert len(caller.predict("passthrough", *texts[:32]).json()["predictions"]) == 32
    assert caller.predict("passthrough", *texts).status_code == 400
    caller.set(batch_overflow="truncate")
    cut = caller.predict("passthrough", *texts).json()["predictions"]
    assert [one["response"] for one in cut] == texts[:32]


def test_unknown_options_can_be_ignored(caller: Caller) -> None:
    body = {
        "batch": [{"text": "x", "id": "1"}],
        "modelConfig": {"topk": 1},
        "useCaseConfig": {"a": 1},
        "b": 1,
    }
    assert caller.predict("passthrough", **body).status_code == 400
    caller.set(unknown_options="ignore")
    assert caller.predict("passthrough", **body).status_code == 200
    assert caller.submit(chunkerConfig={"size": 1}).status_code == 200
    wrong = {**body, "modelConfig": {"topK": "1"}}
    assert caller.predict("passthrough", **wrong).status_code == 400


def test_bearer_scope_log_and_counts(caller: Caller) -> None:
    caller.predict("summarization", POTTER, POTTER)
    record = caller.last()
    seen = tuple(record[name] for name in ("endpoint", "use_case", "model", "items"))
    assert seen == ("predict", "summarization", "llama-3-8b-instruct", 2)
    assert record["text_sha256"] == hashlib.sha256((POTTER * 2).encode()).hexdigest()
    assert caller.call("POST", "/ai/prediction/ner/nu-zero-ner", "abc", json={}).status_code == 401
    caller.log_in(MODEL)
    assert caller.predict("summarization", "x").status_code == 403
    assert caller.control("GET", "/stats")["calls"]["predict"] == 3


@pytest.mark.alone
def test_eight_callers_get_50_milliseconds_of_latency_and_little_more(caller: Caller) -> None:
    caller.set(latency=0.05)
    texts = [f"A text about spiders, number {number}." for number in range(4)]

    def call(_: int) -> None:
        assert len(caller.predict("embedding", *texts, model="gte-small").json()["predictions"]) == 4

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
        began = time.perf_counter()
        list(pool.map(call, range(40)))
        took = time.perf_counter() - began
    assert took < 40 * 0.05  # at worst as slow as one after the other; 0.3 to 0.5 s on an idle machine
