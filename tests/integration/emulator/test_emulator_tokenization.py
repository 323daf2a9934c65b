# SPDX-License-Identifier: Apache-2.0
"""The previews: tokens of an embedding model, the prompt of a generative one; and the list of use cases."""

import json
from typing import Any

import pytest
from emulator_client import MODEL, Caller

from lucidworks_provider.emulator import EmulatorSettings
from lucidworks_provider.emulator.models import EMBEDDING_MODELS, HOSTED_GENERATIVE

CUSTOM = "5e893b16-01f8-427c-9ca8-ba52b01b1ba3"
LLAMA = "llama-3-8b-instruct"


SETTINGS = EmulatorSettings(deployments=(CUSTOM,))


def tokenize(caller: Caller, *texts: str, model: str = "e5-small-v2", **body: Any) -> Any:
    batch = [{"text": text} for text in texts]
    return caller.call("POST", f"/ai/tokenization/{model}", json={"batch": batch, **body})


def preview(caller: Caller, text: str, model: str = LLAMA, **body: Any) -> Any:
    return caller.call("POST", f"/ai/prompt/passthrough/{model}", json={"batch": [{"text": text}], **body})


@pytest.mark.parametrize(
    ("model", "config", "prefix"),
    [
        ("e5-small-v2", {"dataType": "query"}, ["query", ":"]),
        ("multilingual-e5-base", {"dataType": "passage"}, ["passage", ":"]),
        ("e5-small-v2", {}, []),
        ("gte-small", {"dataType": "query"}, []),
        (CUSTOM, {"dataType": "query"}, []),
    ],
)
def test_tokens(caller: Caller, model: str, config: dict[str, str], prefix: list[str]) -> None:
    body = tokenize(caller, "Mr. Dursley", "Ja", model=model, useCaseConfig=config).json()
    assert set(body) == {"generatedTokens", "tokensUsed"}
    first, second = body["generatedTokens"]
    assert first == {"tokens": ["[CLS]", *prefix, "mr", ".", "dursley", "[SEP]"]}
    assert second == {"tokens": ["[CLS]", *prefix, "ja", "[SEP]"]}
    count = len(first["tokens"]) + len(second["tokens"])
    counts = {"inputTokens": count, "promptTokens": count, "completionTokens": 0, "totalTokens": count}
    assert body["tokensUsed"] == counts


@pytest.mark.parametrize(("text", "count"), [("word " * 300, 256 + 2), ("a,b,c,d " * 200, 512)])
def test_long_texts_are_cut_as_for_embedding(caller: Caller, text: str, count: int) -> None:
    [item] = tokenize(caller, text).json()["generatedTokens"]
    assert len(item["tokens"]) == count
    assert item["tokens"][-1] == "[SEP]"


def test_joined_tokens(caller: Caller) -> None:
    caller.set(joined_tokens=True)
    [item] = tokenize(caller, 'Say "mr"').json()["generatedTokens"]
    assert item == {"tokens": ['"[CLS]", "say", "\\"", "mr", "\\"", "[SEP]"']}


@pytest.mark.parametrize(
    ("body", "model", "status"),
    [
        ({}, LLAMA, 404),
        ({}, "6e893b16-01f8-427c-9ca8-ba52b01b1ba3", 404),
        ({"modelConfig": {"temperature": 1}}, "gte-small", 400),
        ({"modelConfig": {"dimReductionSize": 12}}, "gte-small", 200),
        ({"useCaseConfig": {"dataType": "text"}}, "gte-small", 400),
        ({"batch": [{"text": "x"}] * 33}, "gte-small", 400),
        ({"batch": []}, "gte-small", 400),
    ],
)
def test_refused_tokenization(caller: Caller, body: dict[str, Any], model: str, status: int) -> None:
    assert tokenize(caller, "x", model=model, **body).status_code == status


MESSAGES = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}])


HEADER = "<|begin_of_text|><|start_header_id|>"
SYSTEM, PLAIN = {"useSystemPrompt": True}, {"dataType": "text", "useSystemPrompt": True}


@pytest.mark.parametrize(
    ("model", "text", "config", "beginning", "part"),
    [
        (LLAMA, "Who?", {}, "Who?", "Who?"),
        (LLAMA, "Who?", SYSTEM, f"{HEADER}system", "Who?<|eot_id|>"),
        (LLAMA, MESSAGES, {"dataType": "json_prompt"}, "<|begin_of_text|>", "Be brief.<|eot_id|>"),
        (LLAMA, "Who?", PLAIN, f"{HEADER}user", "W"),
        ("mistral-7b-instruct", "Who?", SYSTEM, "<s>[INST] You", "Who? [/INST]"),
        ("gpt-4o", "Who?", SYSTEM, '[{"role": "system"', '"content": "Who?"'),
    ],
)
def test_prompts(
    caller: Caller, model: str, text: str, config: dict[str, Any], beginning: str, part: str
) -> None:
    body = preview(caller, text, model, useCaseConfig=config, modelConfig={"apiKey": "placeholder"}).json()
    assert set(body) == {"tokensUsed", "prompt"}
    assert body["prompt"].startswith(beginning)
    assert part in body["prompt"]
    counts = body["tokensUsed"]
    assert counts["totalTokens"] == counts["promptTokens"] > counts["completionTokens"] == 0


def test_refused_previews(caller: Caller) -> None:
    assert preview(caller, "x", "gpt-4o").status_code == 400  # the key has to be there, a placeholder will do
    assert preview(caller, "x", "gte-small").status_code == 404
    assert preview(caller, "x", useCaseConfig={"dataType": "json_prompt"}).status_code == 400
    assert preview(caller, "x", batch=[{"text": "x"}] * 2).status_code == 400
    assert caller.call("POST", "/ai/prompt/rag/gpt-4o", json={}).status_code == 404


def test_log_and_scope_of_previews(caller: Caller) -> None:
    tokenize(caller, "x")
    preview(caller, "x")
    log = caller.control("GET", "/log")[-2:]
    assert [one["endpoint"] for one in log] == ["tokenize", "preview-prompt"]
    assert [one["model"] for one in log] == ["e5-small-v2", LLAMA]
    caller.log_in(MODEL)
    assert tokenize(caller, "x").status_code == preview(caller, "x").status_code == 403


@pytest.mark.parametrize("path", ["/ai/usecases", "/ai/usecase"])
def test_use_cases_with_their_models(caller: Caller, path: str) -> None:
    listed = {one["useCase"]: one["models"] for one in caller.call("GET", path).json()}
    assert list(listed) == [
        *("embedding", "classification", "passthrough", "rag", "summarization", "keyword-extraction", "ner"),
        *("faq-enrichment", "standalone-query-rewriter"),
    ]
    assert listed["embedding"] == [*EMBEDDING_MODELS, CUSTOM]
    assert set(HOSTED_GENERATIVE) < set(listed["rag"])
    assert "nu-zero-ner" in listed["ner"]
    ner = [{"useCase": "ner", "models": ["nu-zero-ner"]}]
    assert caller.call("GET", f"{path}?modelId=nu-zero-ner").json() == ner
    [embedding] = caller.call("GET", f"{path}?useCase=embedding").json()
    assert embedding["useCase"] == "embedding"
    assert caller.call("GET", f"{path}?useCase=rag&modelId=gte-small").json() == []
